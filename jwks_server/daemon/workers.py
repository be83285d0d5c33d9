"""Worker processes for reading files, replaced when they die or hang.

A spinning parser, a huge pile of keystores or a crash in a library costs a worker its life, a file its turn and
nobody else anything: the serving process waits for an answer, never for the interpreter.
"""

import asyncio
import heapq
import itertools
import logging
import pickle
import signal
import sys
from collections import deque
from contextlib import suppress
from typing import overload

from jwks_server.core.errors import LoaderError
from jwks_server.daemon.loader import Loaded, LoadJob, Survey, SurveyJob
from jwks_server.daemon.logs import fields
from jwks_server.daemon.worker import FILE_SECONDS, HEADER_BYTES, READY, Failed, Reading, frame_length, framed

URGENT, ROUTINE = 0, 1

_GRACE_SECONDS = 2.0
_SURVEY_SECONDS = 60.0
_RESPAWN_SECONDS = 1.0
_START_SECONDS = 60.0

_log = logging.getLogger(__name__)


class ReaderDiedError(LoaderError):
    """A worker died or hung; `reading` is what it was reading, where it was reading a file."""

    def __init__(self, text: str, reading: Reading | None) -> None:
        super().__init__(text)
        self.reading = reading


class Workers:
    """A fixed number of reader processes, and the jobs that wait for one, the urgent first."""

    def __init__(self, count: int, *, file_seconds: float = FILE_SECONDS) -> None:
        self._count = count
        self._file_seconds = file_seconds
        self._processes: set[asyncio.subprocess.Process] = set()
        self._idle: deque[asyncio.subprocess.Process] = deque()
        self._waiting: list[tuple[int, int, asyncio.Future[asyncio.subprocess.Process]]] = []
        self._waiting_jobs: dict[int, asyncio.Future[asyncio.subprocess.Process]] = {}
        self._turn = itertools.count()
        self._watched: set[asyncio.Task[None]] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._closed = False
        self.lost = 0

    async def start(self) -> None:
        """Start all workers; raise LoaderError where not even one process can be made."""
        try:
            await asyncio.gather(*(self._spawn() for _ in range(self._count)))
        except OSError as error:
            raise LoaderError(f"cannot start a reader process: {error.strerror}") from error

    async def close(self) -> None:
        """End all workers, whatever they are doing."""
        self._closed = True
        await asyncio.gather(*self._starting)  # a start that is cancelled halfway leaves its process and its pipes
        for task in tuple(self._watched):
            task.cancel()
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*(process.wait() for process in self._processes))

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the workers that live."""
        return tuple(process.pid for process in self._processes)

    @property
    def idle(self) -> int:
        """How many workers are ready and have nothing to do."""
        return len(self._idle)

    @overload
    async def run(self, job: LoadJob, urgency: int) -> Loaded: ...
    @overload
    async def run(self, job: SurveyJob, urgency: int) -> Survey: ...
    async def run(self, job: LoadJob | SurveyJob, urgency: int) -> Loaded | Survey:
        """Return the job's result; raise what it raised, or ReaderDiedError where its worker did not survive it."""
        worker = await self._acquire(job, urgency)
        healthy = False
        try:
            answer = await self._ask(worker, job)
            healthy = True
        finally:
            if healthy:
                self._release(worker)
            else:
                self._replace(worker)
        if isinstance(answer, Failed):
            raise answer.error
        return answer

    async def _ask(self, worker: asyncio.subprocess.Process, job: LoadJob | SurveyJob) -> Loaded | Survey | Failed:
        assert worker.stdin is not None  # noqa: S101 - made with pipes
        assert worker.stdout is not None  # noqa: S101
        patience = _SURVEY_SECONDS if isinstance(job, SurveyJob) else self._file_seconds + _GRACE_SECONDS
        reading = None
        try:
            worker.stdin.write(framed(job))
            while True:
                async with asyncio.timeout(patience):
                    header = await worker.stdout.readexactly(HEADER_BYTES)
                    message = pickle.loads(  # noqa: S301 - our own worker wrote it
                        await worker.stdout.readexactly(frame_length(header))
                    )
                if not isinstance(message, Reading):
                    answer: Loaded | Survey | Failed = message
                    return answer
                reading = message
        except TimeoutError:
            raise ReaderDiedError(self._too_slow, reading) from None
        except (asyncio.IncompleteReadError, OSError, RuntimeError):  # RuntimeError: uvloop's for a closed pipe
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_SECONDS):
                    await worker.wait()
            raise ReaderDiedError(self._how_it_died(worker.returncode), reading) from None

    def hurry(self, job: LoadJob) -> bool:
        """Move a job before the routine ones and return True, or False where it does not wait any more."""
        future = self._waiting_jobs.get(id(job))
        if future is None or future.done():
            return False
        heapq.heappush(self._waiting, (URGENT, next(self._turn), future))  # its old place is passed over
        return True

    async def _acquire(self, job: LoadJob | SurveyJob, urgency: int) -> asyncio.subprocess.Process:
        if self._idle:
            return self._idle.pop()
        future: asyncio.Future[asyncio.subprocess.Process] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (urgency, next(self._turn), future))
        self._waiting_jobs[id(job)] = future
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._release(future.result())
            raise
        finally:
            del self._waiting_jobs[id(job)]

    def _release(self, worker: asyncio.subprocess.Process) -> None:
        while self._waiting:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(worker)
                return
        self._idle.append(worker)

    def _replace(self, worker: asyncio.subprocess.Process) -> None:
        self._processes.discard(worker)
        self.lost += not self._closed
        with suppress(ProcessLookupError):
            worker.kill()
        if not self._closed:
            task = asyncio.ensure_future(self._respawn())
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _respawn(self) -> None:
        while not self._closed:
            try:
                await self._spawn()
            except OSError as error:
                _log.error("cannot start a reader process", extra=fields(reason=error.strerror))
                await asyncio.sleep(_RESPAWN_SECONDS)
            else:
                return

    async def _spawn(self) -> None:
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a module in the folder that the server was started in is none of ours
            "-c",
            "from jwks_server.daemon.worker import main; main()",
            str(self._file_seconds),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._processes.add(worker)
        for task in (asyncio.ensure_future(self._greet(worker)), asyncio.ensure_future(self._mourn(worker))):
            self._watched.add(task)
            task.add_done_callback(self._watched.discard)

    async def _greet(self, worker: asyncio.subprocess.Process) -> None:
        """Give jobs to a worker that is ready; one that does not get there is replaced, after a pause."""
        assert worker.stdout is not None  # noqa: S101 - made with pipes
        try:
            async with asyncio.timeout(_START_SECONDS):
                await worker.stdout.readexactly(len(READY))
        except (TimeoutError, asyncio.IncompleteReadError, OSError, RuntimeError):
            _log.error("a reader process did not start", extra=fields(pid=worker.pid))
            await asyncio.sleep(_RESPAWN_SECONDS)
            self._replace(worker)
        else:
            self._release(worker)

    async def _mourn(self, worker: asyncio.subprocess.Process) -> None:
        """Replace a worker that dies while it has nothing to do; one that dies at work is missed by its job."""
        await worker.wait()
        if worker in self._idle:
            self._idle.remove(worker)
            self._replace(worker)

    def _how_it_died(self, returncode: int | None) -> str:
        if returncode == -signal.SIGALRM:  # the worker's own limit
            return self._too_slow
        return f"its reader died (exit status {returncode})"

    @property
    def _too_slow(self) -> str:
        return f"reading it took more than {self._file_seconds:g} seconds"
