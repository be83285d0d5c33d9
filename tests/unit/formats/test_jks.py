"""JKS and JCEKS, as keytool writes them and as nobody should."""

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import Password, certificates, read
from jwks_server.core.jwk import key_of

STORES = ("three-keys.real.jks", "three-keys.jceks")
WSO2 = Path(__file__).parents[4] / "shared" / "wso2"


def jks(*entries: bytes, version: int = 2, secret: str = "changeit", trailing: bytes = b"") -> bytes:
    """Return a store of these entries."""
    body = b"\xfe\xed\xfe\xed" + struct.pack(">II", version, len(entries)) + b"".join(entries) + trailing
    digest = hashlib.sha1(secret.encode("utf-16-be") + b"Mighty Aphrodite" + body, usedforsecurity=False)
    return body + digest.digest()


def head(tag: int, alias: bytes) -> bytes:
    """Return what every entry begins with."""
    return struct.pack(">IH", tag, len(alias)) + alias + bytes(8)


def key_entry(alias: bytes, *certificates: bytes, kind: bytes = b"\x00\x05X.509") -> bytes:
    """Return a key entry whose encrypted key is three bytes that nobody reads."""
    chain = b"".join(kind + struct.pack(">I", len(one)) + one for one in certificates)
    return head(1, alias) + struct.pack(">I", 3) + b"key" + struct.pack(">I", len(certificates)) + chain


@pytest.mark.parametrize("name", STORES)
def test_every_key_entry_comes_with_its_chain_and_trusted_ones_do_not(
    fixture_file: Callable[[str], bytes], password: Password, name: str
) -> None:
    """Three key entries and one trusted certificate went in."""
    contents = read(fixture_file(name), password)
    assert {entry.alias for entry in contents.entries} == {"rsa", "ec", "zero"}
    for entry in contents.entries:
        assert [one.subject.rfc4514_string() for one in entry.chain] == [
            f"CN={entry.alias}",
            "CN=intermediate",
            "CN=root",
        ]
    assert contents.refusals == contents.notices == ()


@pytest.mark.parametrize("name", STORES)
def test_a_store_reads_the_same_without_its_password(
    fixture_file: Callable[[str], bytes], password: Password, name: str
) -> None:
    """Certificates lie in clear; the password proves that the file is whole."""
    assert read(fixture_file(name)) == read(fixture_file(name), password)


@pytest.mark.parametrize("name", STORES)
def test_a_wrong_password_is_a_fault(fixture_file: Callable[[str], bytes], name: str) -> None:
    """It says so although the certificates could be read."""
    with pytest.raises(KeyFileError, match="wrong password or corrupted keystore"):
        read(fixture_file(name), Password(b"wrong"))


def test_a_truststore_gives_a_notice_and_no_fault(fixture_file: Callable[[str], bytes], password: Password) -> None:
    """Trusted certificates are other people's keys."""
    contents = read(fixture_file("truststore.real.jks"), password)
    assert contents.entries == ()
    assert contents.notices == ("no private-key entries (truststore?): nothing to publish",)


def test_a_secret_key_in_jceks_is_a_fault_that_names_it(
    fixture_file: Callable[[str], bytes], password: Password
) -> None:
    """Its record has no length, so that nothing behind it can be found."""
    with pytest.raises(KeyFileError, match='entry "secret" is a secret key'):
        read(fixture_file("secret.jceks"), password)


def test_a_key_entry_without_certificates_is_refused_and_the_others_are_read(
    make_certificate: Callable[..., x509.Certificate], password: Password
) -> None:
    """One entry's lack does not take the store."""
    der = make_certificate("a").public_bytes(Encoding.DER)
    contents = read(jks(key_entry(b"empty"), key_entry(b"full", der)), password)
    assert [entry.alias for entry in contents.entries] == ["full"]
    assert contents.refusals[0].startswith('key entry "empty" has no certificate')


def test_a_name_with_control_characters_stays_on_one_line(password: Password) -> None:
    """It ends up in a log."""
    (refusal,) = read(jks(key_entry(b"a\n\x1b[31mb")), password).refusals
    assert refusal.startswith('key entry "a??[31mb" has no certificate')


def test_the_signatures_checked_are_counted_by_file_and_not_by_entry(
    make_certificate: Callable[..., x509.Certificate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each entry of a store may bring a chain of its own; a file of them took half a minute."""
    monkeypatch.setattr(certificates, "MAX_SIGNATURE_CHECKS", 5)
    entries = [key_entry(f"k{n}".encode(), make_certificate(f"leaf{n}").public_bytes(Encoding.DER)) for n in range(6)]
    assert len(read(jks(*entries[:5]), None).entries) == 5
    with pytest.raises(KeyFileError, match="too many signatures to check"):
        read(jks(*entries), None)


def test_version_1_has_certificates_without_a_type(
    make_certificate: Callable[..., x509.Certificate], password: Password
) -> None:
    """Java before 1.2 wrote them."""
    certificate = make_certificate("a")
    data = jks(key_entry(b"old", certificate.public_bytes(Encoding.DER), kind=b""), version=1)
    assert read(data, password).entries[0].chain == (certificate,)


@pytest.mark.parametrize(
    ("encoded", "alias"),
    [("schlüssel".encode(), "schlüssel"), (b"a\xc0\x80b", "a\0b"), (b"\xed\xa0\xbd\xed\xb4\x91", "\U0001f511")],
)
def test_aliases_are_in_java_s_modified_utf_8(
    make_certificate: Callable[..., x509.Certificate], encoded: bytes, alias: str
) -> None:
    """NUL takes two bytes there, and a key emoji two surrogates."""
    der = make_certificate("a").public_bytes(Encoding.DER)
    assert read(jks(key_entry(encoded, der))).entries[0].alias == alias


def test_a_password_beyond_ascii_counts_in_utf_16(make_certificate: Callable[..., x509.Certificate]) -> None:
    """The digest is over two bytes a character."""
    data = jks(key_entry(b"a", make_certificate("a").public_bytes(Encoding.DER)), secret="pässwort")
    assert len(read(data, Password("pässwort".encode())).entries) == 1
    assert len(read(data, Password("pässwort".encode("latin-1"))).entries) == 1


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (jks(version=3), "unknown version 3"),
        (jks(head(7, b"a")), "unknown kind 7"),
        (jks(head(1, b"\xff")), "an alias is not text"),
        (jks(head(1, b"\xed\xa0\xbd")), "an alias is not text"),
        (jks(key_entry(b"a", b"x", kind=b"\x00\x03PGP")), "unknown type 'PGP'"),
        (jks(key_entry(b"a", b"no certificate")), 'key entry "a": not a readable certificate'),
        (jks(trailing=b"more"), "4 bytes behind its last entry"),
        (jks(head(1, b"a") + b"\xff\xff\xff\xff"), "truncated or corrupted"),
        (b"\xfe\xed\xfe\xed", "truncated or corrupted"),
        (b"\xfe\xed\xfe\xed\0\0\0\2\xff\xff\xff\xff" + bytes(20), "truncated or corrupted"),
    ],
)
def test_damaged_records_are_a_fault(data: bytes, text: str) -> None:
    """What happened is said in words."""
    with pytest.raises(KeyFileError, match=text):
        read(data)


@pytest.mark.skipif(not WSO2.is_dir(), reason="WSO2's keystores are not here")
@pytest.mark.parametrize(("name", "alias"), [("foo-com", "foo.com"), ("wso2carbon", "wso2carbon")])
def test_wso2_s_own_keystores_give_the_key_that_wso2_publishes(name: str, alias: str) -> None:
    """Odd names and serials in them are warnings of cryptography, which are errors in this run."""
    contents = read((WSO2 / f"{name}.jks").read_bytes(), Password(alias.encode()))
    (entry,) = contents.entries
    modulus = dict(key_of(entry).public.members)["n"]
    assert entry.alias == alias
    assert f'"{modulus}"' in (WSO2 / f"{name}.plain.json").read_text()


@pytest.mark.skipif(not WSO2.is_dir(), reason="WSO2's keystores are not here")
def test_wso2_s_truststore_has_nothing_to_publish() -> None:
    """Its 124 certificates are all trusted ones."""
    contents = read((WSO2 / "client-truststore.jks").read_bytes(), Password(b"wso2carbon"))
    assert contents.entries == ()
    assert contents.notices
