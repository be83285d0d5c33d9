import asyncio
from math import inf
from pathlib import Path
from typing import Any

import pytest
from support.certificates import certificate, pem, private_key
from support.inprocess import CountingLoader, World, eventually, followed

from jwks_server.core.build import read_key_file
from jwks_server.core.lifecycle import Owed
from jwks_server.core.policy import Policy
from jwks_server.core.snapshot import Remembered
from jwks_server.core.tenant import TenantName
from jwks_server.daemon import reconcile
from jwks_server.daemon.loader import LoadJob
from jwks_server.daemon.progress import Reading
from jwks_server.daemon.workers import ReaderDiedError

A, B = pem(certificate(private_key("P-256", 1))), pem(certificate(private_key("P-256", 2)))


async def test_a_change_rebuilds_the_tenant_it_belongs_to_and_no_other(keystores: Path) -> None:
    """However many files change; the others keep the very snapshot they had."""
    for tenant in ("a.com", "b.com", "c.com"):
        (keystores / tenant).mkdir()
        (keystores / tenant / "k.pem").write_bytes(A)
    async with followed(keystores) as world:
        # What was written just before the start is read once more, by the first comparison.
        await eventually(lambda: not world.reconciler.uncertain)
        others = world.store.get("b.com"), world.store.get("c.com")
        counts = world.loader.loads.copy()
        before = world.kids("a.com")
        (keystores / "a.com" / "k.pem").write_bytes(B)
        await eventually(lambda: world.kids("a.com") not in (None, before))
        await eventually(lambda: not world.reconciler.uncertain)
        assert world.store.get("b.com") is others[0]
        assert world.store.get("c.com") is others[1]
        assert {t for t in counts if world.loader.loads[t] != counts[t]} == {"a.com"}


async def test_what_was_remembered_from_before_the_start_counts_once(keystores: Path) -> None:
    """A tenant that is gone for good and made anew starts without the keys of its former life."""
    world = World(keystores, Policy(removal_grace=1))
    key = read_key_file("old.pem", b"", A, None).keys[0]
    tenant = TenantName("a.com")
    listing = await world.supervisor.start()
    remembered = Remembered(Policy(removal_grace=1), (Owed("old.pem", key, inf),))
    world.reconciler.expect(listing.tenants, {tenant: remembered})
    world.supervisor.run()
    try:
        await world.reconciler.load_expected(1)
        assert len(world.kids(tenant) or ()) == 1
        await eventually(lambda: world.kids(tenant) is None)
        (keystores / "a.com").mkdir()
        await eventually(lambda: world.kids(tenant) is not None)
        assert world.kids(tenant) == set()
    finally:
        await world.supervisor.close()
        await world.reconciler.close()


async def test_files_that_end_readers_without_end_make_a_pause(
    keystores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that fell to its input may blame a new file at each death."""
    monkeypatch.setattr(reconcile, "MOST_DEADLY", 5)
    monkeypatch.setattr(reconcile, "RETRY_SECONDS", ())
    (keystores / "a.com").mkdir()
    deadly = CountingLoader()
    deadly.failure = lambda job: ReaderDiedError("says the test", Reading(f"{len(job.deadly)}.pem"))
    async with followed(keystores, loader=deadly) as world:
        await eventually(lambda: world.reconciler.unread == 1)
        assert deadly.loads[TenantName("a.com")] == 6
        deadly.failure = lambda _job: None
        world.reconciler.hint(TenantName("a.com"))
        await eventually(lambda: world.kids("a.com") == set())


class HeldLoader(CountingLoader):
    """Reads at once, and answers when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = 0

    async def run(self, job: Any, urgency: int) -> Any:  # noqa: ANN401 - what the protocol says
        """Do the job, then wait."""
        answer = await super().run(job, urgency)
        if isinstance(job, LoadJob):
            self.held += 1
            await self.gate.wait()
            self.held -= 1
        return answer


async def test_what_is_recalled_while_its_tenant_is_read_is_not_lost(keystores: Path) -> None:
    """The reading that is under way knows nothing of it; the next one does."""
    tenant = TenantName("a.com")
    (keystores / tenant).mkdir()
    (keystores / tenant / "k.pem").write_bytes(A)
    key = read_key_file("old.pem", b"", B, None).keys[0]
    loader = HeldLoader()
    async with followed(keystores, Policy(removal_grace=3600), loader=loader) as world:
        await eventually(lambda: not world.reconciler.uncertain)
        loader.gate.clear()
        world.reconciler.hint(tenant)
        await eventually(lambda: loader.held)
        world.reconciler.recall({tenant: Remembered(Policy(), (Owed("old.pem", key, inf),))})
        loader.gate.set()
        await eventually(lambda: len(world.kids(tenant) or ()) == 2)
