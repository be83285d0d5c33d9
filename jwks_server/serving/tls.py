"""The listener's TLS: the operator's certificate, or one made in memory for a first try."""

import os
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from jwks_server.core.errors import SettingsError

_SELF_SIGNED_DAYS = 365
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_SIGNS_HANDSHAKES = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def context_from_files(certificate: str, key: str) -> ssl.SSLContext:
    """Return a context for the operator's certificate and key; raise SettingsError naming the file and the fault."""
    context = _context()
    for path in (certificate, key):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise SettingsError(f"TLS file {path} cannot be read: {error.strerror}") from error
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise SettingsError(
            f"TLS certificate {certificate} and key {key} cannot be used ({reason}); "
            "both must be PEM, belong together, and the key must have no passphrase",
        ) from error
    return context


def names_for(host: str) -> tuple[str, ...]:
    """Return the names of a self-made certificate: this machine's own, and the host that is listened on."""
    own = ("localhost", "127.0.0.1", "::1")
    address = _address(host)
    if not host or host in own or (address is not None and address.is_unspecified):
        return own
    try:
        return (*own, str(address) if address is not None else host.encode("idna").decode().lower())
    except UnicodeError:
        return own


def self_signed_context(host: str = "localhost") -> ssl.SSLContext:
    """Return a context with a new certificate for `names_for` the host; its key never touches a disk.

    It is no authority: whoever tells a machine to trust it trusts this server, and nobody whom it might vouch for.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    addresses = {name: _address(name) for name in names_for(host)}
    names = [x509.IPAddress(address) if address else x509.DNSName(name) for name, address in addresses.items()]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=_SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_SIGNS_HANDSHAKES, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    context = _context()
    memory = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.write(memory, pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    return context


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _context() -> ssl.SSLContext:
    """Return a context for TLS 1.2 and 1.3 with authenticated encryption only (RFC 9325, section 4.2)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> bytes:
    raise ValueError("the key has a passphrase")
