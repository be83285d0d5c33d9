from hashlib import sha256

import pytest
from jwcrypto.jwk import JWK
from support.certificates import certificate, der, private_key

from jwks_server.core.formats.contents import Entry
from jwks_server.core.jwk import Key, base64url, key_of
from jwks_server.core.kid import Scheme, hexified, identifiers, key_id, thumbprint

DIGEST = bytes.fromhex("be07a38b7e24ccb53feaef292ecf7ce63f243c1445b40627662ffec90764b585")


def make_key(kind: str = "RSA", *, bare: bool = False) -> Key:
    chain = () if bare else (certificate(private_key(kind)),)
    return key_of(Entry(private_key(kind).public_key(), chain))


def test_the_vectors_of_wso2_come_out() -> None:
    """The sample digest gives the sample key id and thumbprint."""
    assert hexified(DIGEST) == (
        "YmUwN2EzOGI3ZTI0Y2NiNTNmZWFlZjI5MmVjZjdjZTYzZjI0M2MxNDQ1YjQwNjI3NjYyZmZlYzkwNzY0YjU4NQ"
    )
    assert base64url(DIGEST) == "vgeji34kzLU_6u8pLs985j8kPBRFtAYnZi_-yQdktYU"


def test_the_wso2_scheme_names_certificate_and_algorithm() -> None:
    """The id is the hexified digest of the certificate, an underscore and the algorithm."""
    key = make_key()
    expected = base64url(sha256(key.chain[0]).hexdigest().encode()) + "_RS256"
    assert key_id(Scheme.WSO2, key, "RS256", "a.pem", several=False) == expected


@pytest.mark.parametrize("kind", ["RSA", "P-256", "P-384", "P-521", "Ed25519"])
def test_thumbprints_are_those_of_another_library(kind: str) -> None:
    """RFC 7638, as jwcrypto computes it."""
    key = make_key(kind)
    oracle = JWK(kty=key.public.kty, **dict(key.public.members))
    assert thumbprint(key.public) == oracle.thumbprint()


def test_the_filename_scheme_takes_the_name_without_its_ending() -> None:
    """`2026-05.rsa.pem` gives `2026-05.rsa`."""
    assert key_id(Scheme.FILENAME, make_key(), "RS256", "2026-05.rsa.pem", several=False) == "2026-05.rsa"


def test_a_bare_key_takes_its_thumbprint_and_the_algorithm_only_where_it_has_several() -> None:
    """Ids stay unique without a certificate."""
    key = make_key(bare=True)
    assert key_id(Scheme.WSO2, key, "RS256", "a", several=False) == thumbprint(key.public)
    assert key_id(Scheme.WSO2, key, "RS512", "a", several=True) == f"{thumbprint(key.public)}_RS512"


def test_a_key_is_known_by_all_its_names() -> None:
    """A list of revoked keys may use any of them, whatever scheme is in force."""
    key = make_key()
    digest = sha256(der(certificate(private_key("RSA")))).hexdigest()
    names = identifiers(key)
    assert digest not in names
    assert sha256(key.chain[0]).hexdigest() in names
    assert {key_id(scheme, key, "RS384", "x", several=True) for scheme in (Scheme.WSO2, Scheme.WSO2_SHA1)} <= names
