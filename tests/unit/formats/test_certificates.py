"""Which certificates of a bag sign tokens."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding

from jwks_server.core.errors import KeyFileError, UnsupportedKeyError
from jwks_server.core.formats import certificates, read
from jwks_server.core.formats.certificates import load_der, public_key, signing_chains, signing_entries

Make = Callable[..., x509.Certificate]


def test_a_certificate_that_issued_another_is_a_chain_member(make_certificate: Make) -> None:
    """In whatever order the file has them."""
    root = make_certificate("root", key=1)
    middle = make_certificate("middle", issuer="root", key=2, issuer_key=1)
    leaf = make_certificate("leaf", issuer="middle", key=3, issuer_key=2)
    for bag in ([leaf, middle, root], [root, middle, leaf], [middle, leaf, root, leaf]):
        assert signing_chains(bag) == ((leaf, middle, root),)


def test_a_certificate_that_issued_none_is_a_signing_one_even_with_ca_true(
    fixture_file: Callable[[str], bytes],
) -> None:
    """`openssl req -x509` sets CA:TRUE on plain self-signed certificates."""
    data = fixture_file("self-signed-rsa.pem")
    certificate = x509.load_pem_x509_certificate(data)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert len(read(data).entries) == 1


def test_two_keys_under_one_issuer_are_two_signing_certificates(make_certificate: Make) -> None:
    """Both chains end in the same root."""
    root = make_certificate("root", key=1)
    one = make_certificate("one", issuer="root", key=2, issuer_key=1)
    two = make_certificate("two", issuer="root", key=3, issuer_key=1)
    assert signing_chains([one, root, two]) == ((one, root), (two, root))


def test_two_self_signed_certificates_of_one_name_are_both_signing(make_certificate: Make) -> None:
    """A renewed certificate keeps its name, and often its key."""
    one, two, three = make_certificate("a"), make_certificate("a", serial=2), make_certificate("a", key=1)
    assert signing_chains([one, two, three]) == ((one,), (two,), (three,))


def test_the_name_of_an_issuer_without_its_signature_makes_no_chain(make_certificate: Make) -> None:
    """A CA that was renewed with another key has the same name."""
    other_root = make_certificate("root", key=4)
    leaf = make_certificate("leaf", issuer="root", key=3, issuer_key=1)
    assert signing_chains([leaf, other_root]) == ((leaf,), (other_root,))


def test_a_self_issued_certificate_with_other_key_identifiers_is_issued_by_the_old_key(
    make_certificate: Make,
) -> None:
    """RFC 4210's key rollover: the names are one, the keys are two."""
    old = make_certificate("ca", key=1, key_ids=(b"old", b"old"))
    new_with_old = make_certificate("ca", key=2, issuer_key=1, key_ids=(b"new", b"old"))
    assert signing_chains([new_with_old, old]) == ((new_with_old, old),)


def test_certificates_that_issued_each_other_are_a_fault(make_certificate: Make) -> None:
    """An empty set would be the alternative."""
    one = make_certificate("one", issuer="two", key=1, issuer_key=2)
    two = make_certificate("two", issuer="one", key=2, issuer_key=1)
    with pytest.raises(KeyFileError, match="every certificate in it issued another"):
        signing_chains([one, two])


def test_a_damaged_self_signed_certificate_is_a_fault(make_certificate: Make) -> None:
    """It parses, with another key."""
    der = make_certificate("a").public_bytes(Encoding.DER)
    signed_by_another = make_certificate("a", issuer_key=9)
    assert public_key(load_der(der)) == load_der(der).public_key()
    with pytest.raises(KeyFileError, match="signature does not verify"):
        public_key(signed_by_another)


@pytest.mark.parametrize("name", ["self-signed-sha1.pem", "self-signed-rsa.pem", "pss.pem", "ed448.pem", "dsa.pem"])
def test_every_bit_of_a_self_signed_certificate_s_signature_counts(
    fixture_file: Callable[[str], bytes], name: str
) -> None:
    """SHA-1 as well, which cryptography calls unsupported in certificates."""
    der = x509.load_pem_x509_certificate(fixture_file(name)).public_bytes(Encoding.DER)
    assert read(der).entries
    with pytest.raises(KeyFileError, match="signature does not verify"):
        read(der[:-1] + bytes([der[-1] ^ 1]))


def test_a_certificate_for_a_key_that_cannot_be_computed_with_is_not_called_damaged(
    fixture_file: Callable[[str], bytes],
) -> None:
    """SM2 is refused by its object identifier, not as a corrupt file."""
    contents = read(fixture_file("sm2.pem"))
    assert contents.entries == ()
    assert "1.2.156.10197.1.301 (SM2)" in contents.refusals[0]


def test_an_issuer_whose_signature_cannot_be_computed_is_known_by_name(fixture_file: Callable[[str], bytes]) -> None:
    """The CA signed with SM2; its key must not be published beside the leaf's."""
    (entry,) = read(fixture_file("issued-by-sm2.pem")).entries
    assert [one.subject.rfc4514_string() for one in entry.chain] == ["CN=issued-by-sm2", "CN=sm2"]


def test_an_impossible_version_is_a_fault(make_certificate: Make) -> None:
    """The library's error for it does not descend from ValueError."""
    der = make_certificate("a").public_bytes(Encoding.DER)
    with pytest.raises(KeyFileError, match="not a readable certificate"):
        read(der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107")))


def test_an_extension_given_twice_is_a_fault(make_certificate: Make) -> None:
    """Nor does the error for that."""
    der = make_certificate("a", key_ids=(b"same", b"same")).public_bytes(Encoding.DER)
    with pytest.raises(KeyFileError, match="signature does not verify"):
        read(der.replace(bytes.fromhex("0603551d23"), bytes.fromhex("0603551d0e")))


def test_an_unknown_key_algorithm_is_refused_with_its_object_identifier(make_certificate: Make) -> None:
    """An operator can look it up."""
    der = make_certificate("a", public_key=x25519.X25519PrivateKey.generate().public_key()).public_bytes(Encoding.DER)
    unknown = der.replace(bytes.fromhex("06032b656e"), bytes.fromhex("06032b6564"))
    with pytest.raises(UnsupportedKeyError, match=r"1\.3\.101\.100"):
        public_key(load_der(unknown))


def test_a_serial_of_zero_is_no_reason_to_lose_a_key(make_certificate: Make) -> None:
    """The library warns of it, and warnings are errors in this run."""
    der = bytearray(make_certificate("a", serial=1, issuer="b", issuer_key=1).public_bytes(Encoding.DER))
    at = der.index(b"\xa0\x03\x02\x01\x02\x02\x01\x01") + 7
    der[at] = 0
    assert len(read(bytes(der)).entries) == 1


def test_signature_checks_are_limited(make_certificate: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many certificates of one name under many issuers of one name would take the product."""
    monkeypatch.setattr(certificates, "MAX_SIGNATURE_CHECKS", 5)
    roots = [make_certificate("root", key=1, serial=serial) for serial in range(1, 4)]
    leaves = [make_certificate("leaf", issuer="root", issuer_key=9, serial=serial) for serial in range(1, 4)]
    with pytest.raises(KeyFileError, match="too many signatures to check"):
        signing_entries([*roots, *leaves])


def test_the_number_of_certificates_is_limited(make_certificate: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million certificates are no key file."""
    monkeypatch.setattr(certificates, "MAX_CERTIFICATES", 2)
    with pytest.raises(KeyFileError, match="3 certificates in one file; at most 2"):
        signing_entries([make_certificate("a", serial=serial) for serial in range(1, 4)])


def test_a_signature_that_is_dear_to_check_is_not_checked(
    make_certificate: Make, private_keys: Callable[[int], Any]
) -> None:
    """An exponent of 3,000 bits costs 5 ms, and a file has room for a thousand of them."""
    dear = rsa.RSAPublicNumbers((1 << 3070) + 1, (1 << 3072) - 159).public_key()
    bag = [make_certificate("a", public_key=dear, signer=private_keys(1), serial=serial) for serial in range(1, 200)]
    started = time.perf_counter()
    assert len(signing_entries(bag)[0]) == 199
    assert time.perf_counter() - started < 0.5
