"""From the bytes of a file to certificates and public keys. What a file is, its content decides.

`sniff` recognises the container, one small module a container reads it, `certificates` says which of several
certificates sign tokens and which are their issuers. Private keys are never decrypted and never come out.

    PEM → pem            DER certificate → der     SubjectPublicKeyInfo → spki    PKCS#7 → pkcs7
    JKS, JCEKS → jks     OpenSSH line → ssh        JWK, JWKS → jwk
    PKCS#12 → pkcs12 (the walk), pkcs12_mac (its checksum), pkcs12_cipher (its certificates), kdf (keys, and a budget)
"""

from typing import assert_never

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import der, jks, jwk, pem, pkcs7, pkcs12, spki, ssh
from jwks_server.core.formats.certificates import tolerating_oddities
from jwks_server.core.formats.contents import Contents, Entry, Password
from jwks_server.core.formats.sniff import Format, recognise, without_bom

__all__ = ["MAX_FILE_BYTES", "Contents", "Entry", "Format", "Password", "needs_password", "read", "recognise"]

MAX_FILE_BYTES = 1 << 20
"""A key file larger than this is refused unread."""


def needs_password(container: Format) -> bool:
    """Tell whether this container may take a password; JKS and JCEKS are read without one, but unchecked."""
    return container in {Format.PKCS12, Format.JKS, Format.JCEKS}


def read(data: bytes, password: Password | None = None) -> Contents:
    """Return what the file holds; raise KeyFileError with a text for the operator where it cannot be read."""
    if len(data) > MAX_FILE_BYTES:
        raise KeyFileError("file larger than 1 MiB")
    container = recognise(data)
    with tolerating_oddities():
        return _read(container, data, password)


def _read(container: Format, data: bytes, password: Password | None) -> Contents:  # noqa: PLR0911 - a table
    match container:
        case Format.PEM:
            return pem.read(data)
        case Format.DER:
            return der.read(data)
        case Format.SPKI:
            return spki.read(data)
        case Format.PKCS7:
            return pkcs7.read(data)
        case Format.PKCS12:
            return pkcs12.read(data, password)
        case Format.JKS | Format.JCEKS:
            return jks.read(data, password, container.value)
        case Format.SSH:
            return ssh.read(without_bom(data))
        case Format.JWK | Format.JWKS:
            return jwk.read(without_bom(data))
        case _:
            assert_never(container)
