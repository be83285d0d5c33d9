"""Comparing the tree with what is published: all of it every so often, and often what lies where no watch hears.

Whatever happened to events, a change is found here; what is found that an event should have named says that the watch
is deaf.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from jwks_server.core.errors import LoaderError, RootUnavailableError
from jwks_server.core.tenant import TenantName
from jwks_server.following.reconcile import Loader, Reconciler
from jwks_server.host.logs import fields
from jwks_server.readers.pool import URGENT, ReaderDiedError
from jwks_server.reading.source import Source
from jwks_server.reading.survey import ListingJob, SurveyJob
from jwks_server.reading.tree import Listing

EVENT_PATIENCE_SECONDS = 0.1
SHORTEST_PAUSE_SECONDS = 1.0
PAUSE = (50, SHORTEST_PAUSE_SECONDS, 60.0)
DEAF_PAUSE = (10, 0.1, 10.0)
"""The pause between comparisons: a multiple of the last one's time, and its least and most seconds."""

BREATH = 4
"""Between comparisons that were asked for, this multiple of the last one's time: a fifth of a worker at most."""

LINKS_PAUSE = (10, 0.25, 60.0)
"""The pause between looks at tenants whose files lie elsewhere."""

SLICE_TENANTS = 128
"""How many tenants a reader is offered at once; it looks at about half as many in its few milliseconds."""

_log = logging.getLogger(__name__)


class Comparer:
    """Hints at what differs. Everything runs on the event loop; the looking is done by readers.

    `on_listing` is told what the root holds, `on_root_doubt` that it is another one or none, `on_missed` which change
    no event had named; `is_deaf` says whether events are expected at all.
    """

    def __init__(  # noqa: PLR0913 - what it looks at, and who wants to know what
        self,
        source: Source,
        reconciler: Reconciler,
        loader: Loader,
        *,
        on_listing: Callable[[Listing], None],
        on_root_doubt: Callable[[], None],
        on_missed: Callable[[TenantName], None],
        is_deaf: Callable[[], bool],
    ) -> None:
        self.missed = 0
        self._source = source
        self._reconciler = reconciler
        self._loader = loader
        self._on_listing = on_listing
        self._on_root_doubt = on_root_doubt
        self._on_missed = on_missed
        self._is_deaf = is_deaf
        self._wanted = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    def want(self) -> None:
        """Compare without waiting for the next turn."""
        self._wanted.set()

    async def compare(self) -> None:
        """Compare the whole tree for ever, and soon where something asks for it."""
        pause = SHORTEST_PAUSE_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            self._wanted.clear()
            took = 0.0
            try:
                took = await self._compare_once()
                await self._try_suspects()
            except RootUnavailableError:
                self._on_root_doubt()
            except LoaderError as error:
                _log.error("comparison failed", extra=fields(reason=error))
            await asyncio.sleep(BREATH * took)
            pause = _pause(DEAF_PAUSE if self._is_deaf() else PAUSE, took)

    async def poll_links(self) -> None:
        """Look for ever at the tenants whose files lie elsewhere: no watch of the tree sees a change of those."""
        took = 0.0
        while True:
            await asyncio.sleep(_pause(LINKS_PAUSE, took))
            with suppress(RootUnavailableError, LoaderError):
                took, _ = await self._look_over(self._reconciler.linked())

    async def _compare_once(self) -> float:
        """Compare once; return the seconds of work that it was."""
        listing = await self._loader.run(ListingJob(self._source), URGENT)
        if listing.identity != self._reconciler.root:
            raise RootUnavailableError("another root than the one that is believed")
        self._on_listing(listing)
        took, changed = await self._look_over(sorted({*listing.tenants, *self._reconciler.known}))
        if changed and not self._is_deaf():
            # An event for it may still be on its way.
            asyncio.get_running_loop().call_later(EVENT_PATIENCE_SECONDS, self._count_missed, changed)
        return took

    async def _look_over(self, tenants: Iterable[TenantName]) -> tuple[float, list[tuple[TenantName, float]]]:
        """Hint at the tenants that differ; return the seconds of work, and who has changed, with when that was seen."""
        rest = deque(tenants)
        took, changed = 0.0, []
        while rest:
            async with self._one_at_a_time:
                since = time.monotonic()
                batch = self._take(rest)
                try:
                    survey = await self._loader.run(SurveyJob(self._source, batch), URGENT)
                except ReaderDiedError as error:
                    self._blame(batch, error)
                    rest.extendleft(reversed(batch))
                    continue
            if survey.root != self._reconciler.root:
                raise RootUnavailableError("another root than the one that is believed")
            took += survey.seconds
            rest.extendleft(reversed(batch[len(survey.signatures) :]))
            for tenant in self._reconciler.differing(survey.signatures):
                if self._reconciler.was_certain(tenant):
                    changed.append((tenant, since))
                self._reconciler.hint(tenant)
        return took, changed

    def _take(self, rest: deque[TenantName]) -> tuple[TenantName, ...]:
        """Take the first tenants for one slice; those that hang have their own turn."""
        batch: list[TenantName] = []
        while rest and len(batch) < SLICE_TENANTS:
            tenant = rest.popleft()
            if not self._reconciler.is_hung(tenant):
                batch.append(tenant)
        return tuple(batch)

    def _blame(self, batch: tuple[TenantName, ...], error: ReaderDiedError) -> None:
        """Make the tenant at which a reader ended a suspect; raise where it is not known."""
        for tenant in batch:
            if error.reading is not None and tenant == error.reading.name:
                _log.error("folder not looked at; the other tenants are", extra=fields(tenant=tenant, reason=error))
                self._reconciler.suspect(tenant)
                return
        raise error

    async def _try_suspects(self) -> None:
        """Have those read again at which readers ended, until one does it again: one reader at a time is at those."""
        while (tenant := self._reconciler.due_suspect()) is not None:
            if not await self._reconciler.try_again(tenant):
                return

    def _count_missed(self, changed: list[tuple[TenantName, float]]) -> None:
        """Take a change that no event named for a deaf watch, unless the files lie where no watch hears anything."""
        linked = set(self._reconciler.linked())
        unnamed = [
            tenant
            for tenant, since in changed
            if tenant not in linked and not self._reconciler.had_event_since(tenant, since - EVENT_PATIENCE_SECONDS)
        ]
        if unnamed and not self._is_deaf():
            self.missed += len(unnamed)
            self._on_missed(unnamed[0])


def _pause(bounds: tuple[float, float, float], took: float) -> float:
    share, least, most = bounds
    return min(max(share * took, least), most)
