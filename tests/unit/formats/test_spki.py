"""Bare public keys in DER."""

import base64
from collections.abc import Callable

import pytest
from asn1crypto import keys
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from jwks_server.core.errors import KeyFileError, UnsupportedKeyError
from jwks_server.core.formats import read
from jwks_server.core.formats.spki import of_certificate, pss_algorithms


def test_a_subject_public_key_info_is_its_key(fixture_file: Callable[[str], bytes]) -> None:
    """As `openssl pkey -pubout -outform DER` writes it."""
    (entry,) = read(fixture_file("public.der")).entries
    assert entry.public_key == load_der_public_key(fixture_file("public.der"))


def test_pkcs_1_in_der_is_its_key(fixture_file: Callable[[str], bytes]) -> None:
    """Two integers and no algorithm; it is not taken for PKCS#12."""
    key = load_pem_public_key(fixture_file("rsa-public.pem"))
    lines = fixture_file("rsa-public.pem").decode().splitlines()[1:-1]
    (entry,) = read(base64.b64decode("".join(lines))).entries
    assert entry.public_key == key


def test_an_unknown_algorithm_is_refused_with_its_object_identifier(fixture_file: Callable[[str], bytes]) -> None:
    """One bit of it was changed."""
    data = fixture_file("public.der").replace(bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0209"))
    contents = read(data)
    assert contents.entries == ()
    assert "1.2.840.10045.2.9" in contents.refusals[0]


def test_a_point_beside_its_curve_is_a_fault(fixture_file: Callable[[str], bytes]) -> None:
    """The last bit of y was changed."""
    data = fixture_file("public.der")
    with pytest.raises(KeyFileError, match="not a readable public key"):
        read(data[:-1] + bytes([data[-1] ^ 1]))


def pss(**parameters: object) -> bytes:
    """Return an RSA key for RSASSA-PSS with these parameters."""
    algorithm = {"algorithm": "rsassa_pss", "parameters": parameters}
    return bytes(
        keys.PublicKeyInfo(
            {"algorithm": algorithm, "public_key": keys.RSAPublicKey({"modulus": 15, "public_exponent": 3})}
        ).dump()
    )


def digest(name: str) -> dict[str, object]:
    """Return the hash parameter."""
    return {"algorithm": name}


def mask(name: str) -> dict[str, object]:
    """Return MGF1 with this hash."""
    return {"algorithm": "mgf1", "parameters": {"algorithm": name}}


@pytest.mark.parametrize(
    ("name", "salt", "algorithm"), [("sha256", 32, "PS256"), ("sha384", 20, "PS384"), ("sha512", 64, "PS512")]
)
def test_parameters_fix_the_one_algorithm(name: str, salt: int, algorithm: str) -> None:
    """The salt's length there is the least that is allowed (RFC 4055, section 3.3)."""
    spki = pss(hash_algorithm=digest(name), mask_gen_algorithm=mask(name), salt_length=salt)
    assert pss_algorithms(spki) == (algorithm,)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"salt_length": 21}, "for sha1 only"),
        ({"hash_algorithm": digest("sha256"), "mask_gen_algorithm": mask("sha1")}, "MGF1 of sha1"),
        (
            {"hash_algorithm": digest("sha256"), "mask_gen_algorithm": mask("sha256"), "salt_length": 64},
            "a salt of 64 bytes at least",
        ),
    ],
)
def test_parameters_that_no_jws_algorithm_satisfies_are_refused(parameters: dict[str, object], text: str) -> None:
    """RFC 7518, section 3.5 fixes hash, mask and salt together."""
    with pytest.raises(UnsupportedKeyError, match=text):
        pss_algorithms(pss(**parameters))


def test_unreadable_bytes_are_refused_and_raise_nothing_else() -> None:
    """asn1crypto parses on access."""
    for data in (b"", b"\x30\x00", b"\x30\x03\x30\x01\x02"):
        with pytest.raises(UnsupportedKeyError, match="unreadable"):
            pss_algorithms(data)
    with pytest.raises(UnsupportedKeyError, match="unreadable"):
        of_certificate(b"\x30\x00")
