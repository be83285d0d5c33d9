"""What reading a file gives, whatever its container was."""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509 import Certificate

NO_KEY_ENTRIES = "no private-key entries (truststore?): nothing to publish"
"""The notice of a keystore that holds trusted certificates only."""


def shown(name: str) -> str:
    """Return a name out of a file as it may stand in a message: short, on one line."""
    return "".join(character if character.isprintable() else "?" for character in name[:80])


@dataclass(frozen=True, slots=True)
class Password:
    """A keystore's password; its repr reveals nothing."""

    value: bytes = field(repr=False)

    def text(self) -> str:
        """Return its characters: keystores derive keys from UTF-16. Bytes that are no UTF-8 count as Latin-1."""
        try:
            return self.value.decode("utf-8")
        except UnicodeDecodeError:
            return self.value.decode("latin-1")


@dataclass(frozen=True, slots=True)
class Entry:
    """One public key that a file offers for publication.

    `chain` starts with the key's own certificate and goes up towards its root; it is empty for a bare key. `alias` is
    the entry's name in a keystore, `kid` and `alg` are what a JWK states of itself. `spki` is a bare key as it was
    written (SubjectPublicKeyInfo in DER), where that says more than `public_key`: the parameters of RSASSA-PSS.
    """

    public_key: PublicKeyTypes
    chain: tuple[Certificate, ...] = ()
    alias: str | None = None
    kid: str | None = None
    alg: str | None = None
    spki: bytes | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a file holds: its container's name for people, its entries, and what was not taken.

    `refusals` are keys that were understood and cannot be published (each a text); `notices` are worth saying but
    nobody's fault, such as a truststore that rightly holds no key entry.
    """

    container: str
    entries: tuple[Entry, ...]
    refusals: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
