"""The only place that reads a clock."""

import time
from datetime import UTC, datetime

from jwks_server.core.lifecycle import Moment


def now() -> Moment:
    """Return now on the wall clock and on a clock that no setting moves and that counts while the machine sleeps."""
    return Moment(datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME))


def wall_offset() -> float:
    """Return the seconds between the wall clock and the timers' clock; it changes only where one of them jumps."""
    return time.time() - time.monotonic()
