"""Comparing the tree with what is published: all of it every so often, and often what lies where no watch hears.

Whatever happened to events, a change is found here.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from jwks_server.core.errors import RootUnavailableError
from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.following.quarantine import Quarantine
from jwks_server.following.root import Root
from jwks_server.following.seen import Seen
from jwks_server.following.turns import Turns
from jwks_server.host.logs import fields
from jwks_server.reading.jobs import Listing, ListingJob, ReaderCrashedError, Readers, SurveyJob, Urgency

SLICE_TENANTS = 128
"""How many tenants a reader process is offered at once; it looks at about half as many in its few milliseconds."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison found: the seconds of work that it was, and who has changed, with when that was seen.

    `listing` is the root's, None where only some tenants were looked at.
    """

    took: float
    changed: tuple[tuple[TenantName, float], ...]
    listing: Listing | None = None


class Comparer:
    """Gives a turn to each tenant whose folder is not as it was. Reader processes do the looking, in small slices."""

    def __init__(  # noqa: PLR0913 - the rooms that it looks into
        self, *, turns: Turns, readers: Readers, root: Root, seen: Seen, quarantine: Quarantine, timing: Timing
    ) -> None:
        self._turns = turns
        self._readers = readers
        self._root = root
        self._seen = seen
        self._quarantine = quarantine
        self._timing = timing
        self._one_at_a_time = asyncio.Lock()

    async def compare(self) -> Comparison:
        """Look at all tenants once; raise RootUnavailableError where the root is none or not the believed one."""
        listing = await self._readers.run(ListingJob(), Urgency.URGENT)
        if not self._root.believes(listing.root):
            raise RootUnavailableError("another root than the one that is believed")
        found = await self._look_over(sorted({*listing.tenants, *self._turns.known}))
        return Comparison(found.took, found.changed, listing)

    async def compare_linked(self) -> Comparison:
        """Look at the tenants whose files lie elsewhere: no watch of the tree sees a change of those."""
        return await self._look_over(self._seen.linked())

    async def retry_suspects(self) -> None:
        """Have the suspected tenants that are due read again, until one of them crashes a reader process."""
        while (tenant := self._quarantine.due(time.monotonic())) is not None:
            if not await self._turns.retry(tenant):
                return

    def unnamed(self, found: Comparison) -> tuple[TenantName, ...]:
        """Return who has changed without any event, although the watch should have heard of it."""
        linked = set(self._seen.linked())
        patience = self._timing.event_patience
        return tuple(
            tenant
            for tenant, since in found.changed
            if tenant not in linked and not self._seen.had_event_since(tenant, since - patience)
        )

    async def _look_over(self, tenants: Iterable[TenantName]) -> Comparison:
        rest = deque(tenants)
        took, changed = 0.0, list[tuple[TenantName, float]]()
        while rest:
            async with self._one_at_a_time:
                since = time.monotonic()
                batch = self._take(rest)
                if not batch:
                    break
                try:
                    survey = await self._readers.run(SurveyJob(batch, self._timing.slice), Urgency.URGENT)
                except ReaderCrashedError as error:
                    self._blame(batch, error)
                    rest.extendleft(reversed(batch))
                    continue
            if not self._root.believes(survey.root):
                raise RootUnavailableError("another root than the one that is believed")
            took += survey.seconds
            rest.extendleft(reversed(batch[len(survey.signatures) :]))
            for tenant, signature in survey.signatures.items():
                if self._turns.differs(tenant, signature):
                    if self._seen.was_certain(tenant):
                        changed.append((tenant, since))
                    self._turns.hint(tenant)
        return Comparison(took, tuple(changed))

    def _take(self, rest: deque[TenantName]) -> tuple[TenantName, ...]:
        """Take the first tenants for one slice; those that hang are tried by `retry_suspects` alone."""
        batch: list[TenantName] = []
        while rest and len(batch) < SLICE_TENANTS:
            tenant = rest.popleft()
            if not self._quarantine.is_hung(tenant):
                batch.append(tenant)
        return tuple(batch)

    def _blame(self, batch: tuple[TenantName, ...], error: ReaderCrashedError) -> None:
        """Suspect the tenant at which the reader process hung or crashed; raise where it is not known."""
        for tenant in batch:
            if error.place is not None and tenant == error.place.name:
                _log.error("folder not looked at; the other tenants are", extra=fields(tenant=tenant, reason=error))
                self._quarantine.suspect(tenant, time.monotonic())
                return
        raise error
