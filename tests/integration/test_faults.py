import errno
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.certificates import certificate, pem, private_key, replace_file
from support.server import Server, wait_until

from jwks_server.core.snapshot import Level, Snapshot
from jwks_server.core.tenant import TenantName
from jwks_server.reading import tree as keystore
from jwks_server.reading.jobs import LoadJob
from jwks_server.reading.load import TenantReading, read_tenant
from jwks_server.reading.source import UNHURRIED, Limits, Source

A, B = (pem(certificate(private_key("P-256", number))) for number in (1, 2))
AS_OWNER_ONLY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
"""Takes from root what lets it ignore modes; everybody else has no such thing."""


@pytest.fixture
def folder(keystores: Path) -> Path:
    """Make a tenant with two good files."""
    folder = keystores / "foo.com"
    folder.mkdir()
    (folder / "a.pem").write_bytes(A)
    (folder / "b.pem").write_bytes(B)
    return folder


@dataclass(frozen=True)
class Visit:
    """A tenant that is to be read, and what is known of it from the last reading."""

    source: Source
    job: LoadJob
    previous: Snapshot | None = None


def first(folder: Path) -> Visit:
    """Return a tenant that was never read."""
    source = Source(str(folder.parent), limits=Limits(turn_seconds=UNHURRIED))
    return Visit(source, LoadJob(TenantName(folder.name)))


def read(visit: Visit) -> TenantReading:
    """Read the tenant."""
    return read_tenant(visit.source, visit.job, visit.previous)


def after(visit: Visit) -> Visit:
    """Read the tenant, and return what is known then."""
    reading = read(visit)
    return Visit(visit.source, replace(visit.job, device=reading.device), reading.snapshot)


def later(visit: Visit) -> Snapshot:
    """Return what is there after two more reads: whatever only settles has settled, a fault has not."""
    return known(after(after(visit)))


def known(visit: Visit) -> Snapshot:
    """Return what is known from the last reading."""
    assert visit.previous is not None
    return visit.previous


def faults(snapshot: Snapshot) -> dict[str | None, str]:
    """Return the faults, by file; None stands for the folder."""
    return {problem.file_name: problem.text for problem in snapshot.problems if problem.level is Level.FAULT}


def keys(snapshot: Snapshot) -> set[str]:
    """Return the published key ids."""
    assert snapshot.key_set is not None
    assert {key["kid"] for key in json.loads(snapshot.key_set.body)["keys"]} == {k.kid for k in snapshot.published}
    return {key.kid for key in snapshot.published}


def fails_on(monkeypatch: pytest.MonkeyPatch, call: str, number: int, name: str | None = None) -> list[object]:
    """Make a system call fail as the keystore sees it, for one name or for all; return what it failed on."""
    real: Callable[..., object] = getattr(os, call)
    failed: list[object] = []

    def failing(target: object, *arguments: object, **options: object) -> object:
        if name is None or target == name:
            failed.append(target)
            raise OSError(number, os.strerror(number))
        return real(target, *arguments, **options)

    monkeypatch.setattr(os, call, failing)
    return failed


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENFILE])
@pytest.mark.parametrize("call", ["read", "open", "stat"])
def test_a_file_that_cannot_be_read_keeps_its_keys(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """An error of the disk or the network is a fault, never a removal; the other file's change is published."""
    visit = after(first(folder))
    before = keys(known(visit))
    with monkeypatch.context() as patch:
        failed = fails_on(patch, call, number, None if call == "read" else "a.pem")
        snapshot = later(visit)
        assert failed
    assert keys(snapshot) == before
    assert any("denied" in text or "cannot be" in text for text in faults(snapshot).values())
    assert not faults(later(visit))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ELOOP, errno.EMFILE])
@pytest.mark.parametrize("call", ["scandir", "open"])
def test_a_folder_that_cannot_be_read_keeps_everything(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Its keys, its policy and its revoked keys; a folder's fault has no file's name."""
    visit = after(first(folder))
    (folder / "revoked").write_text(min(keys(known(visit))) + "\n")
    (folder / "tenant.toml").write_text("x5t = true\n")
    visit = after(visit)
    assert len(keys(known(visit))) == 1
    with monkeypatch.context() as patch:
        assert fails_on(patch, call, number, None if call == "scandir" else folder.name) is not None
        snapshot = later(visit)
    assert faults(snapshot).keys() == {None}
    assert os.strerror(number) in faults(snapshot)[None]
    assert snapshot.key_set == known(visit).key_set
    assert snapshot.policy == known(visit).policy
    assert snapshot.revoked == known(visit).revoked


def test_a_file_that_grows_while_it_is_read_keeps_its_keys(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of two states of a file are never taken for one; when it rests it is read."""
    visit = after(first(folder))
    before = keys(known(visit))
    real = os.read
    with monkeypatch.context() as patch:

        def growing(descriptor: int, count: int) -> bytes:
            if count > 1 << 20:  # the first read of an attempt
                with (folder / "a.pem").open("ab") as file:
                    file.write(b"\n")
            return real(descriptor, count)

        patch.setattr(os, "read", growing)
        snapshot = later(visit)
        assert keys(snapshot) == before
        assert "keeps changing" in faults(snapshot)["a.pem"]
    assert keys(later(visit)) == before
    assert not faults(later(visit))


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "proc", "dangling", "loop", "sparse", "through a file"])
def test_what_is_no_regular_file_in_a_files_place_keeps_its_keys(folder: Path, tmp_path: Path, kind: str) -> None:
    """It is a fault with a text, it is never waited for, and the other file's change is published."""
    visit = after(first(folder))
    before = keys(known(visit))
    path = folder / "a.pem"
    path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            listener.bind(os.path.relpath(path))  # the address is limited to 108 bytes
        case "device":
            path.symlink_to("/dev/zero")
        case "proc":
            path.symlink_to("/proc/self/mem")
        case "dangling":
            path.symlink_to("nowhere.pem")
        case "loop":
            path.symlink_to("a.pem")
        case "sparse":
            with path.open("wb") as file:
                file.truncate(1 << 40)
        case _:
            path.symlink_to("b.pem/a.pem")
    snapshot = later(visit)
    listener.close()
    assert keys(snapshot) == before
    assert set(faults(snapshot)) == {"a.pem"}
    assert faults(snapshot)["a.pem"].endswith("; its last good keys stay")
    del tmp_path


def test_a_link_to_a_folder_and_a_folder_are_no_key_files(folder: Path) -> None:
    """They are not entered and nobody is told: a folder among the files means nothing."""
    (folder / "c.pem").mkdir()
    (folder / "c.pem" / "x.pem").write_text("garbage")
    (folder / "d.pem").symlink_to("c.pem")
    snapshot = read(first(folder)).snapshot
    assert len(keys(snapshot)) == 2
    assert not snapshot.problems


def test_a_link_that_is_replaced_while_it_is_looked_at_is_no_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between learning that it is a link and where it leads; the file in its place is read."""
    (folder / "a.pem").rename(folder / ".a")
    (folder / "a.pem").symlink_to(".a")
    real = os.readlink

    def replaced(path: str, *, dir_fd: int) -> str:
        if (folder / ".a").exists():
            (folder / ".a").rename(folder / "a.pem")
        return real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "readlink", replaced)
    reading = read(first(folder))
    assert not reading.snapshot.problems
    assert len(keys(reading.snapshot)) == 2
    assert not reading.links


@pytest.mark.parametrize("link", ["nowhere", "foo.com"])
def test_a_tenants_link_that_leads_nowhere_keeps_its_set(folder: Path, link: str) -> None:
    """A missing mount or a loop is a fault; a tenant without a name in the tree is gone."""
    visit = after(first(folder))
    folder.rename(folder.with_name(".away"))
    folder.symlink_to(link)
    snapshot = later(visit)
    assert keys(snapshot) == keys(known(visit))
    assert "folder cannot be read" in faults(snapshot)[None]
    assert keystore.list_root(str(folder.parent)).tenants == ("foo.com",)
    never_good = read(first(folder)).snapshot
    assert never_good.key_set is None
    assert never_good.present


def test_an_empty_folder_on_another_device_keeps_its_keys(folder: Path) -> None:
    """It looks like that when a tenant's own mount is gone; with a file in it, it is believed."""
    visit = after(first(folder))
    assert visit.job.device is not None
    elsewhere = replace(visit, job=replace(visit.job, device=visit.job.device + 1))
    for path in folder.iterdir():
        path.unlink()
    snapshot = later(elsewhere)
    assert keys(snapshot) == keys(known(visit))
    assert "is it mounted?" in faults(snapshot)[None]
    assert read(elsewhere).device == elsewhere.job.device
    (folder / "b.pem").write_bytes(B)
    assert read(elsewhere).device == visit.job.device
    assert not faults(read(elsewhere).snapshot)


def test_a_file_name_that_is_no_text_is_a_fault_on_one_line(folder: Path) -> None:
    """The log and the server survive it, the other files are published, and no terminal obeys it."""
    names = (b"new\nline.pem", b"latin-\xe9.pem", b"escape-\x1b[2J.pem", b"control-\xc2\x9b2J.pem")
    with Server(folder.parent) as server:
        wait_until(lambda: len(server.kids("foo.com") or ()) == 2)
        for name in names:
            Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(A)
        wait_until(lambda: server.log.count("readable text") == len(names))
        assert server.log.replace("\n", "").isprintable()
        lines = [line for line in server.log.split("\n") if "readable text" in line]
        assert all("tenant=foo.com" in line and "file=" in line for line in lines)
        (folder / "b.pem").unlink()
        wait_until(lambda: len(server.kids("foo.com") or ()) == 1)
        assert "Traceback" not in server.log


def test_a_tenant_that_has_never_been_good_answers_503(keystores: Path) -> None:
    """Never an empty set, whatever is wrong; and the right set as soon as it is there."""
    for tenant in ("bad.com", "fifo.com", "garbage.com"):
        (keystores / tenant).mkdir()
    (keystores / "bad.com" / "tenant.toml").write_text("no such key = 1")
    os.mkfifo(keystores / "fifo.com" / "a.pem")
    (keystores / "garbage.com" / "a.pem").write_text("garbage")
    (keystores / "nowhere.com").symlink_to("nowhere")
    with Server(keystores) as server:
        for tenant in ("bad.com", "fifo.com", "garbage.com", "nowhere.com"):
            assert server.tenant(tenant).status == 503, tenant
        replace_file(keystores / "garbage.com" / "a.pem", A)
        wait_until(lambda: len(server.kids("garbage.com") or ()) == 1)


def test_a_file_and_a_folder_without_permission_keep_their_keys(folder: Path) -> None:
    """As the operating system refuses them, for a real server; and they are read again when they may be."""
    other = folder.with_name("bar.com")
    other.mkdir()
    (other / "a.pem").write_bytes(A)
    prefix = AS_OWNER_ONLY if os.geteuid() == 0 else ()
    denied = folder.parent.parent / "denied"
    denied.touch(0o000)
    assert subprocess.run([*prefix, "cat", denied], check=False, capture_output=True).returncode, "modes mean nothing"
    try:
        with Server(folder.parent, launcher=prefix) as server:
            wait_until(lambda: len(server.kids("foo.com") or ()) == 2)
            wait_until(lambda: len(server.kids("bar.com") or ()) == 1)
            (folder / "a.pem").chmod(0)
            other.chmod(0)
            wait_until(lambda: "permission denied" in server.log)
            wait_until(lambda: "folder cannot be read: Permission denied" in server.log)
            replace_file(folder / "b.pem", A)  # read after the faults: what they gave before must still be there
            wait_until(lambda: "removed=" in server.log)
            assert len(server.kids("foo.com") or ()) == 1
            assert len(server.kids("bar.com") or ()) == 1
            other.chmod(0o400)  # may be listed, and nothing in it may be looked at
            wait_until(lambda: "folder cannot be listed: Permission denied" in server.log)
            assert len(server.kids("bar.com") or ()) == 1
            (folder / "a.pem").chmod(0o600)
            other.chmod(0o700)
            wait_until(lambda: server.log.count("fault gone") >= 2)
            assert len(server.kids("foo.com") or ()) == 1
            assert len(server.kids("bar.com") or ()) == 1
            (other / "b.pem").write_bytes(B)
            wait_until(lambda: len(server.kids("bar.com") or ()) == 2)
    finally:
        other.chmod(0o700)


ODD = {
    "binary": bytes(range(256)) * 16,
    "two megabytes": b"# " + b"x" * (2 << 20),
    "invalid UTF-8": b"x5t = false # \xe9\n",
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
@pytest.mark.parametrize("name", ["tenant.toml", "revoked"])
def test_an_odd_policy_or_list_keeps_what_the_last_good_one_said(folder: Path, name: str, content: bytes) -> None:
    """What was revoked stays revoked, and the policy stays as it was."""
    visit = after(first(folder))
    (folder / "revoked").write_text(min(keys(known(visit))) + "\n")
    (folder / "tenant.toml").write_text("x5t = true\n")
    visit = after(visit)
    replace_file(folder / name, content)
    snapshot = later(visit)
    assert set(faults(snapshot)) == {name}
    assert_as_before(snapshot, visit)


@pytest.mark.parametrize("content", [b"a = " + b"[\n" * 30_000, b"a = " + b"{a=" * 300 + b"[\n" * 30_000])
def test_a_policy_nested_without_end_keeps_the_last_good_one(folder: Path, content: bytes) -> None:
    """The parser's recursion ends in a fault of that file, not in the loss of the tenant."""
    (folder / "tenant.toml").write_text("x5t = true\n")
    visit = after(first(folder))
    replace_file(folder / "tenant.toml", content)
    snapshot = later(visit)
    assert set(faults(snapshot)) == {"tenant.toml"}
    assert_as_before(snapshot, visit)


@pytest.mark.parametrize(
    ("name", "content", "limit"),
    [
        ("tenant.toml", b"# x\n" * 20_000, "64 KiB"),
        ("tenant.toml", b"a" + b".a" * 30_000 + b" = 1\n", "1000 characters"),
        ("revoked", b"# x\n" * 70_000, "256 KiB"),
        ("revoked", b"".join(b"%d\n" % number for number in range(5000)), "more than 4096"),
    ],
)
def test_a_policy_or_list_beyond_its_limit_keeps_the_last_good_one(
    folder: Path, name: str, content: bytes, limit: str
) -> None:
    """Its fault says the limit, and no parser works on it: 60 kB of one dotted name took it minutes."""
    (folder / "revoked").write_text("nobody\n")
    (folder / "tenant.toml").write_text("x5t = true\n")
    visit = after(first(folder))
    replace_file(folder / name, content)
    started = time.monotonic()
    snapshot = later(visit)
    assert time.monotonic() - started < 2
    assert set(faults(snapshot)) == {name}
    assert limit in faults(snapshot)[name]
    assert_as_before(snapshot, visit)


@pytest.mark.parametrize("kind", ["folder", "fifo", "dangling", "loop"])
@pytest.mark.parametrize("name", ["tenant.toml", "revoked"])
def test_what_is_no_file_in_the_place_of_a_policy_or_list_keeps_it(folder: Path, name: str, kind: str) -> None:
    """A folder too: container runtimes make one where the file to be mounted is missing."""
    visit = after(first(folder))
    (folder / "revoked").write_text(min(keys(known(visit))) + "\n")
    (folder / "tenant.toml").write_text("x5t = true\n")
    visit = after(visit)
    path = folder / name
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to("nowhere")
        case _:
            path.symlink_to(name)
    snapshot = read(visit).snapshot
    for _ in range(2):
        snapshot = read(replace(visit, previous=replace_settled(snapshot))).snapshot
    assert set(faults(snapshot)) == {name}
    assert_as_before(snapshot, visit)


def replace_settled(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot as if whatever is missing had been so for long."""
    policy, revoked = (
        replace(value, missing_since=None if value.missing_since is None else value.missing_since - 60)
        for value in (snapshot.policy, snapshot.revoked)
    )
    return replace(snapshot, policy=policy, revoked=revoked)  # type: ignore[arg-type]


def assert_as_before(snapshot: Snapshot, visit: Visit) -> None:
    """Check that set, policy and revoked keys are those of the visit's previous snapshot."""
    assert snapshot.key_set == known(visit).key_set
    assert snapshot.policy.value == known(visit).policy.value
    assert snapshot.revoked.value == known(visit).revoked.value


def test_a_folder_with_very_many_entries_is_read(keystores: Path) -> None:
    """Hundreds of faulty files do not stand in the way of the good one, nor of the next tenant."""
    crowd = keystores / "crowd.com"
    crowd.mkdir()
    for number in range(600):
        (crowd / f"{number}.pem").touch()
    (crowd / "good.pem").write_bytes(A)
    visit = after(first(crowd))
    assert len(keys(known(visit))) == 1
    assert len(faults(known(visit))) == 600
    assert keys(later(visit)) == keys(known(visit))
