"""The HTTP contract of the public listener: what every request is answered with (RFC 9110, RFC 9111, RFC 9457).

One pure function, so that everything that answers gives the same bytes. A request's target names a tenant, and its
exact text decides: nothing is decoded, folded or looked for in a file system. `answer` then makes the whole reply from
what the tenant publishes; only `Date` is left to whoever sends it.
"""

import json
import re
from dataclasses import dataclass, replace
from http import HTTPStatus

from jwks_server.core.errors import TenantNameError
from jwks_server.core.keyset import KeySet
from jwks_server.core.lifecycle import Moment
from jwks_server.core.publication import Publication
from jwks_server.core.tenant import TenantName, tenant_name

METHODS = "GET, HEAD, OPTIONS"
RETRY_AFTER_SECONDS = 5

Headers = tuple[tuple[str, str], ...]

_SUPER_TENANT_PATH = "/oauth2/jwks"
_TENANT_PATH = re.compile(r"/t/([^/]+)/oauth2/jwks", re.ASCII)
_ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')
_ABSOLUTE_FORM = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Ask:
    """What counts of a request once its target has named the tenant; `if_none_match` holds that header's lines."""

    method: str
    if_none_match: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished response, but for `Date`. To HEAD `body` is empty and `headers` are those that GET would get."""

    status: HTTPStatus
    headers: Headers
    body: bytes = b""


def tenant_of(target: str, super_tenant: TenantName) -> TenantName | None:
    """Return the tenant that a request target (RFC 9112, section 3.2) names by its exact text; None for any other."""
    path = _ABSOLUTE_FORM.sub("", target, count=1) if target[:4].lower() == "http" else target
    path = path.partition("?")[0]
    if path == _SUPER_TENANT_PATH:
        return super_tenant
    match = _TENANT_PATH.fullmatch(path)
    if match is None:
        return None
    try:
        return tenant_name(match[1])
    except TenantNameError:
        return None


def answer(ask: Ask, publication: Publication | None, now: Moment, *, expected: bool, media_type: str) -> Reply:
    """Return the reply to a request for what a tenant publishes.

    `publication` is None where the target names no tenant, or one of which nothing is known. `expected` says that the
    tenant is known all the same: it was not loaded yet, or its first load failed.
    """
    reply = _answer(ask, publication, now, expected=expected, media_type=media_type)
    return replace(reply, body=b"") if ask.method == "HEAD" else reply


def problem(status: HTTPStatus, detail: str, headers: Headers = ()) -> Reply:
    """Return an error as problem details (RFC 9457), never to be stored by a cache."""
    members = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    body = json.dumps(members).encode("ascii")
    of_all = (("Content-Type", "application/problem+json"), _length(body), ("Cache-Control", "no-store"))
    return Reply(status, (*_COMMON, *of_all, *headers), body)


def _length(body: bytes) -> tuple[str, str]:
    return "Content-Length", str(len(body))


_COMMON: Headers = (
    ("Server", "jwks-server"),
    ("Access-Control-Allow-Origin", "*"),
    ("X-Content-Type-Options", "nosniff"),
)
_PREFLIGHT = Reply(
    HTTPStatus.NO_CONTENT,
    (
        *_COMMON,
        ("Allow", METHODS),
        ("Access-Control-Allow-Methods", METHODS),
        ("Access-Control-Allow-Headers", "*, Authorization"),
        ("Access-Control-Max-Age", "86400"),
    ),
)
_NOT_FOUND = problem(HTTPStatus.NOT_FOUND, "There is no key set here.")
_NOT_ALLOWED = problem(HTTPStatus.METHOD_NOT_ALLOWED, f"Use one of {METHODS}.", (("Allow", METHODS),))
_UNAVAILABLE = problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The tenant's keys cannot be read at the moment.",
    (("Retry-After", str(RETRY_AFTER_SECONDS)),),
)


def _answer(ask: Ask, publication: Publication | None, now: Moment, *, expected: bool, media_type: str) -> Reply:
    is_tenant = expected if publication is None else not publication.vacant
    if not is_tenant:
        return _NOT_FOUND
    if ask.method == "OPTIONS":
        return _PREFLIGHT
    if ask.method not in {"GET", "HEAD"}:
        return _NOT_ALLOWED
    if publication is None or publication.key_set is None:
        return _UNAVAILABLE
    return _key_set(ask, publication, publication.key_set, now, media_type)


def _key_set(ask: Ask, publication: Publication, key_set: KeySet, now: Moment, media_type: str) -> Reply:
    of_both = (*_COMMON, ("ETag", key_set.etag), ("Cache-Control", _cache_control(publication, key_set, now)))
    if _matches(ask.if_none_match, key_set.etag):
        return Reply(HTTPStatus.NOT_MODIFIED, of_both)
    return Reply(HTTPStatus.OK, (*of_both, ("Content-Type", media_type), _length(key_set.body)), key_set.body)


def _matches(if_none_match: tuple[str, ...], etag: str) -> bool:
    """Tell whether any tag in the header's lines is the entity's, by weak comparison (RFC 9110, section 13.1.2)."""
    return any(line.strip() == "*" or etag in _ENTITY_TAG.findall(line) for line in if_none_match)


def _cache_control(publication: Publication, key_set: KeySet, now: Moment) -> str:
    """Return the value of Cache-Control.

    Caches may keep a set until it next changes by itself, and longer only while the server fails. A set without keys
    is `no-cache`: it may be a mistake, which caches would go on serving after it is corrected.
    """
    if not publication.keys:
        return "no-cache"
    left = publication.next_change.seconds_from(now)
    max_age = key_set.max_age if left is None else min(key_set.max_age, int(left))
    text = f"public, max-age={max_age}"
    return f"{text}, stale-if-error={key_set.stale_if_error}" if key_set.stale_if_error else text
