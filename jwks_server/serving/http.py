"""The public listener's handler: it translates between aiohttp and the HTTP contract, which `core.contract` holds.

A request is answered from the publication that stands in the store at that moment.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from jwks_server.core.contract import Ask, Reply, answer, tenant_of
from jwks_server.core.publication import Publication
from jwks_server.core.tenant import TenantName
from jwks_server.host import clock

FirstLoad = Callable[[TenantName], Awaitable[Publication | None]]
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


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
        """Answer one request; only a tenant's first load is waited for."""
        publication, expected = None, False
        tenant = tenant_of(request.raw_path, self._super_tenant)
        if tenant is not None:
            publication = self._ready(tenant)
            if publication is None and self._expects(tenant):
                publication = await self._first_load(tenant)
                expected = self._expects(tenant)
        ask = Ask(request.method, tuple(request.headers.getall("If-None-Match", ())))
        return response(answer(ask, publication, clock.now(), expected=expected, media_type=self._media_type))


def response(reply: Reply) -> web.Response:
    """Return the reply as aiohttp's; aiohttp adds `Date`."""
    return web.Response(status=reply.status, headers=reply.headers, body=reply.body)
