"""What reading a file gives, whatever its container was."""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509 import Certificate


@dataclass(frozen=True, slots=True)
class Password:
    """A keystore's password; its repr reveals nothing."""

    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """One public key that a file offers for publication.

    `chain` starts with the key's own certificate and goes up towards its root; it is empty for a bare key. `alias` is
    the entry's name in a keystore, `kid` and `alg` are what a JWK states of itself.
    """

    public_key: PublicKeyTypes
    chain: tuple[Certificate, ...] = ()
    alias: str | None = None
    kid: str | None = None
    alg: str | None = None


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
