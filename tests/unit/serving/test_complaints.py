import logging

import pytest

from jwks_server.serving.complaints import Complaints, Kind, Pace, place_of


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def failure(text: str) -> Exception:
    try:
        int(text)
    except ValueError as error:
        return error
    raise AssertionError(text)


def test_a_pace_lets_one_through_and_counts_the_rest() -> None:
    """The next one after the pause says how many were held back."""
    pace = Pace(1.0)
    assert [pace.suppressed(now) for now in (5.0, 5.0, 5.9, 6.0, 7.0)] == [0, None, None, 2, 0]


def test_a_million_complaints_are_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """And all of them are counted."""
    clock = Clock()
    complaints = Complaints("public", clock, bug_pace=1.0, limit_pace=60.0)
    for kind in Kind:
        for _ in range(1000):
            complaints.count(kind) if kind is not Kind.BUG else complaints.bug(failure("x"))
    assert {complaints.counts[kind] for kind in Kind} == {1000}
    assert len(caplog.records) == 4
    clock.now += 1.0
    complaints.bug(failure("x"))
    assert caplog.records[-1].__dict__["fields"]["suppressed"] == 999


def test_what_strangers_send_all_day_is_counted_only(caplog: pytest.LogCaptureFixture) -> None:
    """Malformed requests, idle connections, failed handshakes."""
    complaints = Complaints("public", Clock(), bug_pace=1.0, limit_pace=60.0)
    for kind in (Kind.MALFORMED, Kind.IDLE, Kind.HEAD_LATE, Kind.HANDSHAKE):
        complaints.count(kind)
    assert not caplog.records


def test_a_bug_is_logged_with_its_place_and_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    """The text of an exception may quote the request."""
    complaints = Complaints("public", Clock(), bug_pace=1.0, limit_pace=60.0)
    complaints.bug(failure("of a stranger"))
    assert "stranger" not in str(caplog.records[0].__dict__)
    assert caplog.records[0].levelno == logging.ERROR
    assert place_of(failure("of a stranger")).startswith("Traceback ValueError: test_complaints.py:")


def test_a_want_of_descriptors_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """With the error's name and what to raise."""
    Complaints("public", Clock(), bug_pace=1.0, limit_pace=60.0).no_descriptors("EMFILE", 1024)
    assert "EMFILE" in caplog.text
    assert "LimitNOFILE" in caplog.text
