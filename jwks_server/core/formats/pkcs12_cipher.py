"""Decrypt the certificates of a PKCS#12 store: PBES2 (RFC 8018) and the old PBE schemes (RFC 7292, appendix C)."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from asn1crypto import algos, cms, core, pkcs12
from cryptography.hazmat.decrepit.ciphers.algorithms import RC2, TripleDES
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
from cryptography.x509 import Certificate

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import kdf, tlv
from jwks_server.core.formats.contents import Password

_SCRYPT = "1.3.6.1.4.1.11591.4.11"
_OLD: dict[str, tuple[Callable[[bytes], BlockCipherAlgorithm], int]] = {
    "pkcs12_sha1_tripledes_3key": (TripleDES, 24),
    "pkcs12_sha1_tripledes_2key": (lambda key: TripleDES(key + key[:8]), 16),
    "pkcs12_sha1_rc2_128": (RC2, 16),
}
_MODERN: dict[str, tuple[Callable[[bytes], BlockCipherAlgorithm], int]] = {
    "aes128_cbc": (AES, 16),
    "aes192_cbc": (AES, 24),
    "aes256_cbc": (AES, 32),
    "tripledes_3key": (TripleDES, 24),
}


class WrongPasswordError(Exception):
    """What was decrypted is not what it should be: another password, or damaged bytes."""


class _ScryptParameters(core.Sequence):  # type: ignore[misc] # asn1crypto has no types
    """RFC 7914, section 7.1."""

    _fields: ClassVar = [
        ("salt", core.OctetString),
        ("cost", core.Integer),
        ("block_size", core.Integer),
        ("parallelization", core.Integer),
        ("key_length", core.Integer, {"optional": True}),
    ]


def utf16_passwords(password: Password) -> tuple[bytes, ...]:
    """Return the password as the derivation of PKCS#12 takes it; an empty one is written in two ways."""
    text = password.text()
    closed = (text + "\0").encode("utf-16-be")
    return (closed,) if text else (closed, b"")


def is_rc2_40(encrypted: Any) -> bool:  # noqa: ANN401 - asn1crypto has no types
    """Tell whether the content is under RC2 with 40 bits, the default of Java up to 15 and of OpenSSL up to 1.1."""
    return bool(encrypted["content_encryption_algorithm"]["algorithm"].native == "pkcs12_sha1_rc2_40")


def decrypt(encrypted: Any, password: Password, budget: kdf.Budget) -> bytes:  # noqa: ANN401
    """Return the content of an EncryptedContentInfo; raise WrongPasswordError where the password does not fit."""
    algorithm = encrypted["content_encryption_algorithm"]
    ciphertext = encrypted["encrypted_content"].native
    if not isinstance(ciphertext, bytes) or not ciphertext:
        raise KeyFileError("corrupted keystore: an encrypted part without content")
    name = algorithm["algorithm"].native
    if name == "pbes2":
        return _decrypt(*_pbes2(algorithm["parameters"], password, budget), ciphertext)
    if name not in _OLD:
        raise KeyFileError(f"certificates are encrypted with {name}, which is not read here; export with AES-256")
    cipher, key_bytes = _OLD[name]
    parameters = algorithm["parameters"]
    salt, iterations = parameters["salt"].native, parameters["iterations"].native
    for candidate in utf16_passwords(password):
        key = kdf.pkcs12("sha1", kdf.ENCRYPTION_KEY, candidate, salt, iterations, key_bytes, budget)
        vector = kdf.pkcs12("sha1", kdf.INITIALISATION_VECTOR, candidate, salt, iterations, 8, budget)
        try:
            return _decrypt(cipher(key), vector, ciphertext)
        except WrongPasswordError:
            continue
    raise WrongPasswordError


def certificates_under_rc2_40(
    content_info: Any,  # noqa: ANN401
    password: Password,
    budget: kdf.Budget,
) -> Iterable[tuple[Certificate, bytes | None]]:
    """Return each certificate, with its friendly name, of a part under RC2 with 40 bits.

    cryptography offers RC2 with 128 bits only, but opens PKCS#12 with 40: it is handed a store of this part alone,
    which holds certificates and no key.
    """
    encrypted = content_info["content"]["encrypted_content_info"]
    iterations = encrypted["content_encryption_algorithm"]["parameters"]["iterations"].native
    budget.spend(iterations, blocks=2)
    safe = pkcs12.AuthenticatedSafe([content_info]).dump()
    part = pkcs12.Pfx(
        {
            "version": "v3",
            "auth_safe": cms.ContentInfo({"content_type": "data", "content": core.OctetString(safe)}),
        }
    ).dump()
    try:
        found = load_pkcs12(part, password.text().encode())
    except ValueError as error:
        raise WrongPasswordError from error
    if found.key is not None:
        raise KeyFileError("private keys are encrypted together with certificates; export the store again")
    return [(one.certificate, one.friendly_name) for one in found.additional_certs]


def _pbes2(parameters: Any, password: Password, budget: kdf.Budget) -> tuple[BlockCipherAlgorithm, bytes]:  # noqa: ANN401
    scheme = parameters["encryption_scheme"]
    name = scheme["algorithm"].native
    if name not in _MODERN:
        raise KeyFileError(f"certificates are encrypted with {name}, which is not read here; export with AES-256")
    cipher, key_bytes = _MODERN[name]
    key = _derived(parameters["key_derivation_func"], password, key_bytes, budget)
    return cipher(key), scheme["parameters"].native


def _derived(function: Any, password: Password, key_bytes: int, budget: kdf.Budget) -> bytes:  # noqa: ANN401
    if function["algorithm"].dotted == _SCRYPT:
        chosen = function["parameters"].parse(_ScryptParameters)
        cost = tuple(chosen[name].native for name in ("cost", "block_size", "parallelization"))
        return kdf.scrypt(password.value, chosen["salt"].native, cost, key_bytes, budget)
    return pbkdf2(function, password, key_bytes, budget)


def pbkdf2(function: Any, password: Password, key_bytes: int | None, budget: kdf.Budget) -> bytes:  # noqa: ANN401
    """Return the key that a KeyDerivationFunc of PBKDF2 gives; `key_bytes` None takes the length written there."""
    if function["algorithm"].native != "pbkdf2":
        raise KeyFileError(f"keys are derived by {function['algorithm'].dotted}, which is not read here; use PBKDF2")
    parameters: algos.Pbkdf2Params = function["parameters"]
    prf = parameters["prf"]["algorithm"].native
    if prf not in kdf.HASHES:
        raise KeyFileError(f"PBKDF2 with {prf}, which is not read here; export with HMAC-SHA-256")
    written = parameters["key_length"].native
    size = written if key_bytes is None else key_bytes
    if not isinstance(size, int) or (written is not None and written != size):
        raise KeyFileError("corrupted keystore: PBKDF2 with a key length that does not fit")
    salt, iterations = parameters["salt"].native, parameters["iteration_count"].native
    return kdf.pbkdf2(prf, password.value, salt, iterations, size, budget)


def _decrypt(cipher: BlockCipherAlgorithm, vector: bytes, ciphertext: bytes) -> bytes:
    block_bytes = cipher.block_size // 8
    if len(vector) != block_bytes or len(ciphertext) % block_bytes:
        raise KeyFileError("corrupted keystore: an encrypted part of impossible length")
    decryptor = Cipher(cipher, modes.CBC(vector)).decryptor()
    padded = decryptor.update(ciphertext) + decryptor.finalize()
    unpadder = PKCS7(cipher.block_size).unpadder()
    try:
        content = unpadder.update(padded) + unpadder.finalize()
    except ValueError as error:
        raise WrongPasswordError from error
    outer = tlv.frame(content)
    # One wrong password in 256 gives right padding by chance.
    if outer is None or outer.tag != tlv.SEQUENCE or outer.end not in {None, len(content)}:
        raise WrongPasswordError
    return content
