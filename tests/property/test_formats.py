"""Laws of reading: whatever the bytes, contents or our own error, soon, and never anything private.

JWKS_TEST_EVERY_BIT=1 flips every bit of every fixture instead of a sample (most of an hour).
"""

import base64
import json
import os
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat
from cryptography.hazmat.primitives.serialization import NoEncryption as Clear
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from joserfc.jwk import import_key
from jwcrypto.jwk import JWK

from jwks_server.core.errors import KeyFileError, UnsupportedKeyError
from jwks_server.core.formats import MAX_FILE_BYTES, Contents, Entry, Password, read
from jwks_server.core.jwk import Key, key_of

FOLDER = Path(__file__).parents[1] / "fixtures"
FIXTURES = sorted(path.name for path in FOLDER.iterdir() if path.name not in {"make", "README.md"})
PASSWORD = Password(b"changeit")
PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}
EVERY_BIT = os.environ.get("JWKS_TEST_EVERY_BIT") == "1"
SECONDS = 4.0  # of a single read, on a slow and busy machine
MEBIBYTES = 300  # by which the process may grow

# These derive keys with 10,000 or 100,000 rounds.
SLOW = {"three-keys.jks", "truststore.p12", "java-legacy.p12"}


def keys_or_our_error(data: bytes, password: Password | None = PASSWORD) -> tuple[Key, ...]:
    """Read the bytes; any exception but ours, a slow answer or a private member fails the law."""
    started = time.perf_counter()
    texts: list[str] = []
    keys: list[Key] = []
    try:
        contents = read(data, password)
    except KeyFileError as fault:
        texts.append(str(fault))
        contents = Contents("", ())
    for entry in contents.entries:
        try:
            keys.append(key_of(entry))
        except UnsupportedKeyError as refusal:
            texts.append(str(refusal))
    assert time.perf_counter() - started < SECONDS
    assert all(text and text.isprintable() for text in (*texts, *contents.refusals, *contents.notices))
    for key in keys:
        assert PRIVATE_MEMBERS.isdisjoint(dict(key.public.members))
    return tuple(keys)


def sample(name: str, size: int, fast: int) -> range:
    """Return positions in a fixture: all, where that is quick or asked for, else some at an odd distance."""
    count = 12 if name in SLOW else 150 if name.endswith(".p12") else fast
    return range(size) if EVERY_BIT or size <= count else range(0, size, size // count | 1)


@pytest.fixture(autouse=True)
def memory_cap() -> Any:  # noqa: ANN401 - a generator
    """Fail a law under which the process grew much."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEBIBYTES


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.timeout(7200 if EVERY_BIT else 120)
def test_every_truncation_gives_contents_or_our_error(name: str) -> None:
    """Half-written files happen while a copy is under way."""
    whole = (FOLDER / name).read_bytes()
    for size in sample(name, len(whole), fast=1200):
        keys_or_our_error(whole[:size])


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.timeout(7200 if EVERY_BIT else 120)
def test_every_flipped_bit_gives_contents_or_our_error(name: str) -> None:
    """Disks and networks do it, attackers do it on purpose."""
    whole = bytearray((FOLDER / name).read_bytes())
    for bit in sample(name, len(whole) * 8, fast=2000):
        whole[bit // 8] ^= 1 << bit % 8
        keys_or_our_error(bytes(whole))
        whole[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("name", ["self-signed-rsa.pem", "ed25519.pem", "openssl.p12", "three-keys.real.jks"])
def test_a_flipped_bit_never_gives_another_key(name: str) -> None:
    """A self-signature, a MAC or a digest protects all of them."""
    whole = bytearray((FOLDER / name).read_bytes())
    members = {key.public.members for key in keys_or_our_error(bytes(whole))}
    for bit in sample(name, len(whole) * 8, fast=1500):
        whole[bit // 8] ^= 1 << bit % 8
        assert {key.public.members for key in keys_or_our_error(bytes(whole))} <= members
        whole[bit // 8] ^= 1 << bit % 8


BEGINNINGS = [
    b"",
    b"\xef\xbb\xbf",
    b"\xfe\xed\xfe\xed\0\0\0\2",
    b"\xce\xce\xce\xce\0\0\0\2\0\0\0\1\0\0\0\1",
    b"-----BEGIN CERTIFICATE-----\n",
    b"-----BEGIN PUBLIC KEY-----\n",
    b"ssh-rsa ",
    b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
    b'{"kty":"RSA","n":',
    b'{"keys":[',
]


@given(st.sampled_from(BEGINNINGS), st.binary(max_size=300), st.none() | st.just(PASSWORD))
@settings(max_examples=400, deadline=None)
def test_arbitrary_bytes_give_contents_or_our_error(beginning: bytes, rest: bytes, password: Password | None) -> None:
    """With the first bytes of each container too, so that its reader is reached."""
    keys_or_our_error(beginning + rest, password)


def der(tag: int, content: bytes) -> bytes:
    """Return a DER value."""
    size = len(content)
    length = bytes([size]) if size < 0x80 else b"\x84" + struct.pack(">I", size)
    return bytes([tag]) + length + content


DER_VALUES = st.recursive(
    st.builds(der, st.sampled_from([1, 2, 3, 4, 5, 6, 12, 23, 30]), st.binary(max_size=20))
    | st.sampled_from(
        [b"\x02\x01\x03", bytes.fromhex("06092a864886f70d010701"), bytes.fromhex("06092a864886f70d010706")]
    ),
    lambda inner: st.builds(
        lambda tag, parts: der(tag, b"".join(parts)),
        st.sampled_from([0x30, 0x31, 0xA0, 0x04, 0xA1, 0x24]),
        st.lists(inner, max_size=5),
    ),
    max_leaves=20,
)


@given(st.lists(DER_VALUES, max_size=5), st.sampled_from([b"", b"\x02\x01\x03"]))
@settings(max_examples=400, deadline=None)
def test_arbitrary_der_gives_contents_or_our_error(parts: list[bytes], version: bytes) -> None:
    """A third of it claims to be PKCS#12."""
    keys_or_our_error(der(0x30, version + b"".join(parts)))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(
        ["RSA", "EC", "OKP", "AKP", "oct", "P-256", "P-521", "Ed25519", "Ed448", "ML-DSA-44", "AQAB", "sig"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
JWKS_MEMBERS = st.sampled_from(
    ["kty", "crv", "x", "y", "n", "e", "d", "k", "pub", "priv", "alg", "kid", "use", "key_ops", "x5c", "keys"]
)
KEYS = st.dictionaries(JWKS_MEMBERS, JSON_VALUES, max_size=8)


@given(KEYS | st.fixed_dictionaries({"keys": st.lists(KEYS | JSON_VALUES, max_size=4)}))
@settings(max_examples=400, deadline=None)
def test_arbitrary_json_gives_contents_or_our_error(document: Any) -> None:  # noqa: ANN401
    """Members of every type where strings belong."""
    keys_or_our_error(json.dumps(document).encode())


def fill(unit: bytes, head: bytes = b"", tail: bytes = b"") -> bytes:
    """Return a file of the largest size, made of one unit over and over."""
    return head + unit * ((MAX_FILE_BYTES - len(head) - len(tail)) // len(unit)) + tail


def pem(name: str) -> bytes:
    """Return a fixture."""
    return (FOLDER / name).read_bytes()


def store_of(content: bytes) -> bytes:
    """Return PKCS#12 whose only part is these SafeContents."""
    data = bytes.fromhex("06092a864886f70d010701")
    safe = der(0x30, der(0x30, data + der(0xA0, der(0x04, der(0x30, content)))))
    return der(0x30, b"\x02\x01\x03" + der(0x30, data + der(0xA0, der(0x04, safe))))


BAG = der(0x30, bytes.fromhex("060b2a864886f70d010c0a0102") + der(0xA0, der(0x30, b"")))
KEY_RECORD = b"\0\0\0\1\0\1a" + bytes(8) + bytes(4) + bytes(4)
TRUSTED = b"\0\0\0\2\0\1a" + bytes(8) + b"\0\5X.509" + bytes(4)
LARGE = {
    "nested indefinite lengths": lambda: fill(b"\x30\x80", b"\x30\x80\x02\x01\x03"),
    "nested sequences": lambda: der(0x30, b"\x02\x01\x03" + nested(3000)),
    "many bags": lambda: store_of(BAG * 30_000),
    "one huge bag": lambda: store_of(der(0x30, bytes(900_000))),
    "many JKS keys": lambda: b"\xfe\xed\xfe\xed\0\0\0\2" + struct.pack(">I", 40_000) + KEY_RECORD * 40_000 + bytes(20),
    "many JKS trusts": lambda: b"\xfe\xed\xfe\xed\0\0\0\2" + struct.pack(">I", 40_000) + TRUSTED * 40_000 + bytes(20),
    "many certificates": lambda: fill(pem("p521.pem")),
    "many public keys": lambda: fill(pem("x25519-public.pem")),
    "many bundles": lambda: fill(pem("bundle.pkcs7.pem")),
    "open blocks": lambda: fill(b"-----BEGIN CERTIFICATE-----\n"),
    "dashes": lambda: fill(b"-", b"-----BEGIN CERTIFICATE-----\n"),
    "nested lists": lambda: fill(b"[", b'{"keys":'),
    "nested objects": lambda: fill(b'{"a":'),
    "many keys": lambda: fill(b'{"kty":"oct"},', b'{"keys":[', b"{}]}"),
    "huge modulus": lambda: fill(b"A", b'{"kty":"RSA","e":"AQAB","n":"', b'"}'),
    "huge exponent": lambda: fill(b"_", b'{"kty":"RSA","n":"' + b"_" * 342 + b'","e":"', b'"}'),
    "huge number": lambda: fill(b"9", b'{"kty":', b"}"),
    "huge OpenSSH key": lambda: fill(b"A", b"ssh-rsa "),
    "many lines": lambda: fill(b"ssh-rsa A\n"),
    "long SPKI": lambda: der(0x30, der(0x30, der(6, bytes(500_000))) + der(3, bytes(500_000))),
}


def nested(depth: int) -> bytes:
    """Return sequences within sequences."""
    value = b"\x05\x00"
    for _ in range(depth):
        value = der(0x30, value)
    return value


@pytest.mark.parametrize("name", LARGE)
def test_a_large_hostile_file_is_answered_in_time_and_space(name: str) -> None:
    """Each is made to cost as much as one MiB can."""
    keys_or_our_error(LARGE[name]())


def as_jwk(key: Key) -> dict[str, str]:
    """Return the key as it is published, as far as it is the key."""
    alg = {"alg": key.public.algorithms[0]} if key.public.kty == "AKP" else {}
    return {"kty": key.public.kty, **alg, **dict(key.public.members)}


def spki(key: Any) -> bytes:  # noqa: ANN401
    """Return a public key in DER, to compare keys by."""
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


PUBLISHED = [
    name for name in FIXTURES if name.rsplit(".", 1)[-1] in {"pem", "der", "p12", "jks", "jceks", "jwk", "jwks", "pub"}
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_published_reads_back_to_the_same_key(name: str) -> None:
    """By jwcrypto and joserfc, which know nothing of this code."""
    password = Password(b"") if name.startswith("empty") else PASSWORD
    try:
        entries = read((FOLDER / name).read_bytes(), password).entries
    except KeyFileError:
        assert name in {"only-private-key.pem", "secret.jceks"}
        return
    for entry in entries:
        try:
            key = key_of(entry)
        except UnsupportedKeyError:
            continue
        if key.public.kty != "AKP":  # jwcrypto and joserfc do not read these yet
            assert_reads_back(as_jwk(key), entry)


def assert_reads_back(jwk: dict[str, str], entry: Entry) -> None:
    """Compare with what two other libraries make of the JWK."""
    theirs = JWK(**jwk)
    assert not theirs.has_private
    assert theirs.export_to_pem() == entry.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    other = import_key(dict(jwk), jwk["kty"])  # type: ignore[call-overload]
    assert spki(other.public_key) == spki(entry.public_key)


CURVES = [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1()]


@given(st.sampled_from(CURVES), st.integers(1, 1 << 255))
@example(ec.SECP256R1(), 4)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_point_of_a_curve_reads_back(curve: ec.EllipticCurve, scalar: int) -> None:
    """One in 128 has a coordinate that begins with a zero octet."""
    entry = Entry(ec.derive_private_key(scalar, curve).public_key())
    assert_reads_back(as_jwk(key_of(entry)), entry)


MAKERS: dict[str, Callable[[], Any]] = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_token_signed_by_the_key_verifies_with_what_is_published(kind: str) -> None:
    """With every algorithm that PyJWT knows of those the key is said to sign with."""
    private = MAKERS[kind]()
    data = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, Clear())
    (entry,) = read(secret + data).entries
    key = key_of(entry)
    known = [alg for alg in key.public.algorithms if alg in jwt.algorithms.get_default_algorithms()]
    assert known
    for alg in known:
        token = jwt.encode({"sub": "somebody"}, private, algorithm=alg)
        verifier = jwt.PyJWK({**as_jwk(key), "alg": alg}, algorithm=alg)
        assert jwt.decode(token, verifier, algorithms=[alg]) == {"sub": "somebody"}


@given(st.binary(min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_no_private_member_of_a_jwk_appears_anywhere(secret: bytes) -> None:
    """Not in the contents' repr, a refusal or a notice either."""
    value = "SECRET" + base64.urlsafe_b64encode(secret).decode().rstrip("=")
    members = dict.fromkeys(sorted(PRIVATE_MEMBERS), value)
    public = json.loads((FOLDER / "public.jwk").read_text())
    for document in ({**public, **members}, {"keys": [{"kty": "oct", **members}, {**public, **members}]}):
        contents = read(json.dumps(document).encode())
        keys = [key_of(entry) for entry in contents.entries]
        assert keys
        assert value not in repr((contents, keys))
