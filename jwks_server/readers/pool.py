"""The reader processes and the jobs that wait for one; a process that crashes or hangs is replaced.

A parser that spins, a huge pile of keystores or a crash in a library costs a process, a file its turn and nobody else
anything: the serving process waits for an answer, never for the interpreter.
"""

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from typing import overload

from jwks_server.core.errors import ReaderError, RootUnavailableError
from jwks_server.core.timing import Timing
from jwks_server.host.logs import fields
from jwks_server.readers.handing import PasswordHanding
from jwks_server.readers.process import CHILD_MODULE, ReaderProcess
from jwks_server.readers.queue import JobQueue, Waiting
from jwks_server.readers.shares import Shares
from jwks_server.readers.walls import Walls
from jwks_server.reading.frames import GarbledError
from jwks_server.reading.jobs import (
    Listing,
    ListingJob,
    Loaded,
    LoadJob,
    ReaderCrashedError,
    Survey,
    SurveyJob,
    Urgency,
)
from jwks_server.reading.passwords import PasswordSources
from jwks_server.reading.source import Source
from jwks_server.reading.wire import Answer, Job, decode_answer, encode_setup

LOADS_PER_PROCESS = 10_000
"""A process that fell to a key file without a sign reads no more tenants than these."""

INLINE_BYTES = 65_536
"""Longer answers are looked at in a thread, so that none holds up the event loop."""

_log = logging.getLogger(__name__)


class ReaderPool:
    """A fixed number of reader processes, and the jobs that wait for one, in the order of `queue`.

    `lost` counts the processes that crashed or were ended, `retired` those that had done enough.
    """

    def __init__(
        self,
        source: Source,
        count: int,
        timing: Timing | None = None,
        *,
        module: str = CHILD_MODULE,
        loads_per_process: int = LOADS_PER_PROCESS,
    ) -> None:
        self.lost = 0
        self.retired = 0
        self._timing = timing or Timing()
        passwords = source.passwords if isinstance(source.passwords, PasswordSources) else PasswordSources()
        self._handing = PasswordHanding(passwords, self._timing.file)
        self._setup = encode_setup(source, self._timing.file)
        self._count = count
        self._module = module
        self._loads_per_process = loads_per_process
        self._processes: set[ReaderProcess] = set()
        self._unburied: set[ReaderProcess] = set()
        self._idle: deque[ReaderProcess] = deque()
        self._shares = Shares()
        self._queue = JobQueue(count, self._shares)
        self._watched: set[asyncio.Task[None]] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._retiring: set[ReaderProcess] = set()
        self._walls = Walls(source.root)
        self._closed = False

    async def start(self) -> None:
        """Start all processes; raise ReaderError where one cannot be made."""
        try:
            await asyncio.gather(*(self._spawn() for _ in range(self._count)))
        except OSError as error:
            raise ReaderError(f"cannot start a reader process: {error.strerror}") from error

    async def close(self) -> None:
        """End all processes, whatever they are doing."""
        self._closed = True
        self._handing.close()
        await asyncio.gather(*self._starting)  # a start that is cancelled halfway leaves its process and its pipes
        for task in tuple(self._watched):
            task.cancel()
        for process in self._unburied:
            process.kill()
        with suppress(TimeoutError):  # one that hangs in the kernel ends when that lets it go
            async with asyncio.timeout(self._timing.reader_grace):
                await asyncio.gather(*(process.exited.wait() for process in self._unburied))

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the processes that live and take jobs, or will."""
        return tuple(process.pid for process in self._processes)

    @property
    def idle(self) -> int:
        """How many processes are ready and have nothing to do."""
        return len(self._idle)

    @overload
    async def run(self, job: LoadJob, urgency: Urgency) -> Loaded: ...
    @overload
    async def run(self, job: SurveyJob, urgency: Urgency) -> Survey: ...
    @overload
    async def run(self, job: ListingJob, urgency: Urgency) -> Listing: ...
    async def run(self, job: Job, urgency: Urgency) -> Answer:
        """Return the job's answer; raise what it raised, or ReaderCrashedError where its process did not survive it.

        An answer that is none costs the process its life, for it may have fallen to what it read.
        """
        waiting = self._queue.entry(job, time.monotonic())
        process = await self._acquire(waiting, urgency)
        process.loads += isinstance(job, LoadJob)
        started, used, is_sound = time.monotonic(), process.processor_seconds(), True
        try:
            passwords = await self._handing.for_job(job)
            is_sound = False
            frame = await process.frame_for(job, passwords, self._timing)
            decoding = asyncio.to_thread(decode_answer, frame, job) if len(frame) > INLINE_BYTES else None
            try:
                answer = await decoding if decoding is not None else decode_answer(frame, job)
            except GarbledError as error:
                text = f"its reader's answer is garbage: {error}"
                raise ReaderCrashedError(text, process.cell.place) from error
            except Exception as error:
                is_sound = True  # it said that the job failed
                if isinstance(error, RootUnavailableError) and await self._walls.shut_out():
                    process.loads = self._loads_per_process  # it retires
                raise
            is_sound = True
            return answer
        finally:
            self._queue.end(waiting)
            if isinstance(job, LoadJob):
                now = time.monotonic()
                # A process that hung or crashed cost others its whole time.
                cost = process.processor_seconds() - used if is_sound else now - started
                self._shares.charge(job.tenant, max(0.0, cost), now)
            if is_sound:
                self._release(process)
            else:
                self._replace(process)
                self._dispatch()

    def promote(self, job: LoadJob) -> bool:
        """Move a job that still waits before the routine ones; False where it is being done already."""
        return self._queue.promote(job)

    async def _acquire(self, waiting: Waiting, urgency: Urgency) -> ReaderProcess:
        if self._idle and self._queue.may_begin(waiting):
            self._queue.begin(waiting)
            return self._idle.pop()
        self._queue.push(waiting, urgency)
        try:
            return await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.done() and not waiting.turn.cancelled():
                self._queue.end(waiting)
                self._release(waiting.turn.result())
            raise
        finally:
            self._queue.drop(waiting)

    def _release(self, process: ReaderProcess) -> None:
        """Give a process that has nothing to do its next job, or its leave where its successor is ready."""
        if process not in self._processes:
            process.dismiss()
            return
        if process.loads >= self._loads_per_process and process not in self._retiring:
            self._retiring.add(process)
            self._respawn()
        self._idle.append(process)
        self._dispatch()

    def _dispatch(self) -> None:
        """Give processes that have nothing to do to the jobs that may begin."""
        while self._idle and (waiting := self._queue.pop()) is not None:
            self._queue.begin(waiting)
            waiting.turn.set_result(self._idle.pop())

    # --- the life of a process

    async def _spawn(self) -> None:
        process = ReaderProcess()
        await process.start(self._setup, self._module)
        self._processes.add(process)
        self._unburied.add(process)
        for task in (asyncio.ensure_future(self._greet(process)), asyncio.ensure_future(self._bury(process))):
            self._watched.add(task)
            task.add_done_callback(self._watched.discard)

    async def _greet(self, process: ReaderProcess) -> None:
        """Give jobs to a process that is ready; one that does not get there is replaced, after a pause."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.reader_start):
                await process.ready.wait()
        if process.ready.is_set() and not process.says_no_more:
            self._walls.say(process.missing)
            self._release(process)
            self._retire_one()
            return
        _log.error("a reader process did not start", extra=fields(pid=process.pid))
        await asyncio.sleep(self._timing.reader_restart)
        self._replace(process)

    async def _bury(self, process: ReaderProcess) -> None:
        """Replace a process that crashes while it has nothing to do; one that crashes during a job fails that job."""
        await process.exited.wait()
        self._unburied.discard(process)
        if process in self._idle:
            self._idle.remove(process)
            _log.warning("an idle reader process crashed", extra=fields(pid=process.pid, status=process.returncode))
            self._replace(process)

    def _retire_one(self) -> None:
        """Let a process go that has done enough, where there are enough without it that are ready."""
        ready = sum(process.ready.is_set() and not process.says_no_more for process in self._processes)
        if self._retiring and ready > self._count:
            process = self._retiring.pop()
            self._processes.discard(process)
            self.retired += 1
            if process in self._idle:
                self._idle.remove(process)
                process.dismiss()

    def _replace(self, process: ReaderProcess) -> None:
        """End a process and start another; where that retires, another is starting already."""
        self.lost += not self._closed
        is_retiring = process in self._retiring or process not in self._processes
        self._processes.discard(process)
        self._retiring.discard(process)
        process.kill()
        if not is_retiring:
            self._respawn()

    def _respawn(self) -> None:
        if not self._closed:
            task = asyncio.ensure_future(self._spawn_at_last())
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _spawn_at_last(self) -> None:
        while not self._closed:
            try:
                await self._spawn()
            except OSError as error:
                _log.error("cannot start a reader process", extra=fields(reason=error.strerror))
                await asyncio.sleep(self._timing.reader_restart)
            else:
                return
