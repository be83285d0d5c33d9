"""The private listener: is it alive, is it ready, what are its numbers. For the operator's own network only.

`/livez` answers as long as the event loop does. `/readyz` is 200 when every tenant had its first load and the tree is
there, else 503; what is wrong without making the answers wrong is listed as degraded. `/metrics` is Prometheus' text.
`/tenants/<tenant>.json` says what is published of one tenant and what waits for it.
"""

import re
from http import HTTPStatus

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from jwks_server.admin.health import Health
from jwks_server.admin.metrics import Metrics
from jwks_server.core.tenant import TenantName

_PATHS = ["/livez", "/readyz", "/metrics", "/tenants/<tenant>.json"]
_TENANT = re.compile(r"/tenants/([^/]+)\.json")
_HEADERS = {"Server": "jwks-server", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class AdminHandler:
    """Answers the private listener's requests."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._metrics = Metrics(health)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.method not in {"GET", "HEAD"}:
            return web.Response(status=HTTPStatus.METHOD_NOT_ALLOWED, headers={**_HEADERS, "Allow": "GET, HEAD"})
        match request.path:
            case "/livez":
                return _json({"status": "alive"})
            case "/readyz":
                return self._ready()
            case "/metrics":
                headers = {**_HEADERS, "Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
                return web.Response(body=self._metrics.text(), headers=headers)
            case path if match := _TENANT.fullmatch(path):
                return self._tenant(match[1])
            case _:
                return _json({"paths": _PATHS}, HTTPStatus.NOT_FOUND)

    def _ready(self) -> web.Response:
        reasons, degraded = self._health.not_ready(), self._health.degraded()
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        word = "not ready" if reasons else "degraded" if degraded else "ready"
        body = {"status": word, "reasons": reasons, "degraded": degraded}
        return _json(body, status)

    def _tenant(self, name: str) -> web.Response:
        state = self._health.tenant(TenantName(name))
        if state is None:
            return _json({"error": "no such tenant"}, HTTPStatus.NOT_FOUND)
        return _json(state)


def _json(body: object, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.json_response(body, status=status, headers=_HEADERS)
