"""Keys from passwords as keystores derive them, within a budget: a file must not choose how long reading it takes."""

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from jwks_server.core.errors import KeyFileError

MAX_ITERATIONS = 1_000_000
"""Of one derivation; 20 million would hold the interpreter for seconds."""
MAX_TOTAL_ROUNDS = 2_000_000
"""Of all derivations of one file: a store of many encrypted parts with a high count each multiplies them."""
MAX_SCRYPT_BLOCKS = 1 << 19
"""Memory is 128 bytes times this, 64 MiB."""
MAX_KEY_BYTES = 64

# RFC 7292, appendix B.3: what the derived bytes are for.
ENCRYPTION_KEY, INITIALISATION_VECTOR, MAC_KEY = 1, 2, 3

HASHES = {
    "sha1": hashlib.sha1,
    "sha224": hashlib.sha224,
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}


@dataclass(slots=True)
class Budget:
    """The rounds of hashing that one file may still cost."""

    rounds_left: int = MAX_TOTAL_ROUNDS

    def spend(self, iterations: int, blocks: int = 1) -> None:
        """Account for a derivation, or raise KeyFileError where it or the sum of all would be too dear."""
        if iterations < 1:
            raise KeyFileError(f"corrupted keystore: iteration count {iterations}")
        if iterations > MAX_ITERATIONS:
            raise KeyFileError(f"iteration count {iterations} exceeds {MAX_ITERATIONS}; export with a lower one")
        self.rounds_left -= iterations * blocks
        if self.rounds_left < 0:
            raise KeyFileError(f"its iteration counts add up to more than {MAX_TOTAL_ROUNDS}; export with lower ones")


def pkcs12(  # noqa: PLR0913, PLR0917 - the RFC's own parameters, in its order
    name: str, purpose: int, password: bytes, salt: bytes, iterations: int, size: int, budget: Budget
) -> bytes:
    """Return `size` bytes by the derivation of PKCS#12 (RFC 7292, appendix B.2) with the hash `name`.

    `password` is already in UTF-16BE with its two closing zero bytes.
    """
    new = HASHES[name]
    width, digest_size = new().block_size, new().digest_size
    budget.spend(iterations, -(-size // digest_size))
    blocks = _fill(salt, width) + _fill(password, width)
    derived = b""
    while len(derived) < size:
        digest = new(bytes([purpose]) * width + blocks).digest()
        for _ in range(iterations - 1):
            digest = new(digest).digest()
        derived += digest
        blocks = _add(blocks, _fill(digest, width)[:width], width)
    return derived[:size]


def pbkdf2(name: str, password: bytes, salt: bytes, iterations: int, size: int, budget: Budget) -> bytes:  # noqa: PLR0913, PLR0917
    """Return `size` bytes by PBKDF2 (RFC 8018, section 5.2) with HMAC of the hash `name`."""
    if not 1 <= size <= MAX_KEY_BYTES:
        raise KeyFileError(f"corrupted keystore: a derived key of {size} bytes")
    # Each iteration is an HMAC, two hashes; one of OpenSSL's takes as long as one round of the loop above.
    budget.spend(iterations, -(-size // HASHES[name]().digest_size))
    return hashlib.pbkdf2_hmac(name, password, salt, iterations, size)


def scrypt(password: bytes, salt: bytes, cost: tuple[int, int, int], size: int, budget: Budget) -> bytes:
    """Return `size` bytes by scrypt (RFC 7914) with the cost (N, r, p)."""
    n, r, p = cost
    if not 1 <= size <= MAX_KEY_BYTES or min(cost) < 1:
        raise KeyFileError("corrupted keystore: scrypt parameters that cannot be")
    if n * r > MAX_SCRYPT_BLOCKS:
        raise KeyFileError(f"scrypt with N={n} and r={r} takes more than 64 MiB; export with PBKDF2")
    budget.spend(n * r * p)
    return Scrypt(salt=salt, length=size, n=n, r=r, p=p).derive(password)


def _fill(text: bytes, width: int) -> bytes:
    """Repeat the text up to a whole number of blocks; an empty text stays empty."""
    size = -(-len(text) // width) * width
    return (text * (size // len(text) + 1))[:size] if text else b""


def _add(blocks: bytes, addend: bytes, width: int) -> bytes:
    """Add the addend and one to each block, as numbers that wrap around."""
    increment, modulus = int.from_bytes(addend) + 1, 1 << (8 * width)
    return b"".join(
        ((int.from_bytes(blocks[at : at + width]) + increment) % modulus).to_bytes(width)
        for at in range(0, len(blocks), width)
    )
