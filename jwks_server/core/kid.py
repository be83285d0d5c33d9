"""The schemes by which a key gets its id.

WSO2 Identity Server names a key by its certificate and its algorithm; the other schemes are common elsewhere. A key
without a certificate takes its JWK thumbprint where a certificate would be needed.
"""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, assert_never

from jwks_server.core.jwk import Key, PublicKey, base64url


class Scheme(StrEnum):
    """How a key's id is made."""

    WSO2 = "wso2"
    WSO2_SHA1 = "wso2-sha1"
    X5T_S256 = "x5t#S256"
    RFC7638 = "rfc7638"
    FILENAME = "filename"

    @property
    def names_algorithm(self) -> bool:
        """Tell whether ids under this scheme differ for the same key with another algorithm."""
        return self in {Scheme.WSO2, Scheme.WSO2_SHA1}


def key_id(scheme: Scheme, key: Key, alg: str, file_name: str, *, several: bool) -> str:
    """Return the key's id; `several` says that the key is published with more algorithms than this one.

    A JWK that states its id keeps it, whatever the scheme.
    """
    if key.stated_kid is not None:
        return key.stated_kid
    if scheme is Scheme.FILENAME:
        return stem(file_name)
    if not key.chain:
        identifier = thumbprint(key.public)
        return f"{identifier}_{alg}" if several and scheme.names_algorithm else identifier
    if scheme is Scheme.RFC7638:
        return thumbprint(key.public)
    return _certificate_id(scheme, key.chain[0], alg)


def _certificate_id(scheme: Literal[Scheme.WSO2, Scheme.WSO2_SHA1, Scheme.X5T_S256], der: bytes, alg: str) -> str:
    match scheme:
        case Scheme.WSO2:
            return f"{hexified(sha256(der))}_{alg}"
        case Scheme.WSO2_SHA1:
            return f"{hexified(sha1(der))}_{alg}"
        case Scheme.X5T_S256:
            return base64url(sha256(der))
        case _:
            assert_never(scheme)


def identifiers(key: Key) -> frozenset[str]:
    """Return every name by which a list of revoked keys may mean this key, whatever the present policy."""
    names = {thumbprint(key.public)}
    if key.stated_kid is not None:
        names.add(key.stated_kid)
    names |= {f"{thumbprint(key.public)}_{alg}" for alg in key.public.algorithms}
    if key.chain:
        certificate = key.chain[0]
        for digest in (sha256(certificate), sha1(certificate)):
            names |= {digest.hex(), base64url(digest), hexified(digest)}
            names |= {f"{hexified(digest)}_{alg}" for alg in key.public.algorithms}
    return frozenset(names)


def thumbprint(public: PublicKey) -> str:
    """Return the base64url SHA-256 JWK thumbprint (RFC 7638, section 3; RFC 9964 for AKP keys)."""
    required: Mapping[str, str] = {"kty": public.kty, **dict(public.members)}
    if public.kty == "AKP":
        required = {**required, "alg": public.algorithms[0]}
    return base64url(sha256(json.dumps(required, separators=(",", ":"), sort_keys=True).encode("ascii")))


def hexified(digest: bytes) -> str:
    """Return base64url of the lower-case hexadecimal text of a digest, as WSO2 writes thumbprints."""
    return base64url(digest.hex().encode("ascii"))


def sha256(data: bytes) -> bytes:
    """Return the SHA-256 digest."""
    return hashlib.sha256(data).digest()


def sha1(data: bytes) -> bytes:
    """Return the SHA-1 digest, which names certificates in older ids (RFC 7515, section 4.1.7), and proves nothing."""
    return hashlib.sha1(data, usedforsecurity=False).digest()


def stem(file_name: str) -> str:
    """Return the file's name without its last ending."""
    head, dot, _ = file_name.rpartition(".")
    return head if dot and head else file_name
