from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jwks_server.core.timing import Pause, Timing

seconds = st.floats(0, 1e9, allow_nan=False)


@pytest.mark.parametrize(
    ("took", "pause"), [(0.0, 1.0), (0.01, 1.0), (0.1, 5.0), (1.0, 50.0), (1.2, 60.0), (1e9, 60.0)]
)
def test_a_pause_is_a_multiple_of_the_work_within_bounds(took: float, pause: float) -> None:
    """Quick work does not make a busy loop, and slow work not a sleep for ever."""
    assert Pause(50, 1.0, 60.0).after(took) == pytest.approx(pause)


@given(seconds, seconds, seconds, seconds, seconds)
@settings(deadline=None)
def test_more_work_is_never_followed_by_less_pause(
    share: float, least: float, more: float, took: float, longer: float
) -> None:
    """Whatever the bounds are."""
    pause = Pause(share, least, least + more)
    assert least <= pause.after(took) <= pause.after(took + longer) <= least + more


def test_all_delays_go_together() -> None:
    """None is negative, each shortest one is below its longest, and the whole can be handed about."""
    timing = Timing()
    assert hash(timing) == hash(Timing())
    for field in fields(timing):
        value = getattr(timing, field.name)
        assert min(value if isinstance(value, tuple) else (value,)) > 0, field.name
    assert timing.quiet < timing.longest_quiet
    assert timing.shortest_timer < timing.longest_timer
    assert timing.shortest_rebuild < timing.longest_rebuild
    assert timing.first_suspicion < timing.suspicion
    assert tuple(sorted({*timing.retries, timing.slow_retry})) == (*timing.retries, timing.slow_retry)
    for pause in (timing.comparison, timing.deaf_comparison, timing.links):
        assert pause.least < pause.most
