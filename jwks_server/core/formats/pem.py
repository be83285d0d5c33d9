"""PEM files (RFC 7468): certificates, PKCS#7 bundles and public keys, one or several, whatever else is in the file.

Private keys in the file are passed over as text; they are never decoded.
"""

import base64
import binascii
import re
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from jwks_server.core.errors import KeyFileError, PrivateKeyOnlyError, UnsupportedKeyError
from jwks_server.core.formats import pkcs7, spki
from jwks_server.core.formats.certificates import load_der, signing_entries
from jwks_server.core.formats.contents import Contents, Entry

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

# The group is atomic, so that a block which begins and never ends is searched once and not again from every dash.
# (Possessive quantifiers would read better, and do not match in CPython 3.11.2, which is Debian 12's.)
_BLOCK = re.compile(
    rb"-----BEGIN (?P<label>[A-Z0-9 #.-]{1,64})-----(?P<body>(?>[^-]*(?:-(?!----)[^-]*)*))-----END (?P=label)-----"
)
_BEGIN = re.compile(rb"-----BEGIN ")
_CERTIFICATE_LABELS = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE"})
_BUNDLE_LABELS = frozenset({b"PKCS7", b"CMS", b"PKCS #7 SIGNED DATA"})
_PUBLIC_KEY_LABELS = frozenset({b"PUBLIC KEY", b"RSA PUBLIC KEY"})


def read(data: bytes) -> Contents:
    """Return the signing certificates and the bare public keys among the blocks of a PEM file."""
    blocks = _blocks(data)
    certificates: list[Certificate] = []
    bare: list[Entry] = []
    refusals: list[str] = []
    for label, body in blocks:
        if label in _CERTIFICATE_LABELS:
            certificates.append(load_der(_decoded(label, body)))
        elif label in _BUNDLE_LABELS:
            certificates.extend(pkcs7.certificates(_decoded(label, body)))
        elif label in _PUBLIC_KEY_LABELS:
            try:
                bare.append(spki.entry(_decoded(label, body)))
            except UnsupportedKeyError as refusal:
                refusals.append(str(refusal))
    if not certificates and not bare and not refusals:
        raise _nothing([label for label, _ in blocks])
    entries, refused = signing_entries(certificates)
    # `openssl pkey -pubout` beside the certificate of the same key is one key, not two.
    certified = {_encoded(entry.public_key) for entry in entries}
    others = tuple(entry for entry in bare if _encoded(entry.public_key) not in certified)
    return Contents("PEM", entries + others, refused + tuple(refusals))


def _blocks(data: bytes) -> list[tuple[bytes, bytes]]:
    blocks = [(match["label"], match["body"]) for match in _BLOCK.finditer(data)]
    begun = len(_BEGIN.findall(data))
    if begun != len(blocks):
        raise KeyFileError(f"truncated: {begun} BEGIN lines but {len(blocks)} complete block{'s'[: len(blocks) != 1]}")
    if any(label == b"TRUSTED CERTIFICATE" for label, _ in blocks):
        raise KeyFileError("TRUSTED CERTIFICATE is OpenSSL's own format; convert it: openssl x509 -in FILE -out FILE")
    return blocks


def _nothing(labels: list[bytes]) -> KeyFileError:
    names = ", ".join(sorted({label.decode("ascii") for label in labels})[:5])
    if all(label.endswith(b"PRIVATE KEY") or label == b"EC PARAMETERS" for label in labels):
        return PrivateKeyOnlyError(
            f"only a private key ({names}) and nothing to publish; keep it elsewhere, and its certificate here"
        )
    return KeyFileError(f"no certificate or public key in it, only: {names}")


def _decoded(label: bytes, body: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise KeyFileError(f"a {label.decode('ascii')} block is not valid base64; copy it again") from error


def _encoded(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
