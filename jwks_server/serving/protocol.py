"""The listeners' protocol: every use of a name of aiohttp's that is not public.

`tests/integration/test_library_names.py` fails by name where an upgrade of aiohttp changes one of them.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from jwks_server.core.contract import problem
from jwks_server.serving.complaints import Complaints, Kind
from jwks_server.serving.framing import pieces, rendered
from jwks_server.serving.gate import MAX_BODY_BYTES, body_fault, host_fault
from jwks_server.serving.http import Handler, response
from jwks_server.serving.limits import Connection, Connections, Phase

_FOREVER = 365 * 86_400.0

_MALFORMED = problem(HTTPStatus.BAD_REQUEST, "The request is malformed.")
_FAILED = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed.")


class HttpServer(web.Server):
    """aiohttp's low-level server, for connections that are counted, timed and may be ended at any moment.

    Bodies are neither inflated nor waited for after the answer: both gave strangers the event loop for seconds. Times
    are kept by `connections` alone, so aiohttp's own is out of reach.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        connections: Connections,
        complaints: Complaints,
        body_seconds: float,
        answers_to: Callable[[str], bool] = lambda _host: True,
    ) -> None:
        super().__init__(
            self._answer,
            request_factory=self._request,
            access_log=None,
            keepalive_timeout=_FOREVER,
            auto_decompress=False,
            lingering_time=0,
            read_bufsize=MAX_BODY_BYTES,
        )
        self.connections_held = connections
        self.complaints = complaints
        self.draining = False
        self._handler = handler
        self._body_seconds = body_seconds
        self._answers_to = answers_to
        self._all_gone: asyncio.Future[None] | None = None

    def protocol(self, connection: Connection) -> "HttpConnection":
        """Return the protocol for a new connection."""
        return HttpConnection(self, connection, loop=self._loop, **self._kwargs)

    def gone(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self.connections_held.close(connection)
        if self._all_gone is not None and not self._all_gone.done() and not self.connections_held:
            self._all_gone.set_result(None)

    async def until_all_gone(self, seconds: float) -> None:
        """Wait until no connection is open, for so many seconds at most."""
        if self.connections_held:
            self._all_gone = self._loop.create_future()
            await asyncio.wait((self._all_gone,), timeout=seconds)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        """Return a request; raise ValueError for other versions and for a target that is none: the connection ends."""
        if message.version not in {HttpVersion10, HttpVersion11} or message.url is None:
            raise ValueError("the request line is malformed")
        return web.BaseRequest(message, payload, protocol, writer, task, self._loop)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        refused = host_fault(request, self._answers_to)
        if refused is None and request.body_exists:
            refused = await body_fault(request, self._body_seconds)
        if refused is not None:
            self.complaints.count(Kind.MALFORMED)
            answer: web.StreamResponse = response(refused)
        else:
            answer = await self._handler(request)
        if refused is not None or request.method == "CONNECT" or not request.content.at_eof():
            answer.force_close()
        return answer


class HttpConnection(RequestHandler):
    """One connection; `Held` by the table of connections."""

    __slots__ = ("_connection", "_done", "_ended", "_server", "_wire")

    def __init__(self, server: HttpServer, connection: Connection, **options: Any) -> None:  # noqa: ANN401 - aiohttp's
        super().__init__(server, **options)
        self._server = server
        self._connection = connection
        self._wire: asyncio.Transport | None = None
        self._ended = False
        self._done = False

    # --- as what the table holds

    def abort(self) -> None:
        """End the connection at once, whatever waits to be sent."""
        if self._wire is not None:
            self._wire.abort()

    def finish(self) -> None:
        """End the connection when what was written is sent."""
        self.force_close()
        self._enter(Phase.STALLED)

    @property
    def unsent(self) -> int:
        """How many bytes wait to be sent."""
        return 0 if self._wire is None else self._wire.get_write_buffer_size()

    # --- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the head of a request. A single byte that is not sent pauses writing, and is timed."""
        self._wire = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        self._connection.held = self
        self._wire.set_write_buffer_limits(high=0)
        self._enter(Phase.HEAD)
        super().connection_made(transport)
        if self._connection not in self._server.connections_held:
            self.abort()  # it was given up meanwhile

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._wire = None
        super().connection_lost(exc)
        self._server.gone(self._connection)

    def data_received(self, data: bytes) -> None:
        """Parse what came, request by request: what is wrong with one must not lose those before it."""
        before = self._request_count
        try:
            for piece in pieces(data):
                super().data_received(piece)
        except Exception:  # noqa: BLE001 - whatever the parser dies of, the connection ends, and nothing is quoted
            self._server.complaints.count(Kind.MALFORMED)
            self.abort()
            return
        self._spoil_body()
        phase = self._connection.phase
        if phase is Phase.IDLE or phase is Phase.HEAD:
            if self._request_count > before:
                self._server.connections_held.used(self._connection)
                self._enter(Phase.BUSY)
            elif data and phase is Phase.IDLE:
                self._enter(Phase.HEAD)

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio's may
        """Answer what came before the client's end (RFC 9112, section 9.6); return whether the connection stays."""
        self._ended = True
        over_tls = self._wire is not None and self._wire.get_extra_info("sslcontext") is not None
        return self._connection.phase in {Phase.BUSY, Phase.STALLED} and not over_tls

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read."""
        super().pause_writing()
        self._enter(Phase.STALLED)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if not self._done:
            self._enter(Phase.BUSY)

    # --- what aiohttp calls

    async def start(self) -> None:
        """Answer requests until the connection ends; whatever this dies of, the connection ends with it."""
        try:
            await super().start()
        except Exception:  # noqa: BLE001 - what our handler raises is caught in there: this was the request's shape
            self._server.complaints.count(Kind.MALFORMED)
            if self._wire is not None:
                self._wire.write(rendered(_MALFORMED))
        finally:
            self._done = True
            self.finish()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; the last one before a stop, or after the client's end, says that it is the last."""
        if self._server.draining or self._has_ended:
            resp.force_close()
        sent = await super().finish_response(request, resp, start_time)
        self._enter(Phase.BUSY if self._messages else Phase.IDLE)
        if self._has_ended:
            self.close()
        return sent

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it may quote the request
    ) -> web.StreamResponse:
        """Answer a request that could not be parsed, or at which our handler failed, and end the connection."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._server.complaints.bug(exc)
        else:
            self._server.complaints.count(Kind.MALFORMED)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer was begun; another cannot follow")
        answer = response(_FAILED if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _MALFORMED)
        answer.force_close()
        return answer

    def log_exception(self, *_args: object, exc_info: object = None, **_kw: object) -> None:
        """Count a failure that aiohttp met outside of our handler; its own text may quote the request."""
        self._server.complaints.bug(exc_info if isinstance(exc_info, BaseException) else None)

    def log_debug(self, *_args: object, **_kw: object) -> None:
        """Write nothing."""

    def _spoil_body(self) -> None:
        """Let a handler that reads a body know that it is malformed; aiohttp's parser tells whoever comes next only."""
        if not self._messages or not isinstance(self._messages[-1][0], _ErrInfo):
            return
        request = self._current_request
        body = self._messages[-2][1] if len(self._messages) > 1 else None if request is None else request.content
        if body is not None and not body.is_eof():
            body.set_exception(web.RequestPayloadError())

    @property
    def _has_ended(self) -> bool:
        return self._ended and not self._messages

    def _enter(self, phase: Phase) -> None:
        unsent = self.unsent if phase is Phase.STALLED else 0
        for other in self._server.connections_held.enter(self._connection, phase, self._loop.time(), unsent):
            self._server.complaints.count(Kind.STALLED)
            other.held.abort()
