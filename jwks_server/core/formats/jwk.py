"""JSON Web Keys and sets of them (RFC 7517) as input.

The public members of a known `kty` are read one by one into a public key, which is then published like any other.
The values of private and unknown members are never used.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509 import Certificate

from jwks_server.core.errors import KeyFileError, UnsupportedKeyError
from jwks_server.core.formats.certificates import Checks, Issuers, brief, load_der, public_key
from jwks_server.core.formats.contents import Contents, Entry

MAX_KEYS = 5000
MAX_TEXT_CHARACTERS = 512
"""Of a `kid` or an `alg`."""

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})
_CURVES: Mapping[str, type[ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
    "secp256k1": ec.SECP256K1,
}
_ML_DSA: Mapping[str, Callable[[bytes], PublicKeyTypes]] = {
    "ML-DSA-44": mldsa.MLDSA44PublicKey.from_public_bytes,
    "ML-DSA-65": mldsa.MLDSA65PublicKey.from_public_bytes,
    "ML-DSA-87": mldsa.MLDSA87PublicKey.from_public_bytes,
}


def read(data: bytes) -> Contents:
    """Return the keys of a JWK or a JWKS; a key that cannot be published is refused, and the others are returned."""
    document = _json(data)
    members = document.get("keys")
    if members is None and "kty" not in document:
        raise KeyFileError('JSON, but no JWK or JWKS: neither "kty" nor "keys" in it')
    if "kty" in document:
        return _contents("JWK", [document])
    if not isinstance(members, list):
        raise KeyFileError('"keys" is not a list; a JWKS is {"keys":[...]}')
    if len(members) > MAX_KEYS:
        raise KeyFileError(f"{len(members)} keys in one set; at most {MAX_KEYS}: split it")
    return _contents("JWKS", members)


def _contents(container: str, keys: list[Any]) -> Contents:
    entries: list[Entry] = []
    refusals: list[str] = []
    checks = Checks()
    private = 0
    for number, key in enumerate(keys, 1):
        title = f"key {number}: " if container == "JWKS" else ""
        if not isinstance(key, dict):
            raise KeyFileError(f"{title}not an object; a JWKS is a list of objects")
        try:
            entries.append(_entry(key, checks))
        except UnsupportedKeyError as refusal:
            refusals.append(f"{title}{refusal}")
        except KeyFileError as fault:
            raise KeyFileError(f"{title}{fault}") from fault
        private += not _PRIVATE.isdisjoint(key)
    notice = "holds private keys, which are not published; keep only their public members here"
    return Contents(container, tuple(entries), tuple(refusals), (notice,) if private else ())


def _entry(key: dict[str, Any], checks: Checks) -> Entry:
    kty = _text(key, "kty")
    if kty == "oct":
        raise UnsupportedKeyError('kty "oct" is a secret key; delete it from this file')
    readers = {"RSA": _rsa, "EC": _ec, "OKP": _okp, "AKP": _akp}
    if kty not in readers:
        raise UnsupportedKeyError(f"unsupported key: kty {_shown(kty)}; use RSA, EC or OKP")
    _check_use(key)
    public = readers[kty](key)
    chain = _chain(key, public, checks)
    return Entry(public, chain, kid=_optional_text(key, "kid"), alg=_optional_text(key, "alg"))


def _check_use(key: dict[str, Any]) -> None:
    """Refuse a key that states another purpose than signing (RFC 7517, sections 4.2 and 4.3)."""
    use, operations = _optional_text(key, "use"), key.get("key_ops")
    if use is not None and use != "sig":
        raise UnsupportedKeyError(f'use {_shown(use)}; only keys for signatures are published ("sig")')
    if operations is None:
        return
    if not isinstance(operations, list) or not all(isinstance(one, str) for one in operations):
        raise KeyFileError('"key_ops" is not a list of strings')
    if not {"sign", "verify"} & set(operations):
        raise UnsupportedKeyError('key_ops without "verify"; only keys for signatures are published')


def _rsa(key: dict[str, Any]) -> PublicKeyTypes:
    n, e = (int.from_bytes(_octets(key, name)) for name in ("n", "e"))
    try:
        return rsa.RSAPublicNumbers(e, n).public_key()
    except (ValueError, OverflowError) as error:
        raise KeyFileError(f"not an RSA key ({brief(error)})") from error


def _ec(key: dict[str, Any]) -> PublicKeyTypes:
    crv = _text(key, "crv")
    if crv not in _CURVES:
        raise UnsupportedKeyError(f"unsupported key: EC curve {_shown(crv)}; use P-256, P-384 or P-521")
    # Short coordinates are read: some libraries drop leading zeros. They are published at full width.
    x, y = (int.from_bytes(_octets(key, name)) for name in ("x", "y"))
    try:
        return ec.EllipticCurvePublicNumbers(x, y, _CURVES[crv]()).public_key()
    except (ValueError, OverflowError) as error:
        raise KeyFileError(f"not a point on {crv} (corrupted?)") from error


def _okp(key: dict[str, Any]) -> PublicKeyTypes:
    crv, x = _text(key, "crv"), _octets(key, "x")
    try:
        match crv:
            case "Ed25519":
                return ed25519.Ed25519PublicKey.from_public_bytes(x)
            case "Ed448":
                return ed448.Ed448PublicKey.from_public_bytes(x)
            case "X25519" | "X448":
                raise UnsupportedKeyError(f"unsupported key: {crv} agrees on keys and cannot sign; use Ed25519")
            case _:
                raise UnsupportedKeyError(f"unsupported key: OKP curve {_shown(crv)}; use Ed25519")
    except ValueError as error:
        raise KeyFileError(f"not a key of {crv} ({brief(error)})") from error


def _akp(key: dict[str, Any]) -> PublicKeyTypes:
    """Read a key whose algorithm is its type (RFC 9964, section 3)."""
    alg, pub = _text(key, "alg"), _octets(key, "pub")
    if alg not in _ML_DSA:
        raise UnsupportedKeyError(f"unsupported key: AKP with alg {_shown(alg)}; use ML-DSA-44, ML-DSA-65 or ML-DSA-87")
    try:
        return _ML_DSA[alg](pub)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"not a key of {alg} ({brief(error)})") from error


def _chain(key: dict[str, Any], public: PublicKeyTypes, checks: Checks) -> tuple[Certificate, ...]:
    """Return the chain of `x5c` (RFC 7517, section 4.7), whose first certificate must be the key's own."""
    stated = key.get("x5c")
    if stated is None:
        return ()
    if not isinstance(stated, list) or not stated or not all(isinstance(one, str) for one in stated):
        raise KeyFileError('"x5c" is not a list of certificates in base64')
    try:
        certificates = [load_der(base64.b64decode(one, validate=True)) for one in stated]
    except ValueError as error:  # binascii.Error, and characters beyond ASCII
        raise KeyFileError('"x5c" is not valid base64') from error
    if public_key(certificates[0], checks) != public:
        raise UnsupportedKeyError('"x5c" carries another key than the JWK; correct or delete it')
    return Issuers(certificates, checks).chain(certificates[0])


def _json(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except KeyFileError:
        raise
    except RecursionError as error:
        raise KeyFileError("JSON nested too deeply for a JWK") from error
    except ValueError as error:
        raise KeyFileError(f"truncated or not JSON: {brief(error)}") from error
    if not isinstance(document, dict):
        raise KeyFileError('JSON, but no object; a JWKS is {"keys":[...]}')
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name given twice: parsers differ in which one they take (RFC 7517, section 4)."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise KeyFileError("JSON with the same member name twice in one object; delete one")
    return members


def _no_constant(name: str) -> NoReturn:
    raise KeyFileError(f"not JSON: {name} is no number")


def _text(key: dict[str, Any], name: str) -> str:
    value = _optional_text(key, name)
    if value is None:
        raise KeyFileError(f'a key without "{name}"')
    return value


def _optional_text(key: dict[str, Any], name: str) -> str | None:
    value = key.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT_CHARACTERS:
        raise KeyFileError(f'"{name}" is not a string of 1 to {MAX_TEXT_CHARACTERS} characters')
    if not value.isprintable():
        raise KeyFileError(f'"{name}" holds characters that cannot be printed')
    return value


def _octets(key: dict[str, Any], name: str) -> bytes:
    """Return a member in base64url without padding (RFC 7515, section 2)."""
    value = key.get(name)
    if not isinstance(value, str) or _BASE64URL.fullmatch(value) is None:
        raise KeyFileError(f'"{name}" is missing or not base64url without padding')
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except binascii.Error as error:
        raise KeyFileError(f'"{name}" is not base64url of whole octets') from error


def _shown(text: str) -> str:
    """Return a value of the file for a message: short, and in quotes."""
    return json.dumps(text[:40])
