"""The public listener's protocol: every use of a name of aiohttp's that is not public.

`tests/integration/test_library_names.py` fails by name where an upgrade of aiohttp changes one of them.
"""

import logging
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from jwks_server.core.contract import problem
from jwks_server.serving.http import response

_log = logging.getLogger(__name__)


class PublicServer(web.Server):
    """aiohttp's low-level server. Its errors are problem details too; only failures of our own code are logged here."""

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
        """Answer a request that could not be parsed, or at which our handler failed, and end the connection."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("request failed: a bug", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer was begun; another cannot follow")
        detail = "The request is malformed." if status < HTTPStatus.INTERNAL_SERVER_ERROR else "The server failed."
        answer = response(problem(HTTPStatus(status), detail))
        answer.force_close()
        return answer
