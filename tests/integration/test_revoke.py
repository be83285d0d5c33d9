import faulthandler
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.certificates import sample

from jwks_server.commands.revoke import revoke_key
from jwks_server.core.errors import ReaderError, SettingsError
from jwks_server.core.tenant import TenantName
from jwks_server.reading import apart
from jwks_server.reading.apart import read_apart
from jwks_server.reading.jobs import LoadJob
from jwks_server.reading.source import Source

TENANT = TenantName("foo.com")
CERTIFICATE, KID = sample(1)


@pytest.fixture
def folder(keystores: Path) -> Path:
    """Make a tenant with a key."""
    folder = keystores / TENANT
    folder.mkdir()
    (folder / "k.pem").write_bytes(CERTIFICATE)
    return folder


def revoke(folder: Path, kid: str = KID, *, force: bool = False) -> int:
    """Run the command's work."""
    return revoke_key(Source(str(folder.parent)), TENANT, kid, None, force=force)


def linked(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("new"))


def hard_linked(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def fifo(path: Path, victim: Path) -> None:
    del victim
    os.mkfifo(path)


@pytest.mark.parametrize("make", [linked, dangling, hard_linked, fifo])
def test_revoke_writes_to_nothing_that_a_tenant_put_in_its_way(
    folder: Path, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    """Neither content nor mode of what a link leads to is changed, and the text says what to do."""
    victim = tmp_path / "victim"
    victim.touch(mode=0o600)
    make(folder / "revoked", victim)
    with pytest.raises(SettingsError, match=r"foo\.com/revoked .*: put a file in its place"):
        revoke(folder, force=True)
    assert victim.read_bytes() == b""
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert not (tmp_path / "new").exists()


def test_revoke_makes_a_list_that_the_folders_owner_may_edit(folder: Path) -> None:
    """With a mode that the server can read; of a list that is there, the mode stays."""
    if os.geteuid() == 0:
        os.chown(folder, 1234, 1234)
    assert revoke(folder) == 0
    status = (folder / "revoked").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o644, folder.stat().st_uid)
    assert KID in (folder / "revoked").read_text().splitlines()
    (folder / "revoked").write_bytes(b"")
    (folder / "revoked").chmod(0o640)
    assert revoke(folder, "another", force=True) == 0
    assert stat.S_IMODE((folder / "revoked").stat().st_mode) == 0o640


def test_revoke_makes_no_list_that_the_server_would_refuse(folder: Path) -> None:
    """Its names would then not count."""
    (folder / "revoked").write_bytes(b"# x\n" * (64 << 10))
    with pytest.raises(SettingsError, match="256 KiB"):
        revoke(folder)


@pytest.mark.parametrize("deed", ["hang", "crash"])
def test_a_keystore_that_hangs_or_crashes_ends_no_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    """The command says so in time; with --force it revokes the name all the same."""

    def hostile(*_: object) -> None:
        faulthandler.disable()  # the crash is meant: no trace of it among the tests' results
        time.sleep(60) if deed == "hang" else os.abort()

    monkeypatch.setattr(apart, "read_tenant", hostile)
    with pytest.raises(ReaderError, match="took more than 0.3 seconds" if deed == "hang" else "crashed"):
        read_apart(Source(str(folder.parent)), LoadJob(TENANT), seconds=0.3)
    if deed == "crash":
        assert revoke(folder, force=True) == 0
        assert KID in (folder / "revoked").read_text().splitlines()
