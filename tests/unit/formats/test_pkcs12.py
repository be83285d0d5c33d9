"""PKCS#12 of every age, without a private key ever being decrypted."""

import hashlib
import os
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from asn1crypto import algos, cms, core, pkcs12
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12, serialize_key_and_certificates

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import Password, kdf, read

OPENSSL = ("openssl.p12", "rc2-40.p12", "rc2-128.p12", "3des.p12", "java-legacy.p12", "no-mac.p12", "pbmac1.p12")


def pfx(*parts: cms.ContentInfo, mac: dict[str, Any] | None = None) -> bytes:
    """Return a store of these parts."""
    safe = pkcs12.AuthenticatedSafe(list(parts)).dump()
    store = pkcs12.Pfx({"version": "v3", "auth_safe": data(safe)})
    if mac is not None:
        store["mac_data"] = mac
    return bytes(store.dump())


def data(content: bytes) -> cms.ContentInfo:
    """Return a part that is not encrypted."""
    return cms.ContentInfo({"content_type": "data", "content": core.OctetString(content)})


def bags(*members: dict[str, Any]) -> bytes:
    """Return SafeContents of these bags."""
    return bytes(pkcs12.SafeContents([pkcs12.SafeBag(one) for one in members]).dump())


def attributes(alias: str | None = None, key_id: bytes | None = None, *, trusted: bool = False) -> list[dict[str, Any]]:
    """Return the attributes of a bag."""
    found: list[dict[str, Any]] = []
    if alias is not None:
        found.append({"type": "friendly_name", "values": [alias]})
    if key_id is not None:
        found.append({"type": "local_key_id", "values": [key_id]})
    if trusted:
        found.append({"type": "trusted_key_usage", "values": ["any_extended_key_usage"]})
    return found


def key_bag(alias: str | None = None, key_id: bytes | None = None) -> dict[str, Any]:
    """Return a shrouded key bag whose content nobody could decrypt."""
    shrouded = {
        "encryption_algorithm": {
            "algorithm": "pkcs12_sha1_tripledes_3key",
            "parameters": {"salt": b"12345678", "iterations": 2048},
        },
        "encrypted_data": b"not even a key",
    }
    bag: dict[str, Any] = {"bag_id": "pkcs8_shrouded_key_bag", "bag_value": shrouded}
    if found := attributes(alias, key_id):
        bag["bag_attributes"] = found
    return bag


def certificate_bag(der: bytes, alias: str | None = None, key_id: bytes | None = None, **more: bool) -> dict[str, Any]:
    """Return a bag with a certificate."""
    value = {"cert_id": "x509", "cert_value": core.ParsableOctetString(der)}
    bag: dict[str, Any] = {"bag_id": "cert_bag", "bag_value": value}
    if found := attributes(alias, key_id, **more):
        bag["bag_attributes"] = found
    return bag


def encrypted(algorithm: dict[str, Any], content: bytes = b"x" * 16) -> cms.ContentInfo:
    """Return a part under an algorithm, which need not be decryptable."""
    info = {"content_type": "data", "content_encryption_algorithm": algorithm, "encrypted_content": content}
    return cms.ContentInfo(
        {
            "content_type": "encrypted_data",
            "content": cms.EncryptedData({"version": "v0", "encrypted_content_info": info}),
        }
    )


def old_scheme(name: str, iterations: int) -> dict[str, Any]:
    """Return an algorithm of RFC 7292, appendix C."""
    return {"algorithm": name, "parameters": algos.Pbes1Params({"salt": os.urandom(8), "iterations": iterations})}


@pytest.fixture
def der(make_certificate: Callable[..., x509.Certificate]) -> Callable[..., bytes]:
    """Return a maker of certificates in DER."""
    return lambda *arguments, **options: make_certificate(*arguments, **options).public_bytes(Encoding.DER)


@pytest.mark.parametrize("name", OPENSSL)
def test_the_key_entry_and_its_chain_come_out_of_every_kind_of_encryption(
    fixture_file: Callable[[str], bytes], password: Password, name: str
) -> None:
    """PBES2, RC2 of 40 and 128 bits, triple DES; MAC old, new or missing."""
    (entry,) = read(fixture_file(name), password).entries
    assert entry.alias in {"rsa", "ec"}
    assert [one.subject.rfc4514_string() for one in entry.chain] == [f"CN={entry.alias}", "CN=intermediate", "CN=root"]


@pytest.mark.parametrize("name", ["openssl.p12", "3des.p12", "rc2-40.p12"])
def test_the_certificate_is_the_one_that_cryptography_finds_for_the_key(
    fixture_file: Callable[[str], bytes], password: Password, name: str
) -> None:
    """For a store of one key `load_pkcs12` is an oracle."""
    expected = load_pkcs12(fixture_file(name), password.value).cert
    assert expected is not None
    assert read(fixture_file(name), password).entries[0].chain[0] == expected.certificate


def test_all_three_keys_of_a_java_store_come_out_and_its_trusted_entry_does_not(
    fixture_file: Callable[[str], bytes], password: Password
) -> None:
    """The root is trusted in it, and is a chain's end only."""
    contents = read(fixture_file("three-keys.jks"), password)
    assert {(entry.alias, entry.chain[0].subject.rfc4514_string()) for entry in contents.entries} == {
        ("rsa", "CN=rsa"),
        ("ec", "CN=ec"),
        ("zero", "CN=zero"),
    }
    assert all(len(entry.chain) == 3 for entry in contents.entries)


@pytest.mark.parametrize("name", [*OPENSSL, "three-keys.jks", "truststore.p12", "key-inside-encrypted.p12"])
def test_another_password_is_a_fault(fixture_file: Callable[[str], bytes], name: str) -> None:
    """Without a MAC it shows where the certificates are decrypted."""
    with pytest.raises(KeyFileError, match=r"^wrong password or corrupted keystore$"):
        read(fixture_file(name), Password(b"wrong"))


@pytest.mark.parametrize("name", [*OPENSSL, "three-keys.jks"])
def test_a_missing_password_is_asked_for(fixture_file: Callable[[str], bytes], name: str) -> None:
    """It is not called wrong."""
    with pytest.raises(KeyFileError, match=r"^keystore needs a password$"):
        read(fixture_file(name))


@pytest.mark.parametrize("name", ["empty-password.p12", "empty-password-3des.p12"])
@pytest.mark.parametrize("secret", [None, Password(b"")])
def test_a_store_with_an_empty_password_opens_with_an_empty_and_with_none(
    fixture_file: Callable[[str], bytes], name: str, secret: Password | None
) -> None:
    """Whoever gives no password means the empty one."""
    assert len(read(fixture_file(name), secret).entries) == 1


def test_a_store_in_clear_needs_no_password(fixture_file: Callable[[str], bytes]) -> None:
    """Its private key lies open too, and is passed over."""
    assert len(read(fixture_file("nothing-encrypted.p12")).entries) == 1


def test_key_bags_inside_the_encrypted_part_are_found_and_stay_encrypted(
    fixture_file: Callable[[str], bytes], password: Password
) -> None:
    """The names of keys may be encrypted; the keys are, once more."""
    assert [one.alias for one in read(fixture_file("key-inside-encrypted.p12"), password).entries] == ["ec"]


def test_a_truststore_gives_a_notice_and_no_fault(fixture_file: Callable[[str], bytes], password: Password) -> None:
    """Trusted certificates are other people's keys."""
    contents = read(fixture_file("truststore.p12"), password)
    assert contents.entries == ()
    assert contents.notices == ("no private-key entries (truststore?): nothing to publish",)


def test_no_private_key_is_decrypted() -> None:
    """The key bag in it cannot be decrypted at all, and the entry is read."""
    store = pfx(data(bags(key_bag("a"))))
    assert read(store).refusals[0].startswith('key entry "a" has no certificate')


def test_damage_under_the_right_password_is_told_from_a_wrong_password(
    fixture_file: Callable[[str], bytes], password: Password
) -> None:
    """The certificates decrypt, the checksum does not match."""
    sound = fixture_file("openssl.p12")
    at = len(sound) - 20  # in the MAC's value or salt, at the end of the file
    damaged = sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :]
    with pytest.raises(KeyFileError, match="the password fits, the checksum does not"):
        read(damaged, password)


def test_a_store_with_an_ml_dsa_key_opens(make_certificate: Callable[..., x509.Certificate]) -> None:
    """`load_pkcs12` fails on some of those whole."""
    signer = mldsa.MLDSA65PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ml")])
    like = make_certificate("like")
    certificate = (
        x509.CertificateBuilder(name, name, signer.public_key(), 1, like.not_valid_before_utc, like.not_valid_after_utc)
    ).sign(signer, None)
    der = certificate.public_bytes(Encoding.DER)
    store = pfx(data(bags(key_bag("ml"), certificate_bag(der, "ml"))))
    assert read(store).entries[0].public_key == signer.public_key()


def test_a_store_by_cryptography_opens(
    make_certificate: Callable[..., x509.Certificate], private_keys: Callable[[int], Any]
) -> None:
    """It names nothing where it is not told a name."""
    certificate = make_certificate("a")
    store = serialize_key_and_certificates(None, private_keys(0), certificate, None, BestAvailableEncryption(b"x"))
    assert read(store, Password(b"x")).entries[0].chain == (certificate,)


def test_java_s_time_in_both_bags_ties_certificate_to_key(der: Callable[..., bytes]) -> None:
    """Whatever the names are."""
    one, two = der("one"), der("two", key=1)
    store = pfx(
        data(
            bags(
                key_bag("a", b"Time 1"),
                key_bag("b", b"Time 2"),
                certificate_bag(two, "x", b"Time 2"),
                certificate_bag(one, "y", b"Time 1"),
            )
        )
    )
    found = {entry.alias: entry.chain[0].public_bytes(Encoding.DER) for entry in read(store).entries}
    assert found == {"a": one, "b": two}


def test_a_lone_key_without_names_takes_the_signing_certificate(
    der: Callable[..., bytes],
) -> None:
    """Some libraries name nothing where there is one key only; the issuer is not taken for it."""
    root, leaf = der("root", key=1), der("leaf", issuer="root", key=2, issuer_key=1)
    certificates = [certificate_bag(root), certificate_bag(leaf)]
    (entry,) = read(pfx(data(bags(key_bag(), *certificates)))).entries
    assert [one.public_bytes(Encoding.DER) for one in entry.chain] == [leaf, root]
    two_keys = read(pfx(data(bags(key_bag(), key_bag(), *certificates))))
    assert two_keys.entries == ()
    assert [text.split(" has ")[0] for text in two_keys.refusals] == ["key entry 1", "key entry 2"]


def test_names_decide_where_two_entries_share_java_s_time(der: Callable[..., bytes]) -> None:
    """Two imports within one millisecond get the same localKeyID."""
    one, two = der("one"), der("two", key=1)
    store = pfx(
        data(
            bags(
                key_bag("a", b"Time 1"),
                key_bag("b", b"Time 1"),
                certificate_bag(one, "a", b"Time 1"),
                certificate_bag(two, "b", b"Time 1"),
            )
        )
    )
    found = {entry.alias: entry.chain[0].public_bytes(Encoding.DER) for entry in read(store).entries}
    assert found == {"a": one, "b": two}


def test_the_sha_1_of_the_certificate_ties_it_to_the_key(der: Callable[..., bytes]) -> None:
    """OpenSSL writes it; it outweighs a certificate that only has the name."""
    one, two = der("one"), der("two", key=1)
    digest = hashlib.sha1(two, usedforsecurity=False).digest()
    store = pfx(data(bags(key_bag("a", digest), certificate_bag(one, "a"), certificate_bag(two))))
    assert read(store).entries[0].chain[0].public_bytes(Encoding.DER) == two


def test_a_trusted_certificate_of_the_key_s_name_is_not_its_certificate(der: Callable[..., bytes]) -> None:
    """Java marks what it trusts."""
    store = pfx(data(bags(key_bag("a"), certificate_bag(der("one"), "a", trusted=True))))
    contents = read(store)
    assert contents.entries == ()
    assert 'key entry "a" has no certificate' in contents.refusals[0]


def test_an_unreadable_trusted_certificate_is_passed_over(der: Callable[..., bytes]) -> None:
    """It would not be published anyway."""
    store = pfx(
        data(bags(key_bag("a"), certificate_bag(der("one"), "a"), certificate_bag(b"\x30\x00", "t", trusted=True)))
    )
    assert len(read(store).entries) == 1


def test_a_damaged_certificate_is_a_fault_of_the_file() -> None:
    """Then the file keeps the keys that it last gave."""
    with pytest.raises(KeyFileError, match="not a readable certificate"):
        read(pfx(data(bags(key_bag("a"), certificate_bag(b"\x30\x00", "a")))))


def test_bags_within_bags_are_read_to_a_depth(der: Callable[..., bytes]) -> None:
    """RFC 7292 allows nesting; a file must not choose how deep."""
    content = bags(key_bag("a"), certificate_bag(der("one"), "a"))
    nested = bags({"bag_id": "safe_contents", "bag_value": pkcs12.SafeContents.load(content)})
    assert len(read(pfx(data(nested))).entries) == 1
    for _ in range(5):
        nested = bags({"bag_id": "safe_contents", "bag_value": pkcs12.SafeContents.load(nested)})
    with pytest.raises(KeyFileError, match="bags within bags"):
        read(pfx(data(nested)))


def test_a_store_of_too_many_bags_is_refused() -> None:
    """Walking bags is slow."""
    content = bags(*[key_bag()] * 2001)
    with pytest.raises(KeyFileError, match="more than 2000 entries"):
        read(pfx(data(content)))


@pytest.mark.parametrize("name", ["pkcs12_sha1_tripledes_3key", "pkcs12_sha1_rc2_128", "pkcs12_sha1_rc2_40"])
@pytest.mark.parametrize(("iterations", "text"), [(5_000_000, "5000000 exceeds 1000000"), (0, "count 0")])
def test_a_bomb_of_iterations_is_refused_unlit(name: str, iterations: int, text: str) -> None:
    """Twenty million rounds would hold the interpreter for seconds."""
    started = time.perf_counter()
    with pytest.raises(KeyFileError, match=text):
        read(pfx(data(bags(key_bag("a"))), encrypted(old_scheme(name, iterations))), Password(b"x"))
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize("key_length", [None, 32])
def test_pbkdf2_s_iterations_are_capped_in_bags(key_length: int | None) -> None:
    """PBES2 has its own field for them."""
    parameters = {"salt": {"specified": b"salt"}, "iteration_count": 1_000_001, "prf": {"algorithm": "sha256"}}
    if key_length:
        parameters["key_length"] = key_length
    function = {"algorithm": "pbkdf2", "parameters": algos.Pbkdf2Params(pbkdf2_fields(parameters))}
    with pytest.raises(KeyFileError, match="1000001 exceeds 1000000"):
        read(pfx(encrypted(pbes2(function))), Password(b"x"))


def test_a_key_length_that_does_not_fit_the_cipher_is_a_fault() -> None:
    """PBKDF2 may write it down, and then it must be AES-256's."""
    fields = pbkdf2_fields({"iteration_count": 1, "key_length": 16, "prf": {"algorithm": "sha256"}})
    function = {"algorithm": "pbkdf2", "parameters": algos.Pbkdf2Params(fields)}
    with pytest.raises(KeyFileError, match="a key length that does not fit"):
        read(pfx(encrypted(pbes2(function))), Password(b"x"))


def test_an_empty_password_may_be_no_bytes_at_all(der: Callable[..., bytes]) -> None:
    """Others write two zero bytes for it; both are tried."""
    content = bags(key_bag("a"), certificate_bag(der("one"), "a"))
    scheme = old_scheme("pkcs12_sha1_tripledes_3key", 1)
    salt = scheme["parameters"]["salt"].native
    key, vector = (kdf.pkcs12("sha1", use, b"", salt, 1, size, kdf.Budget()) for use, size in ((1, 24), (2, 8)))
    part = encrypted(scheme, encrypt(TripleDES(key), vector, content))
    assert len(read(pfx(part), Password(b"")).entries) == 1


def encrypt(cipher: BlockCipherAlgorithm, vector: bytes, content: bytes) -> bytes:
    """Return the content padded and encrypted in CBC."""
    pad = len(vector) - len(content) % len(vector)
    encryptor = Cipher(cipher, modes.CBC(vector)).encryptor()
    return encryptor.update(content + bytes([pad]) * pad) + encryptor.finalize()


def pbkdf2_fields(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the salt as asn1crypto wants a choice."""
    return {**parameters, "salt": algos.Pbkdf2Salt(name="specified", value=core.OctetString(b"salt"))}


def pbes2(function: dict[str, Any]) -> dict[str, Any]:
    """Return AES-256 under a key from this derivation."""
    scheme = {"algorithm": "aes256_cbc", "parameters": core.OctetString(bytes(16))}
    return {
        "algorithm": "pbes2",
        "parameters": algos.Pbes2Params({"key_derivation_func": function, "encryption_scheme": scheme}),
    }


class _Kdf(core.Sequence):  # type: ignore[misc] # asn1crypto has no types
    _fields: ClassVar = [("algorithm", core.ObjectIdentifier), ("parameters", core.Any)]


class _Scrypt(core.Sequence):  # type: ignore[misc] # asn1crypto has no types
    _fields: ClassVar = [("salt", core.OctetString), ("n", core.Integer), ("r", core.Integer), ("p", core.Integer)]


def scrypt_part(n: int, r: int, p: int, ciphertext: bytes) -> cms.ContentInfo:
    """Return a part under AES-256 with a key by scrypt."""
    parameters = _Scrypt({"salt": b"salt", "n": n, "r": r, "p": p})
    function = algos.KdfAlgorithm.load(
        _Kdf({"algorithm": "1.3.6.1.4.1.11591.4.11", "parameters": core.Any(parameters)}).dump()
    )
    return encrypted(pbes2(function), ciphertext)


def test_scrypt_opens_a_part(der: Callable[..., bytes]) -> None:
    """RFC 7914 is in use, if rare."""
    content = bags(key_bag("a"), certificate_bag(der("one"), "a"))
    key = hashlib.scrypt(b"x", salt=b"salt", n=1024, r=8, p=1, dklen=32)
    ciphertext = encrypt(AES(key), bytes(16), content)
    assert len(read(pfx(scrypt_part(1024, 8, 1, ciphertext)), Password(b"x")).entries) == 1


def test_right_padding_around_nonsense_is_a_wrong_password() -> None:
    """One wrong password in 256 gives right padding by chance."""
    key = hashlib.scrypt(b"x", salt=b"salt", n=1024, r=8, p=1, dklen=32)
    with pytest.raises(KeyFileError, match="wrong password or corrupted keystore"):
        read(pfx(scrypt_part(1024, 8, 1, encrypt(AES(key), bytes(16), b"nonsense"))), Password(b"x"))


@pytest.mark.parametrize(
    ("n", "r", "p", "text"),
    [
        (1 << 20, 8, 1, "more than 64 MiB"),
        (1 << 14, 8, 100, "exceeds 1000000"),
        (1 << 10, 8, 0, "cannot be"),
        (1000, 8, 1, "corrupted keystore"),
    ],
)
def test_scrypt_s_memory_and_time_are_capped(n: int, r: int, p: int, text: str) -> None:
    """The parameters come out of the file."""
    with pytest.raises(KeyFileError, match=text):
        read(pfx(scrypt_part(n, r, p, bytes(16))), Password(b"x"))


def test_the_sum_of_all_iterations_is_capped() -> None:
    """Many parts of a million rounds each would take minutes."""
    budget = kdf.Budget()
    budget.spend(1_000_000)
    budget.spend(500_000, blocks=2)
    with pytest.raises(KeyFileError, match="add up to more than 2000000"):
        budget.spend(1)


def old_mac(iterations: int, name: str = "sha1") -> dict[str, Any]:
    """Return a MAC that no password gives."""
    return {
        "mac": {"digest_algorithm": {"algorithm": name}, "digest": bytes(20)},
        "mac_salt": b"salt",
        "iterations": iterations,
    }


def test_the_mac_s_iterations_are_capped() -> None:
    """It is computed before anything else."""
    with pytest.raises(KeyFileError, match="5000000 exceeds 1000000"):
        read(pfx(data(bags()), mac=old_mac(iterations=5_000_000)), Password(b"x"))


@pytest.mark.parametrize(
    ("store", "text"),
    [
        (pfx(data(bags()), mac=old_mac(1, "md5")), "checksum uses md5"),
        (pfx(encrypted(old_scheme("pbes1_md5_des", 1))), "encrypted with pbes1_md5_des"),
        (pfx(cms.ContentInfo.load(bytes.fromhex("300b06092a864886f70d010703"))), "for a certificate"),
        (pfx(data(b"\x30\x01")), "corrupted keystore"),
        (b"\x30\x03\x02\x01\x03", "corrupted keystore"),
        (b"\x30\x80\x02\x01\x03\x30\x80\x00\x00\x00\x00", "corrupted keystore"),
    ],
)
def test_what_is_not_read_is_refused_by_name(store: bytes, text: str) -> None:
    """An operator learns what to change in the export."""
    with pytest.raises(KeyFileError, match=text):
        read(store, Password(b"x"))


def test_the_derivation_of_pkcs12_is_that_of_the_rfc() -> None:
    """A vector that OpenSSL and Bouncy Castle test with: "smeg", one iteration."""
    budget = kdf.Budget()
    password = "smeg\0".encode("utf-16-be")
    key = kdf.pkcs12("sha1", 1, password, bytes.fromhex("0a58cf64530d823f"), 1, 24, budget)
    assert key.hex() == "8aaae6297b6cb04642ab5b077851284eb7128f1a2a7fbca3"
    vector = kdf.pkcs12("sha1", 2, password, bytes.fromhex("0a58cf64530d823f"), 1, 8, budget)
    assert vector.hex() == "79993dfe048d3b76"
