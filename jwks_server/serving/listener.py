"""A listener at work: it accepts connections, ends those whose time is over, and drains them all at the end.

Connections are accepted here and not by the event loop, which takes one in each of its turns: under busy keep-alive
clients new ones waited for seconds.
"""

import asyncio
import errno
import socket
import ssl
from contextlib import suppress

from jwks_server.core.timing import Timing
from jwks_server.serving.complaints import Kind
from jwks_server.serving.limits import Connection, Excess, Phase, site_of
from jwks_server.serving.listen import BACKLOG, begin
from jwks_server.serving.protocol import HttpConnection, HttpServer

ACCEPTED_AT_ONCE = 64
_ENDED_FOR_DESCRIPTORS = 32
_WITHOUT_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_KINDS = {Excess.ADDRESS: Kind.OVER_ADDRESS_LIMIT, Excess.TOTAL: Kind.OVER_LIMIT}


class _Accepted:
    """Holds the place of a connection until its protocol does."""

    def __init__(self, accepted: socket.socket) -> None:
        self._accepted = accepted

    def abort(self) -> None:
        """Let the handshake fail; what is past it finds itself forgotten. Cancelling leaves the socket open."""
        with suppress(OSError):
            self._accepted.shutdown(socket.SHUT_RDWR)


class Listener:
    """Accepts connections on bound sockets, which it closes at the end. All methods belong to the event loop."""

    def __init__(
        self,
        server: HttpServer,
        sockets: list[socket.socket],
        timing: Timing,
        *,
        context: ssl.SSLContext | None = None,
        descriptors: int,
    ) -> None:
        self.server = server
        self.connections = server.connections_held
        self.complaints = server.complaints
        self._sockets = sockets
        self._timing = timing
        self._context = context
        self._descriptors = descriptors
        self._loop = asyncio.get_running_loop()
        self._timers: dict[object, asyncio.TimerHandle] = {}
        self._handshakes: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Begin to listen."""
        begin(self._sockets)
        for bound in self._sockets:
            self._loop.add_reader(bound, self._accept, bound, ACCEPTED_AT_ONCE)
        self._sweep()

    async def drain(self) -> None:
        """End all connections: those that ask meanwhile are answered, and no client waits for another's.

        A client whose request comes before `drain` is over loses nothing: its answer says that it is the last.
        """
        self.server.draining = True
        for bound in self._sockets:
            if bound.fileno() >= 0:
                # Closing the socket would reset what waits in its queue; what comes after that prolongs no stop.
                self._accept(bound, BACKLOG + 1)
                self._loop.remove_reader(bound)
                bound.close()
        await self.server.until_all_gone(self._timing.drain)
        for connection in self.connections:
            if connection.phase in {Phase.IDLE, Phase.HEAD}:
                _finish(connection)
        await self.server.until_all_gone(self._timing.shutdown)
        for connection in self.connections:
            connection.held.abort()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _accept(self, bound: socket.socket, most: int) -> None:
        """Accept what waits, so many at most."""
        for _ in range(most):
            try:
                accepted, address = bound.accept()
            except OSError as error:
                if error.errno == errno.ECONNABORTED:
                    continue
                if error.errno in _WITHOUT_DESCRIPTORS:
                    self._without_descriptors(bound, error)
                return
            self._admit(accepted, address[0])

    def _admit(self, accepted: socket.socket, address: str) -> None:
        accepted.setblocking(False)
        connection = Connection(site_of(address), _Accepted(accepted), Phase.HANDSHAKE)
        over = self.connections.open(connection, self._loop.time())
        if over is not None:
            self.complaints.count(_KINDS[over[1]])
            over[0].held.abort()
        task = self._loop.create_task(self._connect(connection, accepted))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _connect(self, connection: Connection, accepted: socket.socket) -> None:
        seconds = None if self._context is None else self._timing.handshake
        try:
            await self._loop.connect_accepted_socket(
                lambda: self.server.protocol(connection),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )
        except OSError:  # a handshake that failed or took too long, or a client that is gone
            self.complaints.count(Kind.HANDSHAKE)
            self.server.gone(connection)

    def _without_descriptors(self, bound: socket.socket, error: OSError) -> None:
        """Make room by closing what is idle, and try again in a moment: the socket stays readable meanwhile."""
        self.complaints.no_descriptors(errno.errorcode.get(error.errno or 0, "?"), self._descriptors)
        for connection in self.connections.idlest(_ENDED_FOR_DESCRIPTORS):
            _finish(connection)
        if self.server.draining:
            return
        self._loop.remove_reader(bound)
        self._timers[bound] = self._loop.call_later(self._timing.accept_retry, self._accept_again, bound)

    def _accept_again(self, bound: socket.socket) -> None:
        if not self.server.draining:
            self._loop.add_reader(bound, self._accept, bound, ACCEPTED_AT_ONCE)

    def _sweep(self) -> None:
        """End the connections whose time is over."""
        now = self._loop.time()
        for connection in self.connections.due(now):
            match connection.phase:
                case Phase.STALLED:
                    self._look_at_stalled(connection, now)
                case phase:
                    self.complaints.count(Kind.IDLE if phase is Phase.IDLE else Kind.HEAD_LATE)
                    _finish(connection)
        self._timers[self] = self._loop.call_later(self._timing.sweep, self._sweep)

    def _look_at_stalled(self, connection: Connection, now: float) -> None:
        held = connection.held
        unsent = held.unsent if isinstance(held, HttpConnection) else 0
        if unsent < connection.unsent:
            self.connections.enter(connection, Phase.STALLED, now, unsent)
            return
        self.complaints.count(Kind.STALLED)
        self.connections.close(connection)
        held.abort()


def _finish(connection: Connection) -> None:
    """End a connection when what was written is sent."""
    if isinstance(connection.held, HttpConnection):
        connection.held.finish()
    else:
        connection.held.abort()
