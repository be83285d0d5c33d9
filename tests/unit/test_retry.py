import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jwks_server.core.retry import Came, NextTurn, Outcome, next_turn
from jwks_server.core.timing import Timing

TIMING = Timing(retries=(0.02, 0.5), slow_retry=30.0, shortest_timer=0.005, longest_timer=3600.0)
AT_ONCE = {Came.BLAME, Came.UNFINISHED}
FAILED = [came for came in Came if came not in {Came.GOOD, *AT_ONCE}]


def within(due: float, timing: Timing = TIMING) -> float:
    """Return the time of a change by itself, held between the shortest timer and the longest."""
    return min(max(due, timing.shortest_timer), timing.longest_timer)


def test_a_good_tenant_is_read_again_only_when_its_set_changes_by_itself() -> None:
    """Whatever failed before is over."""
    assert next_turn(Outcome(Came.GOOD), 2, TIMING) == NextTurn(None, 0)
    assert next_turn(Outcome(Came.GOOD, due=60), 2, TIMING) == NextTurn(60, 0)


@pytest.mark.parametrize(("due", "delay"), [(0.0, 0.005), (0.005, 0.005), (7.0, 7.0), (3600.0, 3600.0), (1e9, 3600.0)])
def test_a_change_by_itself_is_waited_for_within_bounds(due: float, delay: float) -> None:
    """A clock that ticks too coarsely makes no busy loop, and one that jumps is looked at every hour."""
    assert next_turn(Outcome(Came.GOOD, due), 0, TIMING) == NextTurn(delay)


@pytest.mark.parametrize("came", sorted(AT_ONCE, key=str))
def test_a_folder_is_read_on_at_once_where_a_file_was_blamed_or_files_are_left(came: Came) -> None:
    """That is no further failure of the rest."""
    for failures in (0, 1, 2):
        for outcome in (Outcome(came, 60), Outcome(came, suspected=True, hung=came is Came.BLAME)):
            assert next_turn(outcome, failures, TIMING) == NextTurn(0.0, failures)


@pytest.mark.parametrize("came", [Came.FAULTY, Came.NOTHING, Came.CRASH])
def test_a_failure_that_lasts_is_tried_again_ever_more_slowly(came: Came) -> None:
    """Soon, for a file may be half-written; then now and then, and also what is known to fail."""
    decisions = []
    failures = 0
    for _ in range(4):
        decisions.append(next_turn(Outcome(came), failures, TIMING))
        failures = decisions[-1].failures
    slow = NextTurn(30.0, 2, afresh=True)
    assert decisions == [NextTurn(0.02, 1), NextTurn(0.5, 2), slow, slow]


def test_other_faults_than_before_are_tried_again_soon() -> None:
    """Somebody is at work on the folder."""
    for failures in (0, 1, 2):
        assert next_turn(Outcome(Came.NEWLY_FAULTY), failures, TIMING) == NextTurn(0.02, 1)


@pytest.mark.parametrize("came", [*FAILED, Came.UNFINISHED])
def test_a_tenant_that_hung_gets_no_retry_of_its_own(came: Came) -> None:
    """The comparison tries those one after the other; but its set still changes on time."""
    for due in (None, 60.0, 0.001):
        decision = next_turn(Outcome(came, due, suspected=True, hung=True), 0, TIMING)
        assert decision == NextTurn(None if due is None else within(due), 0)


@pytest.mark.parametrize("came", [Came.FAULTY, Came.NOTHING, Came.CRASH])
def test_a_tenant_that_crashed_readers_gets_the_first_retries_and_no_slow_ones(came: Came) -> None:
    """Each may cost a reader process; later the comparison tries it."""
    outcome = Outcome(came, 60.0, suspected=True)
    assert next_turn(outcome, 1, TIMING) == NextTurn(0.5, 2)
    assert next_turn(outcome, 2, TIMING) == NextTurn(60.0, 2)


@pytest.mark.parametrize(
    ("failures", "due", "expected"),
    [
        (0, 0.01, NextTurn(0.01, 1)),
        (0, 0.0, NextTurn(0.005, 1)),
        (0, 0.03, NextTurn(0.02, 1)),
        (2, 7.0, NextTurn(7.0, 2)),
        (2, 60.0, NextTurn(30.0, 2, afresh=True)),
    ],
)
def test_a_retry_waits_for_no_longer_than_a_change_by_itself(failures: int, due: float, expected: NextTurn) -> None:
    """And tries nothing afresh before its time."""
    assert next_turn(Outcome(Came.FAULTY, due), failures, TIMING) == expected


def test_only_what_cost_a_reader_process_counts_as_a_crash() -> None:
    """With a file to blame for it, or without."""
    assert {came for came in Came if came.crashed} == {Came.CRASH, Came.BLAME}


seconds = st.floats(0, 1e6, allow_nan=False)
timings = st.builds(
    lambda retries, slow, shortest, more: Timing(
        retries=tuple(retries), slow_retry=slow, shortest_timer=shortest, longest_timer=shortest + more
    ),
    st.lists(seconds, max_size=5),
    seconds,
    seconds,
    seconds,
)
outcomes = st.builds(Outcome, st.sampled_from(Came), st.none() | seconds, suspected=st.booleans(), hung=st.booleans())


@given(outcomes, timings, st.data())
@settings(deadline=None)
def test_a_decision_is_never_too_late_and_no_failure_is_forgotten(
    outcome: Outcome, timing: Timing, data: st.DataObject
) -> None:
    """For any outcome, any delays and any number of failures so far."""
    failures = data.draw(st.integers(0, len(timing.retries)))
    decision = next_turn(outcome, failures, timing)
    assert 0 <= decision.failures <= len(timing.retries)
    assert decision.failures <= failures + 1
    due = None if outcome.due is None else within(outcome.due, timing)
    retries = {*timing.retries, timing.slow_retry}
    if outcome.came is Came.BLAME or (outcome.came is Came.UNFINISHED and not outcome.hung):
        assert decision.delay == 0
        return
    if due is not None:
        assert decision.delay is not None
        assert decision.delay <= due <= max(outcome.due or 0, timing.shortest_timer)
        assert decision.delay in retries or decision.delay >= timing.shortest_timer
    if outcome.came is Came.GOOD or outcome.hung:
        assert decision.delay == due
    elif not outcome.suspected:
        assert decision.delay is not None
    assert decision.delay in retries | {due}
    assert not decision.afresh or (decision.delay == timing.slow_retry and decision.failures == len(timing.retries))
    assert outcome.came is not Came.GOOD or decision.failures == 0
