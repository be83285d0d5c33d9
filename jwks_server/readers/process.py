"""One reader process, as the server sees it: asked one thing at a time, known by what it was at when it dies."""

import asyncio
import os
import sys
from contextlib import suppress
from typing import cast

from jwks_server.reading.child import READY
from jwks_server.reading.place import Progress
from jwks_server.reading.wire import HEADER_BYTES, frame_bytes

MOST_FRAME_BYTES = 128 << 20
"""A longer answer is forged: a folder of a thousand certificates gives two or three megabytes."""

_STDIN, _STDOUT = 0, 1


class ReaderProcess(asyncio.SubprocessProtocol):
    """A process that runs `worker`.

    `ready` is set when it can take jobs, or never will: then `says_no_more` is true. `exited` is set when it has ended.
    """

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.exited = asyncio.Event()
        self.says_no_more = False
        self.progress, self._descriptor = Progress.shared()
        self._transport: asyncio.SubprocessTransport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._received = bytearray()

    async def start(self, file_seconds: float) -> None:
        """Make the process; raise OSError where that cannot be."""
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: self,
                sys.executable,
                "-P",  # a module in the folder that the server was started in is none of ours
                "-c",
                "from jwks_server.reading.child import main; main()",
                str(file_seconds),
                str(self._descriptor),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=None,
                pass_fds=(self._descriptor,),
            )
        finally:
            os.close(self._descriptor)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._transport.get_pid() if self._transport is not None else -1

    @property
    def returncode(self) -> int | None:
        """How it ended: an exit status, or a signal's number below zero; None while it lives."""
        return self._transport.get_returncode() if self._transport is not None else None

    def ask(self, frame: bytes) -> asyncio.Future[bytes]:
        """Send a job and return the answer's frame to come, which is a ConnectionError where the process ends."""
        self._answer = asyncio.get_running_loop().create_future()
        self.progress.note(None)
        if self.says_no_more or self._transport is None:
            self._hang_up()
        else:
            stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(_STDIN))
            with suppress(OSError, RuntimeError):  # it has just ended: that is seen where its output ends
                stdin.write(frame)
        return self._answer

    def kill(self) -> None:
        """End it at once."""
        if self._transport is not None:
            with suppress(ProcessLookupError):
                self._transport.kill()

    # --- what the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the process."""
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take a piece of what it says: once that it is ready, then an answer to each question."""
        del fd
        self._received += data
        if not self.ready.is_set():
            del self._received[: len(READY)]
            self.ready.set()
        if len(self._received) < HEADER_BYTES:
            return
        size = frame_bytes(self._received)
        if size > MOST_FRAME_BYTES:
            self._received.clear()
            self._hang_up()
            self.kill()
        elif len(self._received) >= size:
            frame = bytes(self._received)
            self._received.clear()
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(frame)

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
