"""The public listener: two URLs, one representation each, and the whole contract around them (RFC 9110, RFC 9111).

A request is answered from the publication that stands in the store at that moment. Its path is matched as it came, byte
for byte: nothing is decoded, folded or looked for in a file system.
"""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from jwks_server.core.errors import TenantNameError
from jwks_server.core.keyset import KeySet
from jwks_server.core.publication import Publication
from jwks_server.core.tenant import TenantName, tenant_name
from jwks_server.host import clock

METHODS = "GET, HEAD, OPTIONS"
RETRY_AFTER_SECONDS = 5

_SUPER_TENANT_PATH = "/oauth2/jwks"
_TENANT_PATH = re.compile(r"/t/([^/]+)/oauth2/jwks", re.ASCII)
_ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')
_ABSOLUTE_FORM = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_COMMON = {
    "Server": "jwks-server",
    "Access-Control-Allow-Origin": "*",
    "X-Content-Type-Options": "nosniff",
}
_PREFLIGHT = {
    **_COMMON,
    "Allow": METHODS,
    "Access-Control-Allow-Methods": METHODS,
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Max-Age": "86400",
}

_log = logging.getLogger(__name__)

FirstLoad = Callable[[TenantName], Awaitable[Publication | None]]


class PublicHandler:
    """Answers the public listener's requests.

    `ready` gives the publication that is there, `first_load` waits for one; `expects` tells whether a name is a
    tenant's whose first load did not succeed yet.
    """

    def __init__(
        self,
        *,
        super_tenant: TenantName,
        ready: Callable[[str], Publication | None],
        first_load: FirstLoad,
        expects: Callable[[str], bool],
        media_type: str,
    ) -> None:
        self._super_tenant = super_tenant
        self._ready = ready
        self._first_load = first_load
        self._expects = expects
        self._media_type = media_type

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        tenant = self._tenant(request.raw_path)
        if tenant is None:
            return problem(HTTPStatus.NOT_FOUND, "There is no such resource.")
        publication = self._ready(tenant)
        if publication is None and self._expects(tenant):
            publication = await self._first_load(tenant)
        if publication is None and not self._expects(tenant):
            return problem(HTTPStatus.NOT_FOUND, "There is no such tenant.")
        if request.method == "OPTIONS":
            return web.Response(status=HTTPStatus.NO_CONTENT, headers=_PREFLIGHT)
        if request.method not in {"GET", "HEAD"}:
            return problem(HTTPStatus.METHOD_NOT_ALLOWED, f"Use one of {METHODS}.", {"Allow": METHODS})
        if publication is None or publication.key_set is None:
            return problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "The tenant's keys cannot be read at the moment.",
                {"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        return self._answer(request, publication, publication.key_set)

    def _tenant(self, target: str) -> TenantName | None:
        """Return the tenant that a request target means (RFC 9112, section 3.2), by its exact text."""
        path = _ABSOLUTE_FORM.sub("", target, count=1) if target[:4].lower() == "http" else target
        path = path.partition("?")[0]
        if path == _SUPER_TENANT_PATH:
            return self._super_tenant
        match = _TENANT_PATH.fullmatch(path)
        if match is None:
            return None
        try:
            return tenant_name(match[1])
        except TenantNameError:
            return None

    def _answer(self, request: web.BaseRequest, publication: Publication, key_set: KeySet) -> web.Response:
        headers = {**_COMMON, "ETag": key_set.etag, "Cache-Control": _cache_control(publication, key_set)}
        if matches(request.headers.getall("If-None-Match", ()), key_set.etag):
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        return web.Response(body=key_set.body, headers={**headers, "Content-Type": self._media_type})


def matches(if_none_match: tuple[str, ...] | list[str], etag: str) -> bool:
    """Tell whether any tag in the header's lines is the entity's, by weak comparison (RFC 9110, section 13.1.2)."""
    return any(line.strip() == "*" or etag in _ENTITY_TAG.findall(line) for line in if_none_match)


def problem(status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error as problem details (RFC 9457), never to be stored by a cache."""
    body = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    return web.Response(
        status=status,
        body=json.dumps(body).encode("ascii"),
        headers={**_COMMON, "Content-Type": "application/problem+json", "Cache-Control": "no-store", **(headers or {})},
    )


def _cache_control(publication: Publication, key_set: KeySet) -> str:
    """Return how long the set may be kept: no longer than until it changes by itself."""
    max_age = key_set.max_age
    if publication.next_change.wall is not None or publication.next_change.steady is not None:
        left = publication.next_change.seconds_from(clock.now())
        max_age = max_age if left is None else min(max_age, int(left))
    return f"public, max-age={max_age}"


class PublicServer(web.Server):
    """aiohttp's low-level server, whose own errors are problem details too, and whose log no stranger can fill."""

    def __call__(self) -> RequestHandler:
        """Return the protocol for a new connection."""
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Protocol(RequestHandler):
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it may quote the request
    ) -> web.StreamResponse:
        """Answer what could not be parsed, or what failed in us, and end the connection."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("request failed: a bug", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer was begun; another cannot follow")
        detail = "The request is malformed." if status < HTTPStatus.INTERNAL_SERVER_ERROR else "The server failed."
        response = problem(HTTPStatus(status), detail)
        response.force_close()
        return response
