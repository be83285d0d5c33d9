import asyncio
import gc
import mmap
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.certificates import certificate, pem, private_key, replace_file
from support.deadly_reader import MODULE, OTHER_SIDE
from support.inprocess import EVERY_TENTH, World, eventually, followed
from support.server import Server, wait_until, with_tests

from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.readers.pool import ReaderPool
from jwks_server.readers.process import CHILD_MODULE, ReaderProcess
from jwks_server.reading.frames import HEADER_BYTES, MOST_FRAME_BYTES
from jwks_server.reading.jobs import Listing, ListingJob, LoadJob, ReaderCrashedError, Urgency
from jwks_server.reading.source import Limits, Source
from jwks_server.reading.wire import encode_setup

A, B, C = (pem(certificate(private_key("P-256", number))) for number in (1, 2, 3))
FIXTURES = Path(__file__).parent.parent / "fixtures"
FILE_SECONDS = 1.0


class Deadly:
    """The other side of `deadly_reader`: what the reader processes read, and the gate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.environment = {OTHER_SIDE: str(folder)}

    @property
    def reads(self) -> list[tuple[int, str]]:
        """Process and word of each marked file that was begun, in order."""
        log = self.folder / "read"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(int(pid), word) for pid, word in (line.split(" ", 1) for line in lines)]

    @property
    def counts(self) -> Counter[str]:
        """How often each word was read."""
        return Counter(word for _, word in self.reads)

    def open_gate(self) -> None:
        """Let the readers at the gate go on."""
        (self.folder / "open").touch()

    def hold_starts(self) -> None:
        """Let no process that starts get ready."""
        (self.folder / "late").touch()

    def let_start(self) -> None:
        """Let those that start get ready."""
        (self.folder / "late").unlink(missing_ok=True)


@pytest.fixture
def deadly(tmp_path: Path) -> Iterator[Deadly]:
    """Make files of the test deadly for their readers; no reader process waits at the gate for longer than the test."""
    deadly = Deadly(tmp_path / "deadly")
    yield deadly
    deadly.open_gate()
    deadly.let_start()


TIMING = Timing(file=FILE_SECONDS, reader_grace=1.0)


@asynccontextmanager
async def reading(  # noqa: PLR0917 - each may differ
    keystores: Path,
    count: int,
    deadly: Deadly | None = None,
    timing: Timing = TIMING,
    loads_per_process: int = 10_000,
    limits: Limits | None = None,
) -> AsyncIterator[ReaderPool]:
    """Run reader processes, such as obey marked files where a folder for that is given."""
    module = MODULE if deadly else CHILD_MODULE
    source = Source(str(keystores), limits=limits or Limits())
    pool = ReaderPool(source, count, timing, module=module, loads_per_process=loads_per_process)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**with_tests(), **(deadly.environment if deadly else {})}.items():
            patch.setenv(name, value)
        try:
            await pool.start()
            await eventually(lambda: pool.idle == count)
            yield pool
        finally:
            await pool.close()


@asynccontextmanager
async def followed_by_processes(
    keystores: Path, deadly: Deadly, count: int = 2, timing: Timing = TIMING
) -> AsyncIterator[tuple[World, ReaderPool]]:
    """Follow the tree with real reader processes."""
    async with (
        reading(keystores, count, deadly, timing) as pool,
        followed(keystores, readers=pool, timing=timing) as world,
    ):
        yield world, pool


def marked(word: str, content: bytes = A) -> bytes:
    """Return content that does something to its reader."""
    return f"# {word}\n".encode() + content


def tenant(keystores: Path, name: str, **files: bytes) -> LoadJob:
    """Make a tenant's folder and return the job that reads it."""
    (keystores / name).mkdir()
    for file, content in files.items():
        (keystores / name / f"{file}.pem").write_bytes(content)
    return LoadJob(TenantName(name))


def children() -> str:
    """Return the processes that this one has made."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def lives(pid: int) -> bool:
    """Tell whether the process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or between that and reading
        return False


async def test_a_reader_process_that_is_killed_while_idle_is_replaced_and_the_job_is_done(
    keystores: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It had no job when it was killed, so only the log and the counter say so."""
    job = tenant(keystores, "a.com", k=A)
    async with reading(keystores, 1) as pool:
        (dead,) = pool.pids
        os.kill(dead, signal.SIGKILL)
        await eventually(lambda: pool.lost == 1 and dead not in pool.pids and pool.pids)
        assert (await pool.run(job, Urgency.URGENT)).publication.keys == 1
        assert pool.lost == 1
        assert "an idle reader process crashed" in caplog.text


async def test_a_close_while_a_reader_process_is_being_replaced_leaves_no_process_and_no_pipe(
    keystores: Path,
) -> None:
    """A start that is cancelled halfway would leave both."""
    before = children()
    for _ in range(5):
        async with reading(keystores, 2) as pool:
            for pid in pool.pids:
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda pool=pool: pool.lost == 2)  # type: ignore[misc]
        gc.collect()
        assert children() == before


async def test_a_reader_process_that_is_killed_at_work_is_replaced_and_its_tenant_goes_on(
    keystores: Path, deadly: Deadly
) -> None:
    """What it was reading counts as deadly, until the content changes: then it is read at once."""
    tenant(keystores, "a.com", k=A)
    async with followed_by_processes(keystores, deadly, timing=Timing(file=60)) as (world, pool):
        before = world.kids("a.com")
        replace_file(keystores / "a.com" / "k.pem", marked("gate", B))
        await eventually(lambda: deadly.reads)
        os.kill(deadly.reads[0][0], signal.SIGKILL)
        await eventually(lambda: "k.pem" in world.faults("a.com"))
        assert "its reader crashed" in world.faults("a.com")["k.pem"]
        assert world.kids("a.com") == before
        await eventually(lambda: len(pool.pids) == 2)
        replace_file(keystores / "a.com" / "k.pem", C)
        await eventually(lambda: world.kids("a.com") != before)
        assert not world.faults("a.com")
        assert pool.lost == 1


@pytest.mark.parametrize("at_work", [False, True])
async def test_a_reader_process_that_is_stopped_is_ended_and_replaced(
    keystores: Path, deadly: Deadly, *, at_work: bool
) -> None:
    """Its own alarm cannot end it then; the one who waits for it does."""
    job = tenant(keystores, "a.com", k=marked("spin") if at_work else A)
    async with reading(keystores, 1, deadly) as pool:
        (stopped,) = pool.pids
        if not at_work:
            os.kill(stopped, signal.SIGSTOP)
        running = asyncio.ensure_future(pool.run(job, Urgency.URGENT))
        if at_work:
            await eventually(lambda: deadly.reads)
            os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(ReaderCrashedError) as caught:
            await running
        assert caught.value.place is None or caught.value.place.name == "k.pem"
        assert (caught.value.place is not None) == at_work
        await eventually(lambda: not lives(stopped) and pool.pids)
        listing = await pool.run(ListingJob(), Urgency.URGENT)
        assert listing.tenants == ("a.com",)


async def test_a_tenant_whose_reader_was_stopped_is_read_by_the_next(keystores: Path, deadly: Deadly) -> None:
    """The change that it was to read is published without another event."""
    tenant(keystores, "a.com", k=A)
    async with followed_by_processes(keystores, deadly) as (world, pool):
        before = world.kids("a.com")
        stopped = pool.pids
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        (keystores / "a.com" / "l.pem").write_bytes(B)
        await eventually(lambda: len(world.kids("a.com") or ()) == 2)
        assert before is not None
        assert before < (world.kids("a.com") or set())
        assert not world.faults("a.com")


@pytest.mark.parametrize("word", ["spin", "sleep", "exit", "crash"])
async def test_a_file_that_ends_its_reader_costs_nobody_else_anything(
    keystores: Path, deadly: Deadly, word: str
) -> None:
    """Its keys stay, it is a fault with a text, it is not parsed again; the other files and tenants are published."""
    tenant(keystores, "a.com", good=A, poisoned=B)
    tenant(keystores, "b.com", good=A)
    async with followed_by_processes(keystores, deadly) as (world, pool):
        both = world.kids("a.com")
        assert both is not None
        replace_file(keystores / "a.com" / "poisoned.pem", marked(word))
        (keystores / "a.com" / "zulu.pem").write_bytes(C)
        await eventually(lambda: deadly.reads)
        (keystores / "b.com" / "zulu.pem").write_bytes(C)
        await eventually(lambda: len(world.kids("b.com") or ()) == 2)
        await eventually(lambda: len(world.kids("a.com") or ()) == 3)
        assert both < (world.kids("a.com") or set())
        fault = world.faults("a.com")["poisoned.pem"]
        assert fault.startswith(
            "reading it took more than 1 seconds" if word in {"spin", "sleep"} else "its reader crashed"
        )
        assert fault.endswith("; its last good keys stay")
        await eventually(lambda: len(pool.pids) == 2)

        (keystores / "a.com" / "zulu.pem").unlink()  # the folder is read again, and the poisoned file is not
        await eventually(lambda: world.kids("a.com") == both)
        assert deadly.counts == {word: 1}
        assert pool.lost == 1

        world.turns.hint(TenantName("a.com"), afresh=True)  # the slow retry
        await eventually(lambda: deadly.counts == {word: 2})
        await eventually(lambda: pool.lost == 2)
        assert world.kids("a.com") == both
        replace_file(keystores / "a.com" / "poisoned.pem", C)
        await eventually(lambda: not world.faults("a.com"))


async def test_a_deadly_file_that_is_corrected_meanwhile_is_read_at_once(keystores: Path, deadly: Deadly) -> None:
    """What ended a reader is that content, not that name."""
    tenant(keystores, "a.com", k=A)
    async with followed_by_processes(keystores, deadly) as (world, _):
        before = world.kids("a.com")
        replace_file(keystores / "a.com" / "k.pem", marked("spin"))
        await eventually(lambda: deadly.reads)
        replace_file(keystores / "a.com" / "k.pem", B)
        await eventually(lambda: world.kids("a.com") != before)
        assert not world.faults("a.com")
        assert deadly.counts == {"spin": 1}


async def test_several_deadly_files_of_a_tenant_are_each_read_once(keystores: Path, deadly: Deadly) -> None:
    """Each costs one reader, then the rest of the folder is published, also of a tenant that is new."""
    async with followed_by_processes(keystores, deadly) as (world, pool):
        tenant(keystores, "a.com", a=marked("exit"), b=marked("crash"), c=marked("exit", B), good=A)
        await eventually(lambda: len(world.kids("a.com") or ()) == 1)
        assert set(world.faults("a.com")) == {"a.pem", "b.pem", "c.pem"}
        assert deadly.counts == {"exit": 2, "crash": 1}
        assert pool.lost == 3


async def test_a_failure_that_nobody_thought_of_is_the_fault_of_its_file_alone(keystores: Path, deadly: Deadly) -> None:
    """A library's error that no reader translates takes the tenant's other files nothing."""
    tenant(keystores, "a.com", k=A)
    async with followed_by_processes(keystores, deadly) as (world, pool):
        replace_file(keystores / "a.com" / "k.pem", marked("fail"))
        (keystores / "a.com" / "l.pem").write_bytes(B)
        await eventually(lambda: len(world.kids("a.com") or ()) == 2)
        assert "ZeroDivisionError" in world.faults("a.com")["k.pem"]
        assert pool.lost == 0


@pytest.mark.parametrize(
    ("word", "text"), [("spin", "building its key set took more than"), ("crash", "its reader crashed")]
)
async def test_what_ends_a_reader_when_all_files_are_read_is_no_files_fault(
    keystores: Path, deadly: Deadly, caplog: pytest.LogCaptureFixture, word: str, text: str
) -> None:
    """The file that was read last is not left out; the tenant keeps its set and is read again later."""
    tenant(keystores, "a.com", first=A)
    timing = replace(TIMING, first_suspicion=0.2, suspicion=0.2, first_comparison=0.1, comparison=EVERY_TENTH)
    async with followed_by_processes(keystores, deadly, timing=timing) as (world, pool):
        before = world.kids("a.com")
        assert before is not None
        (keystores / "a.com" / ".build").write_bytes(marked(word))
        replace_file(keystores / "a.com" / "second.pem", B)
        await eventually(lambda: pool.lost > 0 and text in str([vars(record) for record in caplog.records]))
        state = world.quarantine.state(TenantName("a.com"), 0.0)
        assert (state["suspected"], state["files_left_out"]) == (True, [])
        assert world.kids("a.com") == before
        (keystores / "a.com" / ".build").unlink()
        await eventually(lambda: len(world.kids("a.com") or ()) == 2)
        assert not world.faults("a.com")


async def test_a_reader_that_takes_long_over_many_files_is_left_alone(keystores: Path, deadly: Deadly) -> None:
    """All together they may take longer than one may."""
    job = tenant(keystores, "a.com", **{f"k{number}": marked("nap") for number in range(5)})
    timing, limits = Timing(file=1.5, reader_grace=0.2), Limits(turn_seconds=60)
    async with reading(keystores, 1, deadly, timing, limits=limits) as pool:
        loaded = await pool.run(job, Urgency.URGENT)
        assert loaded.publication.keys == 1
        assert deadly.counts == {"nap": 5}
        assert pool.lost == 0


async def test_a_reader_whose_answer_is_forged_is_replaced_and_not_obeyed(
    keystores: Path, deadly: Deadly, caplog: pytest.LogCaptureFixture
) -> None:
    """What it names is not called, and the tenant keeps its set; which of its files did that, nobody knows."""
    tenant(keystores, "a.com", k=A)
    async with followed_by_processes(keystores, deadly) as (world, pool):
        before = world.kids("a.com")
        replace_file(keystores / "a.com" / "k.pem", marked("forge", B))
        await eventually(lambda: world.quarantine.is_suspect(TenantName("a.com")))
        said = [vars(record).get("fields", {}) for record in caplog.records if record.message == "reader lost"]
        assert [(line.get("tenant"), line.get("file")) for line in said] == [("a.com", None)]
        assert "answer is garbage: a frame's header is no such header" in str(said[0]["reason"])
        assert world.kids("a.com") == before
        assert not (deadly.folder / "forged").exists()
        await eventually(lambda: pool.lost == 1 and len(pool.pids) == 2)


async def test_a_reader_that_announces_an_endless_answer_is_ended() -> None:
    """It would fill the server's memory."""
    process = ReaderProcess()
    await process.start(encode_setup(Source(""), FILE_SECONDS))
    await process.ready.wait()
    answer = process.ask(b"")
    process.pipe_data_received(1, (MOST_FRAME_BYTES + 1).to_bytes(4) + bytes(HEADER_BYTES))
    with pytest.raises(ConnectionResetError):
        await answer
    await process.exited.wait()


async def test_a_folder_that_hangs_keeps_no_change_of_another_from_being_found(keystores: Path, deadly: Deadly) -> None:
    """Neither by its event nor by comparing; it keeps its set, is said to be unread, and comes back."""
    timing = replace(TIMING, first_comparison=0.1, comparison=EVERY_TENTH)
    tenant(keystores, "a.com", k=A)
    tenant(keystores, "b.com", k=A.ljust(len(B) + 8))
    async with followed_by_processes(keystores, deadly, timing=timing) as (world, _):
        before = world.kids("a.com")
        (keystores / "a.com" / "hang").touch()
        await eventually(lambda: world.unread == 1)
        (keystores / "b.com" / "l.pem").write_bytes(C)
        await eventually(lambda: len(world.kids("b.com") or ()) == 2)
        with (keystores / "b.com" / "k.pem").open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[:] = B.ljust(len(memory))
            memory.flush()
            await eventually(lambda: before is not None and not before & (world.kids("b.com") or before))
        assert world.kids("a.com") == before
        (keystores / "a.com" / "hang").rename(keystores / "a.com" / "l.pem")
        replace_file(keystores / "a.com" / "l.pem", C)
        await eventually(lambda: len(world.kids("a.com") or ()) == 2)
        assert world.unread == 0


@pytest.mark.parametrize("name", ["hanging.pem", "link.pem"])
async def test_a_file_that_hangs_keeps_no_change_of_its_folder_from_being_published(
    keystores: Path, deadly: Deadly, name: str
) -> None:
    """It gives what it last gave, and is a fault until it answers; whether it hangs itself or what it leads to."""
    folder = keystores / "a.com"
    tenant(keystores, "a.com", k=A, hanging=B)
    (folder / "link.pem").symlink_to("k.pem")
    async with followed_by_processes(keystores, deadly) as (world, _):
        before = world.kids("a.com")
        assert before is not None
        assert len(before) == 2
        (deadly.folder / name).touch()
        (folder / "l.pem").write_bytes(C)
        await eventually(lambda: len(world.kids("a.com") or ()) == 3)
        assert before < (world.kids("a.com") or set())
        assert set(world.faults("a.com")) == {name}
        assert world.faults("a.com")[name] == "reading it took more than 1 seconds; its last good keys stay"
        assert world.unread == 0
        (deadly.folder / name).unlink()
        (folder / "l.pem").unlink()
        await eventually(lambda: not world.faults("a.com"))
        await world.wait_for("a.com", before)


def test_a_hanging_file_of_one_tenant_does_not_delay_another(keystores: Path, deadly: Deadly) -> None:
    """While the server's reader hangs in it, the other tenant's rotation is published and answered."""
    tenant(keystores, "a.com", k=A)
    tenant(keystores, "b.com", k=A)
    with Server(keystores, environment=deadly.environment, altered={"reader_module": MODULE}) as server:
        kids = server.kids("a.com")
        wait_until(lambda: "all tenants loaded" in server.log)
        replace_file(keystores / "a.com" / "k.pem", marked("gate", B))
        wait_until(lambda: deadly.reads)
        replace_file(keystores / "b.com" / "k.pem", C)
        wait_until(lambda: server.kids("b.com") not in (None, kids))
        assert server.kids("a.com") == kids
        assert "reader lost" not in server.log
        deadly.open_gate()
        wait_until(lambda: server.kids("a.com") != kids)


def test_a_pile_of_keystores_in_one_tenant_does_not_delay_another(keystores: Path) -> None:
    """Hundreds of PKCS#12 are still being decrypted when the other tenant's second rotation is published."""
    pile = keystores.parent / "pile"
    pile.mkdir()
    for number in range(400):
        shutil.copy(FIXTURES / "java-legacy.p12", pile / f"{number}.p12")
        (pile / f"{number}.p12.password").write_text("changeit")
    tenant(keystores, "b.com", k=A)
    with Server(keystores) as server:
        wait_until(lambda: "all tenants loaded" in server.log)
        pile.rename(keystores / "pile.com")
        for content in (B, C):
            before = server.kids("b.com")
            replace_file(keystores / "b.com" / "k.pem", content)
            wait_until(lambda before=before: server.kids("b.com") not in (None, before))  # type: ignore[misc]
        assert server.tenant("pile.com").status in {404, 503}  # not all of them were read yet
        assert "reader lost" not in server.log


PARENT = """
import asyncio, sys
from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.readers.pool import ReaderPool
from jwks_server.reading.jobs import LoadJob, Urgency
from jwks_server.reading.source import Limits, Source

async def main():
    pool = ReaderPool(Source(sys.argv[1]), 2, Timing(file=1), module="support.deadly_reader")
    await pool.start()
    print(*pool.pids, flush=True)
    await pool.run(LoadJob(TenantName("a.com")), Urgency.URGENT)

asyncio.run(main())
"""


@pytest.mark.parametrize("word", ["spin", "sleep"])
def test_no_reader_process_outlives_a_killed_parent(keystores: Path, deadly: Deadly, word: str) -> None:
    """The idle one sees its input end; the one that hangs in a file has its alarm."""
    tenant(keystores, "a.com", k=marked(word))
    command = [sys.executable, "-c", PARENT, str(keystores)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**with_tests(), **deadly.environment}
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        try:
            assert len(pids) == 2
            wait_until(lambda: deadly.reads, "the reader process to hang")
            assert all(map(lives, pids))
            parent.kill()
            wait_until(lambda: not any(map(lives, pids)), "both readers to end")
        finally:
            parent.kill()
            for pid in filter(lives, pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_no_reader_process_outlives_a_killed_server(keystores: Path) -> None:
    """Not one process of the real server is left behind."""
    tenant(keystores, "a.com", k=A)
    with Server(keystores) as server:
        wait_until(lambda: server.kids("a.com"))
        pid = server.process.pid
        readers = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        assert len(readers) == 2
        server.process.kill()
        wait_until(lambda: not any(map(lives, readers)), "the readers to end")


def test_a_reader_process_whose_parent_is_gone_ends_in_silence(keystores: Path, deadly: Deadly) -> None:
    """It finds nobody to answer to; a traceback in the journal would be taken for a bug."""
    tenant(keystores, "a.com", k=marked("gate"))
    with Server(keystores, environment=deadly.environment, altered={"reader_module": MODULE}) as server:
        wait_until(lambda: deadly.reads, "the reader process to read")
        server.process.kill()
        server.process.wait()
        deadly.open_gate()
        wait_until(lambda: not lives(deadly.reads[0][0]), "the reader process to end")
        assert "Traceback" not in server.log


async def test_urgent_jobs_overtake_routine_ones(keystores: Path, deadly: Deadly) -> None:
    """Whoever waits for one process: the urgent in their order, then the routine in theirs; promoting makes urgent."""
    blocker = tenant(keystores, "blocker.com", k=marked("gate", A))
    jobs = {name: tenant(keystores, name) for name in ("r1", "r2", "r3", "u1", "u2")}
    done: list[str] = []
    async with reading(keystores, 1, deadly, Timing(file=60)) as pool:

        async def run(name: str, job: LoadJob) -> None:
            await pool.run(job, Urgency.URGENT if name.startswith("u") else Urgency.ROUTINE)
            done.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(run("blocker", blocker))
            await eventually(lambda: deadly.reads)
            for name, job in jobs.items():
                group.create_task(run(name, job))
            await asyncio.sleep(0)  # each has taken its place
            assert pool.promote(jobs["r3"])
            assert not pool.promote(blocker)
            deadly.open_gate()
        assert done == ["blocker", "u1", "u2", "r3", "r1", "r2"]
        assert not pool.promote(jobs["r1"])


async def test_a_job_that_is_given_up_leaves_its_reader_process_to_the_others(keystores: Path, deadly: Deadly) -> None:
    """One that waited costs nothing; one at work costs its reader process, which is replaced."""
    blocker = tenant(keystores, "blocker.com", k=marked("gate", A))
    waiting = tenant(keystores, "waiting.com")
    async with reading(keystores, 1, deadly, Timing(file=60)) as pool:
        at_work = asyncio.ensure_future(pool.run(blocker, Urgency.URGENT))
        await eventually(lambda: deadly.reads)
        given_up = asyncio.ensure_future(pool.run(waiting, Urgency.URGENT))
        still = asyncio.ensure_future(pool.run(ListingJob(), Urgency.ROUTINE))
        await asyncio.sleep(0)
        for task in (given_up, at_work):
            task.cancel()
        assert isinstance(await still, Listing)
        assert pool.lost == 1
        assert len(pool.pids) == 1


# --- processes that have read enough


RETIRING = replace(TIMING, file=60.0, reader_restart=0.01)


async def test_a_process_that_has_read_enough_goes_on_until_its_successor_is_ready(
    keystores: Path, deadly: Deadly
) -> None:
    """However long that takes to start: no load waits for it."""
    job = tenant(keystores, "a.com", k=A)
    async with reading(keystores, 1, deadly, RETIRING, loads_per_process=3) as pool:
        (first,) = pool.pids
        deadly.hold_starts()
        for _ in range(10):
            assert (await pool.run(job, Urgency.URGENT)).publication.keys == 1
        assert first in pool.pids
        assert pool.retired == 0
        deadly.let_start()
        await eventually(lambda: pool.retired == 1 and not lives(first))
        assert (await pool.run(job, Urgency.URGENT)).publication.keys == 1
        assert first not in pool.pids
        assert pool.lost == 0


async def test_no_load_is_lost_while_all_processes_retire(keystores: Path, deadly: Deadly) -> None:
    """Each after one load; there are never fewer than there should be, and none that has gone is left behind."""
    jobs = [tenant(keystores, f"{number}.com", k=A) for number in range(20)]
    before = children()
    async with reading(keystores, 2, deadly, RETIRING, loads_per_process=1) as pool:

        async def run(job: LoadJob) -> int:
            loaded = await pool.run(job, Urgency.ROUTINE)
            assert loaded.publication.tenant == job.tenant
            return len(pool.pids)

        assert min(await asyncio.gather(*map(run, jobs))) >= 2
        await eventually(
            lambda: pool.idle == len(pool.pids) == 2 and len(children().split()) == len(before.split()) + 2
        )
        assert pool.retired >= 2
        assert pool.lost == 0


async def test_a_successor_that_crashes_before_it_is_ready_is_succeeded_itself(keystores: Path, deadly: Deadly) -> None:
    """The one that was to go serves on, and goes at last."""
    job = tenant(keystores, "a.com", k=A)
    async with reading(keystores, 1, deadly, RETIRING, loads_per_process=1) as pool:
        (first,) = pool.pids
        deadly.hold_starts()
        for lost in (1, 2):
            assert (await pool.run(job, Urgency.URGENT)).publication.keys == 1
            await eventually(lambda: len(pool.pids) == 2)
            (successor,) = set(pool.pids) - {first}
            os.kill(successor, signal.SIGKILL)
            await eventually(lambda lost=lost: pool.lost == lost)  # type: ignore[misc]
            assert (await pool.run(job, Urgency.URGENT)).publication.keys == 1
        assert first in pool.pids
        deadly.let_start()
        await eventually(lambda: pool.retired == 1)
        assert len(pool.pids) == 1
        assert first not in pool.pids
        assert (await pool.run(job, Urgency.URGENT)).publication.keys == 1


@pytest.mark.parametrize("at_work", [False, True])
async def test_a_process_that_crashes_while_it_retires_is_succeeded_once(
    keystores: Path, deadly: Deadly, *, at_work: bool
) -> None:
    """By the one that was starting already; a load that it was doing fails, and one that waits is done."""
    job = tenant(keystores, "a.com", k=A)
    gated = tenant(keystores, "b.com", k=marked("gate"))
    async with reading(keystores, 1, deadly, RETIRING, loads_per_process=2) as pool:
        (first,) = pool.pids
        deadly.hold_starts()
        for _ in range(2):
            assert (await pool.run(job, Urgency.URGENT)).publication.keys == 1
        await eventually(lambda: len(pool.pids) == 2)
        (successor,) = set(pool.pids) - {first}
        working = asyncio.ensure_future(pool.run(gated, Urgency.URGENT)) if at_work else None
        await eventually(lambda: bool(deadly.reads) == at_work)
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: pool.lost == 1)
        if working is not None:
            with pytest.raises(ReaderCrashedError):
                await working
        waiting = asyncio.ensure_future(pool.run(job, Urgency.URGENT))
        deadly.let_start()
        assert (await waiting).publication.keys == 1
        assert pool.pids == (successor,)
        assert (pool.lost, pool.retired) == (1, 0)


async def test_a_process_that_retires_waits_until_there_are_enough_without_it(keystores: Path, deadly: Deadly) -> None:
    """One that is started for a crashed one may be ready before its own successor is."""
    job = tenant(keystores, "a.com", k=marked("gate"))
    deadly.open_gate()
    async with reading(keystores, 2, deadly, RETIRING, loads_per_process=2) as pool:
        both = set(pool.pids)
        deadly.hold_starts()
        for _ in range(2):
            await pool.run(job, Urgency.URGENT)
        ((retiring, _),) = set(deadly.reads)
        await eventually(lambda: len(pool.pids) == 3)
        (successor,) = set(pool.pids) - both
        os.kill(successor, signal.SIGSTOP)
        (other,) = both - {retiring}
        os.kill(other, signal.SIGKILL)
        await eventually(lambda: other not in pool.pids and len(pool.pids) == 3)
        deadly.let_start()
        await eventually(lambda: pool.idle == 2)
        assert retiring in pool.pids
        assert pool.retired == 0
        os.kill(successor, signal.SIGCONT)
        await eventually(lambda: pool.retired == 1 and pool.idle == 2)
        assert retiring not in pool.pids
        assert successor in pool.pids
