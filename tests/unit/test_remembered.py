import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from support.certificates import NOW, certificate, der, pem, private_key
from support.fixtures import fixture_files

from jwks_server.core.build import build, read_key_file
from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import Password
from jwks_server.core.formats.certificates import tolerating_oddities
from jwks_server.core.jwk import Key, base64url
from jwks_server.core.lifecycle import KeyFile, Moment
from jwks_server.core.policy import OutOfValidity, Policy
from jwks_server.core.remembered import from_text, record_of, to_text, worth_remembering
from jwks_server.core.sealed import seal
from jwks_server.core.snapshot import Folder, Remembered, Snapshot, TextFile
from jwks_server.core.tenant import TenantName

FIXTURES = Path(__file__).parents[1] / "fixtures"
TENANT = TenantName("foo.com")
START = Moment(NOW, 1000.0)
GRACE = Policy(removal_grace=600, allow=("ES256K", "Ed448", "ML-DSA"))
PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}

LEAF_KEY, CA_KEY = private_key("P-256", 1), private_key("P-256", 2)
CA = certificate(CA_KEY, "ca")
LEAF = certificate(LEAF_KEY, "leaf", issuer=CA, issuer_key=CA_KEY)


def spki(key: Any) -> bytes:  # noqa: ANN401 - any public key
    encoded: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def jwk(**more: object) -> bytes:
    numbers = LEAF_KEY.public_key().public_numbers()
    members = {
        "kty": "EC",
        "crv": "P-256",
        "x": base64url(numbers.x.to_bytes(32)),
        "y": base64url(numbers.y.to_bytes(32)),
    }
    return json.dumps({**members, **more}).encode()


def odd_certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "Utopia", _validate=False)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(LEAF_KEY.public_key())
    builder = builder.serial_number(7).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    return pem(builder.sign(LEAF_KEY, SHA256()))


with tolerating_oddities():
    MADE = {
        "certificate with chain": pem(LEAF, CA),
        "bare EC key": spki(LEAF_KEY.public_key()),
        "bare RSA key": spki(private_key("RSA").public_key()),
        "bare AKP key": spki(mldsa.MLDSA65PrivateKey.generate().public_key()),
        "JWK": jwk(),
        "JWK with kid": jwk(kid="mine"),
        "JWK with kid and alg": jwk(kid="mine", alg="ES256"),
        "JWK with kid, alg and certificates": jwk(
            kid="mine", alg="ES256", x5c=[b64encode(der(LEAF)).decode(), b64encode(der(CA)).decode()]
        ),
        "certificate with an odd country": odd_certificate(),
    }


def key_file(name: str, data: bytes) -> KeyFile:
    password = b"" if name.startswith("empty-password") else b"changeit"
    return read_key_file(name, b"", data, Password(password))


def snapshot_of(
    *files: KeyFile, previous: Snapshot | None = None, policy: Policy = GRACE, now: Moment = START, revoked: str = ""
) -> Snapshot:
    return build(TENANT, Folder(files, TextFile(), TextFile(revoked)), previous, policy, now)


def remembered(snapshot: Snapshot, now: Moment = START) -> Remembered:
    return from_text(to_text(snapshot, now), now)


def readable() -> list[KeyFile]:
    """Return all that can be read of what there is."""
    made = [key_file(name, data) for name, data in MADE.items()]
    return made + [file for file in fixture_files() if not file.faults]


@pytest.mark.parametrize("file", readable(), ids=lambda file: file.name)
def test_every_kind_of_key_comes_back_as_it_was(file: KeyFile) -> None:
    """Chain, alias, stated id and algorithm, and what a key for RSASSA-PSS alone may be used with."""
    memory = remembered(snapshot_of(file))
    assert memory.policy == GRACE
    assert {owed.file_name for owed in memory.keys} <= {file.name}
    assert [owed.until for owed in memory.keys] == [inf] * len(file.keys)
    assert [owed.key for owed in memory.keys] == [as_read_back(key) for key in file.keys]


def as_read_back(key: Key) -> Key:
    """Return the key as it may come back: the algorithm of an AKP key is stated (RFC 9964, section 3)."""
    return replace(key, stated_alg=key.public.algorithms[0]) if key.public.kty == "AKP" else key


def test_a_restart_publishes_the_very_bytes_that_were_published() -> None:
    """A set that is made of remembered keys alone has the tag it had."""
    policy = replace(GRACE, rsa_algorithms=("RS256", "PS256"), previous_kids=True)
    names = ("pss.pem", "pss-sha384-public.der", "rsa-public.pem", "three-keys.jks", "public.jwk", "ml-dsa-44.pem")
    files = [key_file(name, (FIXTURES / name).read_bytes()) for name in names]
    before = snapshot_of(*files, policy=policy)
    after = build(TENANT, Folder(), None, policy, START, remembered=remembered(before))
    assert before.key_set is not None
    assert after.key_set == before.key_set


def test_every_value_of_a_policy_comes_back() -> None:
    """A removed tenant is served as its own policy said."""
    policy = Policy().updated({
        "kid": "wso2-sha1", "rsa_algorithms": ["PS256", "RS512"], "eddsa": "Ed25519", "x5c": False, "x5t": True,
        "hexify_thumbprints": True, "max_age": 7, "stale_if_error": 8, "not_yet_valid": "hide", "expired": "hide",
        "allow": ["Ed448"], "aliases": ["One", "two"], "previous_kids": True, "removal_grace": "7d",
    })  # fmt: skip
    assert all(getattr(policy, name) != getattr(Policy(), name) for name in Policy.__dataclass_fields__)
    assert remembered(snapshot_of(policy=policy)).policy == policy


def test_a_deadline_survives_a_reboot_that_starts_the_steady_clock_anew() -> None:
    """It is written on the wall clock and read back relative to the steady one of the moment."""
    first = snapshot_of(key_file("k.pem", MADE["certificate with chain"]))
    gone_at = Moment(NOW + timedelta(seconds=5), 1005.0)
    gone = snapshot_of(previous=first, now=gone_at)
    text = to_text(gone, Moment(NOW + timedelta(seconds=25), 1025.0))
    (owed,) = from_text(text, Moment(NOW + timedelta(seconds=105), 3.0)).keys
    assert owed.until == pytest.approx(3.0 + 500.0)
    (overdue,) = from_text(text, Moment(NOW + timedelta(seconds=1000), 3.0)).keys
    assert overdue.until < 3.0


def test_a_wall_clock_set_back_before_a_restart_does_not_lengthen_a_grace() -> None:
    """The deadline is then cut to a whole grace from the start."""
    first = snapshot_of(key_file("k.pem", MADE["certificate with chain"]))
    text = to_text(snapshot_of(previous=first), START)
    restart = Moment(NOW - timedelta(days=300), 3.0)
    back = build(TENANT, Folder(), None, GRACE, restart, remembered=from_text(text, restart))
    assert [owed.until for owed in back.owed] == [pytest.approx(603.0)]


def test_what_is_revoked_or_hidden_is_not_remembered() -> None:
    """Its grace must not bring it back."""
    file = key_file("k.pem", MADE["certificate with chain"])
    first = snapshot_of(file)
    (kid,) = {key.kid for key in first.published}
    assert len(remembered(first).keys) == 1
    assert remembered(snapshot_of(file, revoked=kid)).keys == ()
    owed_and_revoked = snapshot_of(previous=first, revoked=kid)
    assert owed_and_revoked.owed
    assert remembered(owed_and_revoked).keys == ()
    expired = Moment(NOW + timedelta(days=40_000), 1001.0)
    hiding = replace(GRACE, expired=OutOfValidity.HIDE)
    assert remembered(snapshot_of(file, policy=hiding, now=expired), expired).keys == ()


def test_without_a_grace_there_is_nothing_to_remember() -> None:
    """A removal is then believed at once, also over a restart."""
    file = key_file("k.pem", MADE["certificate with chain"])
    assert worth_remembering(snapshot_of(file, policy=Policy())) == ()
    assert worth_remembering(snapshot_of(file)) != ()


def test_a_stand_in_for_a_policy_that_was_never_known_is_not_remembered() -> None:
    """After a restart it would be taken for the tenant's own, and the tenant published by it."""
    file = key_file("k.pem", MADE["certificate with chain"])
    unknown = build(TENANT, Folder((file,), TextFile("kid =")), None, GRACE, START)
    assert record_of(unknown, None, None, START) is None
    known = build(TENANT, Folder((file,), TextFile("kid =")), snapshot_of(file), GRACE, START)
    assert record_of(known, None, None, START) is not None


def test_what_is_owed_stays_remembered_while_a_list_of_revoked_keys_was_never_readable() -> None:
    """It is withheld then, not forgotten."""
    file = key_file("k.pem", MADE["certificate with chain"])
    before = remembered(snapshot_of(file))
    unreadable = Folder((file,), TextFile(), TextFile(fault="permission denied"))
    withheld = build(TENANT, unreadable, None, GRACE, START, remembered=before)
    assert withheld.key_set is None
    assert record_of(withheld, None, before, START) is not None
    assert remembered(withheld) == before


def test_what_is_worth_remembering_changes_with_the_keys_their_deadlines_and_the_policy() -> None:
    """And with nothing else: a rebuild writes nothing."""
    file = key_file("k.pem", MADE["certificate with chain"])
    first = snapshot_of(file)
    later = Moment(NOW + timedelta(seconds=5), 1005.0)
    assert worth_remembering(snapshot_of(file, previous=first, now=later)) == worth_remembering(first)
    gone = snapshot_of(previous=first, now=later)
    others = [
        gone,
        snapshot_of(file, policy=replace(GRACE, x5t=True)),
        snapshot_of(previous=gone, revoked="x", now=later),
    ]
    assert worth_remembering(gone) != worth_remembering(first)
    assert worth_remembering(others[1]) != worth_remembering(first)
    assert worth_remembering(others[2]) == worth_remembering(gone)


# --- damage

TEXT = to_text(snapshot_of(*(key_file(name.replace(" ", "-"), data) for name, data in MADE.items())), START)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just("9999-12-31T23:59:59+00:00"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def paths(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value within a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from paths(child, (*path, name))


PATHS = list(paths(json.loads(TEXT)))


def read(text: str | bytes) -> Remembered | None:
    """Return what is remembered, or None where our one error says that it is damaged."""
    try:
        return from_text(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text, START)
    except KeyFileError:
        return None


@given(st.text() | st.binary().map(lambda data: data.decode("ascii", "replace")) | JSON.map(json.dumps))
def test_any_other_text_is_damage(text: str) -> None:
    """Nothing but our own error."""
    assert read(text) is None


def test_a_file_name_that_is_no_text_comes_back_escaped() -> None:
    """Older versions wrote it as the file system gave it, and no snapshot can be sealed with it."""
    memory = json.loads(TEXT)
    memory["keys"][0]["file"] = "k\udcff.pem"
    back = from_text(json.dumps(memory).encode(), START)
    assert back.keys[0].file_name == "k\\udcff.pem"
    assert seal(build(TENANT, Folder(), None, GRACE, START, remembered=back))


@given(st.integers(0, len(TEXT) - 1))
def test_a_truncated_record_is_damage(length: int) -> None:
    """No half of it is believed."""
    assert read(TEXT[:length]) is None


@given(st.sampled_from(PATHS[1:]), JSON)
def test_a_value_of_another_shape_is_damage_or_harmless(path: tuple[Any, ...], value: object) -> None:
    """Wherever it stands: our own error, or a record that a tenant can be built from and that can be written again."""
    memory = json.loads(TEXT)
    parent = memory
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    back = read(json.dumps(memory))
    if back is not None:
        snapshot = build(TENANT, Folder(), None, back.policy, START, remembered=back)
        assert read(to_text(snapshot, START)) is not None


@given(st.sampled_from(PATHS[1:]))
def test_a_missing_value_is_damage_or_harmless(path: tuple[Any, ...]) -> None:
    """Wherever it is missing."""
    memory = json.loads(TEXT)
    parent = memory
    for step in path[:-1]:
        parent = parent[step]
    del parent[path[-1]]
    read(json.dumps(memory))


@pytest.mark.parametrize(
    "key",
    [
        {"x5c": [""]},
        {"x5c": ["AAAA"]},
        {"x5c": [b64encode(der(LEAF)[:-40]).decode()]},
        {"x5c": [b64encode(der(LEAF)).decode() + "é"]},
        {"x5c": [7]},
        {"x5c": "AAAA"},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}},
        {"x5c": [b64encode(der(CA)).decode()]},
        {"x5c": None},
        {"jwk": {"keys": []}},
        {"jwk": None},
        {"algorithms": []},
        {"algorithms": ["HS256"]},
        {"algorithms": "ES256"},
    ],
)
def test_a_key_that_does_not_parse_is_damage(key: dict[str, object]) -> None:
    """What the record holds is checked like any key file."""
    memory = json.loads(TEXT)
    (memory["keys"],) = ([{**item, **key}] for item in memory["keys"] if item["file"] == "certificate-with-chain")
    assert read(json.dumps(memory)) is None


@pytest.mark.parametrize("until", ["soon", "2026-06-01T00:00:00", "", 7, [], "10000-01-01T00:00:00+00:00"])
def test_a_deadline_that_is_no_time_with_a_zone_is_damage(until: object) -> None:
    """Nobody guesses a zone."""
    memory = json.loads(TEXT)
    memory["keys"][0]["until"] = until
    assert read(json.dumps(memory)) is None


def test_a_deeply_nested_text_is_damage() -> None:
    """However deep."""
    assert read("[" * 1_000_000) is None


def test_another_version_is_damage() -> None:
    """A newer server's record is not half-understood."""
    assert read(json.dumps({**json.loads(TEXT), "version": 2})) is None


def test_no_private_member_is_written_or_comes_back() -> None:
    """Neither from a file that holds private keys nor from a record that somebody put one into."""
    for name in ("private.jwk", "key-and-certificate.pem", "nothing-encrypted.p12"):
        text = to_text(snapshot_of(key_file(name, (FIXTURES / name).read_bytes())), START)
        keys = json.loads(text)["keys"]
        assert keys
        assert not any(PRIVATE_MEMBERS & (key.keys() | key.get("jwk", {}).keys()) for key in keys)
        assert b"PRIVATE" not in text
    secret = ec.generate_private_key(ec.SECP256R1())
    numbers = secret.private_numbers()
    point = numbers.public_numbers
    coordinates = {"x": base64url(point.x.to_bytes(32)), "y": base64url(point.y.to_bytes(32))}
    d = base64url(numbers.private_value.to_bytes(32))
    memory = json.loads(TEXT)
    key = {"kty": "EC", "crv": "P-256", **coordinates, "d": d}
    memory["keys"] = [
        {"file": "k", "alias": None, "until": None, "jwk": key, "x5c": [], "algorithms": ["ES256"], "d": d}
    ]
    back = from_text(json.dumps(memory).encode(), START)
    assert len(back.keys) == 1
    assert d not in repr(back)
    assert d.encode() not in to_text(build(TENANT, Folder(), None, GRACE, START, remembered=back), START)
