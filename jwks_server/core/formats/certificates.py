"""Which certificates of a bag sign tokens, and which are their issuers."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509 import Certificate

from jwks_server.core.errors import KeyFileError, UnsupportedKeyError
from jwks_server.core.formats.contents import Entry

MAX_CHAIN_CERTIFICATES = 20
MAX_SIGNATURE_CHECKS = 2000
"""Enough for a thousand renewals under one issuer; a file made to need more is refused instead of computed."""


def load_der(data: bytes) -> Certificate:
    """Return the certificate, all of whose lazy parts have been read once; raise KeyFileError where one is broken."""
    try:
        certificate = x509.load_der_x509_certificate(data)
        check_readable(certificate)
    except KeyFileError:
        raise
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"not a readable certificate ({_brief(error)})") from error
    return certificate


def check_readable(certificate: Certificate) -> None:
    """Read every part that is used later; cryptography parses them when asked, and fails only then."""
    try:
        _ = certificate.issuer, certificate.subject, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"certificate has an unreadable part ({_brief(error)})") from error


def public_key(certificate: Certificate) -> PublicKeyTypes:
    """Return the certificate's key; raise UnsupportedKeyError for a kind unknown here, KeyFileError for a broken one.

    A self-signed certificate must verify under its own key: that catches every damaged bit that parses.
    """
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm as error:
        raise UnsupportedKeyError(f"unsupported key: {_brief(error)}") from error
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"certificate holds an unreadable public key ({_brief(error)})") from error
    if _names_itself_as_issuer(certificate) and _issued(certificate, certificate) is False:
        raise KeyFileError("self-signed certificate's signature does not verify (corrupted?)")
    return key


def signing_entries(certificates: Sequence[Certificate]) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Return an entry for each certificate that no other in the bag issued from, with its chain; and the refusals.

    A chain member is one that another certificate in the bag was directly issued by, by name and signature
    (RFC 5280, section 6.1). CA:TRUE says nothing: openssl sets it on plain self-signed certificates. Two self-signed
    certificates of one name and key are two signing certificates, not each other's issuers.
    """
    bag = tuple(dict.fromkeys(certificates))
    issuers = _Issuers(bag)
    chains = [issuers.chain(certificate) for certificate in bag]
    members = {issuer for chain in chains for issuer in chain[1:]}
    entries: list[Entry] = []
    refusals: list[str] = []
    for certificate, chain in zip(bag, chains, strict=True):
        if certificate in members:
            continue
        try:
            entries.append(Entry(public_key(certificate), chain))
        except UnsupportedKeyError as refusal:
            refusals.append(str(refusal))
    return tuple(entries), tuple(refusals)


class _Issuers:
    """The certificates of one bag by subject, and a budget of signature checks."""

    def __init__(self, bag: Iterable[Certificate]) -> None:
        self._by_subject: dict[bytes, list[Certificate]] = defaultdict(list)
        for certificate in bag:
            self._by_subject[certificate.subject.public_bytes()].append(certificate)
        self._checks_left = MAX_SIGNATURE_CHECKS

    def chain(self, certificate: Certificate) -> tuple[Certificate, ...]:
        """Return the certificate and its issuers in the bag, upwards."""
        chain = [certificate]
        while len(chain) < MAX_CHAIN_CERTIFICATES:
            issuer = self._issuer(chain[-1])
            if issuer is None or issuer in chain:
                break
            chain.append(issuer)
        return tuple(chain)

    def _issuer(self, certificate: Certificate) -> Certificate | None:
        if _names_itself_as_issuer(certificate):
            return None
        for candidate in self._by_subject[certificate.issuer.public_bytes()]:
            if candidate is certificate:
                continue
            self._checks_left -= 1
            if self._checks_left < 0:
                raise KeyFileError("too many certificates that share a name; split the file")
            if _issued(candidate, certificate) is True:
                return candidate
        return None


def _names_itself_as_issuer(certificate: Certificate) -> bool:
    """Tell whether issuer and subject are one, by name and, where both are given, by key identifier."""
    if certificate.issuer != certificate.subject:
        return False
    try:
        authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        subject = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (x509.ExtensionNotFound, ValueError, TypeError):
        return True
    return authority is None or authority == subject


def _issued(issuer: Certificate, certificate: Certificate) -> bool | None:
    """Tell whether the signature verifies under the issuer's key; None where that cannot be computed here."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature:
        return False
    except UnsupportedAlgorithm:
        return None
    except (ValueError, TypeError):
        return False
    return True


def _brief(error: Exception) -> str:
    """Return a library's message on one short line."""
    return " ".join(str(error).split())[:120] or type(error).__name__
