"""Turns of tenants: when each is due, one at a time for each tenant.

A hint makes a turn due once the tenant has been quiet for a moment; a delay makes one due later. What a turn does is
not known here: whoever is told to begin one takes it, does it, and says that it is finished.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.reading.jobs import Urgency


class Timer(Protocol):
    """A call that is to be made later, and can be cancelled."""

    def cancel(self) -> None:
        """Let the call not be made."""


class Timers(Protocol):
    """A clock in seconds that makes calls later: an event loop, or a test's virtual clock."""

    def time(self) -> float:
        """Return the time now."""
        ...

    def call_at(self, when: float, callback: Callable[..., object], /, *args: object) -> Timer:
        """Make a call at a time, or soon where that has passed."""
        ...


@dataclass(frozen=True, slots=True)
class Turn:
    """How urgent a turn is, and whether content that failed before is to be tried again in it."""

    urgency: Urgency = Urgency.ROUTINE
    afresh: bool = False


@dataclass(slots=True)
class _Slot:
    """What waits for one tenant; the slot goes when nothing does. A turn is `running` until it ends, `taken` or not."""

    quiet: Timer | None = None
    first_hint: float = 0.0
    running: bool = False
    taken: bool = False
    again: bool = False
    urgency: Urgency = Urgency.ROUTINE
    afresh: bool = False
    wake: Timer | None = None
    wake_at: float = 0.0
    wake_afresh: bool = False


class Schedule:
    """Says when a turn of a tenant begins.

    `begin` is called for a tenant that has no turn under way; `take` and `finish` then have to follow. `overtake` is
    asked when an urgent hint or wish comes during a turn: True where that turn has not begun to look at the tenant and
    will now do so sooner, so that it needs no further one.
    """

    def __init__(
        self,
        timers: Timers,
        timing: Timing,
        *,
        begin: Callable[[TenantName], object],
        overtake: Callable[[TenantName], bool] = lambda _tenant: False,
    ) -> None:
        self._timers = timers
        self._timing = timing
        self._begin = begin
        self._overtake = overtake
        self._slots: dict[TenantName, _Slot] = {}
        self._closed = False

    def hint(self, tenant: TenantName, urgency: Urgency = Urgency.ROUTINE, *, afresh: bool = False) -> None:
        """Make a turn due once no hint came for `quiet` seconds, or `longest_quiet` after the first of them."""
        if self._closed:
            return
        slot = self._slots.setdefault(tenant, _Slot())
        slot.urgency = min(slot.urgency, urgency)
        slot.afresh |= afresh
        now = self._timers.time()
        if slot.quiet is None:
            slot.first_hint = now
        else:
            slot.quiet.cancel()
        due = min(now + self._timing.quiet, slot.first_hint + self._timing.longest_quiet)
        slot.quiet = self._timers.call_at(due, self._is_quiet, tenant, slot)

    def after(self, tenant: TenantName, delay: float, *, afresh: bool = False) -> None:
        """Make a hint in so many seconds; of several delays the one that ends first counts."""
        if self._closed:
            return
        slot = self._slots.setdefault(tenant, _Slot())
        when = self._timers.time() + delay
        if slot.wake is not None:
            if slot.wake_at <= when:
                return
            slot.wake.cancel()
        slot.wake_at, slot.wake_afresh = when, afresh
        slot.wake = self._timers.call_at(when, self._awake, tenant, slot)

    def now(self, tenant: TenantName, urgency: Urgency, *, afresh: bool = False) -> None:
        """Begin a turn at once. One under way is enough, and is hurried, but where content is to be tried afresh."""
        if self._closed:
            return
        slot = self._slots.setdefault(tenant, _Slot())
        if slot.taken and not afresh:
            if urgency is Urgency.URGENT:
                self._overtake(tenant)
            return
        slot.urgency = min(slot.urgency, urgency)
        slot.afresh |= afresh
        if slot.running:
            slot.again |= afresh
        else:
            self._start(tenant, slot)

    def take(self, tenant: TenantName) -> Turn:
        """Return the turn that was begun. What is to follow it is decided anew in it: no delay outlives this."""
        slot = self._slots[tenant]
        turn = Turn(slot.urgency, slot.afresh)
        slot.taken, slot.again, slot.urgency, slot.afresh = True, False, Urgency.ROUTINE, False
        if slot.wake is not None:
            slot.wake.cancel()
            slot.wake = None
        return turn

    def finish(self, tenant: TenantName) -> bool:
        """End the turn; return True where a hint came during it: then `take` has to follow at once."""
        slot = self._slots[tenant]
        slot.taken = False
        if slot.again and not self._closed:
            return True
        slot.running = False
        if slot.quiet is None and slot.wake is None:
            del self._slots[tenant]
        return False

    def __len__(self) -> int:
        """Return how many tenants have a turn under way, or anything that waits for them."""
        return len(self._slots)

    def again(self, tenant: TenantName) -> None:
        """Have the turn that is under way followed by one more."""
        self._slots[tenant].again = True

    def busy(self, tenant: TenantName) -> bool:
        """Tell whether a turn is under way, or due in a moment."""
        slot = self._slots.get(tenant)
        return slot is not None and (slot.running or slot.quiet is not None)

    @property
    def busy_tenants(self) -> tuple[TenantName, ...]:
        """The tenants that are busy."""
        return tuple(tenant for tenant in self._slots if self.busy(tenant))

    def close(self) -> None:
        """Let no timer begin another turn."""
        self._closed = True
        for slot in self._slots.values():
            for timer in (slot.quiet, slot.wake):
                if timer is not None:
                    timer.cancel()
            slot.quiet = slot.wake = None

    def state(self, tenant: TenantName) -> Mapping[str, object]:
        """Return what waits for a tenant, for whoever wants to see it; times in seconds from now."""
        slot = self._slots.get(tenant, _Slot())
        return {
            "running": slot.running,
            "due": slot.quiet is not None,
            "once_more": slot.again,
            "urgent": slot.urgency is Urgency.URGENT,
            "next_in_seconds": None if slot.wake is None else round(slot.wake_at - self._timers.time(), 3),
        }

    def _is_quiet(self, tenant: TenantName, slot: _Slot) -> None:
        slot.quiet = None
        if not slot.running:
            self._start(tenant, slot)
        elif slot.urgency is Urgency.URGENT and not slot.afresh and self._overtake(tenant):
            slot.urgency = Urgency.ROUTINE
        else:
            slot.again = True

    def _awake(self, tenant: TenantName, slot: _Slot) -> None:
        slot.wake = None
        self.hint(tenant, afresh=slot.wake_afresh)

    def _start(self, tenant: TenantName, slot: _Slot) -> None:
        slot.running = True
        self._begin(tenant)
