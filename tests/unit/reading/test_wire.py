import os
import pickle
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.certificates import certificate, pem, private_key

from jwks_server.core.errors import JwksServerError, RootUnavailableError
from jwks_server.core.kid import Scheme
from jwks_server.core.policy import OutOfValidity
from jwks_server.core.snapshot import Level
from jwks_server.core.tenant import TenantName
from jwks_server.reading.load import Loaded, LoadJob, load
from jwks_server.reading.source import Source
from jwks_server.reading.survey import SurveyJob, survey
from jwks_server.reading.tree import list_root
from jwks_server.reading.wire import (
    HEADER_BYTES,
    Answer,
    Bug,
    Failed,
    GarbledError,
    answer_in,
    frame_bytes,
    framed,
)

TENANT = TenantName("a.com")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Make a tenant with a policy, a good key, one out of its time and a broken file."""
    folder = tmp_path / TENANT
    folder.mkdir()
    (folder / "k.pem").write_bytes(pem(certificate(private_key("P-256", 1))))
    (folder / "r.pem").write_bytes(pem(certificate(private_key("RSA", 1))))
    (folder / "broken.pem").write_bytes(b"broken")
    (folder / "tenant.toml").write_text('removal_grace = 60\nexpired = "hide"\n')
    (folder / "revoked").write_text("x\n")
    return Source(str(tmp_path))


def test_every_answer_crosses_the_border(source: Source) -> None:
    """As the value that it was, but for the snapshot, which stays sealed and loses its key set."""
    answers: list[Answer] = [
        survey(SurveyJob(source, (TENANT,))),
        list_root(source.root),
        Bug("Traceback"),
    ]
    for answer in answers:
        frame = framed(answer)
        assert frame_bytes(frame[:HEADER_BYTES]) == len(frame)
        assert answer_in(frame) == answer
    failed = answer_in(framed(Failed(RootUnavailableError("gone"))))
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, RootUnavailableError)
    assert str(failed.error) == "gone"


def test_a_publication_and_its_snapshot_cross_the_border_and_come_back(source: Source) -> None:
    """What the next reader builds on is what the last one made."""
    loaded = load(LoadJob(source, TENANT))
    there = answer_in(framed(loaded))
    assert isinstance(there, Loaded)
    for name in ("tenant", "key_set", "kids", "problems", "faulty", "is_remembered", "next_change", "look_again"):
        assert getattr(there.publication, name) == getattr(loaded.publication, name)
    assert there.publication.faulty
    assert there.publication.is_remembered
    snapshot, opened = loaded.publication.sealed.open(), there.publication.sealed.open()
    assert opened.files == snapshot.files
    assert opened.policy == snapshot.policy
    assert opened.revoked == snapshot.revoked
    assert opened.published == snapshot.published
    assert opened.key_set is None
    back = pickle.loads(framed(there)[HEADER_BYTES:])  # noqa: S301 - made two lines above
    assert back.publication.sealed.open() == opened
    again = load(LoadJob(source, TENANT, previous=there.publication.sealed))
    assert again.publication.key_set == loaded.publication.key_set


@pytest.mark.parametrize("kind", [Level, OutOfValidity, Scheme])
def test_a_member_of_an_enum_crosses_whatever_python_makes_of_it(
    source: Source, monkeypatch: pytest.MonkeyPatch, kind: type[Enum]
) -> None:
    """Before 3.11.4 it was a call of getattr, which no answer may make."""
    monkeypatch.setattr(kind, "__reduce_ex__", lambda self, _protocol: (getattr, (kind, self.name)))
    loaded = load(LoadJob(source, TENANT))
    there = answer_in(framed(loaded))
    assert isinstance(there, Loaded)
    assert there.publication.problems == loaded.publication.problems
    assert there.publication.sealed.open().policy == loaded.publication.sealed.open().policy


class Forged:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:  # noqa: ANN401 - what pickle takes
        return self.reduced


def test_an_answer_that_names_anything_but_data_is_refused(tmp_path: Path) -> None:
    """A reader that fell to the bytes it read cannot make the server run what it likes."""
    path = tmp_path / "made"
    for forged in (
        Forged(os.mkdir, str(path)),
        Failed(Forged(os.mkdir, str(path))),  # type: ignore[arg-type]
        Forged(getattr, JwksServerError, "__init__"),
        Forged(eval, "1"),
    ):
        with pytest.raises(GarbledError, match="no type of data"):
            answer_in(framed(forged))
    assert not path.exists()


def test_a_forged_answer_fills_no_log() -> None:
    """Whatever its names are."""
    huge = pickle.PROTO + b"\x02" + pickle.GLOBAL + b"x" * 100_000 + b"\ny\n."
    with pytest.raises(GarbledError) as caught:
        answer_in(bytes(HEADER_BYTES) + huge)
    assert "no type of data" in str(caught.value)
    assert len(str(caught.value)) <= 200


def test_data_that_is_no_answer_is_refused() -> None:
    """A type that an answer may hold is not one."""
    with pytest.raises(GarbledError, match="is a RootUnavailableError"):
        answer_in(framed(RootUnavailableError("x")))


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    """By the one error that is expected of it."""
    with pytest.raises(GarbledError):
        answer_in(bytes(HEADER_BYTES) + garbage)
