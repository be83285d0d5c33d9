"""The two clocks that decide what is published, and for how long."""

import time
from datetime import UTC, datetime

from jwks_server.core.lifecycle import Moment


def now() -> Moment:
    """Return now on the wall clock, and on one that setting the time does not move and that counts in suspend."""
    return Moment(datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME))


def wall_offset() -> float:
    """Return the seconds between the wall clock and the timers' clock; it changes only where one of them jumps."""
    return time.time() - time.monotonic()
