"""Reading one tenant in a process of its own, for commands: what hangs or crashes there ends that process alone."""

import os
import resource
import signal
from contextlib import suppress
from dataclasses import replace

import msgspec

from jwks_server.core.errors import ReaderError, RootUnavailableError
from jwks_server.core.keyset import KeySet
from jwks_server.core.sealed import seal, unseal
from jwks_server.core.snapshot import Remembered, Snapshot
from jwks_server.reading.jobs import LoadJob
from jwks_server.reading.load import read_tenant
from jwks_server.reading.source import Source

TENANT_SECONDS = 60.0
"""How long a command reads one tenant; the server gives each file five seconds."""

MEMORY_BYTES = 2 << 30
"""The address space of a process that reads keystores."""

_DECODER = msgspec.json.Decoder(tuple[bytes, KeySet | None])


def read_apart(
    source: Source, job: LoadJob, remembered: Remembered | None = None, *, seconds: float = TENANT_SECONDS
) -> Snapshot:
    """Return the tenant's snapshot; raise ReaderError where its process crashed or took too long.

    Raise RootUnavailableError as `read_tenant` does.
    """
    answers, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        with suppress(BaseException):  # whatever it is, the process ends here
            os.close(answers)
            status = _answer(source, job, remembered, answer, seconds)
        os._exit(status)
    os.close(answer)
    with open(answers, "rb") as file:
        data = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    match status, data[:1]:
        case 0, b"S":
            sealed, key_set = _DECODER.decode(data[1:])
            return replace(unseal(sealed), key_set=key_set)
        case 0, b"R":
            raise RootUnavailableError(data[1:].decode())
    how = f"took more than {seconds:g} seconds" if status == -signal.SIGALRM else f"crashed (exit status {status})"
    raise ReaderError(f"reading {job.tenant} {how}: one of its files is hostile or broken; the server's log names it")


def _answer(source: Source, job: LoadJob, remembered: Remembered | None, answer: int, seconds: float) -> int:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, hard))
    try:
        snapshot = read_tenant(source, job, None, remembered).snapshot
        data = b"S" + msgspec.json.encode((seal(snapshot), snapshot.key_set))
    except RootUnavailableError as error:
        data = b"R" + str(error).encode()
    with open(answer, "wb") as file:
        file.write(data)
    return 0
