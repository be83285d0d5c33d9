"""Certificates in PEM (RFC 7468): one, several, with their chain, with other blocks around them.

Private keys in the file are passed over as text; they are never decoded.
"""

import base64
import binascii
import re

from cryptography.x509 import Certificate

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats.certificates import load_der, signing_entries
from jwks_server.core.formats.contents import Contents

_BLOCK = re.compile(
    rb"-----BEGIN (?P<label>[A-Z0-9 #.-]{1,64})-----(?P<body>[^-]*(?:-(?!----)[^-]*)*)-----END (?P=label)-----"
)
_BEGIN = re.compile(rb"-----BEGIN ")
_CERTIFICATE_LABELS = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE"})


def read(data: bytes) -> Contents:
    """Return the signing certificates among the blocks of a PEM file."""
    blocks = [(match["label"], match["body"]) for match in _BLOCK.finditer(data)]
    begun = len(_BEGIN.findall(data))
    if begun != len(blocks):
        raise KeyFileError(f"truncated: {begun} BEGIN lines but {len(blocks)} complete block{'s'[: len(blocks) != 1]}")
    if any(label == b"TRUSTED CERTIFICATE" for label, _ in blocks):
        raise KeyFileError("TRUSTED CERTIFICATE is OpenSSL's own format; convert it: openssl x509 -in FILE -out FILE")
    certificates = [_certificate(body) for label, body in blocks if label in _CERTIFICATE_LABELS]
    if not certificates:
        labels = ", ".join(sorted({label.decode("ascii") for label, _ in blocks}))
        raise KeyFileError(f"no certificate in it, only: {labels}")
    entries, refusals = signing_entries(certificates)
    return Contents("PEM", entries, refusals)


def _certificate(body: bytes) -> Certificate:
    try:
        return load_der(base64.b64decode(b"".join(body.split()), validate=True))
    except binascii.Error as error:
        raise KeyFileError("a CERTIFICATE block is not valid base64") from error
