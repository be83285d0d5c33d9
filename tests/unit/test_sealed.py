import base64
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certificates import NOW, certificate, pem, private_key
from support.fixtures import FOLDER, fixture_files

from jwks_server.core.build import build, read_key_file
from jwks_server.core.errors import SealedError
from jwks_server.core.formats.contents import Entry
from jwks_server.core.jwk import base64url, key_of
from jwks_server.core.lifecycle import KeyFile, Moment
from jwks_server.core.policy import Policy
from jwks_server.core.remembered import to_text
from jwks_server.core.sealed import VERSION, seal, unseal
from jwks_server.core.snapshot import Folder, Snapshot, TextFile
from jwks_server.core.tenant import TenantName
from jwks_server.host import clock
from jwks_server.reading.jobs import Loaded, LoadJob
from jwks_server.reading.load import load
from jwks_server.reading.source import Source

TENANT = TenantName("a.com")
START = Moment(NOW, 1000.0)
ALL = Policy(removal_grace=600, allow=("ES256K", "Ed448", "ML-DSA"), x5t=True, rsa_algorithms=("RS256", "PS512"))
PUBLIC = {"n", "e", "crv", "x", "y", "pub"}
PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}


def key_file(number: int) -> KeyFile:
    """Return a file with one key, the `number`th."""
    content = pem(certificate(private_key("P-256", number), str(number)))
    return read_key_file(f"{number}.pem", str(number).encode(), content, None)


def snapshot_of(*files: KeyFile, previous: Snapshot | None = None, policy: Policy = ALL) -> Snapshot:
    """Build a snapshot of a folder with these files."""
    return build(TENANT, Folder(files), previous, policy, START)


def assert_comes_back(snapshot: Snapshot) -> None:
    """Demand that a sealed snapshot is the snapshot, but for the finished set, which no build looks at."""
    assert unseal(seal(snapshot)) == replace(snapshot, key_set=None)


A, B, C = map(key_file, range(3))
OWING = snapshot_of(B, previous=snapshot_of(A, B, C))
SEALED = seal(OWING)


@pytest.mark.parametrize("file", fixture_files(), ids=lambda file: file.name)
def test_a_snapshot_of_every_kind_of_file_comes_back_as_it_was(file: KeyFile) -> None:
    """While it is there, and when it is owed."""
    first = snapshot_of(file)
    assert_comes_back(first)
    assert_comes_back(snapshot_of(previous=first))


def test_a_snapshot_of_all_files_is_built_on_as_if_it_had_never_been_sealed() -> None:
    """By the next build and the one after it."""
    sealed = plain = snapshot_of(*fixture_files())
    for files in (fixture_files()[::2], (), fixture_files()):
        sealed = snapshot_of(*files, previous=unseal(seal(sealed)))
        plain = snapshot_of(*files, previous=plain)
        assert sealed == plain


def test_a_deadline_that_is_not_set_yet_comes_back() -> None:
    """JSON has no infinity."""
    unreadable = Folder(fault="unreadable")
    doubted = build(TENANT, unreadable, snapshot_of(previous=OWING), ALL, START)
    endless = replace(doubted, owed=tuple(replace(debt, until=inf) for debt in doubted.owed))
    assert len(endless.owed) == 3
    assert_comes_back(endless)
    assert_comes_back(replace(endless, owed=(*endless.owed, *OWING.owed)))


files = st.sampled_from([*fixture_files(), A, B, C])
texts = st.sampled_from(
    ["", "kid =", 'kid = "rfc7638"', 'aliases = ["Ünïcode \U0001f511"]', "removal_grace = 60", "x\ny"]
)
text_files = st.builds(TextFile, st.none() | texts) | st.builds(TextFile, fault=st.just("unreadable"))
folders = st.builds(
    Folder,
    st.lists(files, max_size=4, unique_by=lambda file: file.name).map(tuple),
    text_files,
    text_files,
    present=st.sampled_from([True, True, True, False]),
    fault=st.sampled_from([None, None, None, "unreadable"]),
)


@given(st.lists(st.tuples(folders, st.sampled_from([0.0, 0.01, 1.0, 1e5])), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_whatever_became_of_a_tenant_its_snapshot_comes_back(steps: list[tuple[Folder, float]]) -> None:
    """And the next build does the same with it as with the one that was never sealed."""
    now, plain, sealed = START, None, None
    for folder, seconds in steps:
        now = Moment(now.wall + timedelta(seconds=seconds), now.steady + seconds)
        plain = build(TENANT, folder, plain, ALL, now)
        sealed = build(TENANT, folder, sealed and unseal(seal(sealed)), ALL, now)
        assert_comes_back(plain)
        assert sealed == plain


def test_nothing_private_is_in_a_sealed_snapshot() -> None:
    """Of a file that holds private keys neither a member nor its value, and no name of one anywhere."""
    data = json.loads((FOLDER / "private.jwk").read_bytes())
    secrets = {value for name, value in data.items() if name in PRIVATE}
    assert secrets
    sealed = seal(snapshot_of(*fixture_files()))
    for secret in secrets:
        assert secret.encode() not in sealed
        assert base64.b64encode(base64.urlsafe_b64decode(secret + "===")) not in sealed
    assert b"PRIVATE" not in sealed.replace(b"a private key (PRIVATE KEY)", b"")
    whole = json.loads(sealed)
    keys = [key for file in whole["snapshot"]["files"] for key in file["keys"]]
    assert len(keys) == sum(len(file.keys) for file in fixture_files())
    assert {name for key in keys for name, _ in key["public"]["members"]} <= PUBLIC
    assert PRIVATE.isdisjoint(step for path in walk(whole) for step in path)


def test_a_sealed_snapshot_says_which_version_it_is_of_and_no_other_is_opened() -> None:
    """What a later version means by the same names nobody knows."""
    whole = json.loads(SEALED)
    assert whole["version"] == VERSION
    for version in (VERSION + 1, 0, -1):
        with pytest.raises(SealedError, match=re.escape(f"version {version}, not {VERSION}")):
            unseal(json.dumps({**whole, "version": version}).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("not_before", "2026-01-01T00:00:00"),
        ("not_after", "2026-01-01T00:00:00"),
        ("wall", "2026-01-01T00:00:00"),
        ("members", [["d", "x"]]),
        ("members", [["kid", "x"]]),
        ("max_age", -1),
        ("stale_if_error", 1 << 60),
        ("removal_grace", 1 << 60),
        ("rsa_algorithms", ["HS256"]),
        ("allow", ["none"]),
    ],
)
def test_a_value_that_no_build_can_have_put_there_is_refused(name: str, value: object) -> None:
    """It would fail every later build, and the tenant would stay unread for as long as the server runs."""
    places = [path for path in PATHS if path[-1] == name]
    assert places
    for path in places:
        assert opened(altered(path, value)) is None


def walk(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value within a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from walk(child, (*path, name))


def opened(data: bytes) -> Snapshot | None:
    """Return the snapshot, None where our one error says that it is none; anything else fails."""
    try:
        snapshot = unseal(data)
    except SealedError:
        return None
    assert isinstance(snapshot, Snapshot)
    return snapshot


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(deadline=None)
def test_garbage_is_no_snapshot(garbage: bytes) -> None:
    """Nor with one before it or after it."""
    for data in (garbage, garbage + b"x" + SEALED, SEALED + garbage.strip() + b"x"):
        assert opened(data) is None


@given(st.integers(0, len(SEALED) - 1))
@settings(deadline=None)
def test_a_truncated_snapshot_is_none(length: int) -> None:
    """No half of it is believed."""
    assert opened(SEALED[:length]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[" * 200_000, b'{"version":' * 50_000, b'{"snapshot":{"more":' + b"[" * 200_000, b"9" * 300_000,
        b"\xff\xfe",
    ],
)  # fmt: skip
def test_what_never_ends_or_is_no_json_is_no_snapshot(data: bytes) -> None:
    """By the one error that is expected."""
    assert opened(data) is None


PATHS = [path for path in walk(json.loads(SEALED)) if path]
MISSING = object()
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["2026-01-01T00:00:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00", "Zm9v", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def altered(path: tuple[Any, ...], value: object) -> bytes:
    """Return the sealed snapshot with another value there, or without any."""
    whole = json.loads(SEALED)
    parent = whole
    for step in path[:-1]:
        parent = parent[step]
    if value is MISSING:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return json.dumps(whole).encode()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Make a tenant that has what the sealed one had, and what it had lost."""
    root = tmp_path_factory.mktemp("sealed")
    (root / TENANT).mkdir()
    for number in range(2):
        (root / TENANT / f"{number}.pem").write_bytes(pem(certificate(private_key("P-256", number), str(number))))
    return Source(str(root), defaults=ALL)


@given(path=st.sampled_from(PATHS), value=ANY_JSON | st.just(MISSING))
@settings(max_examples=150, deadline=None)
def test_a_snapshot_with_anything_altered_is_none_or_one_that_can_be_built_on(
    source: Source, path: tuple[Any, ...], value: object
) -> None:
    """Whatever a reader process that fell to a key file writes into it, the next one reads the tenant."""
    data = altered(path, value)
    snapshot = opened(data)
    if snapshot is not None:
        assert opened(seal(snapshot)) == replace(snapshot, key_set=None)
    assert isinstance(load(source, LoadJob(TENANT, previous=data)), Loaded)


# --- text that no encoding of Unicode can hold

LONE = "\udcff \ud800"


def read_again(source: Source, job: LoadJob) -> Loaded:
    """Load a tenant twice, the second time from what the first one sealed."""
    first = load(source, job)
    assert unseal(first.publication.sealed).tenant == TENANT
    return load(source, replace(job, previous=first.publication.sealed, record=None))


def good_and(root: str, **others: bytes) -> Source:
    """Make a tenant with a good key and other files, in any folder."""
    folder = Path(root, TENANT)
    folder.mkdir()
    (folder / "good.pem").write_bytes(pem(certificate(private_key("P-256", 1))))
    for name, content in others.items():
        (folder / name).write_bytes(content)
    return Source(root, defaults=ALL)


@given(st.lists(st.binary(min_size=1, max_size=8).filter(lambda name: not {0, 47} & set(name)), max_size=4))
@settings(max_examples=30, deadline=None)
def test_a_file_of_any_name_takes_nothing_from_the_others(names: list[bytes]) -> None:
    """Bytes that are no UTF-8 come as lone surrogates."""
    with TemporaryDirectory() as root:
        source = good_and(root)
        for name in {b"\xff.pem", *names} - {b".", b".."}:
            Path(root, TENANT, os.fsdecode(name)).write_bytes(pem(certificate(private_key("P-256", 2))))
        loaded = read_again(source, LoadJob(TENANT))
        assert loaded.publication.keys >= 1
        assert any("\\udcff" in (problem.file_name or "") for problem in loaded.publication.problems)


def jwk(**more: object) -> bytes:
    """Return a JWK file."""
    numbers = private_key("P-256", 3).public_key().public_numbers()
    x, y = (base64url(number.to_bytes(32)) for number in (numbers.x, numbers.y))
    return json.dumps({"kty": "EC", "crv": "P-256", "x": x, "y": y, **more}).encode()


@pytest.mark.parametrize("member", ["kid", "alg", "use", "kty", "crv", "x", LONE])
def test_a_jwk_with_lone_surrogates_is_its_own_fault(tmp_path: Path, member: str) -> None:
    """JSON can say them in any text, and nobody could publish them."""
    source = good_and(str(tmp_path), **{"odd.jwk": jwk(**{member: LONE})})
    assert read_again(source, LoadJob(TENANT)).publication.keys >= 1


def test_an_alias_with_lone_surrogates_is_escaped() -> None:
    """A keystore may say them in the name of an entry."""
    key = key_of(Entry(private_key("P-256", 3).public_key(), alias=f"odd {LONE}"))
    snapshot = snapshot_of(KeyFile("k.jks", b"stamp", "JKS", (key,)))
    assert_comes_back(snapshot)
    assert unseal(seal(snapshot)).files[0].keys[0].alias == "odd \\udcff \\ud800"


def memory() -> dict[str, Any]:
    """Return the record of a tenant that publishes one key under a grace."""
    record: dict[str, Any] = json.loads(to_text(snapshot_of(A), clock.now()))
    return record


@pytest.mark.parametrize("present", [True, False])
@pytest.mark.parametrize("where", ["file", "alias", "kid", "alg", "aliases", "policy"])
def test_a_record_with_lone_surrogates_costs_at_most_itself(tmp_path: Path, where: str, *, present: bool) -> None:
    """It lies on a disk and outlives versions that wrote a file's name as it was; the folder may be gone meanwhile."""
    record = memory()
    match where:
        case "file" | "alias":
            record["keys"][0][where] = f"odd {LONE}"
        case "kid" | "alg":
            record["keys"][0]["jwk"][where] = LONE
        case "aliases":
            record["policy"]["aliases"] = [LONE]
        case _:
            record["policy"][LONE] = LONE
    source = good_and(str(tmp_path)) if present else Source(str(tmp_path), defaults=ALL)
    loaded = read_again(source, LoadJob(TENANT, record=json.dumps(record).encode()))
    is_damaged = where not in {"file", "alias"}
    assert loaded.publication.keys == present + (not is_damaged)


def test_what_is_said_of_a_deadly_file_may_hold_anything(tmp_path: Path) -> None:
    """It is put into the tenant's snapshot."""
    source = good_and(str(tmp_path), **{"k.pem": b"x"})
    loaded = read_again(source, LoadJob(TENANT, deadly={("k.pem", b""): f"crashed {LONE}"}))
    assert loaded.publication.keys == 1
    assert [problem.file_name for problem in loaded.publication.problems] == ["k.pem"]
