"""A public key as the members of a JSON Web Key (RFC 7517; RFC 7518, section 6; RFC 8037; RFC 8812; RFC 9964).

The members are taken one by one from a public key object, which holds no private number.
"""

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate
from cryptography.x509.oid import PublicKeyAlgorithmOID

from jwks_server.core.errors import UnsupportedKeyError
from jwks_server.core.formats.contents import Entry
from jwks_server.core.formats.spki import of_certificate, pss_algorithms
from jwks_server.core.text import readable

Identity = tuple[str, tuple[tuple[str, str], ...], tuple[bytes, ...], str | None]
"""What makes two keys one for publication: type, public members, own certificate in DER if any, the id a JWK states."""

Member = Literal["n", "e", "crv", "x", "y", "pub"]
"""The names of the members that say which key it is. What is read back from outside may have no others."""

Time = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with a zone. What is read back from outside without one is refused."""

RSA_MIN_BITS = 2048
RSA_MAX_BITS = 8192
RSASSA_PKCS1 = ("RS256", "RS384", "RS512")
RSASSA_PSS = ("PS256", "PS384", "PS512")

_CURVES = {
    "secp256r1": ("P-256", 32, "ES256"),
    "secp384r1": ("P-384", 48, "ES384"),
    "secp521r1": ("P-521", 66, "ES512"),
    "secp256k1": ("secp256k1", 32, "ES256K"),
}
_ML_DSA_BY_BYTES = {1312: "ML-DSA-44", 1952: "ML-DSA-65", 2592: "ML-DSA-87"}  # FIPS 204, table 2


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public members of a key, the algorithms it can sign with, and what must be opted into for it.

    `members` are those of its `kty` that RFC 7638 calls required, without `kty` itself and without `alg`, which AKP
    keys (RFC 9964) count among them.
    """

    kty: str
    members: tuple[tuple[Member, str], ...]
    algorithms: tuple[str, ...]
    opt_in: str | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a file, as plain data: what may be published of it, and what it is called where it came from.

    `chain` is in DER, the key's own certificate first, and empty for a bare key.
    """

    public: PublicKey
    chain: tuple[bytes, ...] = ()
    not_before: Time | None = None
    not_after: Time | None = None
    alias: str | None = None
    stated_kid: str | None = None
    stated_alg: str | None = None
    warnings: tuple[str, ...] = ()


def key_of(entry: Entry) -> Key:
    """Return the entry's key as plain data; raise UnsupportedKeyError where it is of a kind not published."""
    leaf = entry.chain[0] if entry.chain else None
    if entry.kid is not None and entry.kid != readable(entry.kid):
        raise UnsupportedKeyError(f"kid {entry.kid[:40]!r} is no Unicode text")
    public = public_members(entry.public_key, leaf, entry.spki)
    if entry.alg is not None and entry.alg not in public.algorithms:
        fitting = ", ".join(public.algorithms)
        raise UnsupportedKeyError(f'alg "{entry.alg[:40]}" does not fit the key; correct it to one of {fitting}')
    return Key(
        public=public,
        chain=tuple(certificate.public_bytes(Encoding.DER) for certificate in entry.chain),
        not_before=leaf.not_valid_before_utc if leaf else None,
        not_after=leaf.not_valid_after_utc if leaf else None,
        alias=None if entry.alias is None else readable(entry.alias),
        stated_kid=entry.kid,
        stated_alg=entry.alg,
        warnings=_warnings(entry.public_key),
    )


def public_members(key: PublicKeyTypes, certificate: Certificate | None = None, spki: bytes | None = None) -> PublicKey:
    """Return the key's public members; `certificate` or `spki` tell a key for RSASSA-PSS alone from a plain RSA key."""
    match key:
        case rsa.RSAPublicKey():
            return _rsa(key, _pss_algorithms(certificate, spki))
        case ec.EllipticCurvePublicKey():
            return _ec(key)
        case ed25519.Ed25519PublicKey():
            return _okp("Ed25519", key.public_bytes_raw())
        case ed448.Ed448PublicKey():
            return _okp("Ed448", key.public_bytes_raw(), opt_in="Ed448")
        case mldsa.MLDSA44PublicKey() | mldsa.MLDSA65PublicKey() | mldsa.MLDSA87PublicKey():
            return _akp(key.public_bytes_raw())
        case _:
            raise UnsupportedKeyError(f"unsupported key: {_refusal(key)}")


def _refusal(key: PublicKeyTypes) -> str:
    match key:
        case x25519.X25519PublicKey() | x448.X448PublicKey():
            return "X25519 and X448 agree on keys and cannot sign; use Ed25519"
        case dsa.DSAPublicKey():
            return "DSA; JWS has no algorithm for it, use RSA or P-256"
        case _:
            return f"{type(key).__name__.removesuffix('PublicKey')}; use RSA, P-256 or Ed25519"


def _pss_algorithms(certificate: Certificate | None, spki: bytes | None) -> tuple[str, ...] | None:
    """Return the algorithms of an RSA key for RSASSA-PSS alone; None for a plain one."""
    if certificate is None:
        return None if spki is None else pss_algorithms(spki)
    if certificate.public_key_algorithm_oid != PublicKeyAlgorithmOID.RSASSA_PSS:
        return None
    return pss_algorithms(of_certificate(certificate.public_bytes(Encoding.DER)))


def _rsa(key: rsa.RSAPublicKey, only_pss: tuple[str, ...] | None) -> PublicKey:
    numbers = key.public_numbers()
    if key.key_size < RSA_MIN_BITS:
        raise UnsupportedKeyError(f"RSA key of {key.key_size} bits; at least {RSA_MIN_BITS} needed")
    if key.key_size > RSA_MAX_BITS:
        raise UnsupportedKeyError(f"RSA key of {key.key_size} bits; at most {RSA_MAX_BITS} are accepted")
    if numbers.n % 2 == 0:
        raise UnsupportedKeyError("RSA key with an even modulus (corrupted?); export it again")
    n, e = base64url_uint(numbers.n), base64url_uint(numbers.e)
    return PublicKey("RSA", (("n", n), ("e", e)), only_pss or RSASSA_PKCS1 + RSASSA_PSS)


def _ec(key: ec.EllipticCurvePublicKey) -> PublicKey:
    if key.curve.name not in _CURVES:
        raise UnsupportedKeyError(f"unsupported key: {key.curve.name}; use P-256, P-384 or P-521")
    crv, width, alg = _CURVES[key.curve.name]
    numbers = key.public_numbers()
    # Full width: a coordinate keeps its leading zeros (RFC 7518, section 6.2.1.2), or clients reject the key.
    x, y = (base64url(coordinate.to_bytes(width)) for coordinate in (numbers.x, numbers.y))
    return PublicKey("EC", (("crv", crv), ("x", x), ("y", y)), (alg,), opt_in=alg if alg == "ES256K" else None)


def _okp(crv: str, x: bytes, opt_in: str | None = None) -> PublicKey:
    return PublicKey("OKP", (("crv", crv), ("x", base64url(x))), ("EdDSA", crv), opt_in=opt_in)


def _akp(pub: bytes) -> PublicKey:
    return PublicKey("AKP", (("pub", base64url(pub)),), (_ML_DSA_BY_BYTES[len(pub)],), opt_in="ML-DSA")


def _warnings(key: PublicKeyTypes) -> tuple[str, ...]:
    if isinstance(key, rsa.RSAPublicKey) and key.public_numbers().e == 3:  # noqa: PLR2004
        return ("RSA key with public exponent 3; replace it by one with 65537",)
    return ()


def base64url(data: bytes) -> str:
    """Return base64url without padding (RFC 7515, section 2)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def base64url_uint(number: int) -> str:
    """Return a positive number as base64url of its shortest big-endian octets (RFC 7518, section 2)."""
    return base64url(number.to_bytes((number.bit_length() + 7) // 8))
