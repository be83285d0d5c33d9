"""A clock that stands still until a test moves it."""

import heapq
import itertools
from collections.abc import Callable


class Call:
    """A call that is made when its time has come, unless it is cancelled before."""

    def __init__(self, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        self.cancelled = False
        self._callback = callback
        self._args = args

    def cancel(self) -> None:
        """Let the call not be made."""
        self.cancelled = True

    def make(self) -> None:
        """Make the call, unless it was cancelled."""
        if not self.cancelled:
            self._callback(*self._args)


class VirtualClock:
    """Seconds from `now` on, and the calls that wait for their time."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._turn = itertools.count()
        self._calls: list[tuple[float, int, Call]] = []

    def time(self) -> float:
        """Return the time now."""
        return self._now

    def call_at(self, when: float, callback: Callable[..., object], /, *args: object) -> Call:
        """Make a call when the clock is moved to this time or past it."""
        call = Call(callback, args)
        heapq.heappush(self._calls, (when, next(self._turn), call))
        return call

    def advance(self, seconds: float) -> None:
        """Move the clock; make each call that comes due at its own time, the earlier first, the newly made ones too."""
        end = self._now + seconds
        while self._calls and self._calls[0][0] <= end:
            when, _, call = heapq.heappop(self._calls)
            self._now = max(self._now, when)
            call.make()
        self._now = end

    @property
    def waiting(self) -> int:
        """How many calls are still to be made."""
        return sum(not call.cancelled for _, _, call in self._calls)
