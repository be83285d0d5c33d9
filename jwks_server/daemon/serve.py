"""Wiring, start and stop of the server.

Start: watch, list, listen, then load; a tenant that is asked for before its turn is loaded at once. Stop: close the
listening sockets, let what was accepted be answered, end the rest.
"""

import asyncio
import errno
import logging
import os
import signal
import socket
import ssl
from contextlib import AsyncExitStack

import uvloop
from aiohttp import web

from jwks_server.core.errors import RootUnavailableError, SettingsError
from jwks_server.daemon import logs, tls
from jwks_server.daemon.config import Settings
from jwks_server.daemon.http import PublicHandler, PublicServer
from jwks_server.daemon.logs import fields
from jwks_server.daemon.notify import notify
from jwks_server.daemon.reconcile import Reconciler
from jwks_server.daemon.store import Store
from jwks_server.daemon.supervise import Supervisor
from jwks_server.daemon.workers import Workers

KEEPALIVE_SECONDS = 75.0
BACKLOG = 1024
DRAIN_SECONDS = 0.5
SHUTDOWN_SECONDS = 5.0
WORKERS = 2

_log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; raise SettingsError where the server cannot start as it was told to."""
    logs.set_up(settings.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    context = _tls(settings)
    async with AsyncExitStack() as stack:
        sockets = _bind(settings.host, settings.port)
        for bound in sockets:
            stack.callback(bound.close)
        store = Store()
        workers = Workers(WORKERS)
        stack.push_async_callback(workers.close)
        await workers.start()
        reconciler = Reconciler(settings.source, store, workers)
        stack.push_async_callback(reconciler.close)
        supervisor = Supervisor(settings.source, reconciler, workers)
        stack.push_async_callback(supervisor.close)
        try:
            listing = await supervisor.start()
        except RootUnavailableError as error:
            raise SettingsError(str(error)) from error
        reconciler.expect(listing.tenants, {})
        await _listen(stack, settings, _handler(settings, store, reconciler), sockets, context)
        if context is not None and settings.tls_cert is None:
            _log.warning(
                "no TLS certificate given: made a self-signed one for localhost, 127.0.0.1 and ::1, in memory; "
                "clients have to be told not to verify it (curl -k)"
            )
        _log.info(
            "listening", extra=fields(url=_urls(settings, sockets), tenants=len(listing.tenants), pid=os.getpid())
        )
        notify("READY=1", f"STATUS=Serving {len(listing.tenants)} tenants of {settings.keystores}")
        supervisor.run()
        loading = asyncio.ensure_future(_load_all(reconciler))
        stack.callback(loading.cancel)
        await stop.wait()
        notify("STOPPING=1", "STATUS=Stopping")
        _log.info("stopping")


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.http:
        return None
    if settings.tls_cert is not None and settings.tls_key is not None:
        return tls.context_from_files(settings.tls_cert, settings.tls_key)
    return tls.self_signed_context()


def _bind(host: str, port: int) -> list[socket.socket]:
    """Return a bound socket for each address of the host; raise SettingsError where there is none to have."""
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


async def _listen(
    stack: AsyncExitStack,
    settings: Settings,
    handler: PublicHandler,
    sockets: list[socket.socket],
    context: ssl.SSLContext | None,
) -> None:
    """Begin to listen. On leaving the stack: stop accepting, then answer what was accepted, then close."""
    server = PublicServer(handler, access_log=None, keepalive_timeout=KEEPALIVE_SECONDS)
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    sites = [web.SockSite(runner, bound, ssl_context=context, backlog=BACKLOG) for bound in sockets]
    # Connections that were accepted a moment ago have not sent their request yet: cleaning up at once drops them.
    stack.push_async_callback(asyncio.sleep, DRAIN_SECONDS)
    for site in sites:
        stack.push_async_callback(site.stop)
        try:
            await site.start()
        except OSError as error:
            raise SettingsError(_bind_text(settings.host, settings.port, error)) from error


def _handler(settings: Settings, store: Store, reconciler: Reconciler) -> PublicHandler:
    return PublicHandler(
        super_tenant=settings.super_tenant,
        ready=store.get,
        first_load=reconciler.first_load,
        expects=reconciler.expects,
        media_type=settings.media_type,
    )


def _urls(settings: Settings, sockets: list[socket.socket]) -> str:
    scheme = "http" if settings.http else "https"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{sockets[0].getsockname()[1]}"


async def _load_all(reconciler: Reconciler) -> None:
    started = asyncio.get_running_loop().time()
    tenants = reconciler.unloaded
    await reconciler.load_expected(side_by_side=WORKERS)
    seconds = round(asyncio.get_running_loop().time() - started, 3)
    _log.info("all tenants loaded", extra=fields(tenants=tenants, seconds=seconds))
