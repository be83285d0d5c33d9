"""One reader process as the server sees it: asked one thing at a time; a shared memory cell says where it is."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from typing import cast

from jwks_server.core.timing import Timing
from jwks_server.reading.frames import HEADER_BYTES, MOST_FRAME_BYTES, GarbledError, frame_bytes
from jwks_server.reading.jobs import BUILD, ListingJob, ReaderCrashedError
from jwks_server.reading.passwords import HandedPasswords
from jwks_server.reading.place import PlaceCell
from jwks_server.reading.wire import Job, decode_ready, encode_job

CHILD_MODULE = "jwks_server.reading.child"

_STDIN, _STDOUT = 0, 1
_SERVERS_OWN = ("JWKS_SERVER_", "CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "NOTIFY_SOCKET", "LISTEN_", "JOURNAL_")
"""What the environment tells the server, and its reader processes need not know."""

_LOOKS = 4
_PROCESS_CLOCK = 2
"""Linux forms the clock of another process from its id and this (clock_getcpuclockid(3))."""


class ReaderProcess(asyncio.SubprocessProtocol):
    """A process that runs `main` of a module, which is `reading.child` but in tests.

    `ready` is set when it can take jobs, or never will: then `says_no_more` is true. `exited` is set when it has ended.
    `loads` counts the tenants that it was given, `missing` are the walls that it could not put up around itself.
    """

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.exited = asyncio.Event()
        self.says_no_more = False
        self.loads = 0
        self.missing: tuple[str, ...] = ()
        self.cell, self._descriptor = PlaceCell.shared()
        self._transport: asyncio.SubprocessTransport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._received = bytearray()

    async def start(self, setup: bytes, module: str = CHILD_MODULE) -> None:
        """Make the process and send it its setup; raise OSError where that cannot be."""
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: self,
                sys.executable,
                "-P",  # a module in the folder that the server was started in is none of ours
                "-c",
                f"from {module} import main; main()",
                str(self._descriptor),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=None,
                pass_fds=(self._descriptor,),
                env={name: value for name, value in os.environ.items() if not name.startswith(_SERVERS_OWN)},
            )
        finally:
            os.close(self._descriptor)
        self._send(setup)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._transport.get_pid() if self._transport is not None else -1

    def processor_seconds(self) -> float:
        """Return how many seconds of a processor it has used so far; 0.0 where it has ended."""
        try:
            return time.clock_gettime((~self.pid << 3) | _PROCESS_CLOCK)
        except (OSError, OverflowError):
            return 0.0

    @property
    def returncode(self) -> int | None:
        """How it ended: an exit status, or a signal's number below zero; None while it lives."""
        return self._transport.get_returncode() if self._transport is not None else None

    def ask(self, frame: bytes) -> asyncio.Future[bytes]:
        """Send a job and return the answer's frame to come, which is a ConnectionError where the process ends."""
        self._answer = asyncio.get_running_loop().create_future()
        self.cell.write(None)
        if self.says_no_more or self._transport is None:
            self._hang_up()
        else:
            self._send(frame)
        return self._answer

    async def frame_for(self, job: Job, passwords: HandedPasswords, timing: Timing) -> bytes:
        """Return the frame that answers a job; raise ReaderCrashedError where the process ends or gets on no further.

        A listing of the root has its own time; any other job has the time of a file for each place that it comes to.
        """
        answer = self.ask(encode_job(job, passwords))
        patience = timing.listing if isinstance(job, ListingJob) else timing.file + timing.reader_grace
        steps, looks = self.cell.steps, 0
        while not (await asyncio.wait((answer,), timeout=patience / _LOOKS))[0]:
            looks = looks + 1 if steps == self.cell.steps else 0
            steps = self.cell.steps
            if looks == _LOOKS:
                raise self._too_slow(timing)
        try:
            return answer.result()
        except ConnectionError:
            with suppress(TimeoutError):
                async with asyncio.timeout(timing.reader_grace):
                    await self.exited.wait()
            if self.returncode == -signal.SIGALRM:  # the process's own limit
                raise self._too_slow(timing) from None
            raise ReaderCrashedError(f"its reader crashed (exit status {self.returncode})", self.cell.place) from None

    def _too_slow(self, timing: Timing) -> ReaderCrashedError:
        place = self.cell.place
        what = "building its key set" if place is not None and place.name == BUILD else "reading it"
        return ReaderCrashedError(f"{what} took more than {timing.file:g} seconds", place, hung=True)

    def dismiss(self) -> None:
        """Give it no more jobs: it ends by itself when its input is closed."""
        self._stdin().close()

    def kill(self) -> None:
        """End it at once."""
        if self._transport is not None:
            with suppress(ProcessLookupError):
                self._transport.kill()

    def _stdin(self) -> asyncio.WriteTransport:
        assert self._transport is not None  # noqa: S101 - it was started
        return cast("asyncio.WriteTransport", self._transport.get_pipe_transport(_STDIN))

    def _send(self, frame: bytes) -> None:
        with suppress(OSError, RuntimeError):  # it has just ended: that is seen where its output ends
            self._stdin().write(frame)

    # --- what the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the process."""
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take a piece of what it says: once that it is ready, then an answer to each question."""
        del fd
        self._received += data
        if len(self._received) < HEADER_BYTES:
            return
        size = frame_bytes(self._received)
        if size > MOST_FRAME_BYTES:
            self._give_up()
        elif len(self._received) >= size:
            frame = bytes(self._received)
            self._received.clear()
            if not self.ready.is_set():
                self._greeted(frame)
            elif self._answer is not None and not self._answer.done():
                self._answer.set_result(frame)

    def _greeted(self, frame: bytes) -> None:
        try:
            self.missing = decode_ready(frame)
        except GarbledError:
            self._give_up()
        else:
            self.ready.set()

    def _give_up(self) -> None:
        """End a process that says what none says that is sound."""
        self._received.clear()
        self._hang_up()
        self.kill()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """See that it says no more."""
        del exc
        if fd == _STDOUT:
            self._hang_up()

    def process_exited(self) -> None:
        """See it end; its last answer may still be on the way."""
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See that it has ended and that all was read which it said."""
        del exc
        self._hang_up()
        if self._transport is not None:
            self._transport.close()

    def _hang_up(self) -> None:
        self.says_no_more = True
        self.ready.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the reader process ended"))
            self._answer.exception()  # whoever waits gets it all the same; where nobody does, that is no news
