from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.following.quarantine import Quarantine
from jwks_server.reading.jobs import BUILD, FOLDER, Place

A, B, C = (TenantName(f"{letter}.com") for letter in "abc")
SOON, LATER = 1.0, 30.0
TIMING = Timing(first_suspicion=SOON, suspicion=LATER)
UNREAD, READ, WHOLE = Place("k.pem"), Place("k.pem", b"stamp"), Place(FOLDER)


@pytest.fixture
def quarantine() -> Quarantine:
    """Hold nothing against anybody."""
    return Quarantine(TIMING)


def when_due(quarantine: Quarantine, now: float = 0.0) -> dict[TenantName, float | None]:
    """Return in how many seconds each tenant is tried again."""
    return {
        tenant: seconds
        for tenant in (A, B, C)
        if isinstance(seconds := quarantine.state(tenant, now)["tried_again_in_seconds"], float)
    }


def test_nothing_is_held_against_a_tenant_that_nothing_happened_at(quarantine: Quarantine) -> None:
    """And nothing is due."""
    assert quarantine.state(A, 0) == {
        "suspected": False,
        "hung": False,
        "tried_again_in_seconds": None,
        "files_left_out": [],
    }
    assert quarantine.without(A) == {}
    assert quarantine.due(inf) is None
    assert not quarantine.release(A)
    quarantine.hold(A)
    quarantine.learned(A)
    quarantine.acquit(A)
    quarantine.hurry()
    assert not quarantine.is_suspect(A)


@pytest.mark.parametrize("place", [UNREAD, READ])
@pytest.mark.parametrize("hung", [False, True])
def test_a_file_that_crashes_a_reader_is_left_out_from_then_on(
    quarantine: Quarantine, place: Place, *, hung: bool
) -> None:
    """Of its own tenant's folder; with what to say of it."""
    assert quarantine.blame(A, place, "crashed", 0, hung=hung)
    assert quarantine.without(A) == {(place.name, place.stamp): "crashed"}
    assert quarantine.without(B) == {}
    assert quarantine.is_suspect(A)
    assert not quarantine.is_suspect(B)
    assert quarantine.state(A, 0)["files_left_out"] == [{"file": "k.pem", "reason": "crashed"}]


@pytest.mark.parametrize("place", [None, WHOLE, Place(BUILD)])
@pytest.mark.parametrize("hung", [False, True])
def test_where_no_file_is_to_blame_none_is_left_out(quarantine: Quarantine, place: Place | None, *, hung: bool) -> None:
    """The tenant is suspected all the same."""
    assert not quarantine.blame(A, place, "crashed", 0, hung=hung)
    assert quarantine.without(A) == {}
    assert quarantine.is_suspect(A)


def test_a_file_that_was_left_out_is_not_to_blame_twice(quarantine: Quarantine) -> None:
    """Then leaving it out did not help; the same name with other content is another file."""
    assert quarantine.blame(A, READ, "first", 0, hung=False)
    assert not quarantine.blame(A, READ, "second", 0, hung=False)
    assert quarantine.without(A) == {("k.pem", b"stamp"): "first"}
    assert quarantine.blame(A, Place("k.pem", b"other"), "third", 0, hung=False)
    assert quarantine.blame(B, READ, "of another tenant", 0, hung=False)


def test_a_tenant_has_a_bounded_number_of_files_left_out() -> None:
    """A reader that fell to its input may blame a new one at each crash."""
    quarantine = Quarantine(TIMING, most_files=3)
    blamed = [quarantine.blame(A, Place(f"{number}.pem"), "crashed", 0, hung=False) for number in range(10)]
    assert blamed == [True] * 3 + [False] * 7
    assert len(quarantine.without(A)) == 3
    assert quarantine.blame(B, UNREAD, "crashed", 0, hung=False)


def test_files_are_forgotten_once_a_snapshot_knows_of_them(quarantine: Quarantine) -> None:
    """Of that tenant; the suspicion stays until nothing in its folder is faulty."""
    for tenant in (A, B):
        quarantine.blame(tenant, READ, "crashed", 0, hung=False)
    left_out = quarantine.without(A)
    quarantine.learned(A)
    assert quarantine.without(A) == {}
    assert quarantine.is_suspect(A)
    assert quarantine.without(B) == left_out == {("k.pem", b"stamp"): "crashed"}


@pytest.mark.parametrize(
    ("place", "hung", "is_hung"),
    [
        (None, True, False),
        (WHOLE, True, True),
        (UNREAD, True, True),
        (READ, True, False),
        (None, False, False),
        (WHOLE, False, False),
        (UNREAD, False, False),
    ],
)
def test_a_tenant_hangs_where_a_reader_hung_before_it_had_content(
    quarantine: Quarantine, place: Place | None, *, hung: bool, is_hung: bool
) -> None:
    """Then whoever looks hangs too; content that takes too long is only that file's fault."""
    quarantine.blame(A, place, "crashed", 0, hung=hung)
    assert quarantine.is_hung(A) == is_hung
    assert not quarantine.is_hung(B)
    quarantine.blame(A, READ, "crashed", 0, hung=False)
    assert quarantine.is_hung(A) == is_hung


def test_what_hung_once_is_tried_again_soon_and_what_hung_again_later(quarantine: Quarantine) -> None:
    """A hiccup of a file server costs a second, an outage a reader process now and then."""
    quarantine.suspect(A, 0)
    quarantine.blame(B, WHOLE, "hung", 0, hung=True)
    assert when_due(quarantine) == {A: SOON, B: SOON}
    quarantine.suspect(A, 100)
    quarantine.blame(B, WHOLE, "hung", 100, hung=True)
    assert when_due(quarantine, 100) == {A: LATER, B: LATER}
    quarantine.acquit(A)
    quarantine.suspect(A, 200)
    assert when_due(quarantine, 200) == {A: SOON, B: 0.0}


def test_what_crashed_a_reader_is_tried_again_later(quarantine: Quarantine) -> None:
    """It was no hiccup of a file server, and takes nothing from the first one that is."""
    quarantine.blame(A, READ, "crashed", 0, hung=False)
    assert when_due(quarantine) == {A: LATER}
    quarantine.blame(A, WHOLE, "hung", 0, hung=True)
    assert when_due(quarantine) == {A: SOON}


def test_a_tenant_that_was_released_is_one_that_hung_before(quarantine: Quarantine) -> None:
    """It answers, and still has faults; only a good reading makes it forgotten that it hung."""
    quarantine.suspect(A, 0)
    assert quarantine.release(A)
    assert not quarantine.is_suspect(A)
    assert not quarantine.is_hung(A)
    assert not quarantine.release(A)
    quarantine.suspect(A, 0)
    assert when_due(quarantine) == {A: LATER}


def test_an_acquitted_tenant_is_as_if_nothing_had_happened(quarantine: Quarantine) -> None:
    """It is neither suspected nor hung nor due, and a first time is the first one again."""
    quarantine.suspect(A, 0)
    quarantine.suspect(A, 0)
    quarantine.suspect(B, 0)
    quarantine.acquit(A)
    assert not quarantine.is_suspect(A)
    assert not quarantine.is_hung(A)
    assert quarantine.due(inf) == B
    quarantine.suspect(A, 0, hung=False)
    assert not quarantine.is_hung(A)
    assert when_due(quarantine)[A] == SOON


def test_a_tenant_is_not_due_while_it_is_tried(quarantine: Quarantine) -> None:
    """It is suspected as before; what comes of it decides."""
    quarantine.suspect(A, 0)
    quarantine.hold(A)
    assert quarantine.due(1e12) is None
    assert quarantine.is_hung(A)
    assert quarantine.state(A, 0) == {
        "suspected": True,
        "hung": True,
        "tried_again_in_seconds": None,
        "files_left_out": [],
    }
    quarantine.suspect(A, 0)
    assert quarantine.due(LATER) == A


def test_all_suspects_are_due_when_they_are_hurried(quarantine: Quarantine) -> None:
    """They may have hung for the same reason as one that answers again, and hang as before until they were tried."""
    quarantine.suspect(A, 0)
    quarantine.blame(B, READ, "crashed", 1e9, hung=False)
    assert quarantine.due(0) is None
    quarantine.hurry()
    assert when_due(quarantine) == {A: 0.0, B: 0.0}
    assert quarantine.is_hung(A)
    assert not quarantine.is_hung(B)
    first = quarantine.due(-1e9)
    assert first in {A, B}
    quarantine.acquit(first)
    assert {first, quarantine.due(-1e9)} == {A, B}


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.floats(0, 1e6), st.booleans()), max_size=8), st.floats(0, 2e6))
@settings(deadline=None)
def test_the_suspect_that_is_due_first_is_tried_first(
    suspicions: list[tuple[TenantName, float, bool]], now: float
) -> None:
    """Each at the time that its last suspicion set; none before."""
    quarantine = Quarantine(TIMING)
    dues: dict[TenantName, float] = {}
    hangs = dict.fromkeys((A, B, C), 0)
    for tenant, since, counts in suspicions:
        quarantine.suspect(tenant, since, counts=counts)
        hangs[tenant] += counts
        dues[tenant] = since + (SOON if counts and hangs[tenant] == 1 else LATER)
    due = quarantine.due(now)
    assert (due is None) == all(when > now for when in dues.values())
    assert due is None or dues[due] == min(dues.values())
