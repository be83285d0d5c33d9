import asyncio
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.certificates import sample
from support.inprocess import CountingReaders, World, eventually, followed

from jwks_server.core.build import build, read_key_file
from jwks_server.core.policy import Policy
from jwks_server.core.remembered import to_text
from jwks_server.core.snapshot import Folder
from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Pause, Timing
from jwks_server.host import clock
from jwks_server.reading.jobs import FOLDER, LoadJob, Place, ReaderCrashedError, SurveyJob, Urgency

(A, _), (B, KID_B) = sample(1), sample(2)
OFTEN = Pause(1, 0.01, 0.01)


def owing(name: str, content: bytes, grace: int) -> bytes:
    """Return the record of a tenant that published this file when the server ended."""
    file = read_key_file(name, b"", content, None)
    snapshot = build(TenantName("a.com"), Folder((file,)), None, Policy(removal_grace=grace), clock.now())
    return to_text(snapshot, clock.now())


async def test_a_change_rebuilds_the_tenant_it_belongs_to_and_no_other(keystores: Path) -> None:
    """However many files change; the others keep the very snapshot they had."""
    for tenant in ("a.com", "b.com", "c.com"):
        (keystores / tenant).mkdir()
        (keystores / tenant / "k.pem").write_bytes(A)
    async with followed(keystores) as world:
        # What was written just before the start is read once more, by the first comparison.
        await world.settled()
        others = world.store.get("b.com"), world.store.get("c.com")
        counts = world.readers.loads.copy()
        before = world.kids("a.com")
        (keystores / "a.com" / "k.pem").write_bytes(B)
        await eventually(lambda: world.kids("a.com") not in (None, before))
        await world.settled()
        assert world.store.get("b.com") is others[0]
        assert world.store.get("c.com") is others[1]
        assert {t for t in counts if world.readers.loads[t] != counts[t]} == {"a.com"}


async def test_what_was_remembered_from_before_the_start_counts_once(keystores: Path) -> None:
    """A tenant that is gone for good and made anew starts without the keys of its former life."""
    world = World(keystores, Policy(removal_grace=1))
    tenant = TenantName("a.com")
    listing = await world.follower.start()
    world.follower.expect(listing.tenants, {tenant: owing("old.pem", A, 1)})
    world.follower.run()
    try:
        await world.turns.load_expected(1)
        assert len(world.kids(tenant) or ()) == 1
        await eventually(lambda: world.kids(tenant) is None)
        (keystores / "a.com").mkdir()
        (keystores / "a.com" / "new.pem").write_bytes(B)
        await eventually(lambda: world.kids(tenant) is not None)
        assert world.kids(tenant) == {KID_B}
    finally:
        await world.follower.close()


async def test_files_that_end_readers_without_end_make_a_pause(keystores: Path) -> None:
    """A reader process that a key file took over may blame a new file at each crash."""
    (keystores / "a.com").mkdir()
    deadly = CountingReaders()
    deadly.failure = lambda job: ReaderCrashedError("says the test", Place(f"{len(job.deadly)}.pem"))
    async with followed(keystores, readers=deadly, timing=Timing(retries=()), most_deadly_files=5) as world:
        await eventually(lambda: world.unread == 1)
        assert deadly.loads[TenantName("a.com")] == 6
        deadly.failure = lambda _job: None
        world.turns.hint(TenantName("a.com"))
        await eventually(lambda: world.kids("a.com") == set())


class HangingReaders(CountingReaders):
    """Hangs in some tenants' folders, for as long as the gate is closed, and loses a reader there."""

    def __init__(self) -> None:
        super().__init__()
        self.hanging: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = Counter[str]()
        self.hangs = Counter[str]()

    async def run(self, job: Any, urgency: Urgency) -> Any:  # noqa: ANN401 - what the protocol says
        """Do the job, unless it comes to a folder that hangs."""
        looked_at = getattr(job, "tenants", None) or [getattr(job, "tenant", None)]
        for tenant in looked_at:
            if tenant in self.hanging:
                self.held[tenant] += 1
                self.hangs[tenant] += 1
                await self.gate.wait()
                self.held[tenant] -= 1
                reading = Place(tenant if isinstance(job, SurveyJob) else FOLDER)
                raise ReaderCrashedError("says the test", reading, hung=True)
        return await super().run(job, urgency)


AT_ONCE = Timing(first_suspicion=0.0, suspicion=0.0, first_comparison=0.01, comparison=OFTEN, links=OFTEN)
"""Leave hardly a pause between comparisons, and try tenants that hang again in each."""

LATER = replace(AT_ONCE, first_suspicion=3600.0, suspicion=3600.0)
"""The same, but try tenants that hang only when they are hurried."""


def move(source: Path, target: Path) -> None:
    """Rename a folder."""
    source.rename(target)


async def test_many_folders_that_hang_hold_one_reader_between_them(keystores: Path) -> None:
    """Once they are known, the others are followed, even where no event names a change; and all come back."""
    tenants = [f"{number}.com" for number in range(4)]
    for tenant in tenants:
        elsewhere = keystores.with_name(tenant)
        elsewhere.mkdir()
        (elsewhere / "k.pem").write_bytes(A)
        (keystores / tenant).symlink_to(elsewhere)
    readers = HangingReaders()
    async with followed(keystores, readers=readers, timing=AT_ONCE) as world:
        await world.settled()
        before = world.kids(tenants[3])
        readers.hanging |= set(tenants[:3])
        await eventually(lambda: world.unread == 3)
        readers.gate.clear()
        await eventually(lambda: readers.held.total() == 1)
        (keystores / tenants[3] / "k.pem").write_bytes(B)
        await eventually(lambda: world.kids(tenants[3]) not in (None, before))
        surveys = readers.surveys
        await eventually(lambda: readers.surveys > surveys + 10)
        assert readers.held.total() == 1
        readers.gate.set()
        await eventually(lambda: all(readers.hangs[tenant] > 10 for tenant in tenants[:3]))
        readers.hanging.clear()
        await eventually(lambda: world.unread == 0)
        assert [world.kids(tenant) for tenant in tenants[:3]] == [before] * 3


async def test_folders_that_begin_to_hang_hold_one_reader_of_those_that_compare(
    keystores: Path,
) -> None:
    """There are two who look the tree over: one at all of it, one at what lies elsewhere."""
    for tenant in ("a.com", "b.com"):
        keystores.with_name(tenant).mkdir()
        (keystores / tenant).symlink_to(keystores.with_name(tenant))
    (keystores / "c.com").mkdir()
    readers = HangingReaders()
    timing = replace(LATER, first_suspicion=1.0, suspicion=30.0)
    async with followed(keystores, readers=readers, timing=timing) as world:
        await world.settled()
        readers.gate.clear()
        readers.hanging |= {"a.com", "b.com"}
        await eventually(readers.held.total)
        for content in (A, B, A, B):
            before = world.kids("c.com")
            (keystores / "c.com" / "k.pem").write_bytes(content)
            await eventually(lambda before=before: world.kids("c.com") not in (None, before))  # type: ignore[misc]
        assert readers.held.total() == 1
        readers.gate.set()


@pytest.mark.parametrize(
    "blamed",
    [Place(FOLDER), Place("k.pem"), Place("k.pem", b"stamp")],
    ids=["the folder", "a file that hangs", "content that ends readers"],
)
async def test_what_ends_readers_is_tried_again_by_the_comparison_alone(keystores: Path, blamed: Place) -> None:
    """No timer of its own, which many tenants would have at once, gives it a reader."""
    timing = Timing(retries=() if blamed.stamp else (0.0,) * 5, slow_retry=0.01)
    for tenant in ("a.com", "b.com"):
        (keystores / tenant).mkdir()
        (keystores / tenant / "k.pem").write_bytes(b"" if blamed.stamp and tenant == "a.com" else A)
    readers = CountingReaders()
    deaths = 0

    def die(job: LoadJob) -> Exception | None:
        nonlocal deaths
        if job.tenant != "a.com" or (job.deadly and not job.afresh):
            return None
        deaths += 1
        return ReaderCrashedError("says the test", blamed, hung=True)

    readers.failure = die
    async with followed(keystores, readers=readers, timing=timing) as world:
        await eventually(lambda: deaths)
        first = deaths
        for content in (B, A, B, A):
            before = world.kids("b.com")
            (keystores / "b.com" / "k.pem").write_bytes(content)
            await eventually(lambda before=before: world.kids("b.com") not in (None, before))  # type: ignore[misc]
        assert deaths == first == 1


async def test_a_folder_that_answers_again_has_the_others_tried_at_once(keystores: Path) -> None:
    """They may have hung for the same reason."""
    for tenant in ("a.com", "b.com"):
        (keystores / tenant).mkdir()
    readers = HangingReaders()
    async with followed(keystores, readers=readers, timing=replace(LATER, suspicion=0.0)) as world:
        readers.hanging.add("a.com")
        await eventually(lambda: world.quarantine.is_hung(TenantName("a.com")))
        readers.hanging.add("b.com")
        await eventually(lambda: world.quarantine.is_hung(TenantName("b.com")))
        readers.hanging.clear()
        world.quarantine.suspect(TenantName("b.com"), time.monotonic())  # the second time, so that it is due
        await eventually(lambda: not world.quarantine.is_hung(TenantName("a.com")))


async def test_a_root_that_is_back_has_what_hung_tried_at_once(keystores: Path) -> None:
    """It may have been the root that hung."""
    (keystores / "a.com").mkdir()
    readers = HangingReaders()
    readers.hanging.add("a.com")
    async with followed(keystores, readers=readers, timing=Timing(first_suspicion=3600.0)) as world:
        assert world.unread == 1
        readers.hanging.clear()
        away = keystores.with_name("away")
        move(keystores, away)
        await eventually(lambda: world.follower.root.fault is not None)
        move(away, keystores)
        await world.wait_for("a.com", set())


async def test_a_folder_that_hangs_once_is_tried_again_soon_and_then_rarely(
    keystores: Path,
) -> None:
    """A hiccup of a file server costs a second, an outage now and then a reader."""
    for tenant in ("a.com", "b.com"):
        (keystores / tenant).mkdir()
    readers = HangingReaders()
    async with followed(keystores, readers=readers, timing=replace(LATER, first_suspicion=0.0)) as world:
        await world.settled()
        for hangs in (2, 4):
            readers.hanging.add("a.com")
            await eventually(lambda hangs=hangs: readers.hangs["a.com"] == hangs)  # type: ignore[misc]
            surveys = readers.surveys
            await eventually(lambda surveys=surveys: readers.surveys > surveys + 10)  # type: ignore[misc]
            assert readers.hangs["a.com"] == hangs
            readers.hanging.clear()
            world.quarantine.hurry()
            await eventually(lambda: world.unread == 0)


async def test_a_tenant_that_hangs_at_the_start_holds_no_reader_for_each_who_asks(keystores: Path) -> None:
    """Its first load is not tried again because somebody wants its set."""
    tenant = TenantName("a.com")
    (keystores / tenant).mkdir()
    readers = HangingReaders()
    readers.hanging.add(tenant)
    async with followed(keystores, readers=readers) as world:
        assert world.unread == 1
        readers.gate.clear()
        assert await world.turns.first_load(tenant) is None
        assert readers.held.total() == 0


class HeldReaders(CountingReaders):
    """Reads at once, and answers when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = 0

    async def run(self, job: Any, urgency: Urgency) -> Any:  # noqa: ANN401 - what the protocol says
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
    readers = HeldReaders()
    async with followed(keystores, Policy(removal_grace=3600), readers=readers) as world:
        await world.settled()
        readers.gate.clear()
        world.turns.hint(tenant)
        await eventually(lambda: readers.held)
        world.turns.recall({tenant: owing("old.pem", B, 3600)})
        readers.gate.set()
        await eventually(lambda: len(world.kids(tenant) or ()) == 2)
