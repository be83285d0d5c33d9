import pytest
from support.clock import VirtualClock

from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.following.schedule import Schedule, Turn
from jwks_server.reading.jobs import Urgency

URGENT, ROUTINE = Urgency.URGENT, Urgency.ROUTINE
A = TenantName("a.com")
TIMING = Timing(quiet=2.25, longest_quiet=6.125)


class Bench:
    """A schedule on a clock of the test's; `asked` counts how often it asked whether a turn can be hurried."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.asked = 0
        self.schedule = Schedule(self.clock, TIMING, begin=lambda _tenant: None, overtake=self._overtake)

    def _overtake(self, tenant: TenantName) -> bool:
        del tenant
        self.asked += 1
        return False

    def under_way(self, tenant: TenantName = A) -> Turn:
        """Have a turn begin now, and take it."""
        self.schedule.now(tenant, ROUTINE)
        return self.schedule.take(tenant)


@pytest.fixture
def bench() -> Bench:
    """Make a schedule of nothing."""
    return Bench()


def test_a_turn_under_way_is_enough_for_one_that_is_wanted_now(bench: Bench) -> None:
    """It is hurried where it still waits, and no later turn is urgent for it."""
    bench.under_way()
    bench.schedule.after(A, 5)
    bench.schedule.now(A, URGENT)
    assert bench.asked == 1
    assert not bench.schedule.finish(A)
    bench.clock.advance(10)
    assert bench.schedule.take(A) == Turn(ROUTINE)
