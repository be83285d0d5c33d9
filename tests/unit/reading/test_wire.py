import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.certificates import certificate, pem, private_key

from jwks_server.core.errors import ReaderError, RootUnavailableError
from jwks_server.core.keyset import KeySet, etag_of
from jwks_server.core.sealed import unseal
from jwks_server.core.tenant import TenantName
from jwks_server.reading.frames import HEADER_BYTES, GarbledError, LoadedHeader, frame_bytes
from jwks_server.reading.jobs import Listing, ListingJob, Loaded, LoadJob, Survey, SurveyJob
from jwks_server.reading.load import load
from jwks_server.reading.passwords import NOTHING, HandedPasswords, PasswordSources
from jwks_server.reading.source import Source
from jwks_server.reading.survey import survey
from jwks_server.reading.tree import list_root
from jwks_server.reading.wire import (
    Answer,
    Job,
    ReaderBugError,
    decode_answer,
    decode_job,
    decode_setup,
    encode_answer,
    encode_bug,
    encode_failure,
    encode_job,
    encode_setup,
)

TENANT, VICTIM = TenantName("a.com"), TenantName("victim.com")
JOB = LoadJob(TENANT)
PRIVATE_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv", "x5u")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Make a tenant with a policy, a good key, one out of its time and a broken file."""
    root = tmp_path_factory.mktemp("wire")
    folder = root / TENANT
    folder.mkdir()
    (folder / "k.pem").write_bytes(pem(certificate(private_key("P-256", 1))))
    (folder / "r.pem").write_bytes(pem(certificate(private_key("RSA", 1))))
    (folder / "broken.pem").write_bytes(b"broken")
    (folder / "tenant.toml").write_text('removal_grace = 60\nexpired = "hide"\n')
    (folder / "revoked").write_text("x\n")
    return Source(str(root), closed=("/secrets",))


@pytest.fixture(scope="module")
def loaded(source: Source) -> Loaded:
    """Load the tenant for the first time."""
    return load(source, JOB)


def parts(frame: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a frame's header as JSON, and its blobs."""
    end = HEADER_BYTES + int.from_bytes(frame[4:8])
    return json.loads(frame[HEADER_BYTES:end]), frame[end:]


def whole(header: object, blobs: bytes = b"") -> bytes:
    """Return the frame of any header and blobs, with right lengths."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (HEADER_BYTES + len(text) + len(blobs)).to_bytes(4) + len(text).to_bytes(4) + text + blobs


def test_every_answer_crosses_the_border(source: Source, loaded: Loaded) -> None:
    """As the value that it was."""
    survey_job = SurveyJob((TENANT, TenantName("nobody.com")), 60)
    pairs: list[tuple[Answer, Job]] = [
        (survey(source, survey_job), survey_job),
        (list_root(source.root), ListingJob()),
        (Listing((1, 2), (), ("Upper.com", "\\udcff"), 1), ListingJob()),
        (loaded, JOB),
    ]
    for answer, job in pairs:
        frame = encode_answer(answer)
        assert frame_bytes(frame[:HEADER_BYTES]) == len(frame)
        assert decode_answer(frame, job) == answer


def test_every_job_crosses_the_border(source: Source, loaded: Loaded) -> None:
    """With all that a reader process is told at its start, too."""
    jobs: list[Job] = [
        ListingJob(),
        SurveyJob((TENANT, VICTIM), 0.5),
        JOB,
        LoadJob(TENANT, loaded.publication.sealed, b"{}", 7, {("k.pem", b"\xff"): "crashed", ("l", b""): "hung"}, True),
    ]
    for job in jobs:
        assert decode_job(encode_job(job)) == (job, NOTHING)
    assert decode_setup(encode_setup(source, 5.0)) == (replace(source, passwords=NOTHING), 5.0)


def test_a_job_is_handed_its_tenants_password_and_a_reader_process_no_path_of_any(tmp_path: Path) -> None:
    """The tenant's own, else the server's, or why it cannot be read; a comparison is handed marks alone."""
    (tmp_path / "a.com.password").write_text("of a\r\nanother line")
    (tmp_path / "big.com.password").write_bytes(bytes(5000))
    (tmp_path / "rest").write_text("of the rest")
    sources = PasswordSources(str(tmp_path), str(tmp_path / "rest"))
    given = {tenant: sources.outside(TenantName(tenant)) for tenant in ("a.com", "big.com", "victim.com")}
    assert [item.value for item in given.values()] == [b"of a", None, b"of the rest"]
    assert given["big.com"].fault == "file larger than 4 KiB"
    for item in given.values():
        handed = HandedPasswords(item)
        assert decode_job(encode_job(JOB, handed)) == (JOB, handed)
        assert "of " not in repr(handed)
    marks = HandedPasswords(marks={tenant: sources.mark(tenant) for tenant in (TENANT, VICTIM)})
    survey_job = SurveyJob((TENANT, VICTIM), 0.5)
    frame = encode_job(survey_job, marks)
    assert decode_job(frame) == (survey_job, marks)
    setup = encode_setup(Source("/keystores", sources), 5.0)
    assert not any(word in setup + frame for word in (b"of a", b"rest", str(tmp_path).encode()))


def test_a_mark_changes_with_every_file_that_may_hold_the_tenants_password(tmp_path: Path) -> None:
    """One that appears, changes or goes away; another tenant's says nothing."""
    sources = PasswordSources(str(tmp_path), str(tmp_path / "rest"))
    marks = [sources.mark(TENANT)]
    assert marks == [b""]
    for step in (
        lambda: (tmp_path / "rest").write_text("1"),
        lambda: (tmp_path / "rest").write_text("22"),
        lambda: (tmp_path / "a.com.password").write_text("333"),
        (tmp_path / "rest").unlink,
    ):
        step()
        marks.append(sources.mark(TENANT))
        (tmp_path / "victim.com.password").write_text("4" * len(marks))
        assert sources.mark(TENANT) == marks[-1]
    assert len(set(marks)) == len(marks)


def test_a_sealed_snapshot_crosses_unread_and_is_built_on(source: Source, loaded: Loaded) -> None:
    """What the next reader process builds on is what the last one made."""
    there = decode_answer(encode_answer(loaded), JOB)
    assert isinstance(there, Loaded)
    again = load(source, replace(JOB, previous=there.publication.sealed))
    assert again.publication.key_set == loaded.publication.key_set
    assert again.publication.change.added == ()
    assert unseal(again.publication.sealed).files == unseal(loaded.publication.sealed).files
    assert loaded.publication.record is not None


def test_what_a_job_failed_of_is_raised() -> None:
    """The tree that cannot be read, any other failure, and a bug."""
    with pytest.raises(RootUnavailableError, match="gone"):
        decode_answer(encode_failure(RootUnavailableError("gone")), JOB)
    with pytest.raises(ReaderError, match=r"odd \\udcff"):
        decode_answer(encode_failure(ReaderError("odd \udcff")), JOB)
    with pytest.raises(ReaderBugError, match="Traceback"):
        decode_answer(encode_bug("Traceback"), JOB)


def test_an_answer_reaches_only_the_tenant_of_its_job(loaded: Loaded) -> None:
    """Whatever tenant a reader process names that fell to a key file."""
    header, blobs = parts(encode_answer(loaded))
    header["publication"]["tenant"] = VICTIM
    answer = decode_answer(whole(header, blobs), JOB)
    assert isinstance(answer, Loaded)
    assert answer.publication.tenant == TENANT


def test_a_survey_names_only_the_tenants_of_its_job() -> None:
    """Its signatures are counted off against the job's tenants; more than were asked for, or none, are no answer."""
    job = SurveyJob((TENANT,), 1)
    for count in (0, 2, 1000):
        survey_of_others = Survey((1, 2), {TenantName(f"{number}.com"): b"x" for number in range(count)}, 0.1)
        with pytest.raises(GarbledError):
            decode_answer(encode_answer(survey_of_others), job)


@pytest.mark.parametrize("member", PRIVATE_MEMBERS)
def test_no_member_that_is_not_public_passes(loaded: Loaded, member: str) -> None:
    """The allow-list is looked at once more, at the last door."""
    assert loaded.publication.key_set is not None
    keys = json.loads(loaded.publication.key_set.body)["keys"]
    keys[-1][member] = "private"
    for text in (json.dumps({"keys": keys}, separators=(",", ":")), json.dumps({"keys": keys})):
        with pytest.raises(GarbledError):
            decode_answer(with_body(loaded, text.encode()), JOB)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b'{"keys":[', b'{"keys":[]', b'{"keys":[]}x', b'{"keys":[{}]}]}', b'{"keys":[{},]}',
        b'{"keys":[1]}',
        b'{"keys":[{}{}]}', b'{"keys":[{"n":1}]}', b'{"keys":[{"n":{"d":"x"}}]}', b'{"keys":[{"x5c":[["x"]]}]}',
        b'{"keys":[{"n":"x"}],"d":"x"}', b'{"keys":[{"\\u0064":"x"}]}', b'{"keys":[{"n":"\xc3\xa9"}]}',
        '{"keys":[]}'.encode("utf-16"), b'{"keys":[' + b"[" * 100_000, b'{"keys":[{"n":' * 50_000,
    ],
)  # fmt: skip
def test_a_body_that_is_no_set_of_public_keys_is_refused(loaded: Loaded, body: bytes) -> None:
    """Nothing but compact JSON, ASCII, of keys with texts."""
    with pytest.raises(GarbledError):
        decode_answer(with_body(loaded, body), JOB)


def test_the_server_computes_the_tag_and_counts_the_keys(loaded: Loaded) -> None:
    """Whatever the reader process says of them."""
    body = b'{"keys":[]}'
    answer = decode_answer(with_body(loaded, body), JOB)
    assert isinstance(answer, Loaded)
    assert answer.publication.key_set is not None
    assert answer.publication.key_set.etag == etag_of(body)
    assert answer.publication.keys == 0


def with_body(loaded: Loaded, body: bytes) -> bytes:
    """Return the frame of an answer with another key set and a forged tag and count."""
    key_set = KeySet(body, '"forged"', 300, 0)
    return encode_answer(replace(loaded, publication=replace(loaded.publication, key_set=key_set, keys=4711)))


def test_an_answer_to_another_job_is_refused(source: Source, loaded: Loaded) -> None:
    """Each job has one kind of answer."""
    listing, looked = list_root(source.root), Survey((1, 2), {TENANT: b""}, 0.0)
    wrong: list[tuple[Answer, Job]] = [
        (listing, JOB), (looked, JOB), (loaded, ListingJob()), (looked, ListingJob()),
        (loaded, SurveyJob((TENANT,), 1)),
    ]  # fmt: skip
    for answer, job in wrong:
        with pytest.raises(GarbledError, match="is no answer to"):
            decode_answer(encode_answer(answer), job)


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:  # noqa: ANN401 - what pickle takes
        return self.reduced


def test_a_pickle_is_no_answer(tmp_path: Path) -> None:
    """Nothing in it is called, built or allocated."""
    made = tmp_path / "made"
    pickles = [
        pickle.dumps(Call(os.mkdir, str(made))),
        pickle.LONG_BINPUT.join([pickle.PROTO + b"\x04", b"\xff\xff\xff\x0f"]) + pickle.STOP,
        pickle.dumps(({"_content": b"forged"},)) + pickle.BUILD,
    ]
    for data in pickles:
        for frame in (whole(data), whole({"type": "LoadedHeader"}, data), data):
            with pytest.raises(GarbledError):
                decode_answer(frame, JOB)
    assert not made.exists()


@pytest.mark.parametrize("header", [b"[" * 200_000, b'{"type":"Bug",' * 50_000, b"9" * 300_000, b" " * (2 << 20), b""])
def test_a_header_that_never_ends_is_refused(header: bytes) -> None:
    """Nesting, digits and length are bounded before a value is made."""
    with pytest.raises(GarbledError) as caught:
        decode_answer(whole(header), JOB)
    assert len(str(caught.value)) <= 200


def walk(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value within a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from walk(child, (*path, name))


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("2026-01-01T00:00:00"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
def test_a_field_of_another_shape_is_refused_or_harmless(loaded: Loaded, data: st.DataObject) -> None:
    """Wherever it stands: our one error, or an answer whose every field has its type, for the job's tenant."""
    header, blobs = parts(encode_answer(loaded))
    path = data.draw(st.sampled_from([path for path in walk(header) if path]))
    parent = header
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = data.draw(ANY_JSON)
    try:
        answer = decode_answer(whole(header, blobs), JOB)
    except GarbledError:
        return
    assert isinstance(answer, Loaded)
    assert answer.publication.tenant == TENANT
    for due in (answer.publication.next_change, answer.publication.look_again):
        assert due.wall is None or due.wall.tzinfo is not None
    assert min(answer.publication.owed, answer.publication.faults, answer.publication.change.more) >= 0
    assert decode_answer(encode_answer(answer), JOB) == answer


@given(data=st.data())
def test_a_frame_that_was_cut_lengthened_or_flipped_is_refused_or_harmless(loaded: Loaded, data: st.DataObject) -> None:
    """No length is believed, and no total."""
    frame = bytearray(encode_answer(loaded))
    match data.draw(st.sampled_from(["cut", "lengthen", "flip"])):
        case "cut":
            frame = frame[: data.draw(st.integers(0, len(frame) - 1))]
        case "lengthen":
            frame += data.draw(st.binary(min_size=1, max_size=9))
        case _:
            at = data.draw(st.integers(0, len(frame) - 1) | st.integers(0, HEADER_BYTES - 1))
            frame[at] ^= data.draw(st.integers(1, 255))
    try:
        answer = decode_answer(bytes(frame), JOB)
    except (GarbledError, RootUnavailableError, ReaderError, ReaderBugError):
        return
    assert isinstance(answer, Loaded)
    assert answer.publication.tenant == TENANT


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    """By the one error that is expected of it."""
    for frame in (garbage, whole(garbage)):
        with pytest.raises(GarbledError):
            decode_answer(frame, JOB)


@pytest.mark.parametrize("names", ["UPPER.com", "a.com\n", "a.com\n\nb.com", "a" * 254, "../x", "a.com\r", "é"])
def test_a_listing_of_names_that_are_no_tenants_is_refused(names: str) -> None:
    """They become keys of the store, and folders that are opened."""
    listing = encode_answer(Listing((1, 2), (), (), 1))
    header, _ = parts(listing)
    blob = names.encode()
    with pytest.raises(GarbledError):
        decode_answer(whole({**header, "tenants_bytes": len(blob)}, blob), ListingJob())


def test_every_field_of_a_header_has_to_be_there_and_no_other(loaded: Loaded) -> None:
    """A header of another version is no header."""
    header, blobs = parts(encode_answer(loaded))
    assert set(header) == {"type", *LoadedHeader.__struct_fields__}
    for name in header:
        with pytest.raises(GarbledError):
            decode_answer(whole({key: value for key, value in header.items() if key != name}, blobs), JOB)
    with pytest.raises(GarbledError):
        decode_answer(whole({**header, "more": 1}, blobs), JOB)
