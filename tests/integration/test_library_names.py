"""What is used of watchdog and aiohttp beyond their public names, as docs/architecture.md lists it.

An upgrade that changes one of these fails here, by name, and not in the middle of a night.
"""

import asyncio
import inspect
import os
import warnings
from pathlib import Path

from aiohttp import web, web_protocol
from aiohttp.http import RawRequestMessage
from aiohttp.web_protocol import RequestHandler
from support.inprocess import eventually
from watchdog.observers.api import BaseObserver, EventQueue, ObservedWatch
from watchdog.observers.inotify import InotifyEmitter, InotifyObserver, InotifyWatchGroup
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, InotifyFD
from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper
from watchdog.utils import BaseThread

from jwks_server.following import watch


def parameters(function: object) -> list[str]:
    """Return the names of a function's parameters."""
    assert callable(function)
    return list(inspect.signature(function).parameters)


def test_the_reader_has_the_methods_that_are_overridden() -> None:
    """`handle_event` takes one event, `run` and `on_thread_stop` nothing, and it is a thread of watchdog's."""
    assert issubclass(InotifyFD, BaseThread)
    assert parameters(InotifyFD.handle_event) == ["self", "event"]
    assert parameters(InotifyFD.run) == ["self"]
    assert parameters(InotifyFD.on_thread_stop) == ["self"]
    assert parameters(InotifyFD.__init__) == ["self"]


def test_the_reader_has_the_kernels_descriptor_and_says_whether_it_reads() -> None:
    """`_inotify_fd` is an open inotify instance; with `_is_reading` false its stop closes all that it has open."""
    before = set(os.listdir("/proc/self/fd"))
    reader = InotifyFD()
    assert os.readlink(f"/proc/self/fd/{reader._inotify_fd}") == "anon_inode:inotify"  # noqa: SLF001
    assert reader._is_reading is True  # noqa: SLF001
    reader._is_reading = False  # noqa: SLF001
    reader.stop()
    assert set(os.listdir("/proc/self/fd")) == before


async def test_a_reader_goes_through_the_methods_that_are_overridden(tmp_path: Path) -> None:
    """Its own `run` calls `handle_event` of the subclass for each event."""
    seen: list[InotifyEvent] = []

    class Reader(InotifyFD):
        def handle_event(self, event: InotifyEvent) -> None:
            seen.append(event)

    class Callback:
        def on_event(self, event: InotifyEvent) -> None:
            """Not called: `handle_event` is overridden."""

        def on_watch_deleted(self, wd: int) -> None:
            """Nothing is kept here."""

        def on_queue_overflow(self) -> None:
            """Not called either."""

    reader = Reader()
    reader.start()
    try:
        reader.add_callback(os.fsencode(tmp_path), InotifyConstants.IN_CREATE, Callback(), 1)  # type: ignore[arg-type]
        (tmp_path / "x").touch()
        await eventually(lambda: seen)
    finally:
        reader.stop()
        reader.join()
    assert (seen[0].is_create, seen[0].name) == (True, b"x")


async def test_a_watch_of_the_kernels_leads_to_the_path_of_its_folder(tmp_path: Path) -> None:
    """`InotifyFD._watch_for_wd` → `Watch.callbacks` → `InotifyWatchGroup._build_event_source_path`, None if unknown."""
    reader = InotifyFD()
    reader.start()
    try:
        group = InotifyWatchGroup(reader, os.fsencode(tmp_path), InotifyConstants.IN_CREATE)
        ((wd, watch_of_kernel),) = reader._watch_for_wd.items()  # noqa: SLF001
        assert list(watch_of_kernel.callbacks.values()) == [group]
        event = InotifyEvent(wd, InotifyConstants.IN_CREATE, 0, b"x")
        assert group._build_event_source_path(event) == os.fsencode(tmp_path / "x")  # noqa: SLF001
        assert not event.is_directory
        assert not event.is_ignored
        group.deactivate()
        assert group._build_event_source_path(event) is None  # noqa: SLF001
    finally:
        reader.stop()
        reader.join()


def test_an_overflow_is_an_event_like_any_other() -> None:
    """`is_queue_overflow` of an event without a watch."""
    overflow = InotifyEvent(-1, InotifyConstants.IN_Q_OVERFLOW, 0, b"")  # type: ignore[arg-type]
    assert overflow.is_queue_overflow
    assert not InotifyEvent(1, InotifyConstants.IN_CREATE, 0, b"x").is_queue_overflow  # type: ignore[arg-type]


def test_the_emitter_takes_a_reader_and_keeps_its_group() -> None:
    """The argument `inotify_fd`, the attribute `_inotify`, and the group's queue that its thread waits at."""
    assert "inotify_fd" in parameters(InotifyEmitter.__init__)
    assert parameters(InotifyEmitter.on_thread_stop) == ["self"]
    assert "self._inotify = InotifyWatchGroup(" in inspect.getsource(InotifyEmitter.on_thread_start)
    assert "_move_event_grouper" in InotifyWatchGroup.__dataclass_fields__
    assert callable(InotifyMoveEventGrouper.close)


def test_a_group_of_watches_adds_folders_by_the_methods_that_are_overridden() -> None:
    """`on_event` adds what is new by `_add_all_callbacks`, and `_recursive_simulate` makes up events for it."""
    assert parameters(InotifyWatchGroup._add_all_callbacks) == ["self", "path"]  # noqa: SLF001
    assert parameters(InotifyWatchGroup._add_callback) == ["self", "path"]  # noqa: SLF001
    assert parameters(InotifyWatchGroup._recursive_simulate) == ["self", "src_path"]  # noqa: SLF001
    assert "_active_callbacks_by_watch" in InotifyWatchGroup.__dataclass_fields__
    assert "_active_callbacks_by_path" in InotifyWatchGroup.__dataclass_fields__
    source = inspect.getsource(InotifyWatchGroup.on_event)
    assert source.count("self._add_all_callbacks(src_path)") == 2
    assert source.count("self._recursive_simulate(src_path)") == 2
    assert "self._add_all_callbacks(self.path)" in inspect.getsource(InotifyWatchGroup._activate)  # noqa: SLF001
    emitter = inspect.getsource(InotifyEmitter.build_and_queue_event)
    assert emitter.count("generate_sub_") == emitter.count("is_directory and self.watch.is_recursive") == 2


def test_the_observer_hands_its_reader_on_and_stops_it() -> None:
    """`BaseObserver` gives `inotify_fd` to its emitters; `InotifyObserver` stops `_inotify_fd` after them."""
    assert "kwargs" in parameters(BaseObserver.__init__)
    source = inspect.getsource(InotifyObserver.on_thread_stop)
    assert source.index("super().on_thread_stop()") < source.index("self._inotify_fd.stop()")
    assert "self._inotify_fd.join()" in source


def test_the_grouper_takes_its_delay_from_the_class() -> None:
    """`InotifyMoveEventGrouper.delay`, set before any watch is made."""
    assert InotifyMoveEventGrouper.delay == 0
    assert InotifyMoveEventGrouper()._queue.delay == 0  # noqa: SLF001


def test_the_filter_keeps_events_of_our_own_reading_out_of_the_kernels_queue() -> None:
    """The mask follows from the classes of events; it has all that changes a file, and nothing that reads one."""
    emitter = InotifyEmitter(EventQueue(), ObservedWatch("/", recursive=True), event_filter=watch.EVENTS)
    mask = emitter.get_event_mask_from_filter()
    constants = InotifyConstants
    for wanted in (
        constants.IN_CREATE, constants.IN_MODIFY, constants.IN_ATTRIB, constants.IN_CLOSE_WRITE, constants.IN_DELETE,
        constants.IN_DELETE_SELF, constants.IN_MOVED_FROM, constants.IN_MOVED_TO,
    ):  # fmt: skip
        assert mask & wanted
    for unwanted in (constants.IN_OPEN, constants.IN_ACCESS, constants.IN_CLOSE_NOWRITE):
        assert not mask & unwanted


def test_the_warning_that_is_ignored_is_the_one_that_is_given(tmp_path: Path) -> None:
    """Its text begins as the filter says; the filter stands before one that makes all warnings errors."""
    reader = InotifyFD()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                reader.add_callback(os.fsencode(tmp_path), InotifyConstants.IN_CREATE, None, 1)  # type: ignore[arg-type]
        (warning,) = caught
        assert warning.category is RuntimeWarning
        assert str(warning.message).startswith("Callback with id")
    finally:
        reader._watch_for_wd.clear()  # noqa: SLF001 - there is no callback to tell
        reader._is_reading = False  # noqa: SLF001
        reader.stop()


async def test_aiohttps_server_makes_a_protocol_of_what_it_keeps() -> None:
    """`web.Server` with its `_loop` and `_kwargs`, and the argument `request_factory` with what it is called with."""

    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response()

    server = web.Server(handler, access_log=None, keepalive_timeout=7.0)
    assert server._loop is asyncio.get_running_loop()  # noqa: SLF001
    assert server._kwargs["keepalive_timeout"] == 7.0  # noqa: SLF001
    assert isinstance(RequestHandler(server, loop=server._loop, **server._kwargs), RequestHandler)  # noqa: SLF001
    assert parameters(server._make_request) == ["message", "payload", "protocol", "writer", "task"]  # noqa: SLF001
    accepted = parameters(RequestHandler.__init__)
    assert {"auto_decompress", "lingering_time", "read_bufsize", "keepalive_timeout", "access_log"} < set(accepted)
    await server.shutdown()


def test_aiohttps_protocol_has_the_methods_that_are_overridden() -> None:
    """With these parameters; `start` is what a connection's one task runs, and calls the others."""
    for method, expected in {
        RequestHandler.handle_error: ["self", "request", "status", "exc", "message"],
        RequestHandler.finish_response: ["self", "request", "resp", "start_time"],
        RequestHandler.start: ["self"],
        RequestHandler.log_exception: ["self", "args", "kw"],
        RequestHandler.log_debug: ["self", "args", "kw"],
        RequestHandler.pause_writing: ["self"],
        RequestHandler.resume_writing: ["self"],
        RequestHandler.eof_received: ["self"],
        RequestHandler.data_received: ["self", "data"],
        RequestHandler.force_close: ["self"],
        RequestHandler.close: ["self"],
    }.items():
        assert parameters(method) == expected
    source = inspect.getsource(RequestHandler)
    for call in ("self.start()", "self.handle_error(", "self.finish_response(", "self.log_exception("):
        assert call in source


def test_aiohttps_protocol_keeps_what_is_looked_at() -> None:
    """`_messages` of (message or `_ErrInfo`, body), `_request_count`, `_current_request`."""
    for name in ("_messages", "_request_count", "_current_request"):
        assert name in RequestHandler.__slots__
    source = inspect.getsource(RequestHandler.data_received)
    assert "self._request_count += 1" in source
    assert "self._messages.append((msg, payload))" in source
    assert "_ErrInfo(status=400" in source
    assert web_protocol._ErrInfo is not None  # noqa: SLF001
    assert {"version", "url"} < set(dir(RawRequestMessage))
