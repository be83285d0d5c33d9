"""The jobs that wait for a reader process, in the order in which they get one.

Urgent jobs go before routine ones, tenants that had little reading of late before those that had much. Jobs of greedy
tenants come after all others, whatever their urgency, the tenant first that had least; and they are passed over while
only one process is free of such jobs. So none of them waits for ever, and nobody waits for them.
"""

import asyncio
import heapq
import itertools

from jwks_server.readers.process import ReaderProcess
from jwks_server.readers.shares import Shares
from jwks_server.reading.jobs import LoadJob, Urgency
from jwks_server.reading.wire import Job

_Place = tuple[bool, float, float, int, "Waiting"]


class Waiting:
    """One job that waits; `turn` is the future that gets a process."""

    __slots__ = ("greedy", "job", "turn", "used")

    def __init__(self, job: Job, turn: asyncio.Future[ReaderProcess], used: float, *, greedy: bool) -> None:
        self.job = job
        self.turn = turn
        self.used = used
        self.greedy = greedy


class JobQueue:
    """Jobs that wait. `count` is the number of reader processes."""

    def __init__(self, count: int, shares: Shares) -> None:
        self._most_greedy = max(1, count - 1)
        self._shares = shares
        self._heap: list[_Place] = []
        self._by_job: dict[int, Waiting] = {}
        self._order = itertools.count()
        self._greedy_at_work = 0

    def entry(self, job: Job, now: float) -> Waiting:
        """Return a job's place in the order of things, not yet in the queue."""
        used, greedy = 0.0, False
        if isinstance(job, LoadJob):
            used, greedy = self._shares.used(job.tenant, now), self._shares.is_greedy(job.tenant, now)
        return Waiting(job, asyncio.get_running_loop().create_future(), used, greedy=greedy)

    def may_begin(self, waiting: Waiting) -> bool:
        """Tell whether a free process may be given to this job."""
        return not waiting.greedy or self._greedy_at_work < self._most_greedy

    def begin(self, waiting: Waiting) -> None:
        """Take in that the job has a process."""
        self._greedy_at_work += waiting.greedy

    def end(self, waiting: Waiting) -> None:
        """Take in that the job has no process any more."""
        self._greedy_at_work -= waiting.greedy

    def push(self, waiting: Waiting, urgency: Urgency) -> None:
        """Let the job wait."""
        self._by_job[id(waiting.job)] = waiting
        heapq.heappush(self._heap, self._place(waiting, urgency))

    def drop(self, waiting: Waiting) -> None:
        """Let the job wait no longer, because it has a process or nobody wants it; its place is passed over."""
        self._by_job.pop(id(waiting.job), None)

    def promote(self, job: LoadJob) -> bool:
        """Let a job that still waits be urgent; False where it does not wait."""
        waiting = self._by_job.get(id(job))
        if waiting is None or waiting.turn.done():
            return False
        heapq.heappush(self._heap, self._place(waiting, Urgency.URGENT))
        return True

    def _place(self, waiting: Waiting, urgency: Urgency) -> _Place:
        ranks = (waiting.used, urgency) if waiting.greedy else (urgency, waiting.used)
        return waiting.greedy, *ranks, next(self._order), waiting

    def pop(self) -> Waiting | None:
        """Return the next job that a free process may be given to, or None where none may."""
        passed_over: list[_Place] = []
        found = None
        while self._heap and found is None:
            place = heapq.heappop(self._heap)
            if place[4].turn.done():
                continue
            if self.may_begin(place[4]):
                found = place[4]
            else:
                passed_over.append(place)
        for place in passed_over:
            heapq.heappush(self._heap, place)
        return found
