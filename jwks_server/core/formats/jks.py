"""Java's own keystores, JKS and JCEKS: big-endian records, in which certificates lie in clear and keys encrypted.

Only key entries are taken; trusted certificates are passed over unparsed, and so are the encrypted private keys. The
password is not needed to read the certificates: it proves that the file is whole, where it is given.
"""

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.x509 import Certificate

from jwks_server.core.errors import KeyFileError, UnsupportedKeyError
from jwks_server.core.formats.certificates import Checks, Issuers, load_der, public_key
from jwks_server.core.formats.contents import NO_KEY_ENTRIES, Contents, Entry, Password, shown

_KEY, _TRUSTED, _SECRET = 1, 2, 3
_DIGEST_BYTES = 20
_VERSIONS = (1, 2)


@dataclass(slots=True)
class _Reader:
    """A position in the records; a read beyond their end raises KeyFileError."""

    data: bytes
    position: int = 0

    def take(self, size: int) -> bytes:
        taken = self.data[self.position : self.position + size]
        if len(taken) != size:
            raise KeyFileError(f"truncated or corrupted keystore: a record ends beyond byte {len(self.data)}")
        self.position += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def text(self) -> str:
        """Return a string in Java's modified UTF-8: NUL in two bytes, and characters above U+FFFF as surrogates."""
        encoded = self.take(self.number(2)).replace(b"\xc0\x80", b"\0")
        try:
            units = encoded.decode("utf-8", "surrogatepass").encode("utf-16-be", "surrogatepass")
            return units.decode("utf-16-be")
        except UnicodeDecodeError as error:
            raise KeyFileError("corrupted keystore: an alias is not text") from error

    def certificate(self, version: int) -> bytes:
        kind = self.text() if version == 2 else "X.509"  # noqa: PLR2004 - version 1 knows no other kind
        if kind != "X.509":
            raise KeyFileError(f"corrupted keystore, or a certificate of the unknown type {kind[:40]!r}")
        return self.take(self.number(4))


def read(data: bytes, password: Password | None, container: str) -> Contents:
    """Return the key entries of a JKS or JCEKS file, each with its chain; check the file's digest with a password."""
    key_entries = _key_entries(data)
    if password is not None and not hmac.compare_digest(_digest(data, password), data[-_DIGEST_BYTES:]):
        raise KeyFileError("wrong password or corrupted keystore")
    checks = Checks()
    entries: list[Entry] = []
    refusals: list[str] = []
    for alias, encoded in key_entries:
        title = f'key entry "{shown(alias)}"'
        if not encoded:
            refusals.append(f"{title} has no certificate; add one: keytool -importcert -alias {shown(alias)}")
            continue
        try:
            entries.append(_entry(alias, [load_der(certificate) for certificate in encoded], checks))
        except UnsupportedKeyError as refusal:
            refusals.append(f"{title}: {refusal}")
        except KeyFileError as fault:
            raise KeyFileError(f"{title}: {fault}") from fault
    return Contents(container, tuple(entries), tuple(refusals), () if key_entries else (NO_KEY_ENTRIES,))


def _entry(alias: str, certificates: list[Certificate], checks: Checks) -> Entry:
    leaf = certificates[0]
    return Entry(public_key(leaf, checks), Issuers(certificates, checks).chain(leaf), alias=alias)


def _key_entries(data: bytes) -> tuple[tuple[str, tuple[bytes, ...]], ...]:
    """Return alias and certificates of each private-key entry, having walked every record of the file."""
    reader = _Reader(data[:-_DIGEST_BYTES], position=4)
    version = reader.number(4)
    if version not in _VERSIONS:
        raise KeyFileError(f"corrupted keystore, or one of the unknown version {version}")
    found: list[tuple[str, tuple[bytes, ...]]] = []
    for _ in range(reader.number(4)):
        tag, alias, _created = reader.number(4), reader.text(), reader.number(8)
        if tag == _KEY:
            reader.take(reader.number(4))
            found.append((alias, tuple([reader.certificate(version) for _ in range(reader.number(4))])))
        elif tag == _TRUSTED:
            reader.certificate(version)
        elif tag == _SECRET:
            # Its length is not written down, so nothing behind it can be found either.
            raise KeyFileError(f'entry "{shown(alias)}" is a secret key, which hides what follows; keep it elsewhere')
        else:
            raise KeyFileError(f"corrupted keystore: an entry of the unknown kind {tag}")
    if reader.position != len(reader.data):
        raise KeyFileError(f"corrupted keystore: {len(reader.data) - reader.position} bytes behind its last entry")
    return tuple(found)


def _digest(data: bytes, password: Password) -> bytes:
    """Return the SHA-1 that ends a sound file; the format fixes the algorithm and the sentence in it."""
    digest = hashlib.sha1(password.text().encode("utf-16-be"), usedforsecurity=False)
    digest.update(b"Mighty Aphrodite")
    digest.update(data[:-_DIGEST_BYTES])
    return digest.digest()
