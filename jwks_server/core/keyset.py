"""A key set compiled to bytes: made once when a key changes, copied for every request."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass

from jwks_server.core.jwk import Identity, Key, Time, base64url
from jwks_server.core.kid import hexified, sha1, sha256
from jwks_server.core.policy import Policy

SMALL_CLIENT_BYTES = 8192
COMMON_CLIENT_BYTES = 51_200

_KTY_ORDER = {"RSA": 0, "EC": 1, "OKP": 2}


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """One member of the `keys` array: what names it, and where it comes from."""

    kid: str
    alg: str
    kty: str
    identity: Identity
    file_name: str
    not_after: Time | None = None


@dataclass(frozen=True, slots=True)
class KeySet:
    """A finished key set. `etag` is a digest of the body, quotes included.

    For `max_age` seconds a cache may answer with it without asking the server, for `stale_if_error` more where the
    server fails.
    """

    body: bytes
    etag: str
    max_age: int
    stale_if_error: int


def compile_set(members: Iterable[tuple[PublishedKey, str]], policy: Policy) -> KeySet:
    """Return the key set (RFC 7517, section 5) of keys and their JSON, in an order that depends on nothing but them.

    RSA comes first: there are clients that ignore the id and fail on a key of another type before the right one.
    """
    ordered = sorted(members, key=lambda member: _rank(member[0]))
    body = ('{"keys":[' + ",".join(text for _, text in ordered) + "]}").encode("ascii")
    return KeySet(body, etag_of(body), policy.max_age, policy.stale_if_error)


def etag_of(body: bytes) -> str:
    """Return the strong entity tag of a key set, quotes included: a digest of its bytes (RFC 9110, section 8.8.3)."""
    return f'"{base64url(hashlib.sha256(body).digest())}"'


def _rank(key: PublishedKey) -> tuple[int, str, str]:
    return _KTY_ORDER.get(key.kty, len(_KTY_ORDER)), key.kty, key.kid


def jwk_json(key: Key, kid: str, alg: str, policy: Policy, *, bare: bool = False) -> str:
    """Return the key as compact JSON: public members, and what is said of its certificate unless `bare`."""
    jwk: dict[str, object] = {"kty": key.public.kty, "use": "sig", "kid": kid, "alg": alg, **dict(key.public.members)}
    if key.chain and not bare:
        certificate = key.chain[0]
        text = hexified if policy.hexify_thumbprints else base64url
        jwk["x5t#S256"] = text(sha256(certificate))
        if policy.x5t:
            jwk["x5t"] = text(sha1(certificate))
        if policy.x5c:
            jwk["x5c"] = [_base64(der) for der in key.chain]
    return json.dumps(jwk, separators=(",", ":"))


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")
