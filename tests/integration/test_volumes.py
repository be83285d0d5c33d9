import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from support.certificates import sample
from support.inprocess import EVENTS_ALONE, NEVER, eventually, followed

(A, KID_A), (B, KID_B) = sample(1), sample(2)


class AtomicWriter:
    """A Kubernetes volume: what the kubelet's AtomicWriter does, call by call (pkg/volume/util/atomic_writer.go)."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._turn = 0
        target.mkdir(exist_ok=True)

    def write(self, payload: Mapping[str, bytes]) -> None:
        """Replace the volume's content, whose names are paths below it."""
        self._turn += 1
        data, temporary = self._target / "..data", self._target / "..data_tmp"
        old = data.readlink() if data.is_symlink() else None
        before = {entry.name for entry in self._target.iterdir() if not entry.name.startswith("..")}
        fresh = self._target / f"..2026_05_01_12_00_00.{self._turn:09}"
        fresh.mkdir(mode=0o755)
        for name, content in payload.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(content)
            (fresh / name).chmod(0o644)
        temporary.symlink_to(fresh.name)
        temporary.rename(data)
        visible = {name.partition("/")[0] for name in payload}
        for name in sorted(visible - before):
            (self._target / name).symlink_to(f"..data/{name}")
        for name in sorted(before - visible):
            (self._target / name).unlink()
        if old is not None:
            shutil.rmtree(self._target / old)


async def test_a_volume_for_a_tenant_is_followed(keystores: Path) -> None:
    """Secret or ConfigMap: keys that change, come and go, by events alone although none names a key."""
    volume = AtomicWriter(keystores / "foo.com")
    volume.write({"tls.crt": A})
    async with followed(keystores, timing=replace(EVENTS_ALONE, links=NEVER)) as world:
        assert world.kids("foo.com") == {KID_A}
        for _ in range(5):
            volume.write({"tls.crt": B})
            await world.wait_for("foo.com", {KID_B})
            volume.write({"tls.crt": B, "next.crt": A})
            await world.wait_for("foo.com", {KID_A, KID_B})
            volume.write({"tls.crt": A})
            await world.wait_for("foo.com", {KID_A})
        assert "..data" not in world.problems("foo.com")
        assert (world.follower.missed, world.follower.watchkeeper.rebuilds) == (0, 0)


async def test_a_volume_for_the_whole_root_is_followed(keystores: Path) -> None:
    """One Secret with items below a folder for each tenant: tenants are links, and events name none of them."""
    volume = AtomicWriter(keystores)
    volume.write({"foo.com/k.pem": A, "bar.com/k.pem": A})
    async with followed(keystores) as world:
        assert world.kids("foo.com") == {KID_A}
        for _ in range(3):
            volume.write({"foo.com/k.pem": B, "bar.com/k.pem": A, "new.com/k.pem": B})
            await world.wait_for("foo.com", {KID_B})
            await world.wait_for("new.com", {KID_B})
            assert world.kids("bar.com") == {KID_A}
            volume.write({"foo.com/k.pem": A, "bar.com/k.pem": A})
            await world.wait_for("foo.com", {KID_A})
            await world.wait_for("new.com", None)
            assert world.follower.root.fault is None
        surveys = world.readers.surveys
        await eventually(lambda: world.readers.surveys > surveys + 3)
        assert (world.follower.missed, world.follower.watchkeeper.rebuilds) == (0, 0)
