"""What a file is, its first bytes decide."""

from collections.abc import Callable

import pytest

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import MAX_FILE_BYTES, Format, needs_password, read, recognise


@pytest.mark.parametrize(
    ("name", "container"),
    [
        ("chain.pem", Format.PEM),
        ("bundle.pkcs7.pem", Format.PEM),
        ("public.pem", Format.PEM),
        ("certificate.der", Format.DER),
        ("public.der", Format.SPKI),
        ("pss-sha384-public.der", Format.SPKI),
        ("bundle.p7b", Format.PKCS7),
        ("openssl.p12", Format.PKCS12),
        ("three-keys.jks", Format.PKCS12),
        ("three-keys.real.jks", Format.JKS),
        ("three-keys.jceks", Format.JCEKS),
        ("id_rsa.pub", Format.SSH),
        ("id_ecdsa.pub", Format.SSH),
        ("public.jwk", Format.JWK),
        ("set.jwks", Format.JWKS),
    ],
)
def test_each_tool_s_file_is_recognised_by_its_content(
    fixture_file: Callable[[str], bytes], name: str, container: Format
) -> None:
    """The name does not matter: keytool writes PKCS#12 into x.jks."""
    assert recognise(fixture_file(name)) is container


@pytest.mark.parametrize("name", ["chain.pem", "public.jwk", "set.jwks", "id_rsa.pub"])
def test_a_byte_order_mark_and_white_space_before_text_do_not_matter(
    fixture_file: Callable[[str], bytes], name: str
) -> None:
    """Editors on Windows write them."""
    plain = fixture_file(name)
    marked = b"\xef\xbb\xbf\r\n " + plain
    assert recognise(marked) is recognise(plain)
    assert len(read(marked).entries) == len(read(plain).entries)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty file"),
        (b" \n\t", "empty file"),
        ("-----BEGIN CERTIFICATE-----".encode("utf-16"), "UTF-16"),
        ("-----BEGIN CERTIFICATE-----".encode("utf-16-be"), "UTF-16"),
        ("-----BEGIN CERTIFICATE-----".encode("utf-16-le"), "UTF-16"),
        (b"MIIBszCCAVmgAwIBAgIU", "not a certificate"),
        (b"PK\x03\x04", "not a certificate"),
        (b"0", "not a certificate"),
        (b"\x30\x80", "not a certificate"),
        (b"\x30\x06\x0c\x04text", "DER, but no certificate"),
    ],
)
def test_what_is_nothing_known_is_refused_with_a_text(data: bytes, text: str) -> None:
    """An operator learns from the message what to look at."""
    with pytest.raises(KeyFileError, match=text):
        recognise(data)


def test_a_truncated_der_file_is_called_truncated(fixture_file: Callable[[str], bytes]) -> None:
    """Half-written files happen while a copy is under way."""
    with pytest.raises(KeyFileError, match="truncated: the DER in it is"):
        recognise(fixture_file("openssl.p12")[:-1])


def test_bytes_behind_a_der_value_are_called_so(fixture_file: Callable[[str], bytes]) -> None:
    """Two files copied together are neither."""
    with pytest.raises(KeyFileError, match="followed by something else"):
        recognise(fixture_file("certificate.der") + b"\n")


@pytest.mark.parametrize("content", [b"\x02\x01\x00\x30\x00\x04\x00", b"\x02\x01\x01\x04\x00"])
def test_a_private_key_in_der_is_named_as_such(content: bytes) -> None:
    """PKCS#8, PKCS#1 and SEC 1 keys begin with their version."""
    with pytest.raises(KeyFileError, match="a private key and nothing to publish"):
        recognise(bytes([0x30, len(content)]) + content)


def test_an_encrypted_private_key_in_der_is_named_as_such() -> None:
    """Its algorithm is followed by octets, a public key's by bits."""
    content = bytes.fromhex("300406022a03") + b"\x04\x01x"
    with pytest.raises(KeyFileError, match="an encrypted private key"):
        recognise(bytes([0x30, len(content)]) + content)


def test_a_file_over_the_limit_is_refused_unread() -> None:
    """One MiB is far more than any key file has."""
    with pytest.raises(KeyFileError, match="file larger than 1 MiB"):
        read(b"\x30" * (MAX_FILE_BYTES + 1))


def test_only_keystores_take_a_password() -> None:
    """For other files no password is looked for."""
    assert {one for one in Format if needs_password(one)} == {Format.PKCS12, Format.JKS, Format.JCEKS}
