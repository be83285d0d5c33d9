"""Frames: how a message between the server and a reader process is laid out, and which fields its header has.

total bytes (u32) · header bytes (u32) · header, JSON with typed fields · blobs, as long as the header says
"""

import struct
from typing import Annotated, TypeVar

import msgspec

from jwks_server.core.policy import MAX_AGE_LIMIT, Policy
from jwks_server.core.publication import Publication
from jwks_server.reading.source import Limits

_LENGTHS = struct.Struct(">II")
HEADER_BYTES = _LENGTHS.size

MOST_FRAME_BYTES = 128 << 20
"""A longer answer is forged: a folder of a thousand certificates gives three or four megabytes."""

T = TypeVar("T")


class GarbledError(Exception):
    """What a reader process sent is no answer to its job."""


_Seconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_AGE_LIMIT)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Digest = Annotated[bytes, msgspec.Meta(max_length=64)]
_Root = tuple[_Count, _Count]


class Header(msgspec.Struct, forbid_unknown_fields=True, tag=True):
    """A header's fields; one that ends in `_bytes` says how long a blob is, None that there is none."""


class LoadedHeader(Header):
    """`publication` comes without its tenant, which is the job's, and without what the blobs hold."""

    root: _Root
    signature: _Digest | None
    device: int | None
    links: bool
    unfinished: bool
    publication: Publication
    body_bytes: _Count | None
    max_age: _Seconds
    stale_if_error: _Seconds
    sealed_bytes: _Count
    record_bytes: _Count | None
    record_digest: _Digest
    record_adds_keys: bool


class SurveyHeader(Header):
    """The signatures of the first of the job's tenants, in their order."""

    root: _Root
    signatures: tuple[_Digest | None, ...]
    seconds: float


class ListingHeader(Header):
    """The tenants' names are a blob, one a line; strangers are named as far as there is room."""

    root: _Root
    folders: _Count
    tenants_bytes: _Count
    strangers: tuple[str, ...]


class FailedHeader(Header):
    """The job could not be done; `root` says that the tree cannot be read. The process can take the next job."""

    root: bool
    text: str


class BugHeader(Header):
    """The job met a failure that nobody thought of."""

    traceback: str


class SetupHeader(Header):
    """What a reader process is told once: a Source without its passwords, and how many seconds a file may take."""

    root: str
    defaults: Policy
    exact_times: bool
    closed: tuple[str, ...]
    limits: Limits
    stamp_key: bytes
    file_seconds: float


class ReadyHeader(Header):
    """Said once, when the process can take jobs: its start is no file's fault. `missing` are walls that it lacks."""

    missing: tuple[str, ...]


class LoadJobHeader(Header):
    """A LoadJob; `deadly` are name, stamp and text of each file, the `password_` fields an `Outside`."""

    tenant: str
    previous_bytes: int | None
    record_bytes: int | None
    device: int | None
    deadly: tuple[tuple[str, bytes, str], ...]
    afresh: bool
    password_mark: bytes
    password_name: str
    password_bytes: int | None
    password_fault: str | None


class SurveyJobHeader(Header):
    """A SurveyJob; `marks` are those of the tenants' passwords, in their order, or none at all."""

    tenants: tuple[str, ...]
    marks: tuple[bytes, ...]
    seconds: float


class ListingJobHeader(Header):
    """A ListingJob."""


def frame_bytes(beginning: bytes | bytearray) -> int:
    """Return how many bytes a frame has in all, by its first HEADER_BYTES."""
    total: int = _LENGTHS.unpack_from(beginning)[0]
    return total


def frame_of(header: Header, *blobs: bytes) -> bytes:
    """Return the frame of a header and the blobs that it announces."""
    text = msgspec.json.encode(header)
    total = HEADER_BYTES + len(text) + sum(map(len, blobs))
    return b"".join((_LENGTHS.pack(total, len(text)), text, *blobs))


class Blobs:
    """What follows a frame's header, taken piece by piece; every byte has to be taken."""

    def __init__(self, data: memoryview) -> None:
        self._rest = data

    def take(self, length: int) -> bytes:
        """Return the next bytes; raise GarbledError where there are not so many."""
        if length > len(self._rest):
            raise GarbledError("a frame is shorter than its header says")
        taken, self._rest = self._rest[:length], self._rest[length:]
        return bytes(taken)

    def end(self) -> None:
        """Raise GarbledError unless all was taken."""
        if self._rest:
            raise GarbledError("a frame is longer than its header says")


def opened(frame: bytes, decoder: msgspec.json.Decoder[T], most_header_bytes: int) -> tuple[T, Blobs]:
    """Return a frame's header and what follows it; raise GarbledError where it is of no known form."""
    if len(frame) < HEADER_BYTES:
        raise GarbledError("a frame is shorter than its lengths")
    total, header = _LENGTHS.unpack_from(frame)
    if total != len(frame) or header > min(total - HEADER_BYTES, most_header_bytes):
        raise GarbledError("a frame is not as long as it says")
    end = HEADER_BYTES + header
    try:
        return decoder.decode(memoryview(frame)[HEADER_BYTES:end]), Blobs(memoryview(frame)[end:])
    except (ValueError, OverflowError, RecursionError) as error:
        raise GarbledError(f"a frame's header is no such header: {error}"[:200]) from error
