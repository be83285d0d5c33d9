"""Sockets: bound at the start, listened on when there is something to answer, drained at the end."""

import asyncio
import errno
import socket
import ssl
from contextlib import AsyncExitStack

from aiohttp import web

from jwks_server.core.errors import SettingsError

BACKLOG = 1024


def bind(host: str, port: int) -> list[socket.socket]:
    """Return a bound socket for each address of the host; raise SettingsError where none can be bound."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"host {host!r} has no address here: {error}") from error
    sockets: list[socket.socket] = []
    refusal: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            bound = socket.socket(family, kind, protocol)
        except OSError as error:
            refusal = error  # a machine without IPv6 has ::1 in its table of hosts all the same
            continue
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((address[0], sockets[0].getsockname()[1] if port == 0 and sockets else port, *address[2:]))
        except OSError as error:
            bound.close()
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                for other in sockets:
                    other.close()
                raise SettingsError(_bind_text(host, port, error)) from error
            refusal = error
            continue
        sockets.append(bound)
    if not sockets:
        raise SettingsError(_bind_text(host, port, refusal or OSError(errno.EADDRNOTAVAIL, "no address")))
    return sockets


def _bind_text(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; stop what listens there, or give another --port or --port-offset"
    return f"cannot listen on {host} port {port}: {error.strerror}"


async def listen(  # noqa: PLR0913 - what listens, on what, and how it ends
    stack: AsyncExitStack,
    server: web.Server,
    sockets: list[socket.socket],
    context: ssl.SSLContext | None = None,
    *,
    drain_seconds: float = 0.0,
    shutdown_seconds: float,
) -> None:
    """Begin to listen. On leaving the stack: stop accepting, then answer what was accepted, then close."""
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=shutdown_seconds)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    # Connections that were accepted a moment ago have not sent their request yet: cleaning up at once drops them.
    stack.push_async_callback(asyncio.sleep, drain_seconds)
    for bound in sockets:
        site = web.SockSite(runner, bound, ssl_context=context, backlog=BACKLOG)
        stack.push_async_callback(site.stop)
        try:
            await site.start()
        except OSError as error:
            host, port = bound.getsockname()[:2]
            raise SettingsError(_bind_text(host, port, error)) from error
