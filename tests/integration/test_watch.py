import asyncio
import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.certificates import replace_file, sample
from support.inprocess import COMPARING_OFTEN, EVENTS_ALONE, eventually, followed
from watchdog.events import DirDeletedEvent, DirMovedEvent, FileCreatedEvent
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, InotifyFD
from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper
from watchdog.utils import BaseThread

from jwks_server.following import watch
from jwks_server.following.hints import Listener
from jwks_server.following.watch import Watch
from jwks_server.reading.tree import list_root

(A, KID_A), (B, KID_B) = sample(1), sample(2)


class Heard:
    """What the watch said."""

    def __init__(self) -> None:
        self.dirty: set[str] = set()
        self.everything: list[str] = []
        self.broken: list[str] = []


@asynccontextmanager
async def watched(root: Path) -> AsyncIterator[tuple[Watch, Heard]]:
    """Watch a tree, and nothing else."""
    heard = Heard()
    listener = Listener(heard.dirty.update, heard.everything.append, heard.broken.append)
    one = Watch(str(root), listener, asyncio.get_running_loop())
    await asyncio.to_thread(one.start)
    try:
        yield one, heard
    finally:
        await asyncio.to_thread(one.stop)


@pytest.fixture
def tree(keystores: Path) -> Path:
    """Make two tenants with a key each."""
    for tenant in ("a.com", "b.com"):
        (keystores / tenant).mkdir()
        (keystores / tenant / "k.pem").write_bytes(A)
    return keystores


def inotify_instances() -> int:
    """Return how many inotify instances this process has open."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(entry))
        except FileNotFoundError:
            continue
    return links.count("anon_inode:inotify")


async def test_our_own_reading_raises_no_hint(tree: Path) -> None:
    """Neither listing a folder nor opening and closing a file."""
    async with watched(tree) as (_, heard):
        for _ in range(20):
            assert (tree / "a.com" / "k.pem").read_bytes() == A
            assert os.listdir(tree / "a.com") == ["k.pem"]
        (tree / "b.com" / "k.pem").touch()
        await eventually(lambda: heard.dirty)
        assert heard.dirty == {"b.com"}
        assert not heard.everything


async def test_an_overflow_of_the_kernels_queue_is_said_and_loses_no_change(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one: the reader is held up until the queue is full, and a change falls off its end."""
    gate = threading.Event()
    handle_event = watch._SafeInotifyFD.handle_event  # noqa: SLF001 - the seam between watchdog's thread and ours

    def held_up(self: watch._SafeInotifyFD, event: InotifyEvent) -> None:
        gate.wait()
        handle_event(self, event)

    monkeypatch.setattr(watch._SafeInotifyFD, "handle_event", held_up)  # noqa: SLF001
    async with followed(tree, timing=EVENTS_ALONE) as world:
        await asyncio.to_thread(fill_the_queue, tree / "a.com")
        replace_file(tree / "b.com" / "k.pem", B)
        gate.set()
        await world.wait_for("b.com", {KID_B})
        await eventually(lambda: world.follower.watchkeeper.rebuilds > 0)
        monkeypatch.undo()
        replace_file(tree / "b.com" / "k.pem", A)
        await world.wait_for("b.com", {KID_A})


def fill_the_queue(folder: Path) -> None:
    """Raise more events than the kernel keeps and the reader takes at once; equal ones in a row would be merged."""
    paths = folder / "x", folder / "y"
    for path in paths:
        path.touch()
    for _ in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 2 + 5000):
        for path in paths:
            os.utime(path)


async def test_two_watches_of_one_path_do_not_end_the_reader(tree: Path) -> None:
    """The order of removals that makes watchdog raise KeyError is told, and events go on."""
    out = tree.parent / "out"
    out.mkdir()
    async with watched(tree) as (one, heard):
        (tree / "a.com").rename(out / "a.com")
        await eventually(lambda: "a.com" in heard.dirty)
        (tree / "a.com").mkdir()
        await eventually(lambda: one.watched_folders() == 4)
        shutil.rmtree(tree / "a.com")
        shutil.rmtree(out / "a.com")
        await eventually(lambda: heard.broken)
        assert "KeyError" in heard.broken[0]
        heard.dirty.clear()
        (tree / "b.com" / "k.pem").write_bytes(B)
        await eventually(lambda: "b.com" in heard.dirty)
        assert one.ailment() is None


async def test_after_two_watches_of_one_path_the_tree_is_followed(tree: Path) -> None:
    """By a new watch, and a comparison that it asks for."""
    out = tree.parent / "out"
    out.mkdir()
    async with followed(tree, timing=EVENTS_ALONE) as world:
        (tree / "a.com").rename(out / "a.com")
        await world.wait_for("a.com", None)
        (tree / "a.com").mkdir()
        (tree / "a.com" / "k.pem").write_bytes(B)
        await world.wait_for("a.com", {KID_B})
        shutil.rmtree(tree / "a.com")
        shutil.rmtree(out / "a.com")
        await eventually(lambda: world.follower.watchkeeper.rebuilds > 0)
        (tree / "a.com").mkdir()
        (tree / "a.com" / "k.pem").write_bytes(B)
        await world.wait_for("a.com", {KID_B})


async def test_two_folders_that_change_places_are_both_read(tree: Path) -> None:
    """renameat2(RENAME_EXCHANGE): watchdog then confuses them, so later changes are found by comparing too."""
    (tree / "b.com" / "k.pem").write_bytes(B)
    async with followed(tree, timing=COMPARING_OFTEN) as world:
        await world.settled()
        exchange(tree / "a.com", tree / "b.com")
        await world.wait_for("a.com", {KID_B})
        await world.wait_for("b.com", {KID_A})
        replace_file(tree / "a.com" / "l.pem", A)
        await world.wait_for("a.com", {KID_A, KID_B})
        (tree / "b.com" / "k.pem").unlink()
        await world.wait_for("b.com", set())


def exchange(one: Path, other: Path) -> None:
    """Let two names change places in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd, rename_exchange = -100, 2
    result = libc.renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), rename_exchange)
    assert result == 0, os.strerror(ctypes.get_errno())


async def test_a_renamed_folder_makes_both_names_and_everything_dirty(tree: Path) -> None:
    """Since watchdog may have lost track of which watch is which folder; it tells of a rename in one or two parts."""
    async with watched(tree) as (one, heard):
        handler = watch._Handler(one._hints)  # noqa: SLF001 - the seam between watchdog's thread and ours
        handler.dispatch(DirMovedEvent(str(tree / "x.com"), str(tree / "y.com")))
        await eventually(lambda: heard.everything)
        assert heard.dirty == {"x.com", "y.com"}
        (tree / "a.com").rename(tree / "c.com")
        await eventually(lambda: {"a.com", "c.com"} <= heard.dirty)
        exchange(tree / "b.com", tree / "c.com")
        await eventually(lambda: {"b.com", "c.com"} <= heard.dirty)


Change = Callable[[Path, Path], None]
"""Changes a.com in the tree that is its first argument, with help of a folder outside that is its second."""


def moved_inside(tree: Path, outside: Path) -> None:
    del outside
    (tree / "b.com" / "k.pem").write_bytes(B)
    (tree / "b.com" / "k.pem").rename(tree / "a.com" / "k.pem")


def moved_in(tree: Path, outside: Path) -> None:
    (outside / "k.pem").write_bytes(B)
    (outside / "k.pem").rename(tree / "a.com" / "k.pem")


def moved_out_and_another_in(tree: Path, outside: Path) -> None:
    (tree / "a.com" / "k.pem").rename(outside / "k.pem")
    (tree / "a.com" / "l.pem").write_bytes(B)


def hard_linked(tree: Path, outside: Path) -> None:
    (outside / "k.pem").write_bytes(B)
    (tree / "a.com" / "k.pem").unlink()
    (tree / "a.com" / "l.pem").hardlink_to(outside / "k.pem")


def truncated_and_extended(tree: Path, outside: Path) -> None:
    """Let truncate(2) alone make the file good: it ends where the first certificate does."""
    del outside
    path = tree / "a.com" / "k.pem"
    with path.open("r+b") as file:
        file.write(B + b"-----BEGIN CERTIFICATE-----\n")
    os.truncate(path, len(B))


def made_and_filled_at_once(tree: Path, outside: Path) -> None:
    del outside
    shutil.rmtree(tree / "a.com")
    (tree / "a.com").mkdir()
    (tree / "a.com" / "k.pem").write_bytes(B)


def copied(tree: Path, outside: Path) -> None:
    (outside / "a.com").mkdir()
    (outside / "a.com" / "k.pem").write_bytes(B)
    shutil.rmtree(tree / "a.com")
    subprocess.run(["cp", "-r", str(outside / "a.com"), str(tree)], check=True)


def filled_folder_moved_in(tree: Path, outside: Path) -> None:
    (outside / "a.com").mkdir()
    (outside / "a.com" / "k.pem").write_bytes(B)
    (tree / "a.com").rename(outside / "old")
    (outside / "a.com").rename(tree / "a.com")


def link_replaced(tree: Path, outside: Path) -> None:
    (outside / "k.pem").write_bytes(B)
    (tree / "a.com" / ".new").symlink_to(outside / "k.pem")
    (tree / "a.com" / ".new").rename(tree / "a.com" / "k.pem")


def mode_changed(tree: Path, outside: Path) -> None:
    (outside / "k.pem").write_bytes(B)
    (outside / "k.pem").chmod(0)
    (outside / "k.pem").rename(tree / "a.com" / "k.pem")
    (tree / "a.com" / "k.pem").chmod(0o644)


@pytest.mark.parametrize(
    "change",
    [moved_inside, moved_in, moved_out_and_another_in, hard_linked, truncated_and_extended, made_and_filled_at_once,
     copied, filled_folder_moved_in, link_replaced, mode_changed],
)  # fmt: skip
async def test_an_event_names_every_change(tree: Path, change: Change) -> None:
    """Without any comparison, five times over."""
    outside = tree.parent / "outside"
    async with followed(tree, timing=EVENTS_ALONE) as world:
        for _ in range(5):
            outside.mkdir()
            await asyncio.to_thread(change, tree, outside)
            await world.wait_for("a.com", {KID_B})
            await asyncio.to_thread(shutil.rmtree, outside)
            await asyncio.to_thread(shutil.rmtree, tree / "a.com")
            (tree / "a.com").mkdir()
            (tree / "a.com" / "k.pem").write_bytes(A)
            await world.wait_for("a.com", {KID_A})


async def test_a_checkout_of_another_branch_is_followed(tree: Path) -> None:
    """It unlinks, makes and renames in many tenants at once; no event is missed and no key flickers."""
    tenants = [f"t{number}.com" for number in range(50)]

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "init.defaultBranch=one")
        subprocess.run(["git", *identity, *arguments], cwd=tree, check=True, capture_output=True)

    def commit(content: bytes) -> None:
        for tenant in tenants:
            (tree / tenant).mkdir(exist_ok=True)
            (tree / tenant / "k.pem").write_bytes(content)
        git("add", "-A")
        git("commit", "-m", "x")

    git("init")
    commit(A)
    git("checkout", "-b", "two")
    commit(B)
    async with followed(tree, timing=EVENTS_ALONE) as world:
        for branch, kid in (("one", KID_A), ("two", KID_B), ("one", KID_A)):
            await asyncio.to_thread(git, "checkout", branch)
            for tenant in tenants:
                await world.wait_for(tenant, {kid})
        assert world.kids("a.com") == {KID_A}


async def test_truncation_and_a_new_mode_are_heard_of(tree: Path) -> None:
    """The one is only "modified", the other only "attributes"; of a folder it may mean that it can be watched now."""
    async with watched(tree) as (_, heard):
        os.truncate(tree / "a.com" / "k.pem", 10)
        await eventually(lambda: heard.dirty == {"a.com"})
        (tree / "b.com" / "k.pem").chmod(0o600)
        await eventually(lambda: heard.dirty == {"a.com", "b.com"})
        assert not heard.everything
        heard.dirty.clear()
        (tree / "a.com").chmod(0o700)
        await eventually(lambda: heard.dirty == {"a.com"})
        assert not heard.everything


async def test_what_lies_deeper_than_tenants_folders_is_not_watched(tree: Path) -> None:
    """However many folders a tenant makes, moves or brings along; a tenant's new folder is watched all the same."""
    outside = tree.parent / "outside.com"
    for folder in (tree / "a.com", tree / ".git", tree / "No-Tenant", outside):
        for number in range(50):
            (folder / "deep" / str(number) / "er").mkdir(parents=True)
    async with watched(tree) as (one, heard):
        instances = inotify_instances()
        assert one.watched_folders() == list_root(str(tree)).folders == 3
        shutil.copytree(tree / "a.com" / "deep", tree / "b.com" / "copy")
        outside.rename(tree / "moved.com")
        (tree / "made.com").mkdir()
        (tree / "a.com" / "deep" / "1").rename(tree / "risen.com")
        await eventually(lambda: one.watched_folders() == 6)
        assert list_root(str(tree)).folders == 6
        heard.dirty.clear()
        for tenant in ("a.com", "b.com", "moved.com", "made.com", "risen.com"):
            (tree / tenant / "l.pem").write_bytes(A)
        await eventually(lambda: heard.dirty == {"a.com", "b.com", "moved.com", "made.com", "risen.com"})
        assert (inotify_instances(), heard.everything, heard.broken) == (instances, [], [])


async def test_a_tenants_folders_cost_the_others_nothing(tree: Path) -> None:
    """Folders that are made, renamed and given modes in a tenant's folder name that tenant, and nothing else."""
    async with watched(tree) as (_, heard):
        for number in range(200):
            (tree / "a.com" / f"{number}").mkdir()
            (tree / "a.com" / f"{number}").chmod(0o700)
            (tree / "a.com" / f"{number}").rename(tree / "a.com" / "x")
            (tree / "a.com" / "x").rmdir()
            (tree / "a.com").chmod(0o700 + number % 8)
        (tree / "b.com" / "k.pem").touch()
        await eventually(lambda: heard.dirty == {"a.com", "b.com"})
        assert (heard.everything, heard.broken) == ([], [])


async def test_reasons_to_compare_are_logged_once_in_a_while(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever may change the root could otherwise fill the log."""
    caplog.set_level("INFO", "jwks_server")
    async with followed(tree, timing=EVENTS_ALONE):
        for number in range(20):
            await asyncio.to_thread(tree.chmod, 0o700 + number % 8)
            await asyncio.sleep(0.02)
        await eventually(lambda: "comparing the whole tree" in caplog.text)
    assert caplog.text.count("comparing the whole tree") == 1


async def test_a_folder_that_could_not_be_watched_makes_everything_dirty_when_its_mode_changes(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be watched now, by a new watch."""
    real = InotifyFD.add_callback

    def refused(self: InotifyFD, path: bytes, *arguments: Any) -> Any:  # noqa: ANN401 - as the real one
        if path.endswith(b"/a.com"):
            raise PermissionError(13, "Permission denied")
        return real(self, path, *arguments)

    monkeypatch.setattr(InotifyFD, "add_callback", refused)
    async with watched(tree) as (one, heard):
        assert one.watched_folders() == 2
        (tree / "a.com").chmod(0o700)
        await eventually(lambda: heard.everything)


async def test_a_file_that_leaves_the_tree_holds_nothing_back(tree: Path) -> None:
    """Stock watchdog keeps every later event of every tenant half a second, in case the file comes back."""
    async with watched(tree) as (_, heard):
        (tree / "a.com" / "k.pem").rename(tree.parent / "k.pem")
        await eventually(lambda: heard.dirty == {"a.com"})
        (tree / "b.com" / "k.pem").touch()
        await eventually(lambda: heard.dirty == {"a.com", "b.com"})
    assert InotifyMoveEventGrouper.delay == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_changed_file_waits_for_the_reader_alone(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is heard of without watchdog's other two threads, whatever keeps those."""
    async with watched(tree) as (one, heard):
        end_one_thread(monkeypatch, *EMITTER)
        poke(tree)
        await eventually(one.ailment)
        (tree / "a.com" / "k.pem").write_bytes(B)
        await eventually(lambda: "a.com" in heard.dirty)


async def test_an_event_of_nobody_knows_which_folder_makes_everything_dirty(tree: Path) -> None:
    """So that a change is found even where watchdog has lost the name of a folder that it still watches."""
    async with watched(tree) as (one, heard):
        assert one._observer is not None  # noqa: SLF001 - the seam between watchdog's thread and ours
        reader = one._observer.reader  # noqa: SLF001
        reader.handle_event(InotifyEvent(4711, InotifyConstants.IN_MODIFY, 0, b"k.pem"))  # type: ignore[arg-type]
        await eventually(lambda: heard.everything)
        assert not heard.dirty


async def test_a_name_that_begins_with_two_dots_makes_everything_dirty(tree: Path) -> None:
    """It is a volume of Kubernetes' at the root, whose swap names no tenant."""
    async with watched(tree) as (_, heard):
        (tree / "..2026_05_01").mkdir()
        await eventually(lambda: heard.everything)
        assert not heard.dirty


async def test_an_exception_in_the_handler_is_told_and_ends_no_thread(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dispatcher would end, its queue grow, and nothing would be said."""

    def fail(*_: object) -> None:
        raise ValueError("thrown by the test")

    async with watched(tree) as (one, heard):
        monkeypatch.setattr(os, "fsencode", fail)
        handler = watch._Handler(one._hints)  # noqa: SLF001 - the seam between watchdog's thread and ours
        handler.dispatch(FileCreatedEvent(str(tree / "a.com" / "x")))
        monkeypatch.undo()
        await eventually(lambda: heard.broken)
        assert "thrown by the test" in heard.broken[0]
        assert one.ailment() is None


async def test_events_after_the_loop_was_closed_end_no_thread(tree: Path) -> None:
    """The server is stopping then; watchdog's dispatcher must outlive it in peace."""
    loop = asyncio.new_event_loop()
    heard = Heard()
    one = Watch(str(tree), Listener(heard.dirty.update, heard.everything.append, heard.broken.append), loop)
    await asyncio.to_thread(one.start)
    loop.close()
    (tree / "a.com" / "x").touch()
    handler = watch._Handler(one._hints)  # noqa: SLF001
    handler.dispatch(DirDeletedEvent(str(tree / "a.com")))
    assert one.ailment() is None
    await asyncio.to_thread(one.stop)


READER, EMITTER, DISPATCHER = (
    (InotifyFD, "_check_inotify_fd"), (InotifyEmitter, "build_and_queue_event"), (BaseObserver, "dispatch_events"),
)  # fmt: skip


def end_one_thread(monkeypatch: pytest.MonkeyPatch, owner: type, step: str) -> None:
    """Let the first of watchdog's threads that comes to this step end there, without a word."""
    real = getattr(owner, step)

    def end(*_: object) -> None:
        monkeypatch.setattr(owner, step, real)
        raise SystemExit

    monkeypatch.setattr(owner, step, end)


def poke(tree: Path) -> None:
    """Raise events that leave everything as it was, and wake up a thread to its end: folders of the root's own do."""
    for _ in range(2):
        (tree / "x").mkdir()
        (tree / "x").rmdir()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("thread", [READER, EMITTER, DISPATCHER, None])
async def test_a_stopped_watch_leaves_no_thread_and_no_instance(
    tree: Path, monkeypatch: pytest.MonkeyPatch, thread: tuple[type, str] | None
) -> None:
    """Whether its threads lived until then or not."""
    threads, instances = watchdogs_threads(), inotify_instances()
    async with watched(tree) as (one, _):
        assert inotify_instances() == instances + 1
        if thread is not None:
            end_one_thread(monkeypatch, *thread)
            poke(tree)
            await eventually(one.ailment)
    assert inotify_instances() == instances
    assert watchdogs_threads() == threads


async def test_a_watch_that_lost_track_of_its_folders_stops_all_the_same(tree: Path) -> None:
    """After an exchange watchdog's accounts do not balance, and its own stop raises halfway."""
    threads, instances = watchdogs_threads(), inotify_instances()
    async with watched(tree) as (_, heard):
        exchange(tree / "a.com", tree / "b.com")
        await eventually(lambda: {"a.com", "b.com"} <= heard.dirty)
    assert inotify_instances() == instances
    assert watchdogs_threads() == threads


def watchdogs_threads() -> int:
    """Return how many of watchdog's threads live."""
    return sum(isinstance(thread, BaseThread) for thread in threading.enumerate())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("thread", [READER, EMITTER, DISPATCHER])
async def test_a_dead_thread_of_watchdogs_is_replaced(
    tree: Path, monkeypatch: pytest.MonkeyPatch, thread: tuple[type, str]
) -> None:
    """What changed meanwhile is found, and what changes later has its event."""
    async with followed(tree, timing=replace(EVENTS_ALONE, health=0.05)) as world:
        end_one_thread(monkeypatch, *thread)
        poke(tree)
        await eventually(lambda: world.follower.watchkeeper.rebuilds > 0)
        await eventually(lambda: world.follower.watchkeeper.fault is None)
        replace_file(tree / "a.com" / "k.pem", B)
        await world.wait_for("a.com", {KID_B})
        replace_file(tree / "b.com" / "k.pem", B)
        await world.wait_for("b.com", {KID_B})


async def test_a_watch_of_a_root_that_is_gone_or_full_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With OSError, and without leaving a thread or an instance behind."""
    threads, instances = watchdogs_threads(), inotify_instances()

    def no_watch_left(*_: object) -> Any:  # noqa: ANN401 - never returns
        raise OSError(28, "inotify watch limit reached")

    with pytest.raises(FileNotFoundError):
        async with watched(tree / "nowhere"):
            pass
    monkeypatch.setattr(InotifyFD, "add_callback", no_watch_left)
    with pytest.raises(OSError, match="watch limit"):
        async with watched(tree):
            pass
    assert inotify_instances() == instances
    assert watchdogs_threads() == threads


async def test_the_kernel_says_how_many_folders_are_watched(tree: Path) -> None:
    """The root among them; this is how a lack of watches is found out."""
    async with watched(tree) as (one, heard):
        assert one.watched_folders() == 3
        (tree / "c.com").mkdir()
        await eventually(lambda: "c.com" in heard.dirty)
        await eventually(lambda: one.watched_folders() == 4)
        assert InotifyConstants.IN_Q_OVERFLOW == 0x4000
