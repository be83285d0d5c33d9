"""How jobs and answers cross the border between the server and its readers: pickled, with their length before them.

A reader handles bytes that strangers made, so what it answers is taken for data and nothing else: the server makes
values of the types that an answer consists of, whatever else it may name.
"""

import io
import pickle
import struct
from dataclasses import dataclass
from typing import ClassVar

from jwks_server.core import errors
from jwks_server.core.publication import SNAPSHOT_TYPES, DataAlone, Publication, Sealed, Types, types_by_name
from jwks_server.reading.load import Loaded
from jwks_server.reading.survey import Survey
from jwks_server.reading.tree import Listing

_LENGTH = struct.Struct(">I")
HEADER_BYTES = _LENGTH.size

_TEXT_CHARACTERS = 200


class GarbledError(Exception):
    """What a reader sent is no answer."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The job could not be done; the reader can take the next."""

    error: errors.JwksServerError


@dataclass(frozen=True, slots=True)
class Bug:
    """The job met a failure that nobody thought of; `traceback` is where, as the reader saw it."""

    traceback: str


Answer = Loaded | Survey | Listing | Failed | Bug


class _AnswerAlone(DataAlone):
    types: ClassVar[Types] = {
        **SNAPSHOT_TYPES,
        **types_by_name(Loaded, Publication, Sealed, Survey, Listing, Failed, Bug),
        **types_by_name(*(kind for kind in vars(errors).values() if isinstance(kind, type))),
    }


def framed(message: object) -> bytes:
    """Return the message with its length before it."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


def frame_bytes(header: bytes | bytearray) -> int:
    """Return how many bytes a frame has in all, by its first HEADER_BYTES."""
    length: int = _LENGTH.unpack_from(header)[0]
    return HEADER_BYTES + length


def answer_in(frame: bytes) -> Answer:
    """Return the answer in a frame; raise GarbledError where it is none."""
    try:
        answer = _AnswerAlone(io.BytesIO(frame[HEADER_BYTES:])).load()
    except Exception as error:
        raise GarbledError(f"a reader's answer is garbage: {error}"[:_TEXT_CHARACTERS]) from error
    if not isinstance(answer, Answer):
        raise GarbledError(f"a reader's answer is a {type(answer).__name__}")
    return answer
