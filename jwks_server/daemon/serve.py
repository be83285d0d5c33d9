"""Wiring, start and stop of the server.

Start: watch, list, listen, then load; a tenant that is asked for before its turn is loaded at once. Stop: close the
listening sockets, let what was accepted be answered, end the rest.
"""

import asyncio
import logging
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack

import uvloop
from aiohttp import web

from jwks_server.admin.api import AdminHandler, Health
from jwks_server.core.errors import RootUnavailableError, SettingsError
from jwks_server.daemon.config import Settings
from jwks_server.daemon.systemd import notify
from jwks_server.following.reconcile import Reconciler
from jwks_server.following.store import Store
from jwks_server.following.watchkeeper import Supervisor
from jwks_server.host import logs
from jwks_server.host.logs import fields
from jwks_server.readers.pool import Workers
from jwks_server.serving import tls
from jwks_server.serving.http import PublicHandler, PublicServer
from jwks_server.serving.listen import bind, listen
from jwks_server.state.directory import Memory

KEEPALIVE_SECONDS = 75.0
DRAIN_SECONDS = 0.5
STOP_SECONDS = 8.0
"""How long a stop may take; it takes about one second where no file system hangs."""

ADMIN_HOST = "127.0.0.1"
WORKERS = 2

_log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; raise SettingsError where the server cannot start as it was told to."""
    logs.set_up(settings.log_format)
    end = threading.Timer(STOP_SECONDS, _end_anyway)
    end.daemon = True
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, on_stop=end.start))
    finally:
        end.cancel()


def _end_anyway() -> None:
    """End while a thread still waits for a file system: all that was accepted is answered by now."""
    _log.warning("not waiting any longer for a file system that does not answer")
    os._exit(0)


async def _serve(settings: Settings, on_stop: Callable[[], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def begin_stop() -> None:
        if not stop.is_set():
            stop.set()
            on_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, begin_stop)
    context = _tls(settings)
    async with AsyncExitStack() as stack:
        sockets = bind(settings.host, settings.port)
        admin_sockets = [] if settings.admin_port is None else bind(ADMIN_HOST, settings.admin_port)
        for bound in (*sockets, *admin_sockets):
            stack.callback(bound.close)
        store = Store()
        workers = Workers(WORKERS)
        stack.push_async_callback(workers.close)
        await workers.start()
        memory = Memory(settings.state_dir)
        stack.push_async_callback(memory.flush)
        reconciler = Reconciler(settings.source, store, workers, before_change=memory.secure, on_change=memory.note)
        memory.on_recall = reconciler.recall
        stack.push_async_callback(reconciler.close)
        supervisor = Supervisor(settings.source, reconciler, workers, on_clock_jump=memory.doubt)
        stack.push_async_callback(supervisor.close)
        try:
            listing = await supervisor.start()
        except RootUnavailableError as error:
            raise SettingsError(str(error)) from error
        reconciler.expect(listing.tenants, await asyncio.to_thread(memory.recall))
        if admin_sockets:
            health = Health(store, reconciler, supervisor, memory, workers)
            await listen(stack, web.Server(AdminHandler(health), access_log=None), admin_sockets)
            _log.info("admin listening", extra=fields(url=f"http://{ADMIN_HOST}:{admin_sockets[0].getsockname()[1]}"))
        public = PublicServer(
            _handler(settings, store, reconciler), access_log=None, keepalive_timeout=KEEPALIVE_SECONDS
        )
        await listen(stack, public, sockets, context, drain_seconds=DRAIN_SECONDS)
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
        loop.add_signal_handler(signal.SIGHUP, supervisor.compare_now, "SIGHUP")
        for background in (_load_all(reconciler), memory.write_forever()):
            stack.callback(asyncio.ensure_future(background).cancel)
        await stop.wait()
        notify("STOPPING=1", "STATUS=Stopping")
        _log.info("stopping")


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.http:
        return None
    if settings.tls_cert is not None and settings.tls_key is not None:
        return tls.context_from_files(settings.tls_cert, settings.tls_key)
    return tls.self_signed_context()


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
