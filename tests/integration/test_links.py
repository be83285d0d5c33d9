"""Whose links are followed, on real files of several users: root alone can make those."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.certificates import certificate, pem, private_key
from support.server import wait_until

from jwks_server.core.snapshot import Level, Snapshot
from jwks_server.core.tenant import TenantName
from jwks_server.reading.jobs import LoadJob, SurveyJob
from jwks_server.reading.load import read_tenant
from jwks_server.reading.source import Source
from jwks_server.reading.survey import survey

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")

MALLORY, VICTIM, OPERATOR, ROOT = 1234, 5678, 4321, 0
TENANT = TenantName("mallory.com")
FIXTURES = Path(__file__).parents[1] / "fixtures"
A, B = (pem(certificate(private_key("P-256", number))) for number in (1, 2))


@dataclass(frozen=True)
class Tree:
    """Two tenants' folders, each its administrator's, below the operator's root."""

    root: Path
    own: Path
    other: Path
    outside: Path

    def put(self, path: Path, content: bytes, owner: int) -> Path:
        """Write a file of somebody's."""
        path.write_bytes(content)
        os.chown(path, owner, owner)
        return path

    def link(self, path: Path, target: Path | str, owner: int) -> Path:
        """Make a link of somebody's."""
        path.symlink_to(target)
        os.chown(path, owner, owner, follow_symlinks=False)
        return path

    def read(self, previous: Snapshot | None = None) -> Snapshot:
        """Read the tenant that the links are in."""
        return read_tenant(Source(str(self.root)), LoadJob(TENANT), previous).snapshot

    def look(self) -> bytes | None:
        """Return the signature of the tenant's folder, as a comparison sees it; None while it cannot be told."""
        return survey(Source(str(self.root)), SurveyJob((TENANT,), 1.0)).signatures[TENANT]

    def signature(self) -> bytes:
        """Return the signature when nothing has changed for a moment."""
        wait_until(self.look)
        signature = self.look()
        assert signature is not None
        return signature


@pytest.fixture
def tree(keystores: Path, tmp_path: Path) -> Tree:
    """Make mallory's folder, a victim's, and a folder outside that is mallory's."""
    folders = keystores / TENANT, keystores / "victim.com", tmp_path / "outside"
    for folder, owner in zip((keystores, *folders), (OPERATOR, MALLORY, VICTIM, MALLORY), strict=True):
        folder.mkdir(exist_ok=True)
        os.chown(folder, owner, owner)
    return Tree(keystores, *folders)


def faults(snapshot: Snapshot) -> dict[str | None, str]:
    """Return the faults, by file."""
    return {problem.file_name: problem.text for problem in snapshot.problems if problem.level is Level.FAULT}


def files(snapshot: Snapshot) -> int:
    """Return how many keys are published."""
    return len(snapshot.published)


@pytest.mark.parametrize("target_owner", [ROOT, OPERATOR, VICTIM, MALLORY])
@pytest.mark.parametrize("link_owner", [ROOT, OPERATOR, VICTIM, MALLORY])
def test_a_link_is_followed_where_its_owner_may_read_what_it_leads_to(
    tree: Tree, link_owner: int, target_owner: int
) -> None:
    """It is root's, the operator's, or the target's owner's; any other is a fault that says what to do."""
    target = tree.put(tree.outside / "a.pem", A, target_owner)
    tree.link(tree.own / "k.pem", target, link_owner)
    snapshot = tree.read()
    if link_owner in {ROOT, OPERATOR, target_owner}:
        assert files(snapshot) == 1
        assert not faults(snapshot)
    else:
        assert files(snapshot) == 0
        text = faults(snapshot)["k.pem"]
        assert f"belongs to uid {link_owner}, and its target to uid {target_owner}" in text
        assert "let root or the owner of the target own the link" in text


def certificate_by_password(tree: Tree) -> bool:
    """Tell whether another tenant's password opens mallory's keystore."""
    tree.put(tree.own / "k.p12", (FIXTURES / "openssl.p12").read_bytes(), MALLORY)
    secret = tree.put(tree.other / "k.p12.password", b"changeit\n", VICTIM)
    tree.link(tree.own / "k.p12.password", secret, MALLORY)
    snapshot = tree.read()
    assert "symbolic link" in faults(snapshot)["k.p12"]
    return files(snapshot) > 0


def key_by_revoked(tree: Tree) -> bool:
    """Tell whether a line of another tenant's file takes a key of mallory's away."""
    tree.put(tree.own / "k.pem", A, MALLORY)
    kid = tree.read().published[0].kid
    secret = tree.put(tree.other / "secret", kid.encode() + b"\n", VICTIM)
    before = tree.read()
    tree.link(tree.own / "revoked", secret, MALLORY)
    snapshot = tree.read(before)
    assert "symbolic link" in faults(snapshot)["revoked"]
    return files(snapshot) == 0


def policy_by_link(tree: Tree) -> bool:
    """Tell whether another tenant's policy is mallory's."""
    tree.put(tree.own / "k.pem", A, MALLORY)
    before = tree.read()
    tree.link(tree.own / "tenant.toml", tree.put(tree.other / "tenant.toml", b"max_age = 7\n", VICTIM), MALLORY)
    snapshot = tree.read(before)
    assert "symbolic link" in faults(snapshot)["tenant.toml"]
    return snapshot.policy.value.max_age == 7


def key_through_a_folder(tree: Tree) -> bool:
    """Tell whether a link to another tenant's folder, in the middle of a path, is followed."""
    tree.put(tree.other / "k.pem", B, VICTIM)
    tree.link(tree.own / ".d", tree.other, MALLORY)
    tree.link(tree.own / "k.pem", ".d/k.pem", MALLORY)
    snapshot = tree.read()
    assert "symbolic link" in faults(snapshot)["k.pem"]
    return files(snapshot) > 0


def key_through_somebody_elses_link(tree: Tree) -> bool:
    """Tell whether a link to root's link to root's file is followed: each link counts, not the last alone."""
    secret = tree.put(tree.outside / "root.pem", B, ROOT)
    tree.link(tree.outside / "roots-link", secret, ROOT)
    tree.link(tree.own / "k.pem", tree.outside / "roots-link", MALLORY)
    snapshot = tree.read()
    assert "symbolic link" in faults(snapshot)["k.pem"]
    return files(snapshot) > 0


@pytest.mark.parametrize(
    "leak",
    [certificate_by_password, key_by_revoked, policy_by_link, key_through_a_folder, key_through_somebody_elses_link],
)
def test_a_tenants_link_tells_nothing_of_what_is_anothers(tree: Tree, leak: Callable[[Tree], bool]) -> None:
    """Whichever file of the folder is the link."""
    assert not leak(tree)


def test_a_tenants_folder_that_is_a_strangers_link_is_a_fault(tree: Tree) -> None:
    """Where others may write the root: its last good set stays."""
    tree.put(tree.own / "k.pem", A, MALLORY)
    before = tree.read()
    shutil.rmtree(tree.own)
    tree.put(tree.other / "k.pem", B, VICTIM)
    link = tree.link(tree.root / TENANT, tree.other, MALLORY)
    snapshot = tree.read(before)
    assert snapshot.key_set == before.key_set
    assert "symbolic link" in faults(snapshot)[None]
    assert tree.look() is None
    os.chown(link, OPERATOR, OPERATOR, follow_symlinks=False)
    assert not faults(tree.read(before))


def test_a_link_that_is_refused_keeps_the_keys_that_its_file_last_gave(tree: Tree) -> None:
    """As any fault does; it is gone with `chown -h`, which the next look at the folder sees."""
    tree.put(tree.own / "k.pem", A, MALLORY)
    before = tree.read()
    (tree.own / "k.pem").unlink()
    link = tree.link(tree.own / "k.pem", tree.put(tree.other / "b.pem", B, VICTIM), MALLORY)
    snapshot = tree.read(before)
    assert snapshot.key_set == before.key_set
    signature = tree.signature()
    os.chown(link, ROOT, ROOT, follow_symlinks=False)
    assert tree.signature() != signature
    snapshot = tree.read(snapshot)
    assert not faults(snapshot)
    assert snapshot.key_set != before.key_set


def test_a_folders_signature_says_nothing_of_what_a_refused_link_leads_to(tree: Tree) -> None:
    """Neither its size nor its times; of one that is followed it says them."""
    secret = tree.put(tree.other / "b.pem", B, VICTIM)
    link = tree.link(tree.own / "k.pem", secret, MALLORY)
    before = tree.signature()
    tree.put(secret, A + B, VICTIM)
    os.utime(secret, (1, 1))
    assert tree.signature() == before
    os.chown(link, VICTIM, VICTIM, follow_symlinks=False)
    before = tree.signature()
    tree.put(secret, B, VICTIM)
    os.utime(secret, (2, 2))
    assert tree.signature() != before


def test_the_layouts_that_operators_use_are_followed(tree: Tree) -> None:
    """Certbot's live and archive, Kubernetes' `..data`, and releases behind a link, each its own user's."""
    live, archive = tree.outside / "live" / "a", tree.outside / "archive" / "a"
    for folder in (live, archive):
        folder.mkdir(parents=True)
    tree.put(archive / "cert1.pem", A, ROOT)
    tree.link(live / "cert.pem", "../../archive/a/cert1.pem", ROOT)
    tree.link(tree.own / "certbot.pem", live / "cert.pem", ROOT)
    (tree.own / "..2026_05_01").mkdir()
    tree.put(tree.own / "..2026_05_01" / "k.pem", B, ROOT)
    tree.link(tree.own / "..data", "..2026_05_01", ROOT)
    tree.link(tree.own / "k.pem", "..data/k.pem", ROOT)
    (tree.outside / "r1").mkdir()
    tree.put(tree.outside / "r1" / "own.pem", pem(certificate(private_key("P-256", 3))), MALLORY)
    tree.link(tree.outside / "current", "r1/", MALLORY)
    tree.link(tree.own / "own.pem", "../../outside/./current//own.pem", MALLORY)
    snapshot = tree.read()
    assert not faults(snapshot)
    assert files(snapshot) == 3


def test_a_link_that_is_swapped_after_it_was_looked_at_fools_nobody(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner that counts is that of the file which was opened."""
    own = tree.put(tree.outside / "a.pem", A, MALLORY)
    secret = tree.put(tree.other / "b.pem", B, VICTIM)
    tree.link(tree.own / "k.pem", own, MALLORY)
    real, swaps = os.open, 0

    def swapping(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        nonlocal swaps
        if os.path.basename(path) == "a.pem":  # whatever opens the target finds another file there each time
            swaps += 1
            own.unlink(missing_ok=True)
            if swaps % 2:
                os.link(secret, own)
            else:
                tree.put(own, A, MALLORY)
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swapping)
    snapshot = tree.read()
    assert swaps
    assert all(key.kid in {k.kid for k in tree_of(A, tree).published} for key in snapshot.published)


def tree_of(content: bytes, tree: Tree) -> Snapshot:
    """Return what a folder with this file alone publishes."""
    folder = tree.root / "plain.com"
    folder.mkdir()
    (folder / "k.pem").write_bytes(content)
    return read_tenant(Source(str(tree.root)), LoadJob(TenantName("plain.com"))).snapshot


def test_a_chain_of_links_without_end_is_a_fault(tree: Tree) -> None:
    """Forty links are the kernel's own limit; a path of a thousand folders takes no longer."""
    tree.put(tree.own / "end", A, ROOT)
    tree.link(tree.own / ".0", "end", ROOT)
    for number in range(1, 60):
        tree.link(tree.own / f".{number}", f".{number - 1}", ROOT)
    tree.link(tree.own / "good.pem", ".30", ROOT)
    tree.link(tree.own / "long.pem", ".59", ROOT)
    tree.link(tree.own / "deep.pem", "./" * 1000 + "../" * 300 + "etc/passwd", ROOT)
    snapshot = tree.read()
    assert {"long.pem", "deep.pem"} <= faults(snapshot).keys()
    assert "good.pem" not in faults(snapshot)


def test_a_link_to_what_is_no_regular_file_is_never_opened(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIFO of the tenant's own, and a device of root's behind a link of root's."""
    os.mkfifo(tree.outside / "fifo")
    os.chown(tree.outside / "fifo", MALLORY, MALLORY)
    tree.link(tree.own / "fifo.pem", tree.outside / "fifo", MALLORY)
    tree.link(tree.own / "device.pem", "/dev/zero", ROOT)
    tree.link(tree.own / "refused.pem", "/dev/zero", MALLORY)
    real = os.open
    opened = []

    def noting(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if not flags & os.O_PATH:
            opened.append(os.path.basename(path))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", noting)
    snapshot = tree.read()
    assert set(faults(snapshot)) == {"fifo.pem", "device.pem", "refused.pem"}
    assert not {"fifo", "zero", "fifo.pem", "device.pem", "refused.pem"} & set(opened)


def test_links_leave_no_descriptor_open(tree: Tree) -> None:
    """Followed, refused, dangling, endless and through a file alike."""
    target = tree.put(tree.outside / "a.pem", A, MALLORY)
    tree.link(tree.own / "good.pem", target, MALLORY)
    tree.link(tree.own / "refused.pem", "/etc/passwd", MALLORY)
    tree.link(tree.own / "dangling.pem", "/nowhere/at/all", MALLORY)
    tree.link(tree.own / "loop.pem", "loop.pem", MALLORY)
    tree.link(tree.own / "file.pem", "good.pem/x", MALLORY)
    tree.link(tree.own / "root.pem", "/", MALLORY)
    before = len(os.listdir("/proc/self/fd"))
    assert files(tree.read()) == 1
    assert tree.signature()
    assert len(os.listdir("/proc/self/fd")) == before
