"""The checksum of a PKCS#12 store: HMAC under a key from its password (RFC 7292, section 4; RFC 9579)."""

import hmac
from typing import Any

from asn1crypto import algos

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import kdf
from jwks_server.core.formats.contents import Password
from jwks_server.core.formats.pkcs12_cipher import pbkdf2, utf16_passwords

_PBMAC1 = "1.2.840.113549.1.5.14"


def verifies(mac_data: Any, content: bytes, password: Password, budget: kdf.Budget) -> bool:  # noqa: ANN401
    """Tell whether the store is whole and the password is right; False does not say which of the two is wrong."""
    info = mac_data["mac"]
    algorithm, stated = info["digest_algorithm"], info["digest"].native
    if algorithm["algorithm"].dotted == _PBMAC1:
        return hmac.compare_digest(_pbmac1(algorithm["parameters"], content, password, budget), stated)
    name = algorithm["algorithm"].native
    _check_known(name)
    salt, iterations = mac_data["mac_salt"].native, mac_data["iterations"].native
    size = len(hmac.digest(b"", b"", name))
    for candidate in utf16_passwords(password):
        key = kdf.pkcs12(name, kdf.MAC_KEY, candidate, salt, iterations, size, budget)
        if hmac.compare_digest(hmac.digest(key, content, name), stated):
            return True
    return False


def _pbmac1(encoded: Any, content: bytes, password: Password, budget: kdf.Budget) -> bytes:  # noqa: ANN401
    """Return the MAC of PBMAC1 (RFC 8018, section 7.1); salt and count beside it mean nothing (RFC 9579, section 5)."""
    parameters = encoded.parse(algos.Pbmac1Params)
    name = parameters["message_auth_scheme"]["algorithm"].native
    _check_known(name)
    # RFC 9579 demands the key's length to be written, so that a short one cannot be slipped in.
    key = pbkdf2(parameters["key_derivation_func"], password, None, budget)
    return hmac.digest(key, content, name)


def _check_known(name: str) -> None:
    if name not in kdf.HASHES:
        raise KeyFileError(f"its checksum uses {name}, which is not read here; export with HMAC-SHA-256")
