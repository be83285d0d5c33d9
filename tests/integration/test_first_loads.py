"""First loads that somebody waits for."""

import asyncio
from pathlib import Path
from typing import Any

from support.certificates import certificate, pem, private_key
from support.inprocess import CountingReaders, World, eventually

from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.reading.jobs import LoadJob, Urgency

FOO = TenantName("foo.com")


class Waiting(CountingReaders):
    """Readers that do no load before they may; `promoted` are the tenants whose load overtook."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()
        self.begun: list[tuple[TenantName, Urgency]] = []
        self.promoted: list[TenantName] = []

    async def run(self, job: Any, urgency: Urgency) -> Any:  # noqa: ANN401 - as the overloads say
        """Wait with a load."""
        if isinstance(job, LoadJob):
            self.begun.append((job.tenant, urgency))
            await self.may.wait()
        return await super().run(job, urgency)

    def promote(self, job: LoadJob) -> bool:
        """Note it."""
        self.promoted.append(job.tenant)
        return True


async def begun(root: Path, readers: Waiting, first_load: float) -> World:
    (root / FOO).mkdir()
    (root / FOO / "a.pem").write_bytes(pem(certificate(private_key("P-256"))))
    world = World(root, readers=readers, timing=Timing(first_load=first_load))
    listing = await world.follower.start()
    world.follower.expect(listing.tenants, {})
    return world


async def test_a_first_load_is_not_waited_for_longer_than_a_client_would(keystores: Path) -> None:
    """It goes on by itself, and whoever asks again has it."""
    readers = Waiting()
    world = await begun(keystores, readers, first_load=0.01)
    try:
        assert await world.turns.first_load(FOO) is None
        assert await world.turns.first_load(FOO) is None
        readers.may.set()
        await eventually(lambda: world.kids(FOO))
        assert readers.loads[FOO] == 1
        assert await world.turns.first_load(FOO) is not None
    finally:
        await world.follower.close()


async def test_a_first_load_that_somebody_waits_for_overtakes(keystores: Path) -> None:
    """Also where the start has given the tenant its turn already, and it waits for a reader process."""
    readers = Waiting()
    world = await begun(keystores, readers, first_load=30.0)
    try:
        start = asyncio.ensure_future(world.turns.load_expected(2))
        await eventually(lambda: readers.begun == [(FOO, Urgency.ROUTINE)])
        asked = asyncio.ensure_future(world.turns.first_load(FOO))
        await eventually(lambda: readers.promoted == [FOO])
        readers.may.set()
        assert await asked is not None
        await start
    finally:
        await world.follower.close()
