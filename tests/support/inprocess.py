"""A Follower of a real tree, without reader processes or sockets, for tests that look inside."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, overload

from jwks_server.core.policy import Policy
from jwks_server.core.publication import Publication
from jwks_server.core.snapshot import Level
from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Pause, Timing
from jwks_server.following.follow import Follower
from jwks_server.following.store import Store
from jwks_server.reading.jobs import Listing, ListingJob, Loaded, LoadJob, Readers, Survey, SurveyJob, Urgency
from jwks_server.reading.load import load
from jwks_server.reading.source import Source
from jwks_server.reading.survey import survey
from jwks_server.reading.tree import list_root
from support.publications import kids_of

PATIENCE_SECONDS = 30.0
EVERY_TENTH = Pause(1, 0.1, 0.1)
NEVER = Pause(0, 3600.0, 3600.0)

COMPARING_OFTEN = Timing(first_comparison=0.1, comparison=EVERY_TENTH)
"""Compare every tenth of a second instead of every second."""

EVENTS_ALONE = Timing(first_comparison=3600.0, comparison=NEVER, deaf_comparison=NEVER)
"""Never compare: what is published follows from events."""


class CountingReaders:
    """Reads in a thread, and counts the reads of each tenant; `source` is set by the World that it reads for."""

    def __init__(self) -> None:
        self.source = Source("")
        self.loads: Counter[TenantName] = Counter()
        self.surveys = 0
        self.failure: Callable[[LoadJob], Exception | None] = lambda _job: None

    @overload
    async def run(self, job: LoadJob, urgency: Urgency) -> Loaded: ...
    @overload
    async def run(self, job: SurveyJob, urgency: Urgency) -> Survey: ...
    @overload
    async def run(self, job: ListingJob, urgency: Urgency) -> Listing: ...
    async def run(self, job: LoadJob | SurveyJob | ListingJob, urgency: Urgency) -> Loaded | Survey | Listing:
        """Do the job at once, or fail as the test wants."""
        del urgency
        if isinstance(job, ListingJob):
            return await asyncio.to_thread(list_root, self.source.root)
        if isinstance(job, SurveyJob):
            self.surveys += 1
            return await asyncio.to_thread(survey, self.source, job)
        self.loads[job.tenant] += 1
        failure = self.failure(job)
        if failure is not None:
            raise failure
        return await asyncio.to_thread(load, self.source, job)

    def promote(self, job: LoadJob) -> bool:
        """Nothing waits here."""
        del job
        return False


class Recorder:
    """Stands in for the state directory and writes nothing; `doubts` counts the jumps of the wall clock."""

    def __init__(self) -> None:
        self.doubts = 0

    async def secure(self, publication: Publication) -> None:
        """Return at once."""

    def note(self, publication: Publication) -> None:
        """Forget it."""

    def doubt(self) -> None:
        """Count."""
        self.doubts += 1


class World:
    """A tree, and everything that follows it but the listener. `options` are the Follower's."""

    def __init__(
        self,
        root: Path,
        policy: Policy | None = None,
        readers: Readers | None = None,
        timing: Timing | None = None,
        **options: Any,  # noqa: ANN401 - the Follower's
    ) -> None:
        self.store = Store()
        self.readers = CountingReaders()
        used = readers or self.readers
        if isinstance(used, CountingReaders):
            used.source = Source(str(root), defaults=policy or Policy())
            self.readers = used
        self.follower = Follower(
            str(root),
            store=self.store,
            readers=used,
            recorder=Recorder(),
            list_root=partial(list_root, str(root)),
            timing=timing or Timing(),
            **options,
        )
        self.turns = self.follower.turns
        self.quarantine = self.follower.quarantine

    @property
    def unread(self) -> int:
        """How many tenants' last reading failed as a whole."""
        return len(self.follower.reconciler.unread)

    def kids(self, tenant: str) -> set[str] | None:
        """Return what the tenant publishes, or None where it is unknown."""
        publication = self.store.get(tenant)
        return None if publication is None else kids_of(publication)

    def problems(self, tenant: str) -> str:
        """Return what is said about the tenant, in one text."""
        publication = self.store.get(tenant)
        return "; ".join(problem.text for problem in publication.problems) if publication else ""

    async def wait_for(self, tenant: str, kids: set[str] | None) -> None:
        """Wait until the tenant publishes exactly these, or is unknown."""
        await eventually(lambda: self.kids(tenant) == kids, f"{tenant}: {kids}, not {self.kids(tenant)}")

    async def settled(self) -> None:
        """Wait until no event or first comparison is outstanding, so that only what follows changes something."""
        await eventually(lambda: not self.turns.uncertain)

    def faults(self, tenant: str) -> dict[str | None, str]:
        """Return what is wrong with the tenant, by file; None stands for its folder."""
        publication = self.store.get(tenant)
        problems = publication.problems if publication else ()
        return {problem.file_name: problem.text for problem in problems if problem.level is Level.FAULT}


@asynccontextmanager
async def followed(
    root: Path,
    policy: Policy | None = None,
    readers: Readers | None = None,
    timing: Timing | None = None,
    **options: Any,  # noqa: ANN401 - the Follower's
) -> AsyncIterator[World]:
    """Follow a tree; all its tenants are loaded at the start."""
    world = World(root, policy, readers, timing, **options)
    listing = await world.follower.start()
    world.follower.expect(listing.tenants, {})
    world.follower.run()
    try:
        await world.turns.load_expected(2)
        yield world
    finally:
        await world.follower.close()


async def eventually(condition: Callable[[], object], what: str = "condition") -> None:
    """Wait for the condition; fail after a time that only a broken server needs."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for raises no event
            await asyncio.sleep(0.005)
    assert condition(), what
