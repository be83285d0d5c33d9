"""Factories for keys and certificates, for tests alone; slow keys are made once a run."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 6, 1, tzinfo=UTC)
_CURVES: dict[str, type[Any]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
    "secp256k1": ec.SECP256K1,
}


@cache
def private_key(kind: str, number: int = 0) -> Any:  # noqa: ANN401 - any kind of private key
    """Return the `number`th private key of a kind: RSA, Ed25519 or a curve's name."""
    del number
    match kind:
        case "RSA":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case "Ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return ec.generate_private_key(_CURVES[kind]())


def certificate(
    key: Any,  # noqa: ANN401
    name: str = "test",
    *,
    not_before: datetime = NOW - timedelta(days=100),
    not_after: datetime = NOW + timedelta(days=36500),
    issuer: x509.Certificate | None = None,
    issuer_key: Any = None,  # noqa: ANN401
) -> x509.Certificate:
    """Return a certificate for the key, self-signed unless an issuer is given."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer_key or key
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else SHA256())
    )


def pem(*certificates: x509.Certificate) -> bytes:
    """Return the certificates as PEM blocks, one after the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def der(certificate: x509.Certificate) -> bytes:
    """Return the certificate's DER."""
    return certificate.public_bytes(Encoding.DER)


def replace_file(path: Path, content: bytes) -> None:
    """Write as the documents tell operators to: under a hidden name, then rename."""
    hidden = path.with_name(f".{path.name}.new")
    hidden.write_bytes(content)
    hidden.rename(path)


@cache
def sample(number: int) -> tuple[bytes, str]:
    """Return the `number`th certificate of this run as PEM, and the key id that WSO2 gives it."""
    item = certificate(private_key("P-256", number), f"sample {number}")
    digest = sha256(der(item)).hexdigest().encode()
    return pem(item), f"{urlsafe_b64encode(digest).rstrip(b'=').decode()}_ES256"
