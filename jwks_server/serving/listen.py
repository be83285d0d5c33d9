"""Sockets: bound at the start, listened on when there is something to answer."""

import errno
import socket

from jwks_server.core.errors import SettingsError

BACKLOG = 1024
SEND_BUFFER = 32_768
RECEIVE_BUFFER = 32_768
"""What the kernel may hold of a connection, half of what it then takes. Left to itself it grows to megabytes for one
that does not read, and that is memory of the service. A key set of a few kB goes out at once all the same."""


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
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
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


def begin(sockets: list[socket.socket]) -> None:
    """Let clients connect; raise SettingsError where another process listens there already."""
    for bound in sockets:
        bound.setblocking(False)
        try:
            bound.listen(BACKLOG)
        except OSError as error:
            host, port = bound.getsockname()[:2]
            raise SettingsError(_bind_text(host, port, error)) from error
