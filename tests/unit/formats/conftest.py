"""Key files: those that the real tools made, and certificates made on the spot."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat
from cryptography.hazmat.primitives.serialization import NoEncryption as Clear

from jwks_server.core.formats import Password

FOLDER = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def fixture_file() -> Callable[[str], bytes]:
    """Return the bytes of a committed fixture."""
    return lambda name: (FOLDER / name).read_bytes()


@pytest.fixture
def password() -> Password:
    """Return the password of the committed stores."""
    return Password(b"changeit")


@pytest.fixture(scope="session")
def private_keys() -> Callable[[int], ec.EllipticCurvePrivateKey]:
    """Return the same P-256 key for the same number throughout the run."""
    made: dict[int, ec.EllipticCurvePrivateKey] = {}

    def get(number: int) -> ec.EllipticCurvePrivateKey:
        return made.setdefault(number, ec.generate_private_key(ec.SECP256R1()))

    return get


@pytest.fixture
def make_certificate(
    private_keys: Callable[[int], ec.EllipticCurvePrivateKey],
) -> Callable[..., x509.Certificate]:
    """Return a maker of certificates: subject, issuer, the number of each one's key, and what else differs."""

    def make(
        subject: str,
        *,
        issuer: str | None = None,
        key: int = 0,
        issuer_key: int | None = None,
        serial: int = 1,
        public_key: CertificatePublicKeyTypes | None = None,
        signer: CertificateIssuerPrivateKeyTypes | None = None,
        key_ids: tuple[bytes, bytes] | None = None,
    ) -> x509.Certificate:
        signing = signer or private_keys(key if issuer_key is None else issuer_key)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(issuer or subject))
            .public_key(public_key or private_keys(key).public_key())
            .serial_number(serial)
            .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
        )
        if key_ids is not None:
            subject_id, authority_id = key_ids
            builder = builder.add_extension(x509.SubjectKeyIdentifier(subject_id), critical=False).add_extension(
                x509.AuthorityKeyIdentifier(authority_id, None, None), critical=False
            )
        return builder.sign(signing, hashes.SHA256())

    return make


@pytest.fixture
def spki() -> Callable[[CertificatePublicKeyTypes], bytes]:
    """Return a public key in DER, to compare keys by."""
    return lambda key: key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def private_pem() -> Callable[[ec.EllipticCurvePrivateKey], bytes]:
    """Return a private key as openssl writes it."""
    return lambda key: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, Clear())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
