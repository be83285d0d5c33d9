"""PKCS#12 stores (RFC 7292), walked part by part so that no private key is ever decrypted.

The names of the key entries lie in clear beside the encrypted keys; the checksum is verified, the keys are passed
over, and the certificates alone are decrypted. (cryptography's `load_pkcs12` gives the first key of a store only, and
decrypts it.)
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from asn1crypto import core, pkcs12
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from jwks_server.core.errors import KeyFileError, UnsupportedKeyError
from jwks_server.core.formats import kdf
from jwks_server.core.formats.certificates import Checks, Issuers, brief, load_der, public_key, signing_chains
from jwks_server.core.formats.contents import NO_KEY_ENTRIES, Contents, Entry, Password, shown
from jwks_server.core.formats.pkcs12_cipher import WrongPasswordError, certificates_under_rc2_40, decrypt, is_rc2_40
from jwks_server.core.formats.pkcs12_mac import verifies

MAX_BAGS = 2000
MAX_NESTING = 4
_KEY_BAGS = frozenset({"key_bag", "pkcs8_shrouded_key_bag"})
_TRUSTED_BY_JAVA = "2.16.840.1.113894.746875.1.1"
_WRONG_PASSWORD = "wrong password or corrupted keystore"  # noqa: S105 - a text

# asn1crypto parses a value when it is asked for, and raises any of these for damaged bytes.
_DAMAGED = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
    NotImplementedError,
)


@dataclass(frozen=True, slots=True)
class _Names:
    """What ties a certificate to its key: friendlyName and localKeyID (RFC 7292, section 4.2)."""

    alias: str | None = None
    key_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Certificate:
    """A certificate that may belong to a key, and the SHA-1 of its DER."""

    certificate: Certificate
    names: _Names
    digest: bytes


@dataclass(slots=True)
class _Store:
    """What was found so far; `trusted` are certificates that Java trusts, which belong to no key."""

    budget: kdf.Budget = field(default_factory=kdf.Budget)
    keys: list[_Names] = field(default_factory=list)
    certificates: list[_Certificate] = field(default_factory=list)
    trusted: list[Certificate] = field(default_factory=list)
    bags: int = 0


def read(data: bytes, password: Password | None) -> Contents:
    """Return the key entries of a store, each with its chain; without a password the empty one is tried."""
    try:
        store = _read(data, password)
    except WrongPasswordError as error:
        raise KeyFileError(_wrong(password)) from error
    except _DAMAGED as error:
        raise KeyFileError(f"corrupted keystore ({brief(error)}); export it again") from error
    if not store.keys:
        return Contents("PKCS#12", (), notices=(NO_KEY_ENTRIES,))
    entries, refusals = _entries(store)
    return Contents("PKCS#12", entries, refusals)


def _read(data: bytes, password: Password | None) -> _Store:
    store = _Store()
    pfx = pkcs12.Pfx.load(data, strict=True)
    if pfx["auth_safe"]["content_type"].native != "data":
        raise KeyFileError("keystore is signed instead of having a password; export it with a password")
    content = pfx["auth_safe"]["content"].native
    parts = list(pkcs12.AuthenticatedSafe.load(content, strict=True))
    tried = password or Password(b"")
    if not isinstance(pfx["mac_data"], core.Void) and not verifies(pfx["mac_data"], content, tried, store.budget):
        raise KeyFileError(_wrong(password, fits=_opens_a_part(parts, tried, store.budget)))
    # Parts under RC2 with 40 bits are opened last, and only for a store with key entries: the library opens them whole.
    opaque = []
    for part in parts:
        kind = part["content_type"].native
        if kind == "data":
            _collect(part["content"].native, store)
        elif kind != "encrypted_data":
            raise KeyFileError("keystore is encrypted for a certificate instead of a password; export it with one")
        elif is_rc2_40(part["content"]["encrypted_content_info"]):
            opaque.append(part)
        else:
            _collect(decrypt(part["content"]["encrypted_content_info"], tried, store.budget), store)
    for part in opaque if store.keys else ():
        for certificate, alias in certificates_under_rc2_40(part, tried, store.budget):
            names = _Names(alias.decode("utf-8", "replace") if alias else None)
            store.certificates.append(_certificate(certificate, names))
    return store


def _wrong(password: Password | None, *, fits: bool = False) -> str:
    if fits:
        return "corrupted keystore: the password fits, the checksum does not; export it again"
    return _WRONG_PASSWORD if password is not None else "keystore needs a password"


def _opens_a_part(parts: list[Any], password: Password, budget: kdf.Budget) -> bool:
    """Tell whether the password decrypts some part: then it is right, and the file is what is damaged."""
    for part in parts:
        if part["content_type"].native != "encrypted_data":
            continue
        encrypted = part["content"]["encrypted_content_info"]
        if is_rc2_40(encrypted):
            continue
        try:
            decrypt(encrypted, password, budget)
        except (WrongPasswordError, KeyFileError, *_DAMAGED):
            return False
        return True
    return False


def _collect(encoded: bytes, store: _Store, nesting: int = 0) -> None:
    """Sort the bags of one SafeContents into the store; what is neither key nor certificate is passed over."""
    if nesting > MAX_NESTING:
        raise KeyFileError("corrupted keystore: bags within bags within bags")
    bags = pkcs12.SafeContents.load(encoded, strict=True)
    store.bags += len(bags)
    if store.bags > MAX_BAGS:
        raise KeyFileError(f"more than {MAX_BAGS} entries in one keystore; split it")
    for bag in bags:
        kind = bag["bag_id"].native
        if kind in _KEY_BAGS:
            store.keys.append(_names(bag))
        elif kind == "cert_bag":
            _collect_certificate(bag, store)
        elif kind == "safe_contents":
            _collect(bag["bag_value"].untag().dump(), store, nesting + 1)


def _collect_certificate(bag: Any, store: _Store) -> None:  # noqa: ANN401
    if bag["bag_value"]["cert_id"].native != "x509":
        return
    encoded = bytes(bag["bag_value"]["cert_value"])
    if any(attribute["type"].dotted == _TRUSTED_BY_JAVA for attribute in _attributes(bag)):
        try:
            store.trusted.append(load_der(encoded))
        except KeyFileError:
            return  # never published: at worst a chain ends below it
        return
    store.certificates.append(_certificate(load_der(encoded), _names(bag)))


def _attributes(bag: Any) -> Iterator[Any]:  # noqa: ANN401
    if not isinstance(bag["bag_attributes"], core.Void):
        yield from bag["bag_attributes"]


def _names(bag: Any) -> _Names:  # noqa: ANN401
    alias: str | None = None
    key_id: bytes | None = None
    for attribute in _attributes(bag):
        kind, values = attribute["type"].native, attribute["values"]
        if kind == "friendly_name" and len(values):
            alias = values[0].native
        elif kind == "local_key_id" and len(values):
            key_id = values[0].native
    return _Names(alias, key_id)


def _entries(store: _Store) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    checks = Checks()
    issuers = Issuers([one.certificate for one in store.certificates] + store.trusted, checks)
    entries: list[Entry] = []
    refusals: list[str] = []
    for number, names in enumerate(store.keys, 1):
        title = f'key entry "{shown(names.alias)}"' if names.alias is not None else f"key entry {number}"
        leaf = _leaf(names, store)
        if leaf is None:
            refusals.append(f"{title} has no certificate; import one for it and export the store again")
            continue
        try:
            entries.append(Entry(public_key(leaf, checks), issuers.chain(leaf), alias=names.alias))
        except UnsupportedKeyError as refusal:
            refusals.append(f"{title}: {refusal}")
        except KeyFileError as fault:
            raise KeyFileError(f"{title}: {fault}") from fault
    return tuple(entries), tuple(refusals)


def _leaf(names: _Names, store: _Store) -> Certificate | None:
    """Return the certificate of a key entry, or None.

    OpenSSL's localKeyID is the certificate's SHA-1; Java's is a time in text, the same in both bags, which two
    entries made within a millisecond share, so that the name has to decide between them.
    """
    best: Certificate | None = None
    best_score = 0
    for one in store.certificates:
        same_name = names.alias is not None and one.names.alias == names.alias
        same_id = names.key_id is not None and one.names.key_id == names.key_id
        is_digest = one.digest == names.key_id
        score = 4 * is_digest + 2 * same_id + same_name
        if score > best_score:
            best, best_score = one.certificate, score
    if best is None and names == _Names() and len(store.keys) == 1 and store.certificates:
        # Some libraries name nothing where there is one key only.
        chains = signing_chains([one.certificate for one in store.certificates])
        return chains[0][0] if len(chains) == 1 else None
    return best


def _certificate(certificate: Certificate, names: _Names) -> _Certificate:
    digest = hashlib.sha1(certificate.public_bytes(Encoding.DER), usedforsecurity=False).digest()
    return _Certificate(certificate, names, digest)
