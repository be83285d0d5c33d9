"""A process that reads key files for the server: takes jobs on its standard input, answers on its standard output.

It has no socket, no state and no secret beyond the file being read. It ends with its parent, and by itself when one
file takes too long: the alarm's default action needs no interpreter to run.
"""

import os
import pickle
import resource
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from jwks_server.core.errors import JwksServerError
from jwks_server.daemon.loader import Loaded, LoadJob, Survey, SurveyJob, load, survey

FILE_SECONDS = 5
"""How long one file may take to parse; the slowest that is accepted takes well under two."""

_MEMORY_BYTES = 2 << 30
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Reading:
    """Said before the content of a file is parsed, so that the parent knows which one ended us."""

    file_name: str
    stamp: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The job could not be done; the worker can take the next."""

    error: Exception


def framed(message: object) -> bytes:
    """Return the message with its length before it."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


def frame_length(header: bytes) -> int:
    """Return how many bytes follow a frame's header."""
    length: int = _LENGTH.unpack(header)[0]
    return length


HEADER_BYTES = _LENGTH.size
READY = b"R"
"""Said once, when the worker can take jobs: its start is no file's fault."""


def main() -> None:
    """Answer jobs until the parent closes our input; the first argument is how many seconds a file may take."""
    file_seconds = float(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    jobs = sys.stdin.buffer
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing that prints can spoil a frame

    def send(message: object) -> None:
        data = memoryview(framed(message))
        while data:
            data = data[os.write(answers, data) :]

    with suppress(BrokenPipeError):  # our parent is gone, and nobody waits for what we do
        os.write(answers, READY)
        while len(header := jobs.read(HEADER_BYTES)) == HEADER_BYTES:
            job = pickle.loads(jobs.read(frame_length(header)))  # noqa: S301 - our parent wrote it
            send(_done(job, send, file_seconds))


def _done(job: LoadJob | SurveyJob, send: Callable[[object], None], file_seconds: float) -> Loaded | Survey | Failed:
    def reading(file_name: str, stamp: bytes) -> None:
        signal.setitimer(signal.ITIMER_REAL, file_seconds)
        send(Reading(file_name, stamp))

    try:
        return load(job, reading) if isinstance(job, LoadJob) else survey(job)
    except JwksServerError as error:
        return Failed(error)
    except Exception as error:  # noqa: BLE001 - a bug of ours: the parent logs it, and the tenant stays as it is
        return Failed(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
