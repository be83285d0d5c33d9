"""Wiring, start and stop of the server.

Start: watch, list, listen, then load; a tenant that is asked for before its turn is loaded at once. Stop: close the
listening sockets, answer the requests that were accepted, end the rest.
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
from dataclasses import dataclass
from functools import partial

import uvloop

from jwks_server.admin.api import AdminHandler
from jwks_server.admin.health import Health
from jwks_server.core.errors import RootUnavailableError, SettingsError
from jwks_server.daemon.config import Settings
from jwks_server.daemon.listeners import ADMIN_HOST, admin_listener, public_listener
from jwks_server.daemon.systemd import notify
from jwks_server.following.follow import Follower
from jwks_server.following.rootkeeper import identity_of
from jwks_server.following.store import Store
from jwks_server.host import kernel, logs
from jwks_server.host.logs import fields
from jwks_server.readers.pool import ReaderPool
from jwks_server.readers.process import CHILD_MODULE
from jwks_server.reading.jobs import RootIdentity
from jwks_server.reading.tree import list_root
from jwks_server.serving import tls
from jwks_server.serving.http import PublicHandler
from jwks_server.serving.listen import bind
from jwks_server.state.directory import StateDirectory

READERS = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts that a test of the whole server replaces: the module of the reader processes, the look at the root."""

    reader_module: str = CHILD_MODULE
    look_at_root: Callable[[str], RootIdentity] = identity_of


def serve(settings: Settings, parts: Parts | None = None) -> None:
    """Serve until SIGTERM or SIGINT; raise SettingsError where the server cannot start as it was told to."""
    logs.set_up(settings.log_format, settings.log_level)
    kernel.forbid_looking_inside()
    end = threading.Timer(settings.timing.stop, _end_anyway)
    end.daemon = True
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, parts or Parts(), on_stop=end.start))
    finally:
        end.cancel()


def _end_anyway() -> None:
    """End the process although a thread still waits for a file system; requests had their time to be answered."""
    _log.warning("not waiting any longer for a file system that does not answer")
    os._exit(0)


async def _serve(settings: Settings, parts: Parts, on_stop: Callable[[], None]) -> None:
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
        source, timing, store = settings.source, settings.timing, Store()
        readers = ReaderPool(source, READERS, timing, module=parts.reader_module)
        stack.push_async_callback(readers.close)
        await readers.start()
        state = StateDirectory(settings.state_dir, timing)
        stack.push_async_callback(state.flush)
        follower = Follower(
            source.root,
            store=store,
            readers=readers,
            recorder=state,
            list_root=partial(list_root, source.root),
            timing=timing,
            look_at_root=parts.look_at_root,
        )
        stack.push_async_callback(follower.close)
        try:
            listing = await follower.start()
        except RootUnavailableError as error:
            raise SettingsError(str(error)) from error
        # The super tenant first: it has the URL that everybody asks.
        tenants = sorted(listing.tenants, key=lambda tenant: tenant != settings.super_tenant)
        follower.expect(tenants, await asyncio.to_thread(state.recall))
        listeners = {"public": public_listener(settings, sockets, _handler(settings, store, follower), context)}
        if admin_sockets:
            health = Health(store, follower, state, readers, listeners)
            listeners["admin"] = admin_listener(settings, admin_sockets, AdminHandler(health))
            _log.info("admin listening", extra=fields(url=f"http://{ADMIN_HOST}:{admin_sockets[0].getsockname()[1]}"))
        for listener in reversed(listeners.values()):
            stack.push_async_callback(listener.drain)
            listener.begin()
        if context is not None and settings.tls_cert is None:
            _log.warning(
                "no TLS certificate given: made a self-signed one in memory; "
                "clients have to be told not to verify it (curl -k)",
                extra=fields(names=tls.names_for(settings.host)),
            )
        _log.info(
            "listening", extra=fields(url=_urls(settings, sockets), tenants=len(listing.tenants), pid=os.getpid())
        )
        notify("READY=1", f"STATUS=Serving {len(listing.tenants)} tenants of {settings.keystores}")
        follower.run()
        loop.add_signal_handler(signal.SIGHUP, follower.compare_now, "SIGHUP")
        for background in (_load_all(follower), _keep_records(state, follower)):
            stack.callback(asyncio.ensure_future(background).cancel)
        await stop.wait()
        notify("STOPPING=1", "STATUS=Stopping")
        _log.info("stopping")
        await asyncio.gather(*(listener.drain() for listener in listeners.values()))


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.http:
        return None
    if settings.tls_cert is not None and settings.tls_key is not None:
        return tls.context_from_files(settings.tls_cert, settings.tls_key)
    return tls.self_signed_context(settings.host)


def _handler(settings: Settings, store: Store, follower: Follower) -> PublicHandler:
    return PublicHandler(
        super_tenant=settings.super_tenant,
        ready=store.get,
        first_load=follower.first_load,
        expects=lambda tenant: tenant in follower.unloaded,
        media_type=settings.media_type,
    )


def _urls(settings: Settings, sockets: list[socket.socket]) -> str:
    scheme = "http" if settings.http else "https"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{sockets[0].getsockname()[1]}"


async def _load_all(follower: Follower) -> None:
    started = asyncio.get_running_loop().time()
    tenants = len(follower.unloaded)
    await follower.turns.load_expected(side_by_side=READERS)
    seconds = round(asyncio.get_running_loop().time() - started, 3)
    _log.info("all tenants loaded", extra=fields(tenants=tenants, seconds=seconds))


async def _keep_records(state: StateDirectory, follower: Follower) -> None:
    """Write records for ever: a failure nobody thought of is logged, and writing starts over."""
    while True:
        try:
            async for late in state.write_forever():
                follower.turns.recall(late)
        except Exception:  # noqa: BLE001 - see the docstring
            _log.exception("writing to the state directory failed and starts over: a bug")
            await asyncio.sleep(1)
