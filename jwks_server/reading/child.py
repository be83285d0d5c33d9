"""A process that reads key files for the server: takes jobs on its standard input, answers on its standard output.

It has no socket, no state and no secret beyond the file being read. It ends with its parent, and by itself when one
file takes too long: the alarm's default action needs no interpreter to run.
"""

import os
import pickle
import resource
import signal
import sys
import traceback
from contextlib import suppress

from jwks_server.core.errors import JwksServerError
from jwks_server.reading.load import LoadJob, load
from jwks_server.reading.place import Progress, Reading
from jwks_server.reading.survey import ListingJob, SurveyJob, survey
from jwks_server.reading.tree import list_root
from jwks_server.reading.wire import HEADER_BYTES, Answer, Bug, Failed, frame_bytes, framed

FILE_SECONDS = 5
"""How long one file may take to parse; the slowest that is accepted takes well under two."""

READY = b"R"
"""Said once, when the worker can take jobs: its start is no file's fault."""

Job = LoadJob | SurveyJob | ListingJob

_MEMORY_BYTES = 2 << 30


def main() -> None:
    """Answer jobs until the parent closes our input.

    The arguments are how many seconds a file may take, and the descriptor of the memory that says where we are.
    """
    file_seconds, progress = float(sys.argv[1]), Progress(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    jobs = sys.stdin.buffer
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing that prints can spoil a frame
    with suppress(BrokenPipeError):  # our parent is gone, and nobody waits for what we do
        os.write(answers, READY)
        while len(header := jobs.read(HEADER_BYTES)) == HEADER_BYTES:
            job = pickle.loads(jobs.read(frame_bytes(header) - HEADER_BYTES))  # noqa: S301 - our parent wrote it
            data = memoryview(framed(_done(job, progress, file_seconds)))
            while data:
                data = data[os.write(answers, data) :]


def _done(job: Job, progress: Progress, file_seconds: float) -> Answer:
    def begun(name: str, stamp: bytes = b"") -> None:
        signal.setitimer(signal.ITIMER_REAL, file_seconds)
        progress.note(Reading(name, stamp))

    try:
        match job:
            case LoadJob():
                return load(job, begun)
            case SurveyJob():
                return survey(job, begun)
            case ListingJob():
                return list_root(job.source.root)
    except JwksServerError as error:
        return Failed(error)
    except Exception:  # noqa: BLE001 - a bug of ours: the parent logs it, and the tenant stays as it is
        return Bug(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
