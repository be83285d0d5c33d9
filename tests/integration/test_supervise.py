import asyncio
import mmap
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.certificates import replace_file, sample
from support.inprocess import COMPARING_OFTEN, CountingReaders, eventually, followed
from support.namespaces import inside, with_limit, with_mounts, without_override
from support.server import Server, wait_until

from jwks_server.core.errors import RootUnavailableError
from jwks_server.core.timing import Pause, Timing
from jwks_server.following import compare
from jwks_server.following.rootkeeper import identity_of
from jwks_server.following.turns import Turns
from jwks_server.reading import survey
from jwks_server.reading.jobs import SurveyJob, Urgency

(A, KID_A), (B, KID_B) = sample(1), sample(2)
TENANTS = ("a.com", "b.com", "c.com", "d.com")


@pytest.fixture
def tree(keystores: Path) -> Path:
    """Make some tenants with a key each."""
    for tenant in TENANTS:
        (keystores / tenant).mkdir()
        (keystores / tenant / "k.pem").write_bytes(A)
    return keystores


def wait_until_ready(server: Server) -> None:
    """Wait until every tenant was loaded and the tree is there, whatever is degraded."""
    wait_until(lambda: server.admin("/readyz").status == 200, "the server to be ready")


def rotate_all(server: Server, tree: Path) -> None:
    """Change every tenant, and wait until each change is published."""
    for content, kid in ((B, KID_B), (A, KID_A)):
        for tenant in TENANTS:
            replace_file(tree / tenant / "k.pem", content)
        for tenant in TENANTS:
            server.wait_for_kids(tenant, {kid})


@pytest.mark.parametrize(
    ("limit", "value", "fault"),
    [
        ("max_inotify_watches", 0, "the tree cannot be watched: inotify watch limit reached"),
        ("max_inotify_watches", 2, "inotify watch limit reached"),
        ("max_inotify_instances", 0, "the tree cannot be watched: inotify instance limit reached"),
    ],
)
def test_a_limit_of_the_kernel_is_said_and_comparing_takes_over(tree: Path, limit: str, value: int, fault: str) -> None:
    """Every change is published; when the limit is raised the watch is built by itself."""
    with Server(tree, "--admin-port", "0", launcher=with_limit(limit, value)) as server:
        wait_until(lambda: fault in server.degraded, "the fault")
        assert server.metric("comparing") == 1
        wait_until(lambda: fault in server.log, "the fault in the log")
        replace_file(tree / "d.com" / "k.pem", B)
        server.wait_for_kids("d.com", {KID_B})
        wait_until_ready(server)
        inside(server.process.pid, f"echo 100 > /proc/sys/user/{limit}")
        wait_until(lambda: server.metric("comparing") == 0, "the watch")
        assert not server.degraded
        rotate_all(server, tree)


def test_an_unreadable_folder_is_a_fault_until_its_mode_changes(tree: Path) -> None:
    """It keeps what it gave, hides no other tenant's changes, and is watched again afterwards."""
    with Server(tree, "--admin-port", "0", launcher=without_override()) as server:
        wait_until_ready(server)
        (tree / "a.com").chmod(0)
        (tree / "never.com").mkdir(mode=0)
        try:
            wait_until(lambda: server.tenant("never.com").status == 503, "a tenant that was never read")
            wait_until(lambda: "folders are watched: make all of them readable" in server.degraded, "the fault")
            assert server.kids("a.com") == [KID_A]
            assert "tenant=a.com" in server.log
            replace_file(tree / "b.com" / "k.pem", B)
            server.wait_for_kids("b.com", {KID_B})
        finally:
            (tree / "never.com").chmod(0o755)
            (tree / "a.com").chmod(0o755)
        wait_until(lambda: server.tenant("never.com").status == 404, "the empty folder")
        wait_until(lambda: not server.degraded, "the watch")
        rotate_all(server, tree)


def test_an_unreadable_root_keeps_everything(tree: Path) -> None:
    """Readiness and the log say so, and it comes back by itself."""
    with Server(tree, "--admin-port", "0", launcher=without_override()) as server:
        wait_until_ready(server)
        tree.chmod(0)
        try:
            wait_until(lambda: server.admin("/readyz").status == 503, "not ready")
            assert "Permission denied" in str(server.admin("/readyz").json()["reasons"])
            assert "keystores folder lost" in server.log
            assert all(server.kids(tenant) == [KID_A] for tenant in TENANTS)
        finally:
            tree.chmod(0o755)
        wait_until_ready(server)
        rotate_all(server, tree)


def test_a_root_that_is_removed_or_swapped_keeps_everything_until_another_has_tenants(tree: Path) -> None:
    """An empty folder in its place is what an unmount leaves; only one with tenants is believed."""
    away = tree.parent / "away"
    with Server(tree, "--admin-port", "0") as server:
        wait_until_ready(server)
        tree.rename(away)
        wait_until(lambda: server.admin("/readyz").status == 503, "not ready")
        assert server.metric("root_lost") == 1
        tree.mkdir()
        wait_until(lambda: "another one than before and empty" in server.log, "the empty root to be refused")
        assert all(server.kids(tenant) == [KID_A] for tenant in TENANTS)
        tree.rmdir()
        shutil.copytree(away, tree)
        wait_until_ready(server)
        rotate_all(server, tree)
        shutil.rmtree(tree / "a.com")
        wait_until(lambda: server.tenant("a.com").status == 404, "a tenant that is removed while the root is fine")
        # swapped in one moment: no event tells
        tree.rename(tree.parent / "older")
        away.rename(tree)
        server.wait_for_kids("a.com", {KID_A})
        wait_until(lambda: not server.degraded, "the watch")
        rotate_all(server, tree)


def test_a_root_that_was_unlinked_is_watched_again_when_it_is_back(tree: Path) -> None:
    """Its removal ends watchdog's emitter; what was published in that moment is published by the new one too."""
    with Server(tree, "--admin-port", "0") as server:
        wait_until_ready(server)
        prepared = tree.parent / "prepared"
        shutil.copytree(tree, prepared)
        shutil.rmtree(tree)
        wait_until(lambda: server.admin("/readyz").status == 503, "not ready")
        prepared.rename(tree)
        wait_until_ready(server)
        rotate_all(server, tree)
        wait_until(lambda: server.metric("comparing") == 0, "the watch")


def test_mounts_that_come_and_go_empty_no_set(tree: Path) -> None:
    """An empty file system over the root or over a tenant, and one that vanishes from under them."""
    with Server(tree, "--admin-port", "0", launcher=with_mounts()) as server:
        pid = server.process.pid
        wait_until_ready(server)
        inside(pid, f"mount -t tmpfs none {tree}")
        wait_until(lambda: server.admin("/readyz").status == 503, "not ready")
        assert "is it mounted?" in str(server.admin("/readyz").json()["reasons"])
        assert all(server.kids(tenant) == [KID_A] for tenant in TENANTS)
        prepared = tree.parent / "prepared.pem"
        prepared.write_bytes(B)
        inside(pid, f"mkdir {tree}/a.com; cp {prepared} {tree}/a.com/k.pem")
        server.wait_for_kids("a.com", {KID_B})  # another tree, with tenants: that is believed
        wait_until(lambda: server.tenant("b.com").status == 404, "what the other tree lacks")
        inside(pid, f"umount {tree}")
        for tenant in TENANTS:
            server.wait_for_kids(tenant, {KID_A})
        rotate_all(server, tree)

        inside(pid, f"mount -t tmpfs none {tree}/a.com; cp {prepared} {tree}/a.com/k.pem")
        server.wait_for_kids("a.com", {KID_B})
        (tree / "a.com" / "k.pem").unlink()  # the folder below the mount
        inside(pid, f"umount {tree}/a.com")
        wait_until(lambda: "folder is empty and on another device than before" in server.log, "the fault")
        assert server.kids("a.com") == [KID_B]
        replace_file(tree / "a.com" / "k.pem", A)
        server.wait_for_kids("a.com", {KID_A})


async def test_what_no_event_tells_is_found_by_comparing(tree: Path) -> None:
    """A store through memory, and a write through a hard link outside; each is counted and rebuilds the watch."""
    outside = tree.parent / "outside.pem"
    outside.write_bytes(A)
    (tree / "b.com" / "k.pem").unlink()
    (tree / "b.com" / "k.pem").hardlink_to(outside)
    (tree / "a.com" / "k.pem").write_bytes(A.ljust(len(B) + 8))
    async with followed(tree, timing=COMPARING_OFTEN) as world:
        await world.settled()
        with (tree / "a.com" / "k.pem").open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[:] = B.ljust(len(memory))
            memory.flush()
            await world.wait_for("a.com", {KID_B})
            await eventually(lambda: world.follower.missed == 1)  # closing the file would raise an event
        await eventually(lambda: world.follower.watchkeeper.rebuilds == 1)
        await eventually(lambda: not world.turns.uncertain and not world.follower.watchkeeper.is_deaf)
        outside.write_bytes(B)
        await world.wait_for("b.com", {KID_B})
        await eventually(lambda: world.follower.missed == 2)


async def test_what_lies_behind_links_is_polled_and_not_taken_for_missed(tree: Path) -> None:
    """A linked file, a linked folder, and links to themselves, which lead nowhere."""
    outside = tree.parent / "outside"
    outside.mkdir()
    (outside / "k.pem").write_bytes(A)
    (tree / "file.com").mkdir()
    (tree / "file.com" / "k.pem").symlink_to(outside / "k.pem")
    (tree / "folder.com").symlink_to(outside)
    (tree / "loop.com").symlink_to("loop.com")
    (tree / "a.com" / "l.pem").symlink_to("l.pem")
    (tree / "self.com").symlink_to(tree)
    (tree / "a.com" / "up").symlink_to(tree)
    async with followed(tree, timing=COMPARING_OFTEN) as world:
        assert world.kids("a.com") == {KID_A}
        assert "l.pem" not in str(world.kids("a.com"))
        for content, kid in ((B, KID_B), (A, KID_A)):
            await eventually(lambda: not set(world.turns.uncertain) - {"a.com", "loop.com"})
            replace_file(outside / "k.pem", content)
            await world.wait_for("file.com", {kid})
            await world.wait_for("folder.com", {kid})
        surveys = world.readers.surveys
        await eventually(lambda: world.readers.surveys > surveys + 5)
        assert (world.follower.missed, world.follower.watchkeeper.rebuilds) == (0, 0)


async def test_a_linked_folder_changes_without_any_comparison_of_the_whole(tree: Path) -> None:
    """Linked tenants are looked at on their own, and often."""
    outside = tree.parent / "outside"
    outside.mkdir()
    (outside / "k.pem").write_bytes(A)
    (tree / "folder.com").symlink_to(outside)
    async with followed(tree, timing=Timing(first_comparison=3600.0)) as world:
        replace_file(outside / "k.pem", B)
        await world.wait_for("folder.com", {KID_B})


async def test_tenants_whose_first_load_met_no_root_are_loaded_when_it_is_back(tree: Path) -> None:
    """By the comparison, long before their own slow timers."""
    timing = replace(COMPARING_OFTEN, retries=(), slow_retry=3600.0)
    failing = CountingReaders()
    failing.failure = lambda _job: RootUnavailableError("gone, says the test")
    async with followed(tree, readers=failing, timing=timing) as world:
        assert len(world.follower.unloaded) == len(TENANTS)
        failing.failure = lambda _job: None
        for tenant in TENANTS:
            await world.wait_for(tenant, {KID_A})
        assert len(world.follower.unloaded) == 0


def swap(folder: Path, other: Path) -> None:
    """Put another folder in the place of one."""
    folder.rename(folder.with_name("swapped"))
    other.rename(folder)


async def test_a_root_that_is_swapped_is_found_without_event_and_comparison(tree: Path) -> None:
    """Its identity is looked at on its own, and often."""
    other = tree.parent / "other"
    shutil.copytree(tree, other)
    (other / "a.com" / "k.pem").write_bytes(B)
    async with followed(tree, timing=Timing(first_comparison=3600.0)) as world:
        swap(tree, other)
        await world.wait_for("a.com", {KID_B})
        replace_file(tree / "b.com" / "k.pem", B)
        await world.wait_for("b.com", {KID_B})


async def test_a_large_tree_is_compared_in_slices(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed file waits for one of them at most; each tenant has its turn, those that are gone too."""
    monkeypatch.setattr(compare, "SLICE_TENANTS", 3)
    slices: list[tuple[int, int]] = []

    class Slices(CountingReaders):
        async def run(self, job: Any, urgency: Urgency) -> Any:  # noqa: ANN401 - what the protocol says
            answer = await super().run(job, urgency)
            if isinstance(job, SurveyJob):
                slices.append((len(job.tenants), len(answer.signatures)))
            return answer

    monkeypatch.setattr(Turns, "event", lambda _self, _names: None)
    async with followed(tree, readers=Slices(), timing=replace(COMPARING_OFTEN, slice=0.0)) as world:
        replace_file(tree / "d.com" / "k.pem", B)
        (tree / "e.com").mkdir()
        shutil.rmtree(tree / "a.com")
        await world.wait_for("d.com", {KID_B})
        await world.wait_for("e.com", set())
        await world.wait_for("a.com", None)
        for tenant in ("b.com", "c.com"):
            replace_file(tree / tenant / "k.pem", B)
            await world.wait_for(tenant, {KID_B})
        assert {offered for offered, _ in slices} == {1, 2, 3}
        assert {looked_at for _, looked_at in slices} == {1}


async def test_a_root_that_does_not_answer_keeps_everything_and_is_said_to(tree: Path) -> None:
    """As on a network file system without its server; one look waits for it, and when it is back it is compared."""
    answering = threading.Event()
    answering.set()
    looks = 0

    def look(path: str) -> tuple[int, int]:
        nonlocal looks
        looks += not answering.is_set()
        answering.wait()
        return identity_of(path)

    timing = Timing(root_poll=0.01, root_patience=0.01)
    async with followed(tree, timing=timing, look_at_root=look) as world:
        try:
            answering.clear()
            await eventually(lambda: "does not answer" in (world.follower.root.fault or ""))
            for _ in range(5):
                world.follower.root.doubted.set()
                await eventually(lambda: not world.follower.root.doubted.is_set())
            assert looks == 1
            assert world.kids("a.com") == {KID_A}
        finally:
            answering.set()
        await eventually(lambda: world.follower.root.fault is None)
        replace_file(tree / "a.com" / "k.pem", B)
        await world.wait_for("a.com", {KID_B})


def test_a_server_whose_root_does_not_answer_stops_all_the_same(tree: Path, tmp_path: Path) -> None:
    """What was accepted is answered, and the thread that waits for the root is left to itself."""
    hanging = tmp_path / "hang"
    altered = {"hanging_root": str(hanging), "timing": {"root_patience": 0.1, "stop": 2.0}}
    with Server(tree, "--admin-port", "0", altered=altered) as server:
        wait_until_ready(server)
        hanging.touch()
        wait_until(lambda: "does not answer" in server.log)
        assert server.kids("a.com") == [KID_A]
        assert server.terminate() == 0
        assert "WARNING not waiting any longer for a file system that does not answer" in server.log
        hanging.unlink()


class BusyReaders(CountingReaders):
    """Lets every survey wait for its turn."""

    async def run(self, job: Any, urgency: Urgency) -> Any:  # noqa: ANN401 - what the protocol says
        """Wait, then do the job."""
        if isinstance(job, SurveyJob):
            await asyncio.sleep(0.01)
        return await super().run(job, urgency)


async def test_readers_that_are_busy_do_not_make_comparisons_rarer(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their pause follows what the last one was of work; a reader that hangs in a file would make it a minute."""
    monkeypatch.setattr(survey, "time", Stopped())
    timing = Timing(first_comparison=0.0, comparison=Pause(1e6, 0.0, 3600.0), breath=1e6)
    busy = BusyReaders()
    async with followed(tree, readers=busy, timing=timing):
        await eventually(lambda: busy.surveys > 3)


class Stopped:
    """A clock on which no work takes time."""

    def monotonic(self) -> float:
        """Return always the same."""
        return 0.0


async def test_a_loop_that_fails_starts_over(tree: Path) -> None:
    """A bug in one round of following does not end it."""
    calls = 0

    def fail_once(path: str) -> tuple[int, int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("thrown by the test")
        return identity_of(path)

    async with followed(tree, timing=Timing(health=0.01), look_at_root=fail_once):
        await eventually(lambda: calls > 1)


def test_warnings_as_errors_end_no_thread(tree: Path) -> None:
    """Under python -W error, with two folders that watchdog warns of since it cannot watch either."""
    closed = tree / "x.com", tree / "y.com"
    for folder in closed:
        folder.mkdir(mode=0)
    try:
        launcher = without_override()
        with Server(tree, "--admin-port", "0", launcher=launcher, interpreter=("-W", "error")) as server:
            wait_until_ready(server)
            for _ in range(20):
                (tree / "e.com" / "x" / "y" / "z").mkdir(parents=True)
                (tree / "e.com").rename(tree / "f.com")
                shutil.rmtree(tree / "f.com")
            rotate_all(server, tree)
            # Not "reader:": the renames may cost watchdog's books a KeyError, which is met by a new watch.
            assert "Warning" not in server.log
    finally:
        for folder in closed:
            folder.chmod(0o755)
