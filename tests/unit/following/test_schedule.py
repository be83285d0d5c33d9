from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import VirtualClock

from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.following.schedule import Schedule, Turn
from jwks_server.reading.jobs import Urgency

URGENT, ROUTINE = Urgency.URGENT, Urgency.ROUTINE
A, B = TenantName("a.com"), TenantName("b.com")

# What happens at whole seconds never meets a quiet time's end, nor that one a delay's: the order of the three is sure.
QUIET, LONGEST = 2.25, 6.125
TIMING = Timing(quiet=QUIET, longest_quiet=LONGEST)


class Bench:
    """A schedule on a clock of the test's, and the turns that it began, with the time of each.

    `overtakes` are the tenants whose turns can still be hurried.
    """

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.begun: list[tuple[float, TenantName]] = []
        self.overtakes: set[TenantName] = set()
        self.asked = 0
        self.schedule = Schedule(self.clock, TIMING, begin=self._begin, overtake=self._overtake)

    def _begin(self, tenant: TenantName) -> None:
        self.begun.append((self.clock.time(), tenant))

    def _overtake(self, tenant: TenantName) -> bool:
        self.asked += 1
        return tenant in self.overtakes

    def under_way(self, tenant: TenantName = A) -> Turn:
        """Have a turn begin now, and take it."""
        self.schedule.now(tenant, ROUTINE)
        return self.schedule.take(tenant)


@pytest.fixture
def bench() -> Bench:
    """Make a schedule of nothing."""
    return Bench()


def test_a_hint_makes_one_turn_once_its_tenant_was_quiet(bench: Bench) -> None:
    """Not before: a file is written in several steps."""
    bench.schedule.hint(A)
    bench.clock.advance(QUIET - 0.125)
    assert not bench.begun
    assert bench.schedule.busy(A)
    bench.clock.advance(100)
    assert bench.begun == [(QUIET, A)]


def test_hints_extend_the_quiet_time_up_to_the_longest_after_the_first(bench: Bench) -> None:
    """A tenant whose folder never rests has its turn all the same."""
    for _ in range(2):
        bench.schedule.hint(A)
        bench.clock.advance(2)
    assert not bench.begun
    for _ in range(3):
        bench.schedule.hint(A)
        bench.clock.advance(1)
    assert bench.begun == [(LONGEST, A)]


def test_a_new_first_hint_has_the_whole_longest_quiet_time_before_it(bench: Bench) -> None:
    """What counts is the first hint since the last quiet time ended."""
    bench.schedule.hint(A)
    bench.clock.advance(10)
    bench.schedule.take(A)
    bench.schedule.finish(A)
    for _ in range(10):
        bench.schedule.hint(A)
        bench.clock.advance(1)
    assert bench.begun == [(QUIET, A), (10 + LONGEST, A)]


def test_tenants_do_not_wait_for_each_other(bench: Bench) -> None:
    """One turn a tenant, of any number of tenants at a time."""
    bench.schedule.hint(A)
    bench.clock.advance(1)
    bench.schedule.hint(B)
    bench.clock.advance(10)
    assert bench.begun == [(QUIET, A), (1 + QUIET, B)]
    assert bench.schedule.busy_tenants == (A, B)


def test_hints_during_a_turn_make_exactly_one_more(bench: Bench) -> None:
    """However many: the one that follows sees all that they tell of."""
    bench.under_way()
    for _ in range(5):
        bench.schedule.hint(A)
        bench.clock.advance(10)
    assert bench.schedule.finish(A)
    bench.schedule.take(A)
    assert not bench.schedule.finish(A)
    bench.clock.advance(100)
    assert bench.begun == [(0.0, A)]


def test_a_hint_that_is_not_quiet_when_the_turn_ends_begins_one_of_its_own(bench: Bench) -> None:
    """It is neither lost with the turn nor taken before its time."""
    bench.under_way()
    bench.schedule.hint(A)
    assert not bench.schedule.finish(A)
    bench.clock.advance(10)
    assert bench.begun == [(0.0, A), (QUIET, A)]


def test_an_urgent_hint_that_overtakes_a_waiting_turn_makes_none(bench: Bench) -> None:
    """That turn has not looked yet, and will now do so sooner."""
    bench.overtakes.add(A)
    bench.under_way()
    bench.schedule.after(A, 20)
    bench.schedule.hint(A, URGENT)
    bench.clock.advance(10)
    assert bench.asked == 1
    assert not bench.schedule.finish(A)
    bench.clock.advance(20)
    assert bench.begun == [(0.0, A), (20 + QUIET, A)]
    assert bench.schedule.take(A) == Turn(ROUTINE)


@pytest.mark.parametrize(("urgency", "afresh", "asked"), [(ROUTINE, False, 0), (URGENT, True, 0), (URGENT, False, 1)])
def test_a_hint_that_overtakes_nothing_makes_one_more_turn(
    bench: Bench, urgency: Urgency, *, afresh: bool, asked: int
) -> None:
    """A routine one may wait, one to try afresh has to be told so, and a turn that looks already cannot be hurried."""
    bench.overtakes |= {A} if afresh else set()
    bench.under_way()
    bench.schedule.hint(A, urgency, afresh=afresh)
    bench.clock.advance(10)
    assert bench.asked == asked
    assert bench.schedule.finish(A)
    assert bench.schedule.take(A) == Turn(urgency, afresh)


def test_a_turn_is_as_urgent_as_the_most_urgent_hint_and_afresh_if_one_asks_for_it(bench: Bench) -> None:
    """Whatever came after that hint, and before; and the turn after it is neither."""
    for urgency, afresh in ((ROUTINE, False), (URGENT, False), (ROUTINE, True), (ROUTINE, False)):
        bench.schedule.hint(A, urgency, afresh=afresh)
    bench.clock.advance(10)
    assert bench.schedule.take(A) == Turn(URGENT, afresh=True)
    bench.schedule.hint(A)
    bench.clock.advance(10)
    assert bench.schedule.finish(A)
    assert bench.schedule.take(A) == Turn()


def test_a_hint_between_the_beginning_and_the_taking_is_in_that_turn(bench: Bench) -> None:
    """For nothing was looked at before."""
    bench.schedule.now(A, ROUTINE)
    bench.schedule.hint(A, URGENT, afresh=True)
    bench.clock.advance(10)
    assert bench.schedule.take(A) == Turn(URGENT, afresh=True)
    assert not bench.schedule.finish(A)


@pytest.mark.parametrize("delays", [(5, 7), (7, 5), (5, 5)])
def test_of_several_delays_the_one_that_ends_first_counts(bench: Bench, delays: tuple[float, float]) -> None:
    """And only that one."""
    for delay in delays:
        bench.schedule.after(A, delay)
    assert not bench.schedule.busy(A)
    bench.clock.advance(100)
    assert bench.begun == [(5 + QUIET, A)]


def test_a_delay_that_ends_tries_afresh_what_it_was_to(bench: Bench) -> None:
    """Not what a later delay was to, which counts no more."""
    bench.schedule.after(A, 7, afresh=True)
    bench.schedule.after(A, 5)
    bench.clock.advance(10)
    assert bench.schedule.take(A) == Turn(ROUTINE)
    bench.schedule.after(A, 5, afresh=True)
    bench.clock.advance(10)
    assert bench.schedule.finish(A)
    assert bench.schedule.take(A) == Turn(ROUTINE, afresh=True)


def test_taking_a_turn_clears_the_delay_and_the_next_one_counts(bench: Bench) -> None:
    """One that was cancelled is not taken for one that will still end first."""
    bench.schedule.after(A, 3)
    bench.under_way()
    assert bench.schedule.state(A)["next_in_seconds"] is None
    bench.schedule.after(A, 20)
    assert not bench.schedule.finish(A)
    bench.clock.advance(100)
    assert bench.begun == [(0.0, A), (20 + QUIET, A)]


def test_a_delay_counts_after_one_that_has_ended(bench: Bench) -> None:
    """One that made its hint is not taken for one that waits."""
    bench.schedule.after(A, 3)
    bench.clock.advance(3)
    bench.schedule.after(A, 20)
    bench.clock.advance(100)
    assert bench.begun == [(3 + QUIET, A)]
    assert bench.schedule.finish(A)


def test_a_turn_that_is_wanted_now_begins_at_once(bench: Bench) -> None:
    """Without any quiet time; it takes along what was asked for before."""
    bench.schedule.hint(A, afresh=True)
    bench.schedule.now(A, URGENT)
    assert bench.begun == [(0.0, A)]
    assert bench.schedule.take(A) == Turn(URGENT, afresh=True)


def test_a_turn_under_way_is_enough_for_one_that_is_wanted_now(bench: Bench) -> None:
    """It is hurried where it still waits, and no later turn is urgent for it."""
    bench.under_way()
    bench.schedule.after(A, 5)
    bench.schedule.now(A, URGENT)
    assert bench.asked == 1
    assert not bench.schedule.finish(A)
    bench.clock.advance(10)
    assert bench.schedule.take(A) == Turn(ROUTINE)


def test_content_that_is_to_be_tried_afresh_now_makes_one_more_turn(bench: Bench) -> None:
    """The one under way was not told so."""
    bench.overtakes.add(A)
    bench.under_way()
    bench.schedule.now(A, URGENT, afresh=True)
    assert bench.schedule.finish(A)
    assert bench.schedule.take(A) == Turn(URGENT, afresh=True)
    assert not bench.schedule.finish(A)
    assert len(bench.begun) == 1


def test_a_turn_may_ask_for_one_more_itself(bench: Bench) -> None:
    """As one that learned which file to leave out."""
    bench.under_way()
    bench.schedule.again(A)
    assert bench.schedule.state(A)["once_more"]
    assert bench.schedule.finish(A)
    bench.schedule.take(A)
    assert not bench.schedule.finish(A)


def test_nothing_begins_after_the_close(bench: Bench) -> None:
    """No hint, no delay and no wish, neither old nor new; a turn under way is not followed by another."""
    bench.schedule.hint(A)
    bench.schedule.after(A, 1)
    bench.under_way(B)
    bench.schedule.again(B)
    bench.schedule.close()
    assert bench.clock.waiting == 0
    bench.schedule.hint(A)
    bench.schedule.after(A, 1)
    bench.schedule.now(A, URGENT)
    assert bench.clock.waiting == 0
    bench.clock.advance(100)
    assert bench.begun == [(0.0, B)]
    assert not bench.schedule.finish(B)


def test_nothing_is_kept_of_tenants_for_whom_nothing_waits(bench: Bench) -> None:
    """Strangers may name any number of folders."""
    for number in range(100):
        tenant = TenantName(f"{number}.com")
        bench.schedule.hint(tenant)
        bench.schedule.after(tenant, 1)
        bench.clock.advance(10)
        bench.schedule.take(tenant)
        bench.schedule.finish(tenant)
    assert len(bench.schedule) == 0
    assert bench.clock.waiting == 0


def test_whoever_wants_to_sees_what_waits_for_a_tenant(bench: Bench) -> None:
    """And of one that nobody ever named that nothing does."""
    nothing = {"running": False, "due": False, "once_more": False, "urgent": False, "next_in_seconds": None}
    assert bench.schedule.state(A) == nothing
    assert len(bench.schedule) == 0
    bench.schedule.after(A, 7)
    bench.clock.advance(2)
    assert bench.schedule.state(A) == {**nothing, "next_in_seconds": 5.0}
    assert bench.schedule.busy_tenants == ()
    bench.schedule.hint(A, URGENT)
    assert bench.schedule.state(A) == {**nothing, "due": True, "urgent": True, "next_in_seconds": 5.0}
    bench.clock.advance(3)
    assert bench.schedule.state(A) == {**nothing, "running": True, "urgent": True, "next_in_seconds": 2.0}


@dataclass
class Expected:
    """What the law says of one tenant.

    `hints` are the times of those that did not come to rest yet, `asked` all that was asked for and no turn was told.
    """

    hints: list[float] = field(default_factory=list)
    delay: tuple[float, bool] | None = None
    asked: list[Turn] = field(default_factory=list)
    begun: bool = False
    taken: bool = False
    more: bool = False

    @property
    def turn(self) -> Turn:
        """The turn that is told all that was asked for."""
        return Turn(min((turn.urgency for turn in self.asked), default=ROUTINE), any(t.afresh for t in self.asked))

    @property
    def rest(self) -> float | None:
        """When the hints come to rest."""
        return min(self.hints[-1] + QUIET, self.hints[0] + LONGEST) if self.hints else None

    @property
    def waits(self) -> bool:
        """Tell whether there is anything to keep of the tenant."""
        return bool(self.hints or self.delay or self.begun)


class Law:
    """Does things to a schedule, and demands of it what the law says of each tenant alone."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.schedule = self.bench.schedule
        self.expected = {A: Expected(), B: Expected()}
        self.turns: list[tuple[float, TenantName]] = []
        self.closed = False

    def hint(self, tenant: TenantName, urgency: Urgency, afresh: bool) -> None:
        """Name a tenant."""
        self.schedule.hint(tenant, urgency, afresh=afresh)
        if not self.closed:
            self.expected[tenant].hints.append(self.bench.clock.time())
            self.expected[tenant].asked.append(Turn(urgency, afresh))

    def after(self, tenant: TenantName, delay: float, afresh: bool) -> None:
        """Want a turn later."""
        self.schedule.after(tenant, delay, afresh=afresh)
        wake, expected = self.bench.clock.time() + delay, self.expected[tenant]
        if not self.closed and (expected.delay is None or wake < expected.delay[0]):
            expected.delay = wake, afresh

    def now(self, tenant: TenantName, urgency: Urgency, afresh: bool) -> None:
        """Want a turn at once."""
        self.schedule.now(tenant, urgency, afresh=afresh)
        expected = self.expected[tenant]
        if self.closed:
            return
        if afresh or not expected.taken:
            expected.asked.append(Turn(urgency, afresh))
        if not expected.begun:
            self._begun(self.bench.clock.time(), tenant)
        expected.more |= afresh

    def work(self, tenant: TenantName) -> None:
        """Take a turn that was begun, with all that was asked for, or end one that was taken, which one may follow."""
        expected = self.expected[tenant]
        if expected.taken:
            follows = expected.more and not self.closed
            assert self.schedule.finish(tenant) == follows
            expected.begun, expected.taken = follows, False
            self.bench.overtakes.discard(tenant)
        elif expected.begun:
            assert self.schedule.take(tenant) == expected.turn
            expected.asked.clear()
            expected.taken, expected.more, expected.delay = True, False, None

    def again(self, tenant: TenantName) -> None:
        """Ask for one more turn from within one."""
        if self.expected[tenant].taken:
            self.schedule.again(tenant)
            self.expected[tenant].more = True

    def wait(self, tenant: TenantName) -> None:
        """Have a turn wait before it looks at anything, or wait no longer."""
        if self.expected[tenant].taken:
            self.bench.overtakes ^= {tenant}

    def advance(self, seconds: int) -> None:
        """Let time pass, so that turns begin."""
        end = self.bench.clock.time() + seconds
        for tenant, expected in self.expected.items():
            self._pass_time(tenant, expected, end)
        self.bench.clock.advance(seconds)

    def close(self) -> None:
        """Let no turn begin any more."""
        self.schedule.close()
        self.closed = True
        for expected in self.expected.values():
            expected.hints.clear()
            expected.delay = None

    def hold(self) -> None:
        """Demand that the turns began that were due, one at a time, no others, and that nothing is kept for nothing."""
        assert sorted(self.bench.begun) == sorted(self.turns)
        for tenant, expected in self.expected.items():
            assert self.schedule.busy(tenant) == bool(expected.begun or expected.hints)
        if not self.closed:
            assert len(self.schedule) == sum(expected.waits for expected in self.expected.values())

    def end(self) -> None:
        """Demand that turns see in the end whatever was asked for."""
        for tenant, expected in self.expected.items():
            while expected.begun:
                self.work(tenant)
        self.advance(20)
        self.hold()
        assert self.closed or all(expected.begun or not expected.asked for expected in self.expected.values())

    def _begun(self, when: float, tenant: TenantName) -> None:
        assert not self.expected[tenant].begun
        self.expected[tenant].begun = True
        self.turns.append((when, tenant))

    def _pass_time(self, tenant: TenantName, expected: Expected, end: float) -> None:
        while True:
            rest, wake = expected.rest, expected.delay[0] if expected.delay else None
            now = min((when for when in (rest, wake) if when is not None), default=end + 1)
            if now > end:
                return
            if expected.delay is not None and now == wake:
                expected.hints.append(now)
                expected.asked.append(Turn(ROUTINE, expected.delay[1]))
                expected.delay = None
                continue
            expected.hints.clear()
            if not expected.begun:
                self._begun(now, tenant)
            elif tenant in self.bench.overtakes and expected.turn == Turn(URGENT):
                expected.asked.clear()
            else:
                expected.more = True


tenants = st.sampled_from([A, A, A, B])
asked = tenants, st.sampled_from(Urgency), st.booleans()
deeds = st.one_of(
    st.tuples(st.just("hint"), *asked),
    st.tuples(st.just("now"), *asked),
    st.tuples(st.just("after"), tenants, st.sampled_from([0.5, 1.5, 3.5, 6.5, 12.5]), st.booleans()),
    st.tuples(st.just("work"), tenants),
    st.tuples(st.just("work"), tenants),
    st.tuples(st.sampled_from(["again", "wait"]), tenants),
    st.tuples(st.just("advance"), st.integers(1, 8)),
)


@given(sequence=st.lists(deeds, min_size=20, max_size=60), closes=st.booleans())
@settings(max_examples=100, deadline=None)
def test_whatever_happens_turns_begin_when_they_are_due_one_at_a_time_and_see_all_that_was_asked_for(
    sequence: list[tuple[Any, ...]], *, closes: bool
) -> None:
    """Law 1, for two tenants that know nothing of each other; and after the close none begins."""
    law = Law()
    for name, *arguments in sequence:
        getattr(law, name)(*arguments)
        law.hold()
    if closes:
        law.close()
        for name, *arguments in sequence:
            getattr(law, name)(*arguments)
            law.hold()
    law.end()
