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
from pathlib import Path

import pytest
from support.certificates import certificate, pem, private_key, replace_file
from support.inprocess import World, eventually, followed
from support.server import Server, wait_until

from jwks_server.core.tenant import TenantName
from jwks_server.following import compare
from jwks_server.readers.pool import ROUTINE, URGENT, ReaderDiedError, Workers
from jwks_server.readers.process import MOST_FRAME_BYTES, ReaderProcess
from jwks_server.reading.load import LoadJob
from jwks_server.reading.source import Source
from jwks_server.reading.survey import ListingJob
from jwks_server.reading.tree import Listing
from jwks_server.reading.wire import HEADER_BYTES

A, B, C = (pem(certificate(private_key("P-256", number))) for number in (1, 2, 3))
FIXTURES = Path(__file__).parent.parent / "fixtures"
FILE_SECONDS = 1.0

SEAM = """
import os, sys, time
from pathlib import Path

if "-c" in sys.orig_argv and "jwks_server.reading.child" in " ".join(sys.orig_argv):
    from jwks_server.core import formats
    from jwks_server.reading import load as loader
    from jwks_server.reading import survey

    seam = Path(__file__).parent
    real = formats.read

    def read(data, password=None):
        word, _, rest = data.partition(b"\\n")
        if not word.startswith(b"# "):
            return real(data, password)
        with (seam / "read").open("a") as log:
            log.write(f"{os.getpid()} {word[2:].decode()}\\n")
        if word == b"# spin":
            while True:
                pass
        if word == b"# sleep":
            time.sleep(3600)
        if word == b"# nap":
            time.sleep(0.4)
        if word == b"# exit":
            os._exit(3)
        if word == b"# crash":
            os.abort()
        if word == b"# forge":
            loader.publication_of = lambda snapshot: Forged()
        if word == b"# fail":
            raise ZeroDivisionError("nobody thought of this")
        if word.startswith(b"# gate"):
            while not (seam / "open").exists():
                time.sleep(0.002)
        return real(rest, password)

    class Forged:
        def __reduce__(self):
            return os.mkdir, (str(seam / "forged"),)

    def hanging(view):
        def hang_or_view(descriptor, *arguments, **options):
            if "hang" in os.listdir(descriptor):
                time.sleep(3600)
            return view(descriptor, *arguments, **options)

        return hang_or_view

    def hang_or_read_file(name, *arguments, read_file=loader.read_file):
        if name == "hanging.pem" and (seam / name).exists():
            time.sleep(3600)
        return read_file(name, *arguments)

    def hang_or_stat(path, *, dir_fd=None, follow_symlinks=True, stat=os.stat):
        if path == "link.pem" and follow_symlinks and (seam / path).exists():
            time.sleep(3600)
        return stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    formats.read = read
    loader.view = hanging(loader.view)
    survey.view = hanging(survey.view)
    loader.read_file = hang_or_read_file
    os.stat = hang_or_stat
"""
"""What a worker imports when it starts: a marked first line of a file does to its reader what it says.

A file named `hang` makes its folder one that hangs, as on a network file system without its server. A file of this name
beside the seam makes the tenants' `hanging.pem` hang, or what their `link.pem` leads to.
"""


class Seam:
    """The other side of SEAM: what the workers read, and the gate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SEAM)
        self.folder = folder
        self.environment = {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}

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


@pytest.fixture
def seam(tmp_path: Path) -> Iterator[Seam]:
    """Make files of the test deadly for their readers; no worker waits at the gate for longer than the test."""
    seam = Seam(tmp_path / "seam")
    yield seam
    seam.open_gate()


@asynccontextmanager
async def working(count: int, seam: Seam | None = None, file_seconds: float = FILE_SECONDS) -> AsyncIterator[Workers]:
    """Run workers, with the seam in them where one is given."""
    workers = Workers(count, file_seconds=file_seconds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jwks_server.readers.pool._GRACE_SECONDS", 1.0)
        for name, value in (seam.environment if seam else {}).items():
            patch.setenv(name, value)
        try:
            await workers.start()
            await eventually(lambda: workers.idle == count)
            yield workers
        finally:
            await workers.close()


@asynccontextmanager
async def followed_by_workers(
    keystores: Path, seam: Seam, count: int = 2, file_seconds: float = FILE_SECONDS
) -> AsyncIterator[tuple[World, Workers]]:
    """Follow the tree with real workers."""
    async with working(count, seam, file_seconds) as workers, followed(keystores, loader=workers) as world:
        yield world, workers


def marked(word: str, content: bytes = A) -> bytes:
    """Return content that does something to its reader."""
    return f"# {word}\n".encode() + content


def tenant(keystores: Path, name: str, **files: bytes) -> LoadJob:
    """Make a tenant's folder and return the job that reads it."""
    (keystores / name).mkdir()
    for file, content in files.items():
        (keystores / name / f"{file}.pem").write_bytes(content)
    return LoadJob(Source(str(keystores)), TenantName(name))


def children() -> str:
    """Return the processes that this one has made."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def lives(pid: int) -> bool:
    """Tell whether the process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or between that and reading
        return False


async def test_a_worker_that_is_killed_while_idle_is_replaced_and_the_job_is_done(
    keystores: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody asked for anything when it died, so only the log and the counter say so."""
    job = tenant(keystores, "a.com", k=A)
    async with working(1) as workers:
        (dead,) = workers.pids
        os.kill(dead, signal.SIGKILL)
        await eventually(lambda: workers.lost == 1 and dead not in workers.pids and workers.pids)
        assert len((await workers.run(job, URGENT)).publication.kids) == 1
        assert workers.lost == 1
        assert "an idle reader process ended" in caplog.text


async def test_a_close_while_a_worker_is_being_replaced_leaves_no_process_and_no_pipe() -> None:
    """A start that is cancelled halfway would leave both."""
    before = children()
    for _ in range(5):
        async with working(2) as workers:
            for pid in workers.pids:
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda workers=workers: workers.lost == 2)  # type: ignore[misc]
        gc.collect()
        assert children() == before


async def test_a_worker_that_is_killed_at_work_is_replaced_and_its_tenant_goes_on(keystores: Path, seam: Seam) -> None:
    """What it was reading counts as deadly, until the content changes: then it is read at once."""
    tenant(keystores, "a.com", k=A)
    async with followed_by_workers(keystores, seam, file_seconds=60) as (world, workers):
        before = world.kids("a.com")
        replace_file(keystores / "a.com" / "k.pem", marked("gate", B))
        await eventually(lambda: seam.reads)
        os.kill(seam.reads[0][0], signal.SIGKILL)
        await eventually(lambda: "k.pem" in world.faults("a.com"))
        assert "its reader died" in world.faults("a.com")["k.pem"]
        assert world.kids("a.com") == before
        await eventually(lambda: len(workers.pids) == 2)
        replace_file(keystores / "a.com" / "k.pem", C)
        await eventually(lambda: world.kids("a.com") != before)
        assert not world.faults("a.com")
        assert workers.lost == 1


@pytest.mark.parametrize("at_work", [False, True])
async def test_a_worker_that_is_stopped_is_ended_and_replaced(keystores: Path, seam: Seam, *, at_work: bool) -> None:
    """Its own alarm cannot end it then; the one who waits for it does."""
    job = tenant(keystores, "a.com", k=marked("spin") if at_work else A)
    async with working(1, seam) as workers:
        (stopped,) = workers.pids
        if not at_work:
            os.kill(stopped, signal.SIGSTOP)
        running = asyncio.ensure_future(workers.run(job, URGENT))
        if at_work:
            await eventually(lambda: seam.reads)
            os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(ReaderDiedError) as caught:
            await running
        assert caught.value.reading is None or caught.value.reading.name == "k.pem"
        assert (caught.value.reading is not None) == at_work
        await eventually(lambda: not lives(stopped) and workers.pids)
        listing = await workers.run(ListingJob(job.source), URGENT)
        assert listing.tenants == ("a.com",)


async def test_a_tenant_whose_reader_was_stopped_is_read_by_the_next(keystores: Path, seam: Seam) -> None:
    """The change that it was to read is published without another event."""
    tenant(keystores, "a.com", k=A)
    async with followed_by_workers(keystores, seam) as (world, workers):
        before = world.kids("a.com")
        stopped = workers.pids
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        (keystores / "a.com" / "l.pem").write_bytes(B)
        await eventually(lambda: len(world.kids("a.com") or ()) == 2)
        assert before is not None
        assert before < (world.kids("a.com") or set())
        assert not world.faults("a.com")


@pytest.mark.parametrize("word", ["spin", "sleep", "exit", "crash"])
async def test_a_file_that_ends_its_reader_costs_nobody_else_anything(keystores: Path, seam: Seam, word: str) -> None:
    """Its keys stay, it is a fault with a text, it is not parsed again; the other files and tenants are published."""
    tenant(keystores, "a.com", good=A, poisoned=B)
    tenant(keystores, "b.com", good=A)
    async with followed_by_workers(keystores, seam) as (world, workers):
        both = world.kids("a.com")
        assert both is not None
        replace_file(keystores / "a.com" / "poisoned.pem", marked(word))
        (keystores / "a.com" / "zulu.pem").write_bytes(C)
        await eventually(lambda: seam.reads)
        (keystores / "b.com" / "zulu.pem").write_bytes(C)
        await eventually(lambda: len(world.kids("b.com") or ()) == 2)
        await eventually(lambda: len(world.kids("a.com") or ()) == 3)
        assert both < (world.kids("a.com") or set())
        fault = world.faults("a.com")["poisoned.pem"]
        assert fault.startswith(
            "reading it took more than 1 seconds" if word in {"spin", "sleep"} else "its reader died"
        )
        assert fault.endswith("; its last good keys stay")
        await eventually(lambda: len(workers.pids) == 2)

        (keystores / "a.com" / "zulu.pem").unlink()  # the folder is read again, and the poisoned file is not
        await eventually(lambda: world.kids("a.com") == both)
        assert seam.counts == {word: 1}
        assert workers.lost == 1

        world.reconciler.hint(TenantName("a.com"), afresh=True)  # the slow retry
        await eventually(lambda: seam.counts == {word: 2})
        await eventually(lambda: workers.lost == 2)
        assert world.kids("a.com") == both
        replace_file(keystores / "a.com" / "poisoned.pem", C)
        await eventually(lambda: not world.faults("a.com"))


async def test_a_deadly_file_that_is_corrected_meanwhile_is_read_at_once(keystores: Path, seam: Seam) -> None:
    """What ended a reader is that content, not that name."""
    tenant(keystores, "a.com", k=A)
    async with followed_by_workers(keystores, seam) as (world, _):
        before = world.kids("a.com")
        replace_file(keystores / "a.com" / "k.pem", marked("spin"))
        await eventually(lambda: seam.reads)
        replace_file(keystores / "a.com" / "k.pem", B)
        await eventually(lambda: world.kids("a.com") != before)
        assert not world.faults("a.com")
        assert seam.counts == {"spin": 1}


async def test_several_deadly_files_of_a_tenant_are_each_read_once(keystores: Path, seam: Seam) -> None:
    """Each costs one reader, then the rest of the folder is published, also of a tenant that is new."""
    async with followed_by_workers(keystores, seam) as (world, workers):
        tenant(keystores, "a.com", a=marked("exit"), b=marked("crash"), c=marked("exit", B), good=A)
        await eventually(lambda: len(world.kids("a.com") or ()) == 1)
        assert set(world.faults("a.com")) == {"a.pem", "b.pem", "c.pem"}
        assert seam.counts == {"exit": 2, "crash": 1}
        assert workers.lost == 3


async def test_a_failure_that_nobody_thought_of_is_the_fault_of_its_file_alone(keystores: Path, seam: Seam) -> None:
    """A library's error that no reader translates takes the tenant's other files nothing."""
    tenant(keystores, "a.com", k=A)
    async with followed_by_workers(keystores, seam) as (world, workers):
        replace_file(keystores / "a.com" / "k.pem", marked("fail"))
        (keystores / "a.com" / "l.pem").write_bytes(B)
        await eventually(lambda: len(world.kids("a.com") or ()) == 2)
        assert "ZeroDivisionError" in world.faults("a.com")["k.pem"]
        assert workers.lost == 0


async def test_a_reader_that_takes_long_over_many_files_is_left_alone(
    keystores: Path, seam: Seam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All together they may take longer than one may."""
    job = tenant(keystores, "a.com", **{f"k{number}": marked("nap") for number in range(5)})
    async with working(1, seam, file_seconds=1.5) as workers:
        with monkeypatch.context() as patch:
            patch.setattr("jwks_server.readers.pool._GRACE_SECONDS", 0.0)
            loaded = await workers.run(job, URGENT)
        assert len(loaded.publication.kids) == 1
        assert seam.counts == {"nap": 5}
        assert workers.lost == 0


async def test_a_reader_whose_answer_is_forged_is_replaced_and_not_obeyed(keystores: Path, seam: Seam) -> None:
    """What it names is not called; the file that it read is its fault, and the tenant keeps its set."""
    tenant(keystores, "a.com", k=A)
    async with followed_by_workers(keystores, seam) as (world, workers):
        before = world.kids("a.com")
        replace_file(keystores / "a.com" / "k.pem", marked("forge", B))
        await eventually(lambda: "k.pem" in world.faults("a.com"))
        assert "answer is garbage: posix.mkdir is no type of data" in world.faults("a.com")["k.pem"]
        assert world.kids("a.com") == before
        assert not (seam.folder / "forged").exists()
        await eventually(lambda: workers.lost == 1 and len(workers.pids) == 2)


async def test_a_reader_that_announces_an_endless_answer_is_ended() -> None:
    """It would fill the server's memory."""
    process = ReaderProcess()
    await process.start(FILE_SECONDS)
    await process.ready.wait()
    answer = process.ask(b"")
    process.pipe_data_received(1, (MOST_FRAME_BYTES + 1).to_bytes(HEADER_BYTES) + b"x")
    with pytest.raises(ConnectionResetError):
        await answer
    await process.exited.wait()


async def test_a_folder_that_hangs_keeps_no_change_of_another_from_being_found(
    keystores: Path, seam: Seam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by its event nor by comparing; it keeps its set, is said to be unread, and comes back."""
    monkeypatch.setattr(compare, "SHORTEST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(compare, "PAUSE", (1, 0.1, 0.1))
    tenant(keystores, "a.com", k=A)
    tenant(keystores, "b.com", k=A.ljust(len(B) + 8))
    async with followed_by_workers(keystores, seam) as (world, _):
        before = world.kids("a.com")
        (keystores / "a.com" / "hang").touch()
        await eventually(lambda: world.reconciler.unread == 1)
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
        assert world.reconciler.unread == 0


@pytest.mark.parametrize("name", ["hanging.pem", "link.pem"])
async def test_a_file_that_hangs_keeps_no_change_of_its_folder_from_being_published(
    keystores: Path, seam: Seam, name: str
) -> None:
    """It gives what it last gave, and is a fault until it answers; whether it hangs itself or what it leads to."""
    folder = keystores / "a.com"
    tenant(keystores, "a.com", k=A, hanging=B)
    (folder / "link.pem").symlink_to("k.pem")
    async with followed_by_workers(keystores, seam) as (world, _):
        before = world.kids("a.com")
        assert before is not None
        assert len(before) == 2
        (seam.folder / name).touch()
        (folder / "l.pem").write_bytes(C)
        await eventually(lambda: len(world.kids("a.com") or ()) == 3)
        assert before < (world.kids("a.com") or set())
        assert set(world.faults("a.com")) == {name}
        assert world.faults("a.com")[name] == "reading it took more than 1 seconds; its last good keys stay"
        assert world.reconciler.unread == 0
        (seam.folder / name).unlink()
        (folder / "l.pem").unlink()
        await eventually(lambda: not world.faults("a.com"))
        await world.wait_for("a.com", before)


def test_a_hanging_file_of_one_tenant_does_not_delay_another(keystores: Path, seam: Seam) -> None:
    """While the server's reader hangs in it, the other tenant's rotation is published and answered."""
    tenant(keystores, "a.com", k=A)
    tenant(keystores, "b.com", k=A)
    with Server(keystores, environment=seam.environment) as server:
        kids = server.kids("a.com")
        wait_until(lambda: "all tenants loaded" in server.log)
        replace_file(keystores / "a.com" / "k.pem", marked("gate", B))
        wait_until(lambda: seam.reads)
        replace_file(keystores / "b.com" / "k.pem", C)
        wait_until(lambda: server.kids("b.com") not in (None, kids))
        assert server.kids("a.com") == kids
        assert "reader lost" not in server.log
        seam.open_gate()
        wait_until(lambda: server.kids("a.com") != kids)


def test_a_pile_of_keystores_in_one_tenant_does_not_delay_another(keystores: Path) -> None:
    """Two megabytes of PKCS#12 are still being decrypted when the other tenant's second rotation is published."""
    pile = keystores.parent / "pile"
    pile.mkdir()
    for number in range(1200):
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
        assert server.tenant("pile.com").status == 404
        assert "reader lost" not in server.log


PARENT = """
import asyncio, sys
from jwks_server.core.tenant import TenantName
from jwks_server.reading.load import LoadJob
from jwks_server.reading.source import Source
from jwks_server.readers.pool import URGENT, Workers

async def main():
    workers = Workers(2, file_seconds=1)
    await workers.start()
    print(*workers.pids, flush=True)
    await workers.run(LoadJob(Source(sys.argv[1]), TenantName("a.com")), URGENT)

asyncio.run(main())
"""


@pytest.mark.parametrize("word", ["spin", "sleep"])
def test_no_worker_outlives_a_killed_parent(keystores: Path, seam: Seam, word: str) -> None:
    """The idle one sees its input end; the one that hangs in a file has its alarm."""
    tenant(keystores, "a.com", k=marked(word))
    command = [sys.executable, "-c", PARENT, str(keystores)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **seam.environment}) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        try:
            assert len(pids) == 2
            wait_until(lambda: seam.reads, "the worker to hang")
            assert all(map(lives, pids))
            parent.kill()
            wait_until(lambda: not any(map(lives, pids)), "both workers to end")
        finally:
            parent.kill()
            for pid in filter(lives, pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_no_worker_outlives_a_killed_server(keystores: Path) -> None:
    """Not one process of the real server is left behind."""
    tenant(keystores, "a.com", k=A)
    with Server(keystores) as server:
        wait_until(lambda: server.kids("a.com"))
        pid = server.process.pid
        workers = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        assert len(workers) == 2
        server.process.kill()
        wait_until(lambda: not any(map(lives, workers)), "the workers to end")


def test_a_worker_whose_parent_is_gone_ends_in_silence(keystores: Path, seam: Seam) -> None:
    """It finds nobody to answer to; a traceback in the journal would be taken for a bug."""
    tenant(keystores, "a.com", k=marked("gate"))
    with Server(keystores, environment=seam.environment) as server:
        wait_until(lambda: seam.reads, "the worker to read")
        server.process.kill()
        server.process.wait()
        seam.open_gate()
        wait_until(lambda: not lives(seam.reads[0][0]), "the worker to end")
        assert "Traceback" not in server.log


async def test_urgent_jobs_overtake_routine_ones(keystores: Path, seam: Seam) -> None:
    """Whoever waits for one worker: the urgent in their order, then the routine in theirs; hurrying makes urgent."""
    blocker = tenant(keystores, "blocker.com", k=marked("gate", A))
    jobs = {name: tenant(keystores, name) for name in ("r1", "r2", "r3", "u1", "u2")}
    done: list[str] = []
    async with working(1, seam, file_seconds=60) as workers:

        async def run(name: str, job: LoadJob) -> None:
            await workers.run(job, URGENT if name.startswith("u") else ROUTINE)
            done.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(run("blocker", blocker))
            await eventually(lambda: seam.reads)
            for name, job in jobs.items():
                group.create_task(run(name, job))
            await asyncio.sleep(0)  # each has taken its place
            assert workers.hurry(jobs["r3"])
            assert not workers.hurry(blocker)
            seam.open_gate()
        assert done == ["blocker", "u1", "u2", "r3", "r1", "r2"]
        assert not workers.hurry(jobs["r1"])


async def test_a_job_that_is_given_up_leaves_its_worker_to_the_others(keystores: Path, seam: Seam) -> None:
    """One that waited costs nothing; one at work costs its worker, which is replaced."""
    blocker = tenant(keystores, "blocker.com", k=marked("gate", A))
    waiting = tenant(keystores, "waiting.com")
    async with working(1, seam, file_seconds=60) as workers:
        at_work = asyncio.ensure_future(workers.run(blocker, URGENT))
        await eventually(lambda: seam.reads)
        given_up = asyncio.ensure_future(workers.run(waiting, URGENT))
        still = asyncio.ensure_future(workers.run(ListingJob(waiting.source), ROUTINE))
        await asyncio.sleep(0)
        for task in (given_up, at_work):
            task.cancel()
        assert isinstance(await still, Listing)
        assert workers.lost == 1
        assert len(workers.pids) == 1
