"""The two listeners, each with its limits."""

import asyncio
import socket
import ssl

from jwks_server.core.timing import Timing
from jwks_server.daemon.config import Settings
from jwks_server.serving import descriptors
from jwks_server.serving.complaints import Complaints
from jwks_server.serving.gate import host_of
from jwks_server.serving.http import Handler
from jwks_server.serving.limits import Connections, Phase
from jwks_server.serving.listener import Listener
from jwks_server.serving.protocol import HttpServer

ADMIN_HOST = "127.0.0.1"

MOST_STALLED_BYTES = 256 << 20
"""What answers that clients do not read may take, a quarter of the unit's MemoryMax."""

_ADMIN_CONNECTIONS = 32
_ADMIN_NAMES = frozenset({"localhost", "127.0.0.1", str(host_of("[::1]")), ADMIN_HOST})


def public_listener(
    settings: Settings, sockets: list[socket.socket], handler: Handler, context: ssl.SSLContext | None
) -> Listener:
    """Return the listener for everybody."""
    limit = descriptors.raise_limit()
    timing = settings.timing
    most = descriptors.affordable(settings.max_connections, limit)
    connections = _connections(timing, most, settings.max_connections_per_address)
    server = HttpServer(
        handler, connections=connections, complaints=_complaints("public", timing), body_seconds=timing.head
    )
    return Listener(server, sockets, timing, context=context, descriptors=limit)


def admin_listener(settings: Settings, sockets: list[socket.socket], handler: Handler) -> Listener:
    """Return the private listener. It answers under its own names only, so that no web page reaches it by another."""
    timing = settings.timing
    server = HttpServer(
        handler,
        connections=_connections(timing, _ADMIN_CONNECTIONS, most_per_site=0),
        complaints=_complaints("admin", timing),
        body_seconds=timing.head,
        answers_to=_ADMIN_NAMES.__contains__,
    )
    return Listener(server, sockets, timing, descriptors=descriptors.raise_limit())


def _connections(timing: Timing, most: int, most_per_site: int) -> Connections:
    seconds = {Phase.HEAD: timing.head, Phase.IDLE: timing.keepalive, Phase.STALLED: timing.stalled}
    return Connections(most=most, most_per_site=most_per_site, most_stalled_bytes=MOST_STALLED_BYTES, seconds=seconds)


def _complaints(listener: str, timing: Timing) -> Complaints:
    clock = asyncio.get_running_loop().time
    return Complaints(listener, clock, bug_pace=timing.bug_pace, limit_pace=timing.limit_pace)
