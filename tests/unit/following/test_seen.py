import pytest
from support.certificates import NOW

from jwks_server.core.build import build
from jwks_server.core.lifecycle import Moment
from jwks_server.core.policy import Policy
from jwks_server.core.publication import publication_of
from jwks_server.core.snapshot import Folder
from jwks_server.core.tenant import TenantName
from jwks_server.following.seen import Seen
from jwks_server.reading.jobs import Loaded

A, B = TenantName("a.com"), TenantName("b.com")
PUBLICATION = publication_of(build(A, Folder(), None, Policy(), Moment(NOW, 0.0)))


def loaded(signature: bytes | None, device: int | None = 7, *, links: bool = False) -> Loaded:
    """Return what a reading gave that found the folder so."""
    return Loaded(PUBLICATION, (1, 2), signature, device, links)


@pytest.fixture
def seen() -> Seen:
    """Know nobody."""
    return Seen()


def test_of_a_tenant_that_was_never_looked_at_nothing_is_known(seen: Seen) -> None:
    """So anything is a difference, and none of it a change that was missed."""
    assert not seen.knows(A)
    assert seen.device(A) is None
    assert seen.differs(A, b"x")
    assert seen.differs(A, b"")
    assert seen.was_certain(A)
    assert list(seen.open) == []
    assert seen.linked() == ()
    assert seen.state(A) == {"known": False, "certain": False, "links": False}


def test_a_tenant_that_was_attempted_is_known_and_has_to_be_read_again(seen: Seen) -> None:
    """Whatever came of it."""
    seen.attempt(A)
    assert seen.knows(A)
    assert not seen.knows(B)
    assert seen.differs(A, b"x")
    assert not seen.was_certain(A)
    assert list(seen.open) == [A]
    assert seen.state(A) == {"known": True, "certain": False, "links": False}


def test_another_attempt_takes_nothing_from_what_was_learned(seen: Seen) -> None:
    """It may fail, or meet another tree."""
    seen.record(A, loaded(b"x", links=True))
    seen.attempt(A)
    assert not seen.differs(A, b"x")
    assert seen.was_certain(A)
    assert seen.device(A) == 7
    assert seen.linked() == (A,)


def test_a_folder_differs_where_its_signature_does(seen: Seen) -> None:
    """One that cannot be told, now or then, may differ."""
    seen.record(A, loaded(b"x"))
    assert not seen.differs(A, b"x")
    assert seen.differs(A, b"y")
    assert seen.differs(A, b"")
    assert seen.differs(A, None)
    seen.record(A, loaded(None))
    assert seen.differs(A, b"x")
    assert seen.differs(A, None)


def test_a_reading_that_left_something_open_is_done_once_more(seen: Seen) -> None:
    """A difference from it is no change that anybody missed."""
    seen.record(A, loaded(None))
    seen.record(B, loaded(b"x"))
    assert list(seen.open) == [A]
    assert not seen.was_certain(A)
    assert seen.was_certain(B)
    seen.record(A, loaded(b"y"))
    assert list(seen.open) == []
    assert seen.state(A) == {"known": True, "certain": True, "links": False}


def test_the_last_look_counts(seen: Seen) -> None:
    """For the device and for the links too."""
    seen.record(A, loaded(b"x", 7, links=True))
    assert (seen.device(A), seen.linked()) == (7, (A,))
    assert seen.state(A) == {"known": True, "certain": True, "links": True}
    seen.record(A, loaded(b"x", None, links=False))
    assert (seen.device(A), seen.linked()) == (None, ())


def test_a_tenant_that_is_gone_is_forgotten(seen: Seen) -> None:
    """With its events; others are not; and once more does no harm."""
    for tenant in (A, B):
        seen.record(tenant, loaded(b"x", links=True))
        seen.event(tenant, 5.0)
    for _ in range(2):
        seen.forget(A)
    assert not seen.knows(A)
    assert not seen.had_event_since(A, 0.0)
    assert seen.linked() == (B,)
    assert seen.had_event_since(B, 0.0)


def test_the_last_event_counts(seen: Seen) -> None:
    """At that very moment, too; of a tenant that none named there is none."""
    assert not seen.had_event_since(A, -1e9)
    seen.event(A, 5.0)
    assert seen.had_event_since(A, 5.0)
    assert not seen.had_event_since(A, 5.1)
    assert not seen.had_event_since(B, 0.0)
    seen.event(A, 6.0)
    assert seen.had_event_since(A, 5.5)
    assert not seen.knows(A)
