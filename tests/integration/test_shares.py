"""Fair shares: how much of one tenant is read in a turn, and what of it is published meanwhile."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.certificates import certificate, pem, private_key, sample

from jwks_server.core import formats
from jwks_server.core.policy import Policy
from jwks_server.core.snapshot import Level, Snapshot
from jwks_server.core.tenant import TenantName
from jwks_server.reading.jobs import LoadJob
from jwks_server.reading.load import load, read_tenant
from jwks_server.reading.source import Limits, Source

FIXTURES = Path(__file__).parent.parent / "fixtures"
PEMS = [pem(certificate(private_key("P-256", number), str(number))) for number in range(5)]


@pytest.fixture
def folder(keystores: Path) -> Path:
    """Make a tenant with five keys in five files."""
    made = keystores / "a.com"
    made.mkdir()
    for number, content in enumerate(PEMS):
        (made / f"{number}.pem").write_bytes(content)
    return made


def turns(folder: Path, previous: Snapshot | None, limits: Limits, most: int = 20) -> list[Snapshot]:
    """Return what is known after each turn, until one leaves nothing to be read."""
    source, seen = Source(str(folder.parent), defaults=Policy(), exact_times=True, limits=limits), []
    source = replace(source, stamp_key=b"the same for all turns")
    for _ in range(most):
        previous = read_tenant(source, LoadJob(TenantName(folder.name)), previous).snapshot
        seen.append(previous)
        if previous.unfinished is None:
            return seen
    raise AssertionError("never read to the end")


def kids(snapshot: Snapshot) -> set[str]:
    return {key.kid for key in snapshot.published}


ONE_FILE_A_TURN = Limits(turn_seconds=0.0)


def test_nothing_is_published_before_each_file_was_read_once(folder: Path) -> None:
    """A part of the set would lack keys that clients had from it before the start."""
    seen = turns(folder, None, ONE_FILE_A_TURN)
    assert len(seen) == 5
    assert [snapshot.key_set is None for snapshot in seen] == [True] * 4 + [False]
    assert all("are being read" in snapshot.problems[0].text for snapshot in seen[:4])
    assert len(kids(seen[-1])) == 5


def test_a_turn_that_ends_early_takes_nothing_away_and_comes_to_every_file(folder: Path) -> None:
    """What a file gave stays until its turn comes; what it newly gives counts at once."""
    first = turns(folder, None, Limits())[-1]
    changed = [sample(number) for number in range(10, 15)]
    for number, (content, _) in enumerate(changed):
        (folder / f"{number}.pem").write_bytes(content)
    seen = turns(folder, first, ONE_FILE_A_TURN)
    assert len(seen) == 5
    for count, snapshot in enumerate(seen, 1):
        assert {kid for _, kid in changed[:count]} <= kids(snapshot)
        assert len(kids(snapshot)) >= 5
    assert kids(first).isdisjoint(kid for _, kid in changed)


def test_a_folder_that_changes_all_the_time_is_read_to_the_end_all_the_same(folder: Path) -> None:
    """What the last turn did not come to is read first, so that no file waits for ever."""
    source = replace(Source(str(folder.parent), limits=ONE_FILE_A_TURN), stamp_key=b"k")
    previous = None
    for number in range(5):
        (folder / "0.pem").write_bytes(PEMS[0] + b"#" * number)
        previous = read_tenant(source, LoadJob(TenantName("a.com")), previous).snapshot
    assert previous is not None
    assert {file.name for file in previous.files} == {f"{number}.pem" for number in range(5)}
    assert len(kids(previous)) == 5


def test_key_files_beyond_the_limit_are_not_read_and_said_to_be(folder: Path) -> None:
    """Those that were read before keep their place, whatever names the new ones have."""
    first = turns(folder, None, Limits())[-1]
    (folder / "! sorts first.pem").write_bytes(sample(20)[0])
    snapshot = turns(folder, first, Limits(files=5))[-1]
    assert kids(snapshot) == kids(first)
    assert [problem.text for problem in snapshot.problems if problem.level is Level.FAULT] == [
        "1 key files more than are read; remove some, or raise --max-files"
    ]


def test_keys_beyond_the_limit_are_left_out_and_said_to_be(folder: Path) -> None:
    """Owed ones count too; those that were published stay."""
    policy = Policy(removal_grace=3600)
    source = replace(Source(str(folder.parent), defaults=policy, limits=Limits(keys=5)), stamp_key=b"k")
    job = LoadJob(TenantName("a.com"))
    first = read_tenant(source, job).snapshot
    (folder / "0.pem").write_bytes(sample(20)[0])
    snapshot = read_tenant(source, job, first).snapshot
    assert kids(snapshot) == kids(first)
    assert "1 keys more than the 5 that are published" in str(snapshot.problems)
    for number in range(30, 35):
        (folder / "0.pem").write_bytes(sample(number)[0])
        snapshot = read_tenant(source, job, snapshot).snapshot
    assert len(snapshot.owed) <= 5


def test_a_file_that_brings_too_many_keys_is_a_fault_and_the_others_stay(folder: Path) -> None:
    """A tenant's snapshot, which the server carries, does not grow beyond what is published of it."""
    first = turns(folder, None, Limits(keys=5))[-1]
    assert len(kids(first)) == 5
    (folder / "more.pem").write_bytes(sample(20)[0])
    snapshot = turns(folder, first, Limits(keys=5))[-1]
    assert kids(snapshot) == kids(first)
    assert "its 1 keys would be more than 5; remove some, or raise --max-keys" in str(snapshot.problems)


def test_a_folder_with_too_many_entries_is_a_fault_and_keeps_its_keys(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking at each would take longer than others can wait."""
    first = turns(folder, None, Limits())[-1]
    monkeypatch.setattr("jwks_server.reading.tree.MOST_ENTRIES", 5)
    (folder / "one.more").mkdir()
    snapshot = turns(folder, first, Limits())[-1]
    assert kids(snapshot) == kids(first)
    assert "more than 5 entries" in str(snapshot.problems)


def test_a_keystore_is_not_decrypted_again_for_the_same_content_and_password(
    keystores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Touching it or its password's file costs no derivation, nor does trying again what was wrong."""
    folder = keystores / "a.com"
    folder.mkdir()
    (folder / "k.p12").write_bytes((FIXTURES / "java-legacy.p12").read_bytes())
    (folder / "k.p12.password").write_text("wrong")
    read: list[formats.Password | None] = []
    real = formats.read

    def counted(data: bytes, password: formats.Password | None = None) -> formats.Contents:
        read.append(password)
        return real(data, password)

    monkeypatch.setattr(formats, "read", counted)
    source, job = Source(str(keystores)), LoadJob(TenantName("a.com"))
    snapshot = read_tenant(source, job).snapshot
    assert "wrong password" in str(snapshot.problems)
    for path in (folder / "k.p12", folder / "k.p12.password"):
        path.touch()
        snapshot = read_tenant(source, replace(job, afresh=True), snapshot).snapshot
    assert len(read) == 1
    (folder / "k.p12.password").write_text("changeit")
    snapshot = read_tenant(source, job, snapshot).snapshot
    assert len(read) == 2
    assert snapshot.key_set is not None
    assert json.loads(snapshot.key_set.body)["keys"]


def test_the_password_cannot_be_guessed_from_what_is_sealed(keystores: Path) -> None:
    """The digest that stands for it is keyed, with another key in every server."""
    folder = keystores / "a.com"
    folder.mkdir()
    (folder / "k.p12").write_bytes((FIXTURES / "java-legacy.p12").read_bytes())
    (folder / "k.p12.password").write_text("changeit")
    one, other = (load(Source(str(keystores)), LoadJob(TenantName("a.com"))).publication.sealed for _ in range(2))
    stamps = [json.loads(sealed)["snapshot"]["files"][0]["stamp"] for sealed in (one, other)]
    assert stamps[0] != stamps[1]
    assert b"changeit" not in one
    assert "stamp_key" not in repr(Source(str(keystores)))
