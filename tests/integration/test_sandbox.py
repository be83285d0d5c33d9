import asyncio
import json
import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.captive_reader import MODULE, POSSIBLE, TARGETS
from support.certificates import certificate, pem, private_key
from support.inprocess import eventually
from support.server import Server, wait_until, with_tests

from jwks_server.core.errors import ReaderError
from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.daemon.config import Settings
from jwks_server.readers.pool import ReaderPool
from jwks_server.readers.process import CHILD_MODULE
from jwks_server.reading.jobs import LoadJob, Urgency
from jwks_server.reading.load import load
from jwks_server.reading.passwords import PasswordSources
from jwks_server.reading.sandbox import readable_entries
from jwks_server.reading.source import Source

FIXTURES = Path(__file__).parent.parent / "fixtures"
JOB = LoadJob(TenantName("a.com"))
A = pem(certificate(private_key("P-256", 1)))
LESS_CONFINED = "reader processes are less confined than they could be"


class Machine:
    """A tree, and beside it what a reader process must not touch."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "keystores"
        self.secrets = folder / "credentials"
        self.state = folder / "state"
        for place in (self.tree / "a.com", self.secrets, self.state, folder / "tmp"):
            place.mkdir(parents=True, exist_ok=True)
        (self.tree / "a.com" / "k.pem").write_bytes(A)
        (self.secrets / "b.com.password").write_text("changeit")
        (self.state / "record").write_text("{}")
        (folder / "tls.key").write_text("secret")
        self.closed = tuple(map(str, (self.secrets, self.state, folder / "tls.key")))
        self.read = [*self.closed, str(self.secrets / "b.com.password"), str(self.state / "record")]
        write = (self.tree, self.tree / "a.com" / "k.pem", self.state, self.state / "record", folder / "tmp", "/tmp")  # noqa: S108
        self.write = [str(path) for path in write]

    @property
    def source(self) -> Source:
        """The source that the reader processes are told."""
        return Source(str(self.tree), closed=self.closed)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Make a machine of one tenant."""
    return Machine(tmp_path)


@asynccontextmanager
async def reading(source: Source, module: str = CHILD_MODULE, **environment: str) -> AsyncIterator[ReaderPool]:
    """Run one reader process."""
    pool = ReaderPool(source, 1, Timing(file=20), module=module)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**with_tests(), **environment}.items():
            patch.setenv(name, value)
        try:
            await pool.start()
            await eventually(lambda: pool.idle == 1)
            yield pool
        finally:
            await pool.close()


async def possible(machine: Machine, walls: str) -> set[str]:
    """Return what a reader process can do behind these walls."""
    targets = json.dumps({"read": machine.read, "write": machine.write, "walls": walls})
    async with reading(machine.source, MODULE, **{TARGETS: targets}) as pool:
        with pytest.raises(ReaderError) as caught:
            await pool.run(JOB, Urgency.URGENT)
    text = str(caught.value)
    assert text.startswith(POSSIBLE), text
    return set(text.removeprefix(POSSIBLE).strip().split("; ")) - {"nothing"}


async def test_a_reader_process_that_was_taken_over_can_do_nothing_but_read_and_answer(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """No program, process, thread, socket, signal, write, memory to execute, nor a look at secrets, state or parent."""
    caplog.set_level(logging.WARNING)
    done = await possible(machine, "all")
    if LESS_CONFINED in caplog.text:
        lacks = [vars(record).get("fields") for record in caplog.records if record.message == LESS_CONFINED]
        pytest.skip(f"NOT PROVEN HERE: this machine lacks {lacks}; a reader process could: {sorted(done)}")
    assert done == set()


@pytest.mark.parametrize(
    ("walls", "stays", "closed"),
    [
        (
            "landlock",
            "socket AF_INET",
            "read credentials, look into the parent: mem, signal the parent, create in state",
        ),
        (
            "seccomp",
            "read credentials",
            "socket AF_INET, signal the parent, create in state, memory to execute, a thread",
        ),
    ],
)
async def test_each_wall_stands_without_the_other(machine: Machine, walls: str, stays: str, closed: str) -> None:
    """A machine that lacks one has what the other gives."""
    done = await possible(machine, walls)
    short = {re.sub(r"\S*/", "", act) for act in done}
    assert stays in short
    assert not short & set(closed.split(", "))


async def test_every_fixture_gives_the_same_within_the_walls(tmp_path: Path) -> None:
    """All formats, with every library that they need."""
    files = sorted(path for path in FIXTURES.iterdir() if path.suffix not in {"", ".md"})
    for number, path in enumerate(files):
        folder = tmp_path / "keystores" / f"t{number}.com"
        folder.mkdir(parents=True)
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / f"{path.name}.password").write_text("changeit")
    source = Source(str(tmp_path / "keystores"), closed=(str(tmp_path / "secrets"),))
    async with reading(source) as pool:
        for number, path in enumerate(files):
            job = LoadJob(TenantName(f"t{number}.com"))
            inside = (await pool.run(job, Urgency.URGENT)).publication
            outside = load(source, job).publication
            assert (inside.key_set, inside.problems) == (outside.key_set, outside.problems), path
        assert pool.lost == 0


async def test_a_link_out_of_the_tree_is_followed_and_one_to_what_is_closed_is_not(machine: Machine) -> None:
    """Kubernetes' and certbot's links lead beside the tree; the secrets stay shut whoever links to them."""
    beside = machine.tree.parent / "live"
    beside.mkdir()
    (beside / "k.pem").write_bytes(A)
    (machine.secrets / "k.pem").write_bytes(A)
    (machine.tree / "a.com" / "k.pem").unlink()
    (machine.tree / "a.com" / "good.pem").symlink_to(beside / "k.pem")
    (machine.tree / "a.com" / "bad.pem").symlink_to(machine.secrets / "k.pem")
    async with reading(machine.source) as pool:
        publication = (await pool.run(JOB, Urgency.URGENT)).publication
    assert publication.keys == 1
    assert [problem.file_name for problem in publication.problems if "permission denied" in problem.text] == ["bad.pem"]


async def test_a_tree_in_the_place_of_another_is_read_by_new_reader_processes(machine: Machine) -> None:
    """Landlock let the old ones into the old tree only, because secrets lie beside it."""
    async with reading(machine.source) as pool:
        assert (await pool.run(JOB, Urgency.URGENT)).publication.keys == 1
        machine.tree.rename(machine.tree.parent / "old")
        Machine(machine.tree.parent)
        for _ in range(2000):
            try:
                publication = (await pool.run(JOB, Urgency.URGENT)).publication
            except ReaderError:
                raise
            except Exception:  # noqa: BLE001 - RootUnavailableError until the successor is there
                await asyncio.sleep(0.01)
            else:
                assert publication.keys == 1
                break
        assert pool.lost == 0


def test_what_may_be_read_is_all_but_what_is_closed_and_what_lies_beside_it_one_by_one(tmp_path: Path) -> None:
    """Links are not followed to what is closed; the tree is open even below a folder that is closed."""
    for name in ("etc/a", "etc/shut/tree/a.com", "etc/shut/more", "run/shut", "run/open", "usr/lib"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run" / "link").symlink_to("shut")
    (tmp_path / "all").symlink_to("/")
    top = str(tmp_path)
    found = readable_entries(top, f"{top}/etc/shut/tree", {f"{top}/etc/shut", f"{top}/run/shut", f"{top}/none"})
    assert {path.removeprefix(f"{top}/") for path in found} == {"etc/a", "etc/shut/tree", "run/open", "usr"}


def test_the_server_says_once_what_walls_its_machine_lacks(machine: Machine) -> None:
    """It serves all the same; a libc without libseccomp and a kernel without Landlock are such machines."""
    with Server(machine.tree, "--admin-port", "0", altered={"reader_module": "support.bare_reader"}) as server:
        wait_until(lambda: server.kids("a.com"))
        wait_until(lambda: server.log.count(LESS_CONFINED) == 2)
        assert 'missing="Landlock: ' in server.log
        assert 'missing="seccomp: ' in server.log
        assert not server.degraded


def test_the_server_closes_its_secrets_and_its_state_to_its_readers(tmp_path: Path) -> None:
    """Wherever each of them lies."""
    settings = Settings(
        tmp_path, tls_cert="c", tls_key="/tls/k", state_dir=Path("/state"), passwords=PasswordSources("/dir", "/file")
    )
    assert set(settings.source.closed) == {"/tls/k", "/state", "/dir", "/file"}


def test_nobody_of_the_servers_user_looks_into_the_server(machine: Machine) -> None:
    """What a user without privileges may open of its own process is root's where that is not dumpable."""
    with Server(machine.tree) as server:
        wait_until(lambda: server.kids("a.com"))
        pid = server.process.pid
        readers = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for process in (pid, *readers):
            assert os.stat(f"/proc/{process}/mem").st_uid == 0
        for reader in readers:
            names = {line.partition("=")[0] for line in Path(f"/proc/{reader}/environ").read_text().split("\0")}
            assert not [name for name in names if name.startswith(("JWKS_SERVER_", "CREDENTIALS_"))]
            wait_until(lambda reader=reader: "Seccomp:\t2" in Path(f"/proc/{reader}/status").read_text())  # type: ignore[misc]
            assert "NoNewPrivs:\t1" in Path(f"/proc/{reader}/status").read_text()
