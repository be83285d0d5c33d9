"""The laws of docs/architecture.md that hold between the rooms."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from support.certificates import replace_file, sample
from support.deadly_reader import MODULE as DEADLY
from support.deadly_reader import OTHER_SIDE
from support.forging_reader import MODULE as FORGING
from support.inprocess import EVENTS_ALONE, NEVER, CountingReaders, World, eventually, followed
from support.publications import kids_of
from support.server import Server, wait_until, with_tests

import jwks_server
from jwks_server.core.policy import Policy
from jwks_server.core.publication import Publication
from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Pause, Timing
from jwks_server.following.follow import Follower
from jwks_server.following.store import Store
from jwks_server.readers.pool import ReaderPool
from jwks_server.readers.process import CHILD_MODULE
from jwks_server.reading.jobs import FOLDER, LoadJob, Place, ReaderCrashedError, SurveyJob, Urgency
from jwks_server.reading.source import Limits, Source
from jwks_server.reading.tree import list_root
from jwks_server.state.directory import StateDirectory

PACKAGE = Path(jwks_server.__file__).parent
(A, KID_A), (B, KID_B), (C, KID_C) = sample(1), sample(2), sample(3)
TENANT, TENANT_EVIL = TenantName("a.com"), TenantName("evil.com")


class ElsewhereReaders(CountingReaders):
    """Reads as it should, but says of each load that it was below another root, where the test wants that."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere = False

    async def run(self, job: Any, urgency: Urgency) -> Any:  # noqa: ANN401 - what the protocol says
        """Do the job, and perhaps lie about the root."""
        answer = await super().run(job, urgency)
        return replace(answer, root=(0, 0)) if self.elsewhere and isinstance(job, LoadJob) else answer


async def test_an_answer_from_below_another_root_keeps_nothing_and_forgets_nothing(keystores: Path) -> None:
    """Neither which files crash readers, nor what is published, nor what was remembered from before the start."""
    (keystores / TENANT).mkdir()
    (keystores / TENANT / "k.pem").write_bytes(A)
    readers = ElsewhereReaders()
    async with followed(keystores, readers=readers) as world:
        await world.settled()
        place = Place("deadly.pem", b"stamp")
        assert world.quarantine.blame(TENANT, place, "crashed", 0.0, hung=False)
        world.follower.reconciler.unread.add(TENANT)
        world.follower.reconciler.records[TENANT] = b"from before the start"
        before, loads = world.store.get(TENANT), readers.loads[TENANT]
        readers.elsewhere = True
        replace_file(keystores / TENANT / "k.pem", B)
        await eventually(lambda: readers.loads[TENANT] >= loads + 2)
        assert world.store.get(TENANT) is before
        assert set(world.quarantine.without(TENANT)) == {("deadly.pem", b"stamp")}
        assert TENANT in world.follower.reconciler.unread
        assert world.follower.reconciler.records == {TENANT: b"from before the start"}
        readers.elsewhere = False
        await world.wait_for(TENANT, {KID_B})
        assert not world.quarantine.without(TENANT)
        assert not world.follower.reconciler.unread
        assert not world.follower.reconciler.records


async def test_an_answer_from_below_another_root_takes_nothing_from_what_was_seen(keystores: Path) -> None:
    """The last look was below the believed root: a folder that is as it was then need not be read again."""
    (keystores / TENANT).mkdir()
    (keystores / TENANT / "k.pem").write_bytes(A)
    readers = ElsewhereReaders()
    async with followed(keystores, readers=readers, timing=replace(EVENTS_ALONE, retries=())) as world:
        while TENANT in world.turns.uncertain:
            await read_once(world)
        (signature,) = (await readers.run(SurveyJob((TENANT,), 60), Urgency.URGENT)).signatures.values()
        assert signature is not None
        readers.elsewhere = True
        (keystores / TENANT / "new.pem").write_bytes(B)
        await read_once(world)
        assert not world.follower.seen.differs(TENANT, signature)
        assert world.follower.seen.was_certain(TENANT)
        assert world.follower.seen.device(TENANT) is not None


async def read_once(world: World) -> None:
    """Have the tenant read, and wait until nothing is due for it in a moment."""
    loads = world.readers.loads[TENANT]
    world.turns.hint(TENANT)
    await eventually(lambda: world.readers.loads[TENANT] > loads and not turn_of(world)["running"])


def turn_of(world: World) -> Mapping[str, Any]:
    """Return what waits for the tenant."""
    turn = world.turns.state(TENANT)["turn"]
    assert isinstance(turn, Mapping)
    return turn


async def test_a_tenant_that_hung_is_not_cleared_by_an_answer_from_below_another_root(keystores: Path) -> None:
    """Nothing was learned of it: were all that hung cleared so, each would hang a reader by a timer of its own."""
    (keystores / TENANT).mkdir()
    (keystores / TENANT / "k.pem").write_bytes(A)
    readers = ElsewhereReaders()
    readers.failure = lambda _job: ReaderCrashedError("says the test", Place(FOLDER), hung=True)
    often = Pause(1, 0.01, 0.01)
    timing = Timing(retries=(), first_comparison=0.01, comparison=often, first_suspicion=0.0, suspicion=0.0)
    async with followed(keystores, readers=readers, timing=timing) as world:
        await eventually(lambda: world.quarantine.is_hung(TENANT))
        readers.elsewhere = True
        readers.failure = lambda _job: None
        loads = readers.loads[TENANT]
        await eventually(lambda: readers.loads[TENANT] >= loads + 2)
        assert world.quarantine.is_hung(TENANT)
        assert world.unread == 1
        readers.elsewhere = False
        await world.wait_for(TENANT, {KID_A})
        assert not world.quarantine.is_suspect(TENANT)


async def test_a_tenant_that_was_forgotten_has_its_retries_when_it_fails_again(keystores: Path) -> None:
    """No timer that was cancelled with it is trusted: nothing but its own retry comes to it here."""
    never = Timing(first_comparison=3600.0, retries=(0.01,) * 50)
    readers = CountingReaders()
    async with followed(keystores, Policy(), readers=readers, timing=never) as world:
        for _ in range(3):
            (keystores / TENANT).mkdir()
            (keystores / TENANT / "k.pem").write_bytes(b"half")
            await eventually(lambda: world.faults(TENANT))
            (keystores / TENANT / "k.pem").unlink()
            (keystores / TENANT).rmdir()
            await world.wait_for(TENANT, None)
        readers.failure = lambda _job: ReaderCrashedError("says the test", None)
        (keystores / TENANT).mkdir()
        (keystores / TENANT / "k.pem").write_bytes(A)
        loads = readers.loads[TENANT]
        await eventually(lambda: readers.loads[TENANT] > loads)
        await eventually(lambda: not world.turns.state(TENANT)["turn"]["due"])  # type: ignore[index]
        readers.failure = lambda _job: None
        world.quarantine.acquit(TENANT)
        await world.wait_for(TENANT, {KID_A})


# --- work on the event loop


class TellingRecorder:
    """A state directory, and an event that is set when a publication was noted and its turn is over."""

    def __init__(self, directory: Path, timing: Timing) -> None:
        self.directory = StateDirectory(directory, timing)
        self.noted = asyncio.Event()

    async def secure(self, publication: Publication) -> None:
        """Put down new keys before they are published."""
        await self.directory.secure(publication)

    def note(self, publication: Publication) -> None:
        """Put down what was published; the rest of its turn waits for nothing any more."""
        self.directory.note(publication)
        asyncio.get_running_loop().call_soon(self.noted.set)

    def doubt(self) -> None:
        """Put everything down again."""
        self.directory.doubt()


@dataclass(frozen=True)
class Parts:
    """The parts of a server without its listeners."""

    follower: Follower
    store: Store
    readers: ReaderPool
    recorder: TellingRecorder


@asynccontextmanager
async def real_parts(
    keystores: Path,
    state: Path,
    module: str = CHILD_MODULE,
    loads_per_process: int = 10_000,
    timing: Timing | None = None,
) -> AsyncIterator[Parts]:
    """Follow a tree with reader processes and a state directory, as the server does."""
    source = Source(
        str(keystores), defaults=Policy(removal_grace=3600), exact_times=True, limits=Limits(turn_seconds=60)
    )
    timing = timing or Timing(first_comparison=3600.0)
    store, recorder = Store(), TellingRecorder(state, timing)
    recorder.directory.recall()
    readers = ReaderPool(source, 2, timing, module=module, loads_per_process=loads_per_process)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("PYTHONPATH", with_tests()["PYTHONPATH"])  # for those that are started later, too
    await readers.start()
    follower = Follower(
        str(keystores),
        store=store,
        readers=readers,
        recorder=recorder,
        list_root=partial(list_root, str(keystores)),
        timing=timing,
    )
    listing = await follower.start()
    follower.expect(listing.tenants, {})
    follower.run()
    try:
        await follower.turns.load_expected(2)
        await eventually(lambda: not follower.unloaded)
        yield Parts(follower, store, readers, recorder)
    finally:
        await follower.close()
        await recorder.directory.flush()
        await readers.close()
        monkeypatch.undo()


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the calls of Python's functions and of C's that are made in this thread, by who makes them."""
    calls = Counter[str]()

    def count(frame: FrameType, event: str, _argument: object) -> None:
        if event in {"call", "c_call"}:
            calls[f"{frame.f_code.co_filename}:{frame.f_code.co_name}"] += 1

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def of_our_code(calls: Counter[str]) -> int:
    """Return how many of the calls the package makes itself, but for taking pieces out of a pipe."""
    return sum(
        count
        for caller, count in calls.items()
        if caller.startswith(str(PACKAGE)) and not caller.endswith(":pipe_data_received")
    )


def published(store: Store, tenant: str) -> Publication:
    """Return what the tenant publishes."""
    publication = store.get(tenant)
    assert publication is not None
    return publication


async def calls_for_a_change(keystores: Path, tenant: str, number: int, parts: Parts) -> Counter[str]:
    """Return the calls that the event loop makes until one more file of a tenant is published and recorded.

    While they are counted nothing but one rename happens, and the test itself only waits.
    """
    content, kid = sample(number)
    elsewhere = keystores.with_name("new.pem")
    elsewhere.write_bytes(content)
    parts.recorder.noted.clear()
    with counted() as calls:
        elsewhere.rename(keystores / tenant / f"{number}.pem")
        await parts.recorder.noted.wait()
        await parts.recorder.directory.flush()
    assert kid in kids_of(published(parts.store, tenant))
    assert not parts.follower.turns.uncertain
    return calls


STILL = Timing(root_poll=3600.0, health=3600.0, retries=(), slow_retry=3600.0, first_comparison=3600.0, links=NEVER)
"""Nothing happens by itself."""


@pytest.mark.parametrize("kind", ["good", "faulty"])
async def test_the_event_loop_does_not_more_for_a_tenant_with_more_files(
    keystores: Path, tmp_path: Path, kind: str
) -> None:
    """For a hundred times as many there are only more pieces of what comes through a pipe, which holds 64 KiB.

    An answer of up to INLINE_BYTES is looked at key by key on the event loop: twenty keys fit into one.
    """
    tenants = {"small.com": 3, "middle.com": 20, "large.com": 300}
    contents = [sample(number)[0] for number in range(300)]
    for tenant, count in tenants.items():
        (keystores / tenant).mkdir()
        for number, content in enumerate(contents[:count]):
            broken = content[:100] + b"#" * number
            (keystores / tenant / f"{number}.pem").write_bytes(content if kind == "good" else broken)
    async with real_parts(keystores, tmp_path / "state", timing=STILL) as parts:
        calls = {
            tenant: min(
                [await calls_for_a_change(keystores, tenant, number, parts) for number in (1000, 1001, 1002)],
                key=Counter.total,
            )
            for tenant in tenants
        }
    small, middle, large = calls.values()
    assert middle.total() < 2 * small.total(), (middle - small).most_common(10)
    assert large.total() < 10 * small.total(), (large - small).most_common(10)
    assert of_our_code(large) < 1.5 * of_our_code(small), (large - small).most_common(10)


# --- reader processes


async def test_a_reader_that_was_taken_over_publishes_nothing_for_another_tenant(
    keystores: Path, tmp_path: Path
) -> None:
    """It can forge the set of the tenant that it was given, and no other."""
    for tenant in ("evil.com", "victim.com"):
        (keystores / tenant).mkdir()
        (keystores / tenant / "k.pem").write_bytes(A)
    async with real_parts(keystores, tmp_path / "state", FORGING) as parts:
        store, readers = parts.store, parts.readers
        before = store.get("victim.com")
        (keystores / "evil.com" / "forge-tenant").touch()
        await eventually(lambda: kids_of(published(store, "evil.com")) == set())
        assert published(store, "evil.com").tenant == "evil.com"
        assert store.get("victim.com") is before
        assert readers.lost == 0


async def test_a_reader_that_was_taken_over_publishes_no_private_member(keystores: Path, tmp_path: Path) -> None:
    """In nobody's name: its answer is none, it is ended, its tenant keeps its set, and so does the one it names."""
    for tenant in ("evil.com", "victim.com"):
        (keystores / tenant).mkdir()
        (keystores / tenant / "k.pem").write_bytes(A)
    async with real_parts(keystores, tmp_path / "state", FORGING) as parts:
        follower, store, readers = parts.follower, parts.store, parts.readers
        victim = store.get("victim.com")
        (keystores / "evil.com" / "forge-member").touch()
        await eventually(lambda: readers.lost)
        await eventually(lambda: TENANT_EVIL in follower.reconciler.unread or follower.quarantine.without(TENANT_EVIL))
        assert kids_of(published(store, "evil.com")) == {KID_A}
        assert store.get("victim.com") is victim
        (keystores / "evil.com" / "forge-member").unlink()
        replace_file(keystores / "evil.com" / "k.pem", B)
        await eventually(lambda: KID_B in kids_of(published(store, "evil.com")))
        assert store.get("victim.com") is victim
        for publication in store:
            assert publication.key_set is not None
            assert b"private" not in publication.key_set.body


async def test_reader_processes_retire_while_loads_go_on(keystores: Path, tmp_path: Path) -> None:
    """Another is ready before one goes, so that no load is lost or waits; one that is killed meanwhile is replaced."""
    (keystores / TENANT).mkdir()
    (keystores / TENANT / "k.pem").write_bytes(A)
    async with real_parts(keystores, tmp_path / "state", loads_per_process=3) as parts:
        store, readers = parts.store, parts.readers
        first = set(readers.pids)
        number = 100
        while readers.retired < 4:
            content, kid = sample(number)
            replace_file(keystores / TENANT / "k.pem", content)
            await eventually(lambda kid=kid: kid in kids_of(published(store, TENANT)))  # type: ignore[misc]
            assert len(readers.pids) >= 2
            number += 1
        assert readers.lost == 0
        await eventually(lambda: len(readers.pids) == 2)
        assert not first <= set(readers.pids)
        os.kill(readers.pids[0], signal.SIGKILL)
        await eventually(lambda: readers.lost == 1)
        replace_file(keystores / TENANT / "k.pem", C)
        await eventually(lambda: KID_C in kids_of(published(store, TENANT)))
        await eventually(lambda: len(readers.pids) >= 2)


# --- seeing one tenant's turn


def test_the_admin_listener_shows_what_waits_for_a_tenant(keystores: Path) -> None:
    """What is published, what is wrong, when it is read again; 404 for one that is unknown."""
    (keystores / TENANT).mkdir()
    (keystores / TENANT / "k.pem").write_bytes(A)
    (keystores / TENANT / "bad.pem").write_bytes(b"half")
    with Server(keystores, "--admin-port", "0") as server:
        wait_until(lambda: server.admin(f"/tenants/{TENANT}.json").status == 200)
        wait_until(lambda: server.admin(f"/tenants/{TENANT}.json").json()["failures"] == 4, "the quick retries")
        state = server.admin(f"/tenants/{TENANT}.json").json()
        assert state["published"]["keys"] == 1
        assert state["published"]["problem_counts"]["fault"] == 1
        assert state["published"]["problems"][0]["file"] == "bad.pem"
        assert 0 < state["turn"]["next_in_seconds"] <= 30
        assert state["quarantine"] == {
            "suspected": False, "hung": False, "tried_again_in_seconds": None, "files_left_out": [],
        }  # fmt: skip
        for unknown in ("nobody.com", "..", "%2e%2e"):
            assert server.admin(f"/tenants/{unknown}.json").status == 404


def state_of(server: Server, tenant: str) -> Any:  # noqa: ANN401 - JSON
    """Return what the admin listener says of a tenant."""
    return server.admin(f"/tenants/{tenant}.json").json()


def test_the_admin_listener_shows_which_files_are_left_out(keystores: Path, tmp_path: Path) -> None:
    """From the crash to the reading that does without them; then each is a problem like any other."""
    other_side = tmp_path / "deadly"
    other_side.mkdir()
    (keystores / TENANT).mkdir()
    (keystores / TENANT / "a.pem").write_bytes(b"# exit\n" + A)
    (keystores / TENANT / "b.pem").write_bytes(b"# gate\n" + B)
    altered = {"reader_module": DEADLY, "timing": {"file": 60.0}}
    with Server(keystores, "--admin-port", "0", environment={OTHER_SIDE: str(other_side)}, altered=altered) as server:
        wait_until(lambda: state_of(server, TENANT)["quarantine"]["files_left_out"])
        state = state_of(server, TENANT)
        reason = "its reader crashed (exit status 3)"
        assert state["quarantine"]["files_left_out"] == [{"file": "a.pem", "reason": reason}]
        assert state["quarantine"]["suspected"]
        assert not state["quarantine"]["hung"]
        assert state["turn"]["running"]
        assert state["published"] is None
        (other_side / "open").touch()
        wait_until(lambda: state_of(server, TENANT)["published"])
        state = state_of(server, TENANT)
        assert state["quarantine"]["files_left_out"] == []
        assert state["quarantine"]["suspected"]
        assert state["published"]["problems"] == [{"level": "fault", "file": "a.pem", "text": reason}]


def test_the_admin_listener_shows_a_tenant_that_hangs(keystores: Path, tmp_path: Path) -> None:
    """And in how many seconds it is tried again."""
    (keystores / TENANT).mkdir()
    (keystores / TENANT / "hang").touch()
    altered = {"reader_module": DEADLY, "timing": {"file": 0.2, "first_suspicion": 3600.0}}
    with Server(keystores, "--admin-port", "0", environment={OTHER_SIDE: str(tmp_path)}, altered=altered) as server:
        wait_until(lambda: state_of(server, TENANT)["quarantine"]["hung"])
        wait_until(lambda: not state_of(server, TENANT)["turn"]["running"])
        state = state_of(server, TENANT)
        assert state["waits_for_first_load"]
        assert state["last_reading_failed"]
        assert state["quarantine"]["suspected"]
        assert 0 < state["quarantine"]["tried_again_in_seconds"] <= 3600
        assert state["turn"]["next_in_seconds"] is None
        assert state["published"] is None


@pytest.mark.parametrize(("level", "shown"), [("debug", {"DEBUG", "INFO"}), ("info", {"INFO"})])
def test_the_log_says_as_much_as_its_level_asks_for(keystores: Path, level: str, shown: set[str]) -> None:
    """At `debug` each hint and each turn, with its tenant."""
    (keystores / TENANT).mkdir()
    (keystores / TENANT / "k.pem").write_bytes(A)
    with Server(keystores, "--log-level", level) as server:
        server.wait_for_kids(TENANT, {KID_A})
        replace_file(keystores / TENANT / "k.pem", B)
        server.wait_for_kids(TENANT, {KID_B})
        assert {line.split()[1] for line in server.log.splitlines()} == shown
        if level == "debug":
            assert "DEBUG hint tenant=a.com urgency=urgent" in server.log
            assert "DEBUG turn tenant=a.com urgency=urgent" in server.log


def test_at_warning_the_log_says_nothing_of_what_is_well(keystores: Path) -> None:
    """From the start to the stop."""
    for tenant, content in (("a.com", A), ("b.com", b"half")):
        (keystores / tenant).mkdir()
        (keystores / tenant / "k.pem").write_bytes(content)
    with ExitStack() as stack:
        server = Server(keystores, "--log-level", "warning")
        stack.push(server)
        wait_until(lambda: "file=k.pem" in server.log, "the fault")
        assert server.terminate() == 0
        lines = server.log.splitlines()
        assert {line.split()[1] for line in lines} == {"WARNING", "ERROR"}
        assert not any("a.com" in line for line in lines)
