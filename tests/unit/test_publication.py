from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certificates import NOW, certificate, pem, private_key
from support.fixtures import fixture_files

from jwks_server.core.build import build, faulty_key_file, read_key_file
from jwks_server.core.keyset import PublishedKey
from jwks_server.core.lifecycle import KeyFile, Moment, NextChange
from jwks_server.core.policy import Policy
from jwks_server.core.publication import MOST_NAMED, MOST_TEXT, Change, Record, publication_of
from jwks_server.core.snapshot import Folder, Level, Problem, Snapshot, TextFile
from jwks_server.core.tenant import TenantName

TENANT = TenantName("a.com")
START = Moment(NOW, 1000.0)
stamps = count()


def key_file(name: str, number: int) -> KeyFile:
    """Return a file with one key, the `number`th."""
    content = pem(certificate(private_key("P-256", number), str(number)))
    return read_key_file(name, str(next(stamps)).encode(), content, None)


def snapshot_of(
    *files: KeyFile, previous: Snapshot | None = None, policy: Policy | None = None, folder: Folder | None = None
) -> Snapshot:
    """Build a snapshot of a folder with these files."""
    return build(TENANT, folder or Folder(files), previous, policy or Policy(), START)


EMPTY = snapshot_of()
A, B = key_file("a.pem", 1), key_file("b.pem", 2)


def with_keys(kids: list[str]) -> Snapshot:
    """Return a snapshot that publishes keys of these ids."""
    return replace(
        EMPTY, published=tuple(PublishedKey(kid, "ES256", "EC", ("", (), (), None), "k.pem") for kid in kids)
    )


def with_problems(problems: list[Problem]) -> Snapshot:
    """Return a snapshot with these problems."""
    return replace(EMPTY, problems=tuple(problems))


def test_a_publication_says_of_its_snapshot_what_is_served_and_when_it_changes() -> None:
    """The key set is the very one; what is carried for others is carried unread."""
    snapshot = replace(
        snapshot_of(A, B), next_change=NextChange(NOW, 7.0), look_again=NextChange(None, 8.0), vacant=True
    )
    record = Record(b"text", b"digest", adds_keys=True)
    publication = publication_of(snapshot, None, b"sealed", record)
    assert publication.tenant == TENANT
    assert publication.key_set is snapshot.key_set
    assert publication.record is record
    assert publication.sealed == b"sealed"
    assert (publication.present, publication.vacant, publication.keys, publication.owed) == (True, True, 2, 0)
    assert (publication.next_change, publication.look_again) == (snapshot.next_change, snapshot.look_again)
    assert publication_of(replace(snapshot, present=False)).present is False


def test_owed_keys_are_counted_and_keep_a_tenant_without_folder() -> None:
    """It is gone when it has neither."""
    policy = Policy(removal_grace=60)
    first = snapshot_of(A, B, policy=policy)
    owing = publication_of(snapshot_of(previous=first, policy=policy, folder=Folder(present=False)))
    assert (owing.present, owing.owed, owing.keys, owing.gone) == (False, 2, 2, False)
    gone = publication_of(snapshot_of(folder=Folder(present=False)))
    assert (gone.present, gone.owed, gone.gone) == (False, 0, True)
    assert not publication_of(EMPTY).gone


problems = st.lists(
    st.builds(
        Problem,
        st.sampled_from(Level),
        st.integers(0, 999).map(lambda number: f"{number:03}"),
        st.none() | st.sampled_from(["a.pem", "b.pem"]),
    ),
    unique=True,
    max_size=8,
)


@given(problems)
@settings(max_examples=50, deadline=None)
def test_all_problems_are_counted_and_named(problems: list[Problem]) -> None:
    """By level, in their order."""
    publication = publication_of(with_problems(problems))
    for level in Level:
        assert publication.count(level) == sum(problem.level is level for problem in problems)
    assert (publication.faults, publication.warnings, publication.notices) == tuple(map(publication.count, Level))
    assert publication.problems == tuple(problems)


def test_a_long_text_is_cut_wherever_it_is_said() -> None:
    """A file with thousands of bad keys has one; the file's name and the level stay."""
    long = Problem(Level.FAULT, "x" * (MOST_TEXT + 1), "a.pem")
    cut = (replace(long, text="x" * MOST_TEXT),)
    publication = publication_of(with_problems([long]), EMPTY)
    assert publication.problems == publication.change.come == cut
    assert publication_of(EMPTY, with_problems([long])).change.gone == cut


@pytest.mark.parametrize(
    ("problem", "is_of_folder"),
    [
        (Problem(Level.FAULT, "unreadable"), True),
        (Problem(Level.FAULT, "wrong", "tenant.toml"), True),
        (Problem(Level.FAULT, "unreadable", "revoked"), True),
        (Problem(Level.FAULT, "corrupt", "a.pem"), False),
        (Problem(Level.WARNING, "an empty set"), False),
        (Problem(Level.NOTICE, "unused", "tenant.toml"), False),
    ],
)
def test_a_fault_of_what_is_no_key_file_is_one_of_the_folder(problem: Problem, *, is_of_folder: bool) -> None:
    """Wherever it stands among others, however many."""
    others = [Problem(Level.FAULT, str(number), "b.pem") for number in range(2 * MOST_NAMED)]
    assert publication_of(with_problems([problem])).folder_fault == is_of_folder
    assert publication_of(with_problems([*others, problem])).folder_fault == is_of_folder
    assert not publication_of(with_problems(others)).folder_fault


def test_a_faulty_policy_a_list_and_a_folder_are_faults_of_the_folder_and_a_key_file_is_not() -> None:
    """As they are built."""
    for folder in (
        Folder((A,), TextFile("kid =")),
        Folder((A,), TextFile(), TextFile(fault="unreadable")),
        Folder(fault="unreadable"),
    ):
        publication = publication_of(snapshot_of(folder=folder))
        assert publication.folder_fault
        assert publication.faulty == b""
    publication = publication_of(snapshot_of(A, faulty_key_file("b.pem", "corrupt", None, stamp=b"1")))
    assert not publication.folder_fault
    assert publication.faulty != b""


kids = st.lists(st.integers(0, 300).map(lambda number: f"kid {number:03}"), unique=True, max_size=8)


@given(kids, kids)
@settings(max_examples=50, deadline=None)
def test_a_change_names_the_keys_that_came_and_went(before: list[str], after: list[str]) -> None:
    """By id, in their order; those that stay are no news; against nothing all came."""
    change = publication_of(with_keys(after), with_keys(before)).change
    added, removed = sorted(set(after) - set(before)), sorted(set(before) - set(after))
    assert change == Change(tuple(added), tuple(removed))
    assert publication_of(with_keys(after)).change == Change(tuple(sorted(after)))


@given(problems, problems)
@settings(max_examples=50, deadline=None)
def test_a_change_names_the_problems_that_came_and_went(before: list[Problem], after: list[Problem]) -> None:
    """Those that stay are no news; those of the folder go before those of its files."""
    change = publication_of(with_problems(after), with_problems(before)).change
    assert change.come == tuple(problem for problem in after if problem not in before)
    assert set(change.gone) == set(before) - set(after)
    assert list(change.gone) == sorted(change.gone, key=lambda problem: (problem.file_name or "", problem.text))
    assert (change.added, change.removed, change.more) == ((), (), 0)
    assert publication_of(with_problems(after)).change.come == tuple(after)


@pytest.mark.parametrize(("number", "more"), [(MOST_NAMED, 0), (MOST_NAMED + 1, 1), (10 * MOST_NAMED, 9 * MOST_NAMED)])
def test_of_many_the_first_are_named_and_the_rest_is_counted(number: int, more: int) -> None:
    """A tenant with thousands costs the server no more than one with fifty."""
    ids = [f"{index:05}" for index in range(number)]
    some = [Problem(Level.WARNING, text) for text in ids]
    many = replace(with_keys(ids), problems=tuple(some))
    publication = publication_of(many, EMPTY)
    named, more_of_each = ids[:MOST_NAMED], 2 * more
    assert publication.problems == tuple(some[:MOST_NAMED])
    assert (publication.keys, publication.warnings) == (number, number)
    assert publication.change == Change(tuple(named), (), tuple(some[:MOST_NAMED]), (), more_of_each)
    assert publication_of(EMPTY, many).change == Change((), tuple(named), (), tuple(some[:MOST_NAMED]), more_of_each)


def test_nothing_changes_where_nothing_does() -> None:
    """A tenant that is read again says nothing."""
    snapshot = snapshot_of(*fixture_files())
    assert snapshot.problems
    assert publication_of(snapshot, snapshot).change == Change()


faults = st.dictionaries(
    st.sampled_from(["a.pem", "b.pem", "c.pem"]), st.tuples(st.sampled_from([b"", b"1", b"2"]), st.booleans())
)


@given(faults, faults)
@settings(deadline=None)
def test_the_digest_of_faulty_files_changes_with_them_and_their_content_alone(
    one: dict[str, tuple[bytes, bool]], two: dict[str, tuple[bytes, bool]]
) -> None:
    """Not with good files, and not with what is said of bad ones; it is empty where none is bad."""

    def digest(files: dict[str, tuple[bytes, bool]], fault: str) -> bytes:
        items = sorted(files.items())
        given = (KeyFile(name, stamp, "", (), (fault,) if faulty else ()) for name, (stamp, faulty) in items)
        return publication_of(replace(EMPTY, files=tuple(given))).faulty

    def bad(files: dict[str, tuple[bytes, bool]]) -> dict[str, bytes]:
        return {name: stamp for name, (stamp, faulty) in files.items() if faulty}

    assert (digest(one, "corrupt") == digest(two, "still corrupt")) == (bad(one) == bad(two))
    assert (digest(one, "corrupt") == b"") == (not bad(one))
