"""Public keys as JWK members: what each kind gives, and what is refused."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa, x448

from jwks_server.core.errors import UnsupportedKeyError
from jwks_server.core.formats import Entry, read
from jwks_server.core.jwk import Key, key_of, public_members

FOLDER = Path(__file__).parents[1] / "fixtures"
PKCS1 = ("RS256", "RS384", "RS512")
PSS = ("PS256", "PS384", "PS512")


def key_in(name: str) -> Key:
    """Return the one key of a fixture."""
    (entry,) = read((FOLDER / name).read_bytes()).entries
    return key_of(entry)


@pytest.mark.parametrize(
    ("name", "kty", "crv", "algorithms", "opt_in"),
    [
        ("self-signed-rsa.pem", "RSA", None, PKCS1 + PSS, None),
        ("pss.pem", "RSA", None, PSS, None),
        ("pss-sha384.pem", "RSA", None, ("PS384",), None),
        ("pss-sha384-public.der", "RSA", None, ("PS384",), None),
        ("rsa-public.pem", "RSA", None, PKCS1 + PSS, None),
        ("public.pem", "RSA", None, PKCS1 + PSS, None),
        ("certificate.der", "EC", "P-256", ("ES256",), None),
        ("p384.pem", "EC", "P-384", ("ES384",), None),
        ("p521.pem", "EC", "P-521", ("ES512",), None),
        ("secp256k1.pem", "EC", "secp256k1", ("ES256K",), "ES256K"),
        ("ed25519.pem", "OKP", "Ed25519", ("EdDSA", "Ed25519"), None),
        ("ed448.pem", "OKP", "Ed448", ("EdDSA", "Ed448"), "Ed448"),
        ("ml-dsa-44.pem", "AKP", None, ("ML-DSA-44",), "ML-DSA"),
    ],
)
def test_each_kind_of_key_has_its_type_and_algorithms(
    name: str, kty: str, crv: str | None, algorithms: tuple[str, ...], opt_in: str | None
) -> None:
    """A key for RSASSA-PSS signs with PS256 and its kin only, and with one of them where it says so."""
    public = key_in(name).public
    assert (public.kty, dict(public.members).get("crv"), public.algorithms, public.opt_in) == (
        kty,
        crv,
        algorithms,
        opt_in,
    )


@pytest.mark.parametrize(
    ("make", "alg"),
    [
        (mldsa.MLDSA44PrivateKey, "ML-DSA-44"),
        (mldsa.MLDSA65PrivateKey, "ML-DSA-65"),
        (mldsa.MLDSA87PrivateKey, "ML-DSA-87"),
    ],
)
def test_an_ml_dsa_key_is_its_raw_octets(make: Any, alg: str) -> None:  # noqa: ANN401
    """RFC 9964: `pub`, and the algorithm names the parameter set."""
    key = make.generate().public_key()
    public = public_members(key)
    ((name, value),) = public.members
    assert (public.kty, name, public.algorithms) == ("AKP", "pub", (alg,))
    assert base64.urlsafe_b64decode(value + "==") == key.public_bytes_raw()


@pytest.mark.parametrize(("curve", "width"), [(ec.SECP256R1, 32), (ec.SECP384R1, 48), (ec.SECP521R1, 66)])
def test_coordinates_have_their_full_width(curve: Callable[[], ec.EllipticCurve], width: int) -> None:
    """Leading zeros are kept (RFC 7518, section 6.2.1.2)."""
    members = dict(public_members(ec.generate_private_key(curve()).public_key()).members)
    assert {len(base64.urlsafe_b64decode(members[name] + "==")) for name in ("x", "y")} == {width}


def test_a_leading_zero_of_a_coordinate_is_kept() -> None:
    """Authlib drops it, and clients reject the key then."""
    x = base64.urlsafe_b64decode(dict(key_in("leading-zero.pem").public.members)["x"] + "==")
    assert len(x) == 32
    assert x[0] == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rsa-1024.pem", "RSA key of 1024 bits; at least 2048 needed"),
        ("p224.pem", "secp224r1; use P-256"),
        ("brainpool.pem", "brainpoolP256r1; use P-256"),
        ("dsa.pem", "DSA; JWS has no algorithm"),
        ("x25519-public.pem", "X25519 and X448 agree on keys"),
    ],
)
def test_keys_that_no_client_should_trust_are_refused_by_name(name: str, text: str) -> None:
    """With what to use instead."""
    with pytest.raises(UnsupportedKeyError, match=text):
        key_in(name)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (rsa.RSAPublicNumbers(65537, (1 << 8200) - 1).public_key(), "8200 bits; at most 8192"),
        (rsa.RSAPublicNumbers(65537, (1 << 2047) + 2).public_key(), "even modulus"),
        (x448.X448PrivateKey.generate().public_key(), "X448"),
        (ec.generate_private_key(ec.BrainpoolP384R1()).public_key(), "brainpoolP384r1"),
        (object(), "unsupported key: object"),
    ],
)
def test_other_keys_are_refused_by_name(key: Any, text: str) -> None:  # noqa: ANN401
    """Whatever the container let through."""
    with pytest.raises(UnsupportedKeyError, match=text):
        public_members(key)


def test_an_exponent_of_3_is_published_with_a_warning() -> None:
    """It works, and old signing code with it can be forged for."""
    assert "exponent 3" in key_in("rsa-exponent-3.pem").warnings[0]
    assert key_in("self-signed-rsa.pem").warnings == ()


@pytest.mark.parametrize("alg", ["RS256", "ES384", "RSA-OAEP", "none", "HS256"])
def test_a_stated_algorithm_that_does_not_fit_the_key_is_refused(alg: str) -> None:
    """A P-256 key signs with ES256."""
    entry = read((FOLDER / "public.jwk").read_bytes()).entries[0]
    with pytest.raises(UnsupportedKeyError, match=f'alg "{alg}" does not fit the key; correct it to one of ES256'):
        key_of(Entry(entry.public_key, alg=alg))


def test_validity_and_chain_come_from_the_certificate() -> None:
    """The leaf's, as aware times."""
    key = key_in("chain.pem")
    leaf = x509.load_der_x509_certificate(key.chain[0])
    assert (key.not_before, key.not_after) == (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    assert len(key.chain) == 3
