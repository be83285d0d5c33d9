"""The certificates of a PKCS#7 bundle (RFC 2315, section 9; RFC 5652, section 5.1); nothing in it is signed."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates
from cryptography.x509 import Certificate

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats.certificates import UNREADABLE, brief, check_readable, signing_entries
from jwks_server.core.formats.contents import Contents


def read(data: bytes) -> Contents:
    """Return the signing certificates of a bundle in DER."""
    entries, refusals = signing_entries(certificates(data))
    return Contents("PKCS#7", entries, refusals)


def certificates(data: bytes) -> list[Certificate]:
    """Return all certificates of a bundle in DER, in its order; raise KeyFileError where there is none."""
    try:
        found = load_der_pkcs7_certificates(data)
    except (UnsupportedAlgorithm, *UNREADABLE) as error:
        raise KeyFileError(f"not a readable PKCS#7 bundle ({brief(error)}); export it again") from error
    for certificate in found:
        check_readable(certificate)
    return found
