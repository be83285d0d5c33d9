"""Which tenant has its turn when: hints, first loads and delays become turns of the reconciler."""

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from contextlib import suppress

from jwks_server.core.errors import TenantNameError
from jwks_server.core.publication import Publication
from jwks_server.core.retry import Came, Outcome, next_turn
from jwks_server.core.tenant import TenantName, tenant_name
from jwks_server.core.timing import Timing
from jwks_server.following.quarantine import Quarantine
from jwks_server.following.reconcile import Reconciler
from jwks_server.following.schedule import Schedule
from jwks_server.following.seen import Seen
from jwks_server.following.store import Store
from jwks_server.host.logs import fields
from jwks_server.reading.jobs import Urgency

_log = logging.getLogger(__name__)


class Turns:
    """Gives tenants their turns, one at a time each. All methods belong to the event loop."""

    def __init__(
        self, reconciler: Reconciler, store: Store, seen: Seen, quarantine: Quarantine, timing: Timing
    ) -> None:
        self._reconciler = reconciler
        self._store = store
        self._seen = seen
        self._quarantine = quarantine
        self._timing = timing
        self._schedule = Schedule(asyncio.get_running_loop(), timing, begin=self._begin, overtake=reconciler.promote)
        self._tasks: dict[TenantName, asyncio.Task[Came]] = {}
        self._failures: dict[TenantName, int] = {}

    # --- the first load

    def recall(self, records: Mapping[TenantName, bytes]) -> None:
        """Take in records from before the start that could be read only now, and read those tenants again."""
        self._reconciler.recall(records)
        for tenant in records:
            self._schedule.hint(tenant)

    async def load_expected(self, side_by_side: int) -> None:
        """Load all expected tenants, a few at a time; those that fail are tried again on their own timers."""
        turns = iter(tuple(self._reconciler.unloaded))

        async def take_turns() -> None:
            for tenant in turns:
                await self.first_load(tenant, Urgency.ROUTINE)

        await asyncio.gather(*(take_turns() for _ in range(side_by_side)))

    async def first_load(self, tenant: TenantName, urgency: Urgency = Urgency.URGENT) -> Publication | None:
        """Return what the tenant publishes, after its first load where it waits for that; None where it failed.

        An urgent one is somebody's who waits: it overtakes the loads of the start, also where its own is among them,
        and is waited for `Timing.first_load`, after which it goes on by itself.
        """
        if tenant in self._reconciler.unloaded and not self._quarantine.is_hung(tenant):
            patience = self._timing.first_load if urgency is Urgency.URGENT else None
            with suppress(TimeoutError):
                await asyncio.wait_for(self._turn_of(tenant, urgency), patience)
        return self._store.get(tenant)

    # --- hints

    def event(self, names: Collection[str]) -> None:
        """Take in names of folders that the watch saw something in; any names."""
        now = time.monotonic()
        for name in names:
            try:
                tenant = tenant_name(name)
            except TenantNameError:
                continue
            self._seen.event(tenant, now)
            self.hint(tenant, Urgency.URGENT)

    def hint(self, tenant: TenantName, urgency: Urgency = Urgency.ROUTINE, *, afresh: bool = False) -> None:
        """Read the tenant's folder soon. What somebody just changed is urgent; what may have settled waits for it."""
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("hint", extra=fields(tenant=tenant, urgency=urgency.name.lower(), afresh=afresh))
        self._schedule.hint(tenant, urgency, afresh=afresh)

    def hint_timed(self) -> None:
        """Read again all tenants that depend on the wall clock, which has jumped."""
        for publication in tuple(self._store):
            timed = (publication.next_change.wall, publication.next_change.steady, publication.look_again.wall)
            if publication.problems or any(due is not None for due in timed):
                self.hint(publication.tenant)

    async def retry(self, tenant: TenantName) -> bool:
        """Read a suspected tenant, with the files that were left out; return whether it crashed no reader process.

        Where nothing could be learned of it, it is as suspected as before, and is tried again later.
        """
        self._quarantine.hold(tenant)
        came = await self._turn_of(tenant, Urgency.ROUTINE, afresh=True)
        if came is Came.NOTHING and self._quarantine.is_suspect(tenant):
            self._quarantine.suspect(tenant, time.monotonic(), hung=False, counts=False)
            return False
        if came.crashed:
            return False
        if self._quarantine.release(tenant):
            # It has ordinary faults, which have a timer of their own.
            self._decide(tenant, self._reconciler.outcome(tenant, Came.FAULTY))
        self._quarantine.hurry()
        return True

    async def close(self) -> None:
        """Let no timer begin another turn, and give up those under way."""
        self._schedule.close()
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what is known

    @property
    def known(self) -> Collection[TenantName]:
        """The tenants that are published, or wait for their first load."""
        return {*self._store.tenants(), *self._reconciler.unloaded}

    def differs(self, tenant: TenantName, signature: bytes | None) -> bool:
        """Tell whether the folder is not as it was when it was read; not while it is read, hung or not read yet."""
        if self._schedule.busy(tenant) or self._quarantine.is_hung(tenant):
            return False
        waits_for_its_turn = tenant in self._reconciler.unloaded and not self._seen.knows(tenant)
        return not waits_for_its_turn and self._seen.differs(tenant, signature)

    @property
    def uncertain(self) -> Collection[TenantName]:
        """The tenants that are being read, or whose last reading has to be done once more."""
        return {*self._schedule.busy_tenants, *self._seen.open}

    def state(self, tenant: TenantName) -> Mapping[str, object]:
        """Return what is known of a tenant's turns, for whoever wants to see it."""
        return {
            "waits_for_first_load": tenant in self._reconciler.unloaded,
            "last_reading_failed": tenant in self._reconciler.unread,
            "failures": self._failures.get(tenant, 0),
            "turn": self._schedule.state(tenant),
            "quarantine": self._quarantine.state(tenant, time.monotonic()),
            "folder": self._seen.state(tenant),
        }

    # --- turns

    async def _turn_of(self, tenant: TenantName, urgency: Urgency, *, afresh: bool = False) -> Came:
        """Wait for a turn of the tenant, and return what came of it."""
        self._schedule.now(tenant, urgency, afresh=afresh)
        task = self._tasks.get(tenant)
        return Came.NOTHING if task is None else await asyncio.shield(task)

    def _begin(self, tenant: TenantName) -> None:
        self._tasks[tenant] = asyncio.get_running_loop().create_task(self._turns(tenant))

    async def _turns(self, tenant: TenantName) -> Came:
        """Take turns until no hint came meanwhile; return what came of the last that crashed, else of the last."""
        came = Came.NOTHING
        try:
            more = True
            while more:
                outcome = await self._reconciler.take_turn(tenant, self._schedule.take(tenant))
                if outcome.came.crashed or not came.crashed:
                    came = outcome.came
                self._decide(tenant, outcome)
                more = self._schedule.finish(tenant)
        finally:
            del self._tasks[tenant]
        return came

    def _decide(self, tenant: TenantName, outcome: Outcome) -> None:
        following = next_turn(outcome, self._failures.pop(tenant, 0), self._timing)
        if following.failures:
            self._failures[tenant] = following.failures
        if outcome.came is Came.BLAME:
            self._schedule.again(tenant)
        elif following.delay is not None:
            self._schedule.after(tenant, following.delay, afresh=following.afresh)
