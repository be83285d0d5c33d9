"""Worker processes for reading files, replaced when they die or hang.

A spinning parser, a huge pile of keystores or a crash in a library costs a worker its life, a file its turn and
nobody else anything: the serving process waits for an answer, never for the interpreter.
"""

import asyncio
import heapq
import itertools
import logging
import signal
from collections import deque
from contextlib import suppress
from typing import overload

from jwks_server.core.errors import LoaderError
from jwks_server.host.logs import fields
from jwks_server.readers.process import ReaderProcess
from jwks_server.reading.child import FILE_SECONDS, Job
from jwks_server.reading.load import Loaded, LoadJob
from jwks_server.reading.place import Reading
from jwks_server.reading.survey import ListingJob, Survey, SurveyJob
from jwks_server.reading.tree import Listing
from jwks_server.reading.wire import Answer, Bug, Failed, GarbledError, answer_in, framed

URGENT, ROUTINE = 0, 1

_GRACE_SECONDS = 2.0
_LOOKS = 4
_LISTING_SECONDS = 60.0
_RESPAWN_SECONDS = 1.0
_START_SECONDS = 60.0

_log = logging.getLogger(__name__)


class ReaderDiedError(LoaderError):
    """A worker died, or `hung` for too long; `reading` is what it was reading, where it was reading a file."""

    def __init__(self, text: str, reading: Reading | None, *, hung: bool = False) -> None:
        super().__init__(text)
        self.reading = reading
        self.hung = hung


class ReaderBugError(Exception):
    """A worker met a failure that nobody thought of; the text is its traceback."""


class Workers:
    """A fixed number of reader processes, and the jobs that wait for one, the urgent first."""

    def __init__(self, count: int, *, file_seconds: float = FILE_SECONDS) -> None:
        self._count = count
        self._file_seconds = file_seconds
        self._processes: set[ReaderProcess] = set()
        self._unburied: set[ReaderProcess] = set()
        self._idle: deque[ReaderProcess] = deque()
        self._waiting: list[tuple[int, int, asyncio.Future[ReaderProcess]]] = []
        self._waiting_jobs: dict[int, asyncio.Future[ReaderProcess]] = {}
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
        for process in self._unburied:
            process.kill()
        with suppress(TimeoutError):  # one that hangs in the kernel ends when that lets it go
            async with asyncio.timeout(_GRACE_SECONDS):
                await asyncio.gather(*(process.exited.wait() for process in self._unburied))

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
    @overload
    async def run(self, job: ListingJob, urgency: int) -> Listing: ...
    async def run(self, job: Job, urgency: int) -> Loaded | Survey | Listing:
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
        match answer:
            case Failed(error):
                raise error
            case Bug(traceback):
                raise ReaderBugError(traceback)
            case _:
                return answer

    async def _ask(self, worker: ReaderProcess, job: Job) -> Answer:
        answer = worker.ask(framed(job))
        patience = _LISTING_SECONDS if isinstance(job, ListingJob) else self._file_seconds + _GRACE_SECONDS
        steps, looks = worker.progress.steps, 0
        while not (await asyncio.wait((answer,), timeout=patience / _LOOKS))[0]:
            looks = looks + 1 if steps == worker.progress.steps else 0
            steps = worker.progress.steps
            if looks == _LOOKS:
                raise self._too_slow(worker)
        try:
            return answer_in(answer.result())
        except ConnectionError:
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_SECONDS):
                    await worker.exited.wait()
            if worker.returncode == -signal.SIGALRM:  # the worker's own limit
                raise self._too_slow(worker) from None
            raise ReaderDiedError(
                f"its reader died (exit status {worker.returncode})", worker.progress.reading
            ) from None
        except GarbledError as error:
            raise ReaderDiedError(str(error), worker.progress.reading) from error

    def hurry(self, job: LoadJob) -> bool:
        """Move a job before the routine ones and return True, or False where it does not wait any more."""
        future = self._waiting_jobs.get(id(job))
        if future is None or future.done():
            return False
        heapq.heappush(self._waiting, (URGENT, next(self._turn), future))  # its old place is passed over
        return True

    async def _acquire(self, job: Job, urgency: int) -> ReaderProcess:
        if self._idle:
            return self._idle.pop()
        future: asyncio.Future[ReaderProcess] = asyncio.get_running_loop().create_future()
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

    def _release(self, worker: ReaderProcess) -> None:
        while self._waiting:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(worker)
                return
        self._idle.append(worker)

    def _replace(self, worker: ReaderProcess) -> None:
        self._processes.discard(worker)
        self.lost += not self._closed
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
        worker = ReaderProcess()
        await worker.start(self._file_seconds)
        self._processes.add(worker)
        self._unburied.add(worker)
        for task in (asyncio.ensure_future(self._greet(worker)), asyncio.ensure_future(self._mourn(worker))):
            self._watched.add(task)
            task.add_done_callback(self._watched.discard)

    async def _greet(self, worker: ReaderProcess) -> None:
        """Give jobs to a worker that is ready; one that does not get there is replaced, after a pause."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                await worker.ready.wait()
        if worker.ready.is_set() and not worker.says_no_more:
            self._release(worker)
            return
        _log.error("a reader process did not start", extra=fields(pid=worker.pid))
        await asyncio.sleep(_RESPAWN_SECONDS)
        self._replace(worker)

    async def _mourn(self, worker: ReaderProcess) -> None:
        """Replace a worker that dies while it has nothing to do; one that dies at work is missed by its job."""
        await worker.exited.wait()
        self._unburied.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
            _log.warning("an idle reader process ended", extra=fields(pid=worker.pid, status=worker.returncode))
            self._replace(worker)

    def _too_slow(self, worker: ReaderProcess) -> ReaderDiedError:
        text = f"reading it took more than {self._file_seconds:g} seconds"
        return ReaderDiedError(text, worker.progress.reading, hung=True)
