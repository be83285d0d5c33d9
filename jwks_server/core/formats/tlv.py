"""The frame of a DER or BER value: tag and length (X.690, section 8.1), without looking inside."""

from dataclasses import dataclass

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
OBJECT_IDENTIFIER = 0x06
SEQUENCE = 0x30

_SHORT_FORM_BELOW = 0x80
_MAX_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One value in a buffer: its tag, and where its content starts and ends.

    `end` may lie beyond the buffer (a truncated file), and is None for the indefinite length of BER.
    """

    tag: int
    start: int
    end: int | None


def frame(data: bytes, offset: int = 0) -> Frame | None:
    """Return the frame that starts at `offset`; None where the bytes cannot be one."""
    header = data[offset : offset + 2 + _MAX_LENGTH_BYTES]
    if len(header) < 2:  # noqa: PLR2004 - a tag and a length
        return None
    tag, first = header[0], header[1]
    start = offset + 2
    if first < _SHORT_FORM_BELOW:
        return Frame(tag, start, start + first)
    length_bytes = first & 0x7F
    if length_bytes == 0:
        return Frame(tag, start, None)
    if length_bytes > _MAX_LENGTH_BYTES or len(header) < 2 + length_bytes:
        return None
    start += length_bytes
    return Frame(tag, start, start + int.from_bytes(header[2 : 2 + length_bytes]))
