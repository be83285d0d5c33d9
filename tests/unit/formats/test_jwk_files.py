"""JWK and JWKS as input: hostile JSON, private members, and keys that are not for signing."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from jwcrypto.jwk import JWK

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import read
from jwks_server.core.jwk import base64url, key_of

ED25519 = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}  # RFC 8037, A.2


def as_file(document: object) -> bytes:
    """Return the document as a file."""
    return json.dumps(document).encode()


def public_jwk(key: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a public key as jwcrypto writes it."""
    return dict(JWK.from_pyca(key).export_public(as_dict=True))


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
    ],
    ids=lambda key: type(key).__name__,
)
def test_what_jwcrypto_writes_is_read_back(key: Any) -> None:  # noqa: ANN401
    """Private and public alike give the public key."""
    private = dict(JWK.from_pyca(key).export(as_dict=True))
    for document in (public_jwk(key.public_key()), private, {"keys": [private]}):
        (entry,) = read(as_file(document)).entries
        assert entry.public_key == key.public_key()


@pytest.mark.parametrize("make", [mldsa.MLDSA44PrivateKey, mldsa.MLDSA65PrivateKey, mldsa.MLDSA87PrivateKey])
def test_an_akp_key_is_read(make: Any) -> None:  # noqa: ANN401
    """RFC 9964: its algorithm says what it is."""
    public = make.generate().public_key()
    alg = "ML-DSA-" + make.__name__[5:7]
    document = {"kty": "AKP", "alg": alg, "pub": base64url(public.public_bytes_raw())}
    (entry,) = read(as_file(document)).entries
    assert entry.public_key == public
    assert key_of(entry).stated_alg == alg


def test_kid_and_alg_are_kept_as_stated(fixture_file: Callable[[str], bytes]) -> None:
    """Whoever writes a JWK has chosen them."""
    (entry,) = read(fixture_file("public.jwk")).entries
    assert (entry.kid, entry.alg) == ("stated", "ES256")


def test_private_members_do_not_pass_and_are_noticed(fixture_file: Callable[[str], bytes]) -> None:
    """They have no business in the tree."""
    contents = read(fixture_file("private.jwk"))
    assert set(dict(key_of(contents.entries[0]).public.members)) == {"n", "e"}
    assert contents.notices == ("holds private keys, which are not published; keep only their public members here",)


def test_keys_that_cannot_be_published_do_not_keep_the_others_of_a_set(fixture_file: Callable[[str], bytes]) -> None:
    """A secret, an unknown kty and a key for encryption are each refused."""
    contents = read(fixture_file("set.jwks"))
    assert [entry.kid for entry in contents.entries] == ["one", "two"]
    assert [refusal.split(":")[0] for refusal in contents.refusals] == ["key 3", "key 4", "key 5"]


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"kty": "oct", "k": "c2VjcmV0"}, 'kty "oct" is a secret key'),
        ({"kty": "XYZ"}, 'kty "XYZ"'),
        ({"use": "enc"}, 'use "enc"'),
        ({"key_ops": ["encrypt"]}, 'key_ops without "verify"'),
        ({"crv": "X25519"}, "X25519 agrees on keys"),
        ({"crv": "Ed1"}, 'OKP curve "Ed1"'),
        ({"kty": "EC", "crv": "P-192"}, 'EC curve "P-192"'),
        ({"kty": "AKP", "alg": "ML-DSA-1", "pub": "AAAA"}, 'AKP with alg "ML-DSA-1"'),
    ],
)
def test_a_key_that_was_understood_and_cannot_be_published_is_refused(members: dict[str, Any], text: str) -> None:
    """The text names what it is; a secret's value is not repeated."""
    contents = read(as_file({**ED25519, **members}))
    assert contents.entries == ()
    assert text in contents.refusals[0]
    assert "c2VjcmV0" not in repr(contents)


@pytest.mark.parametrize(
    "members", [{"use": "sig"}, {"key_ops": ["verify"]}, {"key_ops": ["sign"]}, {"alg": "EdDSA"}, {"unknown": [{}]}]
)
def test_a_key_for_signatures_is_read(members: dict[str, Any]) -> None:
    """Members that say nothing here are ignored (RFC 7517, section 4)."""
    assert len(read(as_file({**ED25519, **members})).entries) == 1


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"{", "truncated or not JSON"),
        (b'{"kty":"RSA"}trailing', "truncated or not JSON"),
        (b"{}", 'neither "kty" nor "keys"'),
        (b'{"keys":{}}', '"keys" is not a list'),
        (b'{"keys":[1]}', "key 1: not an object"),
        (b'{"kty":"RSA","kty":"EC"}', "same member name twice"),
        (b'{"keys":[{"a":{"b":1,"b":2}}]}', "same member name twice"),
        (b'{"keys":[NaN]}', "NaN is no number"),
        (b'{"keys":[-Infinity]}', "-Infinity is no number"),
        (b'{"keys":' + b"[" * 500_000, "nested too deeply"),
        (b'{"kty":' + b'{"a":' * 100_000, "nested too deeply"),
        (b'{"kty":' + b"9" * 10_000 + b"}", "not JSON"),
        (b'{"kty":"\xff"}', "not JSON"),
        (b'{"kty":7}', '"kty" is not a string'),
        (b'{"kty":""}', '"kty" is not a string of 1 to 512'),
        (b'{"kty":null}', 'without "kty"'),
        (as_file({"keys": [{}] * 5001}), "5001 keys in one set"),
        (as_file({**ED25519, "kid": 5}), '"kid" is not a string'),
        (as_file({**ED25519, "kid": "x" * 513}), '"kid" is not a string of 1 to 512'),
        (b'{"kty":"OKP","crv":"Ed25519","x":"AA","kid":"\\ud800"}', "not a key of Ed25519"),
        (as_file({**ED25519, "kid": "\ud800"}), '"kid" holds characters'),
        (as_file({**ED25519, "kid": "a\nb"}), '"kid" holds characters'),
        (as_file({**ED25519, "key_ops": "verify"}), '"key_ops" is not a list'),
        (as_file({**ED25519, "key_ops": [1]}), '"key_ops" is not a list'),
        (as_file({**ED25519, "x": ["a"]}), '"x" is missing or not base64url'),
        (as_file({**ED25519, "x": "a+/="}), '"x" is missing or not base64url'),
        (as_file({**ED25519, "x": "a"}), '"x" is not base64url of whole octets'),
        (as_file({**ED25519, "x": "AAAA"}), "not a key of Ed25519"),
        (as_file({"kty": "RSA", "n": "AQ", "e": "AQAB"}), "not an RSA key"),
        (as_file({"kty": "RSA", "n": "AQ"}), '"e" is missing'),
        (as_file({"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"}), "not a point on P-256"),
        (as_file({"kty": "EC", "crv": "P-256", "x": "_" * 90, "y": "AQ"}), "not a point on P-256"),
        (as_file({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}), "not a key of ML-DSA-44"),
        (as_file({**ED25519, "x5c": []}), '"x5c" is not a list'),
        (as_file({**ED25519, "x5c": [1]}), '"x5c" is not a list'),
        (as_file({**ED25519, "x5c": ["!"]}), '"x5c" is not valid base64'),
        (as_file({**ED25519, "x5c": ["é"]}), '"x5c" is not valid base64'),
        (as_file({**ED25519, "x5c": ["AAAA"]}), "not a readable certificate"),
    ],
)
def test_a_damaged_file_is_a_fault(data: bytes, text: str) -> None:
    """Then the file keeps the keys that it last gave."""
    with pytest.raises(KeyFileError, match=text):
        read(data)


def test_a_coordinate_without_its_leading_zeros_is_read(fixture_file: Callable[[str], bytes]) -> None:
    """Some libraries drop them; here they come back."""
    document = json.loads(fixture_file("public.jwk"))
    whole = document["x"]
    short = JWK.from_json(json.dumps(document))  # the document is sound for others
    assert short.export_public(as_dict=True)["x"] == whole
    numbers = key_of(read(as_file(document)).entries[0])
    document["x"] = base64url(int.from_bytes(_octets(whole)).to_bytes(31))
    assert key_of(read(as_file(document)).entries[0]).public == numbers.public


def _octets(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_x5c_of_the_same_key_becomes_the_chain(
    make_certificate: Callable[..., x509.Certificate], private_keys: Callable[[int], Any]
) -> None:
    """Standard base64, not base64url (RFC 7517, section 4.7)."""
    root = make_certificate("root", key=1)
    leaf = make_certificate("leaf", issuer="root", key=2, issuer_key=1)
    document = {**public_jwk(private_keys(2).public_key()), "x5c": [_base64(leaf), _base64(root)]}
    assert read(as_file(document)).entries[0].chain == (leaf, root)


def test_x5c_of_another_key_is_refused(
    make_certificate: Callable[..., x509.Certificate], private_keys: Callable[[int], Any]
) -> None:
    """Clients would trust the one or the other."""
    document = {**public_jwk(private_keys(2).public_key()), "x5c": [_base64(make_certificate("a", key=3))]}
    contents = read(as_file(document))
    assert contents.entries == ()
    assert '"x5c" carries another key' in contents.refusals[0]


def _base64(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
