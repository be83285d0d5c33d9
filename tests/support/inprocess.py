"""The reconciler and its supervisor without processes or sockets, for tests that look inside."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import overload

from jwks_server.core.policy import Policy
from jwks_server.core.snapshot import Level
from jwks_server.core.tenant import TenantName
from jwks_server.following.reconcile import Loader, Reconciler
from jwks_server.following.store import Store
from jwks_server.following.watchkeeper import Supervisor
from jwks_server.reading.load import Loaded, LoadJob, load
from jwks_server.reading.source import Source
from jwks_server.reading.survey import ListingJob, Survey, SurveyJob, survey
from jwks_server.reading.tree import Listing, list_root

PATIENCE_SECONDS = 30.0


class CountingLoader:
    """Reads in a thread, and counts the reads of each tenant."""

    def __init__(self) -> None:
        self.loads: Counter[TenantName] = Counter()
        self.surveys = 0
        self.failure: Callable[[LoadJob], Exception | None] = lambda _job: None

    @overload
    async def run(self, job: LoadJob, urgency: int) -> Loaded: ...
    @overload
    async def run(self, job: SurveyJob, urgency: int) -> Survey: ...
    @overload
    async def run(self, job: ListingJob, urgency: int) -> Listing: ...
    async def run(self, job: LoadJob | SurveyJob | ListingJob, urgency: int) -> Loaded | Survey | Listing:
        """Do the job at once, or fail as the test wants."""
        del urgency
        if isinstance(job, ListingJob):
            return await asyncio.to_thread(list_root, job.source.root)
        if isinstance(job, SurveyJob):
            self.surveys += 1
            return await asyncio.to_thread(survey, job)
        self.loads[job.tenant] += 1
        failure = self.failure(job)
        if failure is not None:
            raise failure
        return await asyncio.to_thread(load, job)

    def hurry(self, job: LoadJob) -> bool:
        """Nothing waits here."""
        del job
        return False


class World:
    """A tree, and everything that follows it but the listener."""

    def __init__(self, root: Path, policy: Policy, loader: Loader | None = None) -> None:
        source = Source(str(root), defaults=policy)
        self.store = Store()
        self.loader = CountingLoader()
        self.reconciler = Reconciler(source, self.store, loader or self.loader)
        self.supervisor = Supervisor(source, self.reconciler, loader or self.loader)

    def kids(self, tenant: str) -> set[str] | None:
        """Return what the tenant publishes, or None where it is unknown."""
        publication = self.store.get(tenant)
        return None if publication is None else set(publication.kids)

    def problems(self, tenant: str) -> str:
        """Return what is said about the tenant, in one text."""
        publication = self.store.get(tenant)
        return "; ".join(problem.text for problem in publication.problems) if publication else ""

    async def wait_for(self, tenant: str, kids: set[str] | None) -> None:
        """Wait until the tenant publishes exactly these, or is unknown."""
        await eventually(lambda: self.kids(tenant) == kids, f"{tenant}: {kids}, not {self.kids(tenant)}")

    def faults(self, tenant: str) -> dict[str | None, str]:
        """Return what is wrong with the tenant, by file; None stands for its folder."""
        publication = self.store.get(tenant)
        problems = publication.problems if publication else ()
        return {problem.file_name: problem.text for problem in problems if problem.level is Level.FAULT}


@asynccontextmanager
async def followed(root: Path, policy: Policy | None = None, loader: Loader | None = None) -> AsyncIterator[World]:
    """Follow a tree; all its tenants are loaded at the start."""
    world = World(root, policy or Policy(), loader)
    listing = await world.supervisor.start()
    world.reconciler.expect(listing.tenants, {})
    world.supervisor.run()
    try:
        await world.reconciler.load_expected(2)
        yield world
    finally:
        await world.supervisor.close()
        await world.reconciler.close()


async def eventually(condition: Callable[[], object], what: str = "condition") -> None:
    """Wait for the condition; fail after a time that only a broken server needs."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for raises no event
            await asyncio.sleep(0.005)
    assert condition(), what
