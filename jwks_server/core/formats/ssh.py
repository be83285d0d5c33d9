"""One OpenSSH public key (RFC 4253, section 6.6; RFC 5656, section 3.1; RFC 8709): a line of type, base64, comment."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats.certificates import brief
from jwks_server.core.formats.contents import Contents, Entry

_NAME = "OpenSSH public key"
_TYPES = frozenset(
    {"ssh-rsa", "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"},
)
_MAX_TYPE_CHARACTERS = 60


def read(data: bytes) -> Contents:
    """Return the key of the one line; its comment means nothing."""
    lines = [line for line in data.splitlines() if line.strip() and not line.lstrip().startswith(b"#")]
    if len(lines) != 1:
        raise KeyFileError(f"{len(lines)} lines with OpenSSH keys; put each into its own file")
    kind = lines[0].split()[0].decode("ascii", "replace")[:_MAX_TYPE_CHARACTERS]
    if kind not in _TYPES:
        return Contents(_NAME, (), (f"unsupported key: {kind}; use ssh-rsa, ssh-ed25519 or ecdsa-sha2-nistp256",))
    try:
        return Contents(_NAME, (Entry(load_ssh_public_key(lines[0].strip())),))
    except (ValueError, TypeError, KeyError, OverflowError, NotImplementedError, UnsupportedAlgorithm) as error:
        # NotImplementedError: a compressed point.
        raise KeyFileError(f"not a readable {kind} line ({brief(error)}); copy it again") from error
