"""Recognise a container by its first bytes; the file's name says nothing (keytool writes PKCS#12 into x.jks)."""

from enum import Enum

from jwks_server.core.errors import KeyFileError

_BOM = b"\xef\xbb\xbf"


class Format(Enum):
    """The containers that are read; each value is its name for people."""

    PEM = "PEM"
    DER = "DER"


def recognise(data: bytes) -> Format:
    """Return the container of `data`, or raise KeyFileError naming what it looks like instead."""
    if not data.strip():
        raise KeyFileError("empty file")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or data[:8:2] == b"\0\0\0\0" or data[1:8:2] == b"\0\0\0\0":
        raise KeyFileError("file is UTF-16; save as ASCII")
    if data[0] == 0x30 and _is_one_der_value(data):  # noqa: PLR2004 - SEQUENCE
        return Format.DER
    if b"-----BEGIN " in data:
        return Format.PEM
    raise KeyFileError("not a certificate or keystore that is known here (neither PEM nor DER)")


def _is_one_der_value(data: bytes) -> bool:
    """Tell whether the outermost DER value is exactly as long as the data (X.690, section 8.1.3)."""
    if len(data) < 2:  # noqa: PLR2004
        return False
    first = data[1]
    if first < 0x80:  # noqa: PLR2004 - the short form
        return len(data) == 2 + first
    size_bytes = first & 0x7F
    if not 1 <= size_bytes <= 4 or len(data) < 2 + size_bytes:  # noqa: PLR2004
        return False
    return len(data) == 2 + size_bytes + int.from_bytes(data[2 : 2 + size_bytes])
