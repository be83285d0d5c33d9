import asyncio

import pytest

from jwks_server.core.tenant import TenantName
from jwks_server.readers.queue import JobQueue, Waiting
from jwks_server.readers.shares import GREEDY, Shares
from jwks_server.reading.jobs import ListingJob, LoadJob, Urgency

URGENT, ROUTINE = Urgency.URGENT, Urgency.ROUTINE


@pytest.fixture
def shares() -> Shares:
    """Let two tenants be greedy, the second more than the first, and one have had a little."""
    made = Shares()
    made.charge(TenantName("greedy1"), GREEDY * 2, 0.0)
    made.charge(TenantName("greedy2"), GREEDY * 3, 0.0)
    made.charge(TenantName("little"), GREEDY / 2, 0.0)
    return made


def push(queue: JobQueue, tenant: str, urgency: Urgency) -> LoadJob:
    job = LoadJob(TenantName(tenant))
    queue.push(queue.entry(job, 0.0), urgency)
    return job


def taken(queue: JobQueue) -> list[str]:
    """Return the tenants in the order in which a single process would read them."""
    order: list[str] = []
    while (waiting := queue.pop()) is not None:
        assert isinstance(waiting.job, LoadJob)
        order.append(waiting.job.tenant)
        queue.begin(waiting)
        waiting.turn.cancel()
        queue.drop(waiting)
        queue.end(waiting)
    return order


async def test_the_urgent_go_first_then_who_had_less_and_the_greedy_last(shares: Shares) -> None:
    """Whatever the urgency of the greedy: neither a routine job nor another greedy one waits for them for ever."""
    queue = JobQueue(2, shares)
    for tenant, urgency in (
        ("greedy2", URGENT), ("routine", ROUTINE), ("little", URGENT), ("greedy1", ROUTINE), ("urgent", URGENT),
    ):  # fmt: skip
        push(queue, tenant, urgency)
    assert taken(queue) == ["urgent", "little", "routine", "greedy1", "greedy2"]


async def test_one_process_is_left_to_those_that_are_not_greedy(shares: Shares) -> None:
    """While a greedy one is at work, others are passed over; when it is done, the next may begin."""
    queue = JobQueue(2, shares)
    first = queue.entry(LoadJob(TenantName("greedy1")), 0.0)
    assert queue.may_begin(first)
    queue.begin(first)
    push(queue, "greedy2", URGENT)
    assert queue.pop() is None
    push(queue, "anybody", ROUTINE)
    assert [waiting.job for waiting in (queue.pop(),) if waiting] == [LoadJob(TenantName("anybody"))]
    assert queue.pop() is None
    queue.end(first)
    second = queue.pop()
    assert second is not None
    assert second.job == LoadJob(TenantName("greedy2"))


async def test_a_single_process_serves_the_greedy_too(shares: Shares) -> None:
    """There is nobody else to leave it to."""
    queue = JobQueue(1, shares)
    push(queue, "greedy1", URGENT)
    assert queue.pop() is not None


async def test_a_promoted_job_is_urgent_and_taken_once(shares: Shares) -> None:
    """Its old place is passed over; what does not wait cannot be promoted."""
    queue = JobQueue(2, shares)
    jobs = [push(queue, tenant, ROUTINE) for tenant in ("r1", "r2", "r3")]
    assert queue.promote(jobs[2])
    assert taken(queue) == ["r3", "r1", "r2"]
    assert not queue.promote(jobs[0])
    assert not queue.promote(LoadJob(TenantName("nobody")))


async def test_a_job_that_was_given_up_is_passed_over(shares: Shares) -> None:
    """Nobody waits for its turn."""
    queue = JobQueue(2, shares)
    given_up = queue.entry(ListingJob(), 0.0)
    queue.push(given_up, URGENT)
    given_up.turn.cancel()
    queue.drop(given_up)
    push(queue, "a", ROUTINE)
    assert taken(queue) == ["a"]


def test_a_place_needs_a_loop_only_for_its_turn() -> None:
    """The order of things is plain data."""

    async def make() -> Waiting:
        return JobQueue(2, Shares()).entry(ListingJob(), 0.0)

    assert not asyncio.run(make()).greedy
