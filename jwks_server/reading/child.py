"""A process that reads key files for the server: takes jobs on its standard input, answers on its standard output.

It has no socket, no state, and of the passwords outside the tree only the one of its job's tenant. It ends with its
parent, and by itself when one file takes too long: the alarm's default action needs no interpreter to run.
"""

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import BinaryIO

from jwks_server.core.errors import JwksServerError, ReaderError, RootUnavailableError
from jwks_server.reading import sandbox
from jwks_server.reading.folder import Report
from jwks_server.reading.frames import HEADER_BYTES, frame_bytes
from jwks_server.reading.jobs import ListingJob, LoadJob, Place, SurveyJob
from jwks_server.reading.load import load
from jwks_server.reading.place import PlaceCell
from jwks_server.reading.source import Source
from jwks_server.reading.survey import survey
from jwks_server.reading.tree import list_root
from jwks_server.reading.wire import (
    Answer,
    Job,
    decode_job,
    decode_setup,
    encode_answer,
    encode_bug,
    encode_failure,
    encode_ready,
)

_MEMORY_BYTES = 2 << 30

Reply = Callable[[Source, Job, Report], bytes]


Confine = Callable[[str, Collection[str]], Collection[str]]


def main(reply: Reply | None = None, confine: Confine = sandbox.confine) -> None:
    """Answer jobs until the parent closes our input; its first frame is the setup.

    The argument of the process is the descriptor of the memory that says where we are. `reply` returns the frame that
    answers a job, where a test wants another than `answer` gives; `confine` puts up the walls around the process.
    """
    cell = PlaceCell(int(sys.argv[1]))
    os.close(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    jobs = sys.stdin.buffer
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing that prints can spoil a frame
    with suppress(BrokenPipeError):  # our parent is gone, and nobody waits for what we do
        if (setup := _frame(jobs)) is None:
            return
        source, file_seconds = decode_setup(setup)

        def report(name: str, stamp: bytes = b"") -> None:
            signal.setitimer(signal.ITIMER_REAL, file_seconds)
            cell.write(Place(name, stamp))

        _write(answers, encode_ready(confine(source.root, source.closed)))
        while (frame := _frame(jobs)) is not None:
            try:
                job, passwords = decode_job(frame)
                data = (reply or answer)(replace(source, passwords=passwords), job, report)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            _write(answers, data)


def answer(source: Source, job: Job, report: Report) -> bytes:
    """Return the frame that answers a job, whatever comes of it."""
    try:
        return encode_answer(_done(source, job, report))
    except (RootUnavailableError, ReaderError) as error:
        return encode_failure(error)
    except JwksServerError as error:
        return encode_failure(ReaderError(str(error)))
    except Exception:  # noqa: BLE001 - a bug of ours: the parent logs it, and the tenant stays as it is
        return encode_bug(traceback.format_exc())


def _done(source: Source, job: Job, report: Report) -> Answer:
    match job:
        case LoadJob():
            return load(source, job, report)
        case SurveyJob():
            return survey(source, job, lambda tenant: report(tenant, b""))
        case ListingJob():
            return list_root(source.root)


def _frame(jobs: BinaryIO) -> bytes | None:
    """Return the next frame, or None where the parent sends no more."""
    beginning = jobs.read(HEADER_BYTES)
    if len(beginning) < HEADER_BYTES:
        return None
    return beginning + jobs.read(frame_bytes(beginning) - HEADER_BYTES)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
