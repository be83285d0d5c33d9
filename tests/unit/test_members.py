import json
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certificates import NOW
from support.fixtures import fixture_files

from jwks_server.core.build import build
from jwks_server.core.errors import KeySetError
from jwks_server.core.keyset import PublishedKey, compile_set, jwk_json
from jwks_server.core.kid import Scheme
from jwks_server.core.lifecycle import Moment
from jwks_server.core.members import count_public_keys
from jwks_server.core.policy import RSA_ALGORITHMS, Policy
from jwks_server.core.snapshot import Folder
from jwks_server.core.tenant import TenantName

PUBLIC = {"kty", "use", "kid", "alg", "n", "e", "crv", "x", "y", "pub", "x5t#S256", "x5t", "x5c"}
PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}
POLICIES = [
    Policy(kid=kid, rsa_algorithms=algorithms, x5t=x5t, x5c=x5c, allow=("ES256K", "Ed448", "ML-DSA"))
    for kid in Scheme
    for algorithms in (("RS256",), RSA_ALGORITHMS)
    for x5t, x5c in ((True, False), (False, True))
    if kid.names_algorithm or len(algorithms) == 1
]


def compact(value: object) -> bytes:
    """Return JSON as a key set is written."""
    return json.dumps(value, separators=(",", ":")).encode()


def count(body: bytes) -> int | None:
    """Return how many keys are counted, None where the body is refused; anything else fails."""
    try:
        return count_public_keys(body)
    except KeySetError:
        return None


def members_of(text: bytes) -> list[list[tuple[str, Any]]]:
    """Return the members of each key of a set as the standard library reads them, a doubled one twice."""
    whole = json.loads(text, object_pairs_hook=list)
    assert [name for name, _ in whole] == ["keys"]
    keys: list[list[tuple[str, Any]]] = whole[0][1]
    return keys


def test_an_empty_set_has_no_key() -> None:
    """It is one all the same."""
    assert count(b'{"keys":[]}') == 0


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: f"{policy.kid} {policy.rsa_algorithms} {policy.x5c}")
def test_every_set_that_is_built_passes_and_is_counted_right(policy: Policy) -> None:
    """Of every kind of key that there is a file of, alone and together."""
    files = fixture_files()
    for some in [files, *combinations(files, 1)]:
        snapshot = build(TenantName("a.com"), Folder(some), None, policy, Moment(NOW, 0.0))
        if snapshot.key_set is not None:
            assert count(snapshot.key_set.body) == len(snapshot.published)


KEYS = [key for file in fixture_files() for key in file.keys]
texts = st.text(max_size=8)


@given(st.lists(st.tuples(st.sampled_from(KEYS), texts, texts, st.sampled_from(POLICIES)), max_size=12))
@settings(max_examples=30, deadline=None)
def test_every_set_that_is_compiled_passes_and_is_counted_right(keys: list[tuple[Any, str, str, Policy]]) -> None:
    """Whatever the ids and algorithms say, quotes, commas, braces and brackets among them."""
    members = [
        (PublishedKey(kid, alg, key.public.kty, ("", (), (), None), ""), jwk_json(key, kid, alg, policy))
        for key, kid, alg, policy in keys
    ]
    assert count(compile_set(members, Policy()).body) == len(keys)


names = st.sampled_from(sorted(PUBLIC)) | st.sampled_from([*PRIVATE, "x5u", "Kty", "kty ", ""])
public_values = st.text(max_size=8) | st.lists(st.text(max_size=8), max_size=3)
values = st.one_of(
    public_values,
    public_values,
    st.none() | st.booleans() | st.integers() | st.floats(),
    st.lists(st.lists(st.text(max_size=2), max_size=2) | st.integers(), min_size=1, max_size=2),
    st.dictionaries(names, st.text(max_size=2), max_size=2),
)
good_keys = st.dictionaries(st.sampled_from(sorted(PUBLIC)), public_values, max_size=4)


@given(st.lists(good_keys | st.dictionaries(names, values, max_size=4) | values, max_size=5))
@settings(deadline=None)
def test_a_set_passes_where_all_its_keys_have_public_members_alone(keys: list[Any]) -> None:
    """Each a text or a list of texts; the oracle is the standard library and the list of the RFCs."""
    is_public = all(
        isinstance(key, dict)
        and key.keys() <= PUBLIC
        and all(
            isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
            for value in key.values()
        )
        for key in keys
    )
    assert count(compact({"keys": keys})) == (len(keys) if is_public else None)


BODY = compact({"keys": [{"kty": "EC", "kid": '"}]},{"', "x5c": ["a", "b"]}, {"kty": "RSA", "n": "x"}, {"e": "k"}]})
tokens = st.sampled_from([b'"d":"x",', b'"k":1,', *(bytes([byte]) for byte in b'{}[],"\\ \n')])


@given(st.lists(st.tuples(st.integers(0, len(BODY)), st.integers(0, 4), tokens | st.binary(max_size=3)), max_size=3))
@settings(max_examples=150, deadline=None)
def test_no_change_of_a_body_brings_a_member_through_that_is_not_public(changes: list[tuple[int, int, bytes]]) -> None:
    """What passes is a set of public members to the standard library too, and of as many keys; doubled ones count."""
    body = BODY
    for at, length, token in changes:
        body = body[:at] + token + body[at + length :]
    if (counted := count(body)) is not None:
        keys = members_of(body)
        assert len(keys) == counted
        assert {name for key in keys for name, _ in key} <= PUBLIC


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(deadline=None)
def test_garbage_is_refused_by_our_one_error(garbage: bytes) -> None:
    """Behind the right beginning, too."""
    for body in (garbage, b'{"keys":[' + garbage, b'{"keys":[' + garbage + b"]}"):
        assert count(body) in {None, 0} or members_of(body)


@pytest.mark.parametrize("member", sorted(PRIVATE | {"x5u", "iat", ""}))
def test_a_member_that_is_not_public_is_refused_wherever_it_stands(member: str) -> None:
    """In the first key or the last, first or last in it, escaped, doubled or nested."""
    public = {"kty": "EC", "x": "x"}
    for key in ({member: "x", **public}, {**public, member: "x"}, {**public, "n": {member: "x"}}):
        for keys in ([key], [key, public], [public, key]):
            assert count(compact({"keys": keys})) is None
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in member)
    assert count(f'{{"keys":[{{"kty":"EC","{escaped}":"x"}}]}}'.encode()) is None
    assert count(f'{{"keys":[{{"kty":"EC"}}],"{member}":"x"}}'.encode()) is None


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b'{"keys":[', b'{"keys":[]', b'{"keys":[]}x', b' {"keys":[]}', b'{"keys":[] }',
        b'{"keys": []}', b'{"keys":[{}]}]}', b'{"keys":[{},]}', b'{"keys":[,{}]}', b'{"keys":[{}{}]}',
        b'{"keys":[{};{}]}', b'{"keys":[{}', b'{"Keys":[{}]}', b'{"keys":[{"n":1}]}', b'{"keys":[{"x5c":[1]}]}',
        b'{"keys":[{"x5c":["a",["b"]]}]}',
        b'{"keys":[{}], "keys":[]}', b'{"keys":[1]}', b'{"keys":["kty"]}', b'{"keys":[{"n":NaN}]}',
        b'{"keys":[{"n":' + b"9" * 5000 + b"}]}", b'{"keys":[{"n":"\xc3\xa9"}]}', '{"keys":[]}'.encode("utf-16"),
        b'{"keys":[' + b"[" * 100_000, b'{"keys":[{"n":' * 50_000, b'{"keys":[{"n":"\n"}]}',
    ],
)  # fmt: skip
def test_what_is_no_set_is_refused(body: bytes) -> None:
    """By the one error that is expected, and soon."""
    assert count(body) is None
