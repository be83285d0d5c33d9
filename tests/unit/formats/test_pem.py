"""PEM in all the states in which operators have it."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import read

Make = Callable[..., x509.Certificate]
File = Callable[[str], bytes]


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as openssl writes it."""
    return certificate.public_bytes(Encoding.PEM)


def test_a_chain_is_one_key_with_its_issuers(fixture_file: File) -> None:
    """The leaf first, as RFC 7517 wants x5c."""
    (entry,) = read(fixture_file("chain.pem")).entries
    assert [one.subject.rfc4514_string() for one in entry.chain] == ["CN=rsa", "CN=intermediate", "CN=root"]


@pytest.mark.parametrize("ending", [b"\r\n", b"\r", b"\n\n"])
def test_line_endings_do_not_matter(fixture_file: File, ending: bytes) -> None:
    """Windows, old Macs, and a mail program."""
    assert read(fixture_file("chain.pem").replace(b"\n", ending)) == read(fixture_file("chain.pem"))


def test_text_around_the_blocks_does_not_matter(make_certificate: Make) -> None:
    """`openssl x509 -text` and `openssl pkcs12` write much of it."""
    data = b"subject=CN = a\n# note - with dashes --- \n" + pem(make_certificate("a")) + b"that was it\n"
    assert len(read(data).entries) == 1


def test_a_private_key_beside_the_certificate_is_passed_over(
    make_certificate: Make, private_keys: Callable[[int], Any], private_pem: Callable[[Any], bytes]
) -> None:
    """In either order, and even where it is damaged: it is not decoded."""
    certificate, key = pem(make_certificate("a")), private_pem(private_keys(0))
    for data in (certificate + key, key + certificate, key.replace(b"M", b"!") + certificate):
        assert len(read(data).entries) == 1


@pytest.mark.parametrize("name", ["public.pem", "rsa-public.pem"])
def test_a_bare_public_key_is_an_entry_without_chain(fixture_file: File, name: str) -> None:
    """SubjectPublicKeyInfo and PKCS#1, as openssl writes them."""
    (entry,) = read(fixture_file(name)).entries
    assert entry.chain == ()
    assert entry.public_key == load_pem_public_key(fixture_file(name))


def test_a_public_key_beside_its_certificate_is_one_entry(fixture_file: File) -> None:
    """The certificate says more."""
    (entry,) = read(fixture_file("public.pem") + fixture_file("chain.pem")).entries
    assert len(entry.chain) == 3


def test_a_public_key_beside_another_s_certificate_is_a_second_entry(fixture_file: File) -> None:
    """Nothing is lost."""
    assert len(read(fixture_file("public.pem") + fixture_file("leading-zero.pem")).entries) == 2


@pytest.mark.parametrize("name", ["bundle.pkcs7.pem", "bundle.p7b"])
def test_a_pkcs_7_bundle_is_its_certificates(fixture_file: File, name: str) -> None:
    """In PEM and DER, with the chain in it."""
    (entry,) = read(fixture_file(name)).entries
    assert [one.subject.rfc4514_string() for one in entry.chain] == ["CN=ec", "CN=intermediate", "CN=root"]


@pytest.mark.parametrize("label", [b"CMS", b"PKCS #7 SIGNED DATA"])
def test_a_bundle_may_have_its_other_labels(fixture_file: File, label: bytes) -> None:
    """`openssl cms` and old tools write them."""
    assert read(fixture_file("bundle.pkcs7.pem").replace(b"PKCS7", label)) == read(fixture_file("bundle.pkcs7.pem"))


def test_a_half_written_second_block_is_a_fault(fixture_file: File) -> None:
    """The library would read the first and say nothing."""
    data = fixture_file("chain.pem")
    with pytest.raises(KeyFileError, match="truncated: 3 BEGIN lines but 2 complete blocks"):
        read(data[:-40])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"-----BEGIN CERTIFICATE-----\nMII!\n-----END CERTIFICATE-----\n", "CERTIFICATE block is not valid base64"),
        (b"-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n", "not a readable certificate"),
        (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "not a readable certificate"),
        (b"-----BEGIN PUBLIC KEY-----\nMII=\n-----END PUBLIC KEY-----\n", "not a readable public key"),
        (b"-----BEGIN PKCS7-----\nMII=\n-----END PKCS7-----\n", "not a readable PKCS#7"),
        (b"-----BEGIN TRUSTED CERTIFICATE-----\nMII=\n-----END TRUSTED CERTIFICATE-----\n", "openssl x509 -in"),
        (b"-----BEGIN X509 CRL-----\nMII=\n-----END X509 CRL-----\n", "only: X509 CRL"),
        (b"-----BEGIN CERTIFICATE-----\nMII=\n-----END X509 CRL-----\n", "1 BEGIN lines but 0 complete blocks"),
    ],
)
def test_what_cannot_be_read_is_said_in_words(data: bytes, text: str) -> None:
    """With the thing to do where there is one."""
    with pytest.raises(KeyFileError, match=text):
        read(data)


def test_only_a_private_key_is_a_fault_that_says_so(fixture_file: File) -> None:
    """The operator forgot the certificate."""
    with pytest.raises(KeyFileError, match=r"only a private key \(PRIVATE KEY\) and nothing to publish"):
        read(fixture_file("only-private-key.pem"))


def test_blocks_that_never_end_are_answered_at_once() -> None:
    """A pattern that goes back over them would take minutes."""
    data = b"-----BEGIN CERTIFICATE-----\n" * 30_000 + b"-" * 100_000
    with pytest.raises(KeyFileError, match="truncated"):
        read(data)


def test_pkcs_7_without_certificates_is_a_fault() -> None:
    """`openssl crl2pkcs7 -nocrl` without -certfile writes that."""
    empty = bytes.fromhex("302306092a864886f70d010702a01630140201013100300b06092a864886f70d0107013100")
    with pytest.raises(KeyFileError, match="PKCS#7"):
        read(empty)
