"""Bare public keys: SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7) and PKCS#1 (RFC 8017, appendix A.1.1) in DER."""

from asn1crypto import core, keys, x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from jwks_server.core.errors import KeyFileError, UnsupportedKeyError
from jwks_server.core.formats import tlv
from jwks_server.core.formats.certificates import brief, unsupported_text
from jwks_server.core.formats.contents import Contents, Entry

_HASH_BYTES = {"sha256": 32, "sha384": 48, "sha512": 64}
_PSS_OF_HASH = {"sha256": "PS256", "sha384": "PS384", "sha512": "PS512"}
_DAMAGED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)


def read(data: bytes) -> Contents:
    """Return the one public key that `data` is."""
    try:
        return Contents("DER public key", (entry(data),))
    except UnsupportedKeyError as refusal:
        return Contents("DER public key", (), (str(refusal),))


def entry(data: bytes) -> Entry:
    """Return the key as an entry; raise UnsupportedKeyError for a kind unknown here, KeyFileError for a broken one."""
    try:
        key = load_der_public_key(data)
    except UnsupportedAlgorithm as error:
        raise UnsupportedKeyError(unsupported_text(error)) from error
    except (ValueError, TypeError, OverflowError) as error:
        raise KeyFileError(f"not a readable public key ({brief(error)}); export it again") from error
    return Entry(key, spki=None if _is_pkcs1(data) else data)


def _is_pkcs1(data: bytes) -> bool:
    """Tell whether the key is two bare numbers, without the algorithm before them."""
    outer = tlv.frame(data)
    return outer is not None and data.startswith(bytes([tlv.INTEGER]), outer.start)


def pss_algorithms(spki: bytes) -> tuple[str, ...] | None:
    """Return the JWS algorithms of a key for RSASSA-PSS alone, or None where it is for PKCS #1 v1.5 as well.

    Parameters beside the key fix its hash (RFC 4055, section 3.1); JWS wants MGF1 with the same hash and a salt as
    long as the hash (RFC 7518, section 3.5), which not every choice of parameters allows. cryptography drops them.
    """
    try:
        algorithm = keys.PublicKeyInfo.load(spki)["algorithm"]
        if algorithm["algorithm"].native != "rsassa_pss":
            return None
        parameters = algorithm["parameters"]
        if isinstance(parameters, (core.Void, core.Null)):
            return tuple(_PSS_OF_HASH.values())
        hash_name = parameters["hash_algorithm"]["algorithm"].native
        mask = parameters["mask_gen_algorithm"]
        mask_hash_name = mask["parameters"]["algorithm"].native
        salt_bytes = parameters["salt_length"].native
    except _DAMAGED as error:
        raise UnsupportedKeyError(f"RSASSA-PSS key with unreadable parameters ({brief(error)})") from error
    if hash_name not in _PSS_OF_HASH:
        raise UnsupportedKeyError(f"RSASSA-PSS key for {hash_name} only; JWS needs SHA-256, SHA-384 or SHA-512")
    if mask_hash_name != hash_name or salt_bytes > _HASH_BYTES[hash_name]:
        raise UnsupportedKeyError(
            f"RSASSA-PSS key for {hash_name} with MGF1 of {mask_hash_name} and a salt of {salt_bytes} bytes at least; "
            "JWS needs the same hash and a salt as long as it"
        )
    return (_PSS_OF_HASH[hash_name],)


def of_certificate(certificate: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a certificate in DER, as it was written."""
    try:
        encoded: bytes = x509.Certificate.load(certificate)["tbs_certificate"]["subject_public_key_info"].dump()
    except _DAMAGED as error:
        raise UnsupportedKeyError(f"certificate with an unreadable public key ({brief(error)})") from error
    return encoded
