"""Which of a file's certificates (the bag) sign tokens, and which are their issuers."""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509 import Certificate

from jwks_server.core.errors import KeyFileError, UnsupportedKeyError
from jwks_server.core.formats.contents import Entry

MAX_CHAIN_CERTIFICATES = 20
MAX_CERTIFICATES = 1000
"""Certificates of one file among which issuers are looked for."""
MAX_SIGNATURE_CHECKS = 2000
"""Enough for a thousand renewals under one issuer; a file made to need more is refused instead of computed."""
MAX_VERIFIED_RSA_BITS = 8192
MAX_VERIFIED_EXPONENT_BITS = 32
"""Beyond these a check takes 2 to 5 ms instead of 0.05: a file of a thousand such certificates would take seconds."""

# What cryptography raises for a part that does not parse; the three of `x509` do not descend from ValueError.
UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(slots=True)
class Checks:
    """The signatures that may still be checked of one file, however many entries it has."""

    left: int = field(default_factory=lambda: MAX_SIGNATURE_CHECKS)

    def spend(self) -> None:
        """Account for one, or raise KeyFileError where there are too many."""
        self.left -= 1
        if self.left < 0:
            raise KeyFileError("too many signatures to check in one file; split it")


def load_der(data: bytes) -> Certificate:
    """Return the certificate, all of whose lazy parts have been read once; raise KeyFileError where one is broken."""
    try:
        certificate = x509.load_der_x509_certificate(data)
    except UNREADABLE as error:
        raise KeyFileError(f"not a readable certificate ({brief(error)}); export it again") from error
    check_readable(certificate)
    return certificate


def check_readable(certificate: Certificate) -> None:
    """Read every part that is used later; cryptography parses them when asked, and fails only then."""
    try:
        _ = certificate.issuer.public_bytes(), certificate.subject.public_bytes()
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except UNREADABLE as error:
        raise KeyFileError(f"certificate has an unreadable part ({brief(error)}); export it again") from error


def public_key(certificate: Certificate, checks: Checks | None = None) -> PublicKeyTypes:
    """Return the certificate's key; raise UnsupportedKeyError for a kind unknown here, KeyFileError for a broken one.

    A self-signed certificate must verify under its own key: a flipped bit that still parses is found so.
    """
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm as error:
        raise UnsupportedKeyError(unsupported_text(error)) from error
    except UNREADABLE as error:
        raise KeyFileError(f"certificate holds an unreadable public key ({brief(error)})") from error
    if not _names_itself_as_issuer(certificate):
        return key
    if checks is not None:
        checks.spend()
    if _issued(certificate, certificate) is False:
        raise KeyFileError("self-signed certificate's signature does not verify (corrupted?)")
    return key


def unsupported_text(error: UnsupportedAlgorithm) -> str:
    """Return the refusal of a key that cryptography does not know, with the object identifier that it names."""
    text = brief(error).replace("1.2.156.10197.1.301 ", "1.2.156.10197.1.301 (SM2) ")
    return f"unsupported key: {text}; use RSA, P-256, P-384, P-521 or Ed25519"


def signing_entries(certificates: Sequence[Certificate]) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Return an entry for each certificate that no other in the bag issued from, with its chain; and the refusals.

    A chain member is one that another certificate in the bag was directly issued by, by name and signature
    (RFC 5280, section 6.1). CA:TRUE says nothing: openssl sets it on plain self-signed certificates. Two self-signed
    certificates of one name and key are two signing certificates, not each other's issuers.
    """
    entries: list[Entry] = []
    refusals: list[str] = []
    checks = Checks()
    for chain in signing_chains(certificates, checks):
        try:
            entries.append(Entry(public_key(chain[0], checks), chain))
        except UnsupportedKeyError as refusal:
            refusals.append(str(refusal))
    return tuple(entries), tuple(refusals)


def signing_chains(
    certificates: Sequence[Certificate], checks: Checks | None = None
) -> tuple[tuple[Certificate, ...], ...]:
    """Return the signing certificates of the bag, each at the head of its chain."""
    bag = tuple(dict.fromkeys(certificates))
    issuers = Issuers(bag, checks)
    chains = [issuers.chain(certificate) for certificate in bag]
    members = {issuer for chain in chains for issuer in chain[1:]}
    signing = tuple(chain for chain in chains if chain[0] not in members)
    if bag and not signing:
        raise KeyFileError("every certificate in it issued another one; put the signing certificate into its own file")
    return signing


class Issuers:
    """The certificates of one bag by subject; `checks` is the budget of the file that they are from."""

    def __init__(self, bag: Iterable[Certificate], checks: Checks | None = None) -> None:
        self._by_subject: dict[bytes, list[Certificate]] = defaultdict(list)
        self._found: dict[Certificate, Certificate | None] = {}
        certificates = tuple(dict.fromkeys(bag))
        if len(certificates) > MAX_CERTIFICATES:
            raise KeyFileError(f"{len(certificates)} certificates in one file; at most {MAX_CERTIFICATES}: split it")
        for certificate in certificates:
            self._by_subject[certificate.subject.public_bytes()].append(certificate)
        self._checks = checks or Checks()

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
        if certificate not in self._found:
            self._found[certificate] = self._find_issuer(certificate)
        return self._found[certificate]

    def _find_issuer(self, certificate: Certificate) -> Certificate | None:
        if _names_itself_as_issuer(certificate):
            return None
        for candidate in self._by_subject.get(certificate.issuer.public_bytes(), ()):
            if candidate == certificate:
                continue
            self._checks.spend()
            # Where a signature cannot be computed here (SM2, say) the names decide: a CA's key must not be published.
            if _issued(candidate, certificate) is not False:
                return candidate
        return None


def _names_itself_as_issuer(certificate: Certificate) -> bool:
    """Tell whether issuer and subject are one, by name and, where both are given, by key identifier."""
    if certificate.issuer != certificate.subject:
        return False
    try:
        extensions = certificate.extensions
        authority = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        subject = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (x509.ExtensionNotFound, *UNREADABLE):
        return True
    return authority is None or authority == subject


def _issued(issuer: Certificate, certificate: Certificate) -> bool | None:
    """Tell whether the signature verifies under the issuer's key; None where that cannot be computed here."""
    try:
        return _verifies(issuer, certificate)
    except InvalidSignature:
        return False
    except UnsupportedAlgorithm:
        return None
    except UNREADABLE:
        return False


def _verifies(issuer: Certificate, certificate: Certificate) -> bool | None:
    """Return True or None as `_issued` does; raise what cryptography raises for a signature that does not verify."""
    key = issuer.public_key()
    if isinstance(key, rsa.RSAPublicKey) and (
        key.key_size > MAX_VERIFIED_RSA_BITS or key.public_numbers().e.bit_length() > MAX_VERIFIED_EXPONENT_BITS
    ):
        return None
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None or algorithm.name not in {"md5", "sha1"}:
        certificate.verify_directly_issued_by(issuer)
        return True
    # `verify_directly_issued_by` calls these two unsupported. They prove nothing about who signed, but here they only
    # tell a damaged certificate from a sound one, and old stores are full of them.
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, signed, padding.PKCS1v15(), algorithm)
        return True
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, signed, ec.ECDSA(algorithm))
        return True
    return None


@contextmanager
def tolerating_oddities() -> Iterator[None]:
    """Silence cryptography's warnings while a file is read.

    It warns of serials of zero, of country names that are no two letters, and of more in old certificates; where
    warnings are errors, each of them would lose a key.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def brief(error: Exception) -> str:
    """Return a library's message on one short line."""
    return " ".join(str(error).split())[:120] or type(error).__name__
