"""Recognise a container by its first bytes; the file's name says nothing (keytool writes PKCS#12 into x.jks)."""

import re
from enum import Enum

from jwks_server.core.errors import KeyFileError, PrivateKeyOnlyError
from jwks_server.core.formats import tlv

_BOM = b"\xef\xbb\xbf"
_JKS_MAGIC = b"\xfe\xed\xfe\xed"
_JCEKS_MAGIC = b"\xce\xce\xce\xce"
_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")
_PKCS12_VERSION = b"\x02\x01\x03"
_PRIVATE_KEY_VERSIONS = (b"\x02\x01\x00", b"\x02\x01\x01")
_SSH = re.compile(rb"(?:ssh-|ecdsa-sha2-|sk-ssh-|sk-ecdsa-)[!-~]+[ \t]")
_KEYS_MEMBER = re.compile(rb'"keys"\s*:')


class Format(Enum):
    """The containers that are read; each value is its name for people."""

    PEM = "PEM"
    DER = "DER certificate"
    SPKI = "DER public key"
    PKCS7 = "PKCS#7"
    PKCS12 = "PKCS#12"
    JKS = "JKS"
    JCEKS = "JCEKS"
    SSH = "OpenSSH public key"
    JWK = "JWK"
    JWKS = "JWKS"


def recognise(data: bytes) -> Format:
    """Return the container of `data`, or raise KeyFileError naming what it looks like instead."""
    if not data.strip():
        raise KeyFileError("empty file")
    if data.startswith(_JKS_MAGIC):
        return Format.JKS
    if data.startswith(_JCEKS_MAGIC):
        return Format.JCEKS
    if data[0] == tlv.SEQUENCE and (found := _der(data)) is not None:
        return found
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or data[:8:2] == b"\0\0\0\0" or data[1:8:2] == b"\0\0\0\0":
        raise KeyFileError("file is UTF-16; save as ASCII")
    return _text(without_bom(data))


def without_bom(data: bytes) -> bytes:
    """Return the text without the byte order mark and the white space that it may begin with."""
    return data.removeprefix(_BOM).lstrip()


def _text(text: bytes) -> Format:
    if text.startswith(b"{"):
        return Format.JWKS if _KEYS_MEMBER.search(text) else Format.JWK
    if _SSH.match(text):
        return Format.SSH
    if b"-----BEGIN " in text:
        return Format.PEM
    raise KeyFileError("not a certificate, public key or keystore that is known here; docs/formats.md lists them")


def _der(data: bytes) -> Format | None:
    """Return the container that the outermost DER value is; None where the data is no DER value at all."""
    outer = tlv.frame(data)
    if outer is None or (inner := tlv.frame(data, outer.start)) is None:
        return None
    if outer.end is None:
        # BER of indefinite length: NSS and some hardware write PKCS#12 so.
        return Format.PKCS12 if data.startswith(_PKCS12_VERSION, outer.start) else None
    if outer.end != len(data):
        if inner.tag not in {tlv.SEQUENCE, tlv.INTEGER, tlv.OBJECT_IDENTIFIER}:
            return None
        fault = "truncated" if outer.end > len(data) else "followed by something else"
        raise KeyFileError(f"{fault}: the DER in it is {outer.end} bytes long and the file {len(data)}")
    match inner.tag:
        case tlv.INTEGER:
            return _begins_with_integer(data, outer.start)
        case tlv.OBJECT_IDENTIFIER if data.startswith(_SIGNED_DATA, outer.start):
            return Format.PKCS7
        case tlv.SEQUENCE:
            return _begins_with_sequence(data, inner)
        case _:
            raise KeyFileError("DER, but no certificate, public key, PKCS#7 or PKCS#12; docs/formats.md lists them")


def _begins_with_integer(data: bytes, start: int) -> Format:
    """Tell PKCS#12 (version 3) and private keys (0 and 1) from an RSA key, whose modulus the integer is."""
    if data.startswith(_PKCS12_VERSION, start):
        return Format.PKCS12
    if data.startswith(_PRIVATE_KEY_VERSIONS, start):
        raise PrivateKeyOnlyError("a private key and nothing to publish; keep it elsewhere, and its certificate here")
    return Format.SPKI


def _begins_with_sequence(data: bytes, inner: tlv.Frame) -> Format:
    """Tell a public key, which begins with its algorithm as encrypted private keys do, from a certificate."""
    first = tlv.frame(data, inner.start)
    if first is None or first.tag != tlv.OBJECT_IDENTIFIER or inner.end is None:
        return Format.DER
    second = tlv.frame(data, inner.end)
    if second is not None and second.tag == tlv.OCTET_STRING:
        raise PrivateKeyOnlyError(
            "an encrypted private key and nothing to publish; keep it elsewhere, and its certificate here"
        )
    return Format.SPKI
