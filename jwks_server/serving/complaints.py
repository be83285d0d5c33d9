"""What the listeners may write to the log: a line of each kind now and then, with a count of those held back.

Nothing that a request says is written, so a stranger can neither fill the log nor put words into it.
"""

import logging
import os
import traceback
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from jwks_server.host.logs import fields

_log = logging.getLogger(__name__)

_FRAMES = 8


class Kind(StrEnum):
    """What is counted; each is a metric's label."""

    MALFORMED = "malformed"
    BUG = "bug"
    HANDSHAKE = "handshake_failed"
    OVER_LIMIT = "over_limit"
    OVER_ADDRESS_LIMIT = "over_address_limit"
    HEAD_LATE = "head_late"
    IDLE = "idle"
    STALLED = "stalled"
    NO_DESCRIPTORS = "no_descriptors"


_TEXTS = {
    Kind.BUG: "request failed: a bug",
    Kind.OVER_LIMIT: "too many open connections: those idle for longest are closed; --max-connections is the limit",
    Kind.OVER_ADDRESS_LIMIT: (
        "too many open connections of one address: its own idle for longest are closed; "
        "--max-connections-per-address is the limit"
    ),
    Kind.STALLED: "connections were aborted because their clients do not read",
}
"""The kinds that are worth a line. The others are what the internet sends all day, and are only counted."""


class Pace:
    """Lets one line through every so many seconds, and knows how many it held back."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = float("-inf")
        self._held_back = 0

    def suppressed(self, now: float) -> int | None:
        """Return how many were held back since the last line where another may be written now, else None."""
        if now < self._next:
            self._held_back += 1
            return None
        held_back, self._held_back = self._held_back, 0
        self._next = now + self._seconds
        return held_back


class Complaints:
    """Counts what goes wrong at a listener, and logs it sparingly. `clock` gives seconds that never jump."""

    def __init__(self, listener: str, clock: Callable[[], float], *, bug_pace: float, limit_pace: float) -> None:
        self._listener = listener
        self._clock = clock
        self._paces = {kind: Pace(bug_pace if kind is Kind.BUG else limit_pace) for kind in Kind}
        self.counts: Counter[Kind] = Counter()

    def count(self, kind: Kind) -> None:
        """Count one, and log a line where this kind is worth one and none was written lately."""
        self.counts[kind] += 1
        if kind in _TEXTS:
            self._say(kind, logging.WARNING, _TEXTS[kind])

    def bug(self, error: BaseException | None) -> None:
        """Count a failure of our own code, and log where it happened: never what it says, which may be the request."""
        self.counts[Kind.BUG] += 1
        self._say(Kind.BUG, logging.ERROR, _TEXTS[Kind.BUG], traceback=None if error is None else place_of(error))

    def no_descriptors(self, error: str, limit: int) -> None:
        """Count a connection that could not be accepted for want of descriptors, and say what to raise."""
        self.counts[Kind.NO_DESCRIPTORS] += 1
        text = f"no connection can be accepted ({error}); idle ones are closed. Raise LimitNOFILE= or ulimit -n"
        self._say(Kind.NO_DESCRIPTORS, logging.ERROR, text, limit=limit)

    def _say(self, kind: Kind, level: int, text: str, **values: object) -> None:
        suppressed = self._paces[kind].suppressed(self._clock())
        if suppressed is not None:
            _log.log(level, text, extra=fields(listener=self._listener, suppressed=suppressed or None, **values))


def place_of(error: BaseException) -> str:
    """Return an error's type and the lines of code it came through, without its text."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = (f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)
    return f"Traceback {type(error).__name__}: {' > '.join(places)}"
