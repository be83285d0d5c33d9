import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from cryptography import x509
from support.certificates import certificate, pem, private_key
from support.inprocess import World, eventually, followed
from support.publications import kids_of

from jwks_server.core.lifecycle import Moment
from jwks_server.core.policy import OutOfValidity, Policy
from jwks_server.core.publication import Publication
from jwks_server.core.sealed import unseal
from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.host import clock
from jwks_server.serving.http import PublicHandler

TENANT = TenantName("a.com")
OFTEN = Timing(health=0.05)
HIDE = Policy(not_yet_valid=OutOfValidity.HIDE, expired=OutOfValidity.HIDE, max_age=3600)


class Clock:
    """Both clocks, each as far ahead of the real one as a test wants."""

    def __init__(self) -> None:
        self.wall_ahead = 0.0
        self.steady_ahead = 0.0

    def now(self) -> Moment:
        """Stand in for `clock.now`."""
        return Moment(datetime.now(UTC) + timedelta(seconds=self.wall_ahead), time.monotonic() + self.steady_ahead)

    def wall_offset(self) -> float:
        """Stand in for `clock.wall_offset`."""
        return time.time() + self.wall_ahead - time.monotonic()


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put clocks that a test may move in the place of the real ones; readers are threads of this process."""
    made = Clock()
    monkeypatch.setattr(clock, "now", made.now)
    monkeypatch.setattr(clock, "wall_offset", made.wall_offset)
    return made


def valid(begins: float, ends: float) -> x509.Certificate:
    """Return a certificate valid so many seconds from now."""
    second = datetime.now(UTC).replace(microsecond=0)
    begin, end = (second + timedelta(seconds=seconds) for seconds in (begins, ends))
    return certificate(private_key("P-256", 1), not_before=begin, not_after=end)


def missing_policy(publication: Publication) -> bool:
    """Tell whether the tenant is seen to be without its policy, or without its folder."""
    return unseal(publication.sealed).policy.missing_since is not None or not publication.present


def put(keystores: Path, item: x509.Certificate) -> Path:
    folder = keystores / TENANT
    folder.mkdir(exist_ok=True)
    (folder / "k.pem").write_bytes(pem(item))
    return folder


async def max_age(world: World) -> int:
    handler = PublicHandler(
        super_tenant=TENANT,
        ready=world.store.get,
        first_load=world.turns.first_load,
        expects=lambda tenant: tenant in world.follower.unloaded,
        media_type="application/json",
    )
    answer = await handler(make_mocked_request("GET", f"/t/{TENANT}/oauth2/jwks"))
    assert isinstance(answer, web.Response)
    match = re.fullmatch(r"public, max-age=(\d+), stale-if-error=3600", answer.headers["Cache-Control"])
    assert match
    return int(match[1])


async def test_a_certificate_appears_and_disappears_on_time_without_any_event(keystores: Path, clocks: Clock) -> None:
    """With both ends hidden; no file is touched and no clock jumps."""
    del clocks
    put(keystores, valid(3, 5))
    seen = []
    async with followed(keystores, HIDE, timing=OFTEN) as world:
        assert world.kids(TENANT) == set()
        await eventually(lambda: world.kids(TENANT) != set(), "the key to appear")
        seen.append(datetime.now(UTC))
        await eventually(lambda: world.kids(TENANT) == set(), "the key to go")
        seen.append(datetime.now(UTC))
        assert world.follower.missed == 0
    item = x509.load_pem_x509_certificate((keystores / TENANT / "k.pem").read_bytes())
    assert item.not_valid_before_utc <= seen[0]
    assert item.not_valid_after_utc < seen[1]


async def test_max_age_ends_with_the_next_change_by_itself(keystores: Path, clocks: Clock) -> None:
    """By validity on the wall clock and by a grace on the steady one; else it is the policy's."""
    folder = put(keystores, valid(-100, 1000))
    async with followed(keystores, HIDE, timing=OFTEN) as world:
        assert 900 < await max_age(world) <= 1000
        clocks.wall_ahead = 700
        assert 200 < await max_age(world) <= 300
    clocks.wall_ahead = 0
    async with followed(keystores, Policy(max_age=3600, removal_grace=600), timing=OFTEN) as world:
        assert await max_age(world) == 3600
        (folder / "k.pem").unlink()
        await eventually(lambda: any(publication.owed for publication in world.store))
        assert 500 < await max_age(world) <= 600
        clocks.steady_ahead = 400
        assert 100 < await max_age(world) <= 200


async def test_a_grace_ends_on_time_without_any_event(keystores: Path, clocks: Clock) -> None:
    """Not before, and the removed tenant goes with its last key."""
    folder = put(keystores, valid(-100, 1000))
    async with followed(keystores, Policy(removal_grace=2), timing=OFTEN) as world:
        await world.settled()
        (folder / "k.pem").unlink()
        folder.rmdir()
        await eventually(lambda: any(publication.owed for publication in world.store))
        snapshot = world.store.get(TENANT)
        assert snapshot is not None
        due = snapshot.next_change.steady
        assert due is not None
        await eventually(lambda: world.kids(TENANT) is None)
        assert clocks.now().steady >= due


@pytest.mark.parametrize("seconds", [-40_000_000, 40_000_000])
async def test_a_jump_of_the_wall_clock_cuts_no_grace_short(
    keystores: Path, clocks: Clock, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Forwards or backwards by more than a year: the jump is noticed, the deadline stays."""
    folder = put(keystores, valid(-100, 1000))
    async with followed(keystores, Policy(removal_grace=600), timing=OFTEN) as world:
        await world.settled()
        (folder / "k.pem").unlink()
        await eventually(lambda: any(publication.owed for publication in world.store))
        await world.settled()
        before = world.store.get(TENANT)
        clocks.wall_ahead = seconds
        await eventually(lambda: "the wall clock jumped" in caplog.text)
        await eventually(lambda: world.store.get(TENANT) is not before, "the tenant to be built again")
        after = world.store.get(TENANT)
        assert before is not None
        assert after is not None
        assert kids_of(after) == kids_of(before)
        assert [owed.until for owed in unseal(after.sealed).owed] == [owed.until for owed in unseal(before.sealed).owed]
        clocks.steady_ahead = 601
        world.turns.hint(TENANT)
        await eventually(lambda: world.kids(TENANT) == set())


async def test_validity_is_looked_at_again_when_the_wall_clock_jumps(keystores: Path, clocks: Clock) -> None:
    """Forwards into the validity and beyond, and back again, long before any timer is due."""
    put(keystores, valid(5000, 9000))
    async with followed(keystores, HIDE, timing=OFTEN) as world:
        await world.settled()
        for ahead, is_published in (
            (6000, True),
            (10_000, False),
            (6000, True),
            (0, False),
            (10_000, False),
            (0, False),
        ):
            before = world.store.get(TENANT)
            clocks.wall_ahead = ahead
            await eventually(lambda: world.store.get(TENANT) is not before)  # noqa: B023 - used at once
            await eventually(lambda: bool(world.kids(TENANT)) is is_published)  # noqa: B023 - used at once


async def test_a_jump_back_shows_again_that_a_certificate_is_not_expired(keystores: Path, clocks: Clock) -> None:
    """What is only warned of follows the clock too."""
    put(keystores, valid(-100, 1000))
    async with followed(keystores, Policy(), timing=OFTEN) as world:
        await world.settled()

        def warned() -> bool:
            return any("expired on" in problem.text for snapshot in world.store for problem in snapshot.problems)

        assert not warned()
        clocks.wall_ahead = 2000
        await eventually(warned)
        clocks.wall_ahead = 0
        await eventually(lambda: not warned())


async def test_an_owed_tenant_that_went_file_by_file_is_not_read_again_and_again(
    keystores: Path, clocks: Clock
) -> None:
    """Its policy was missing when its folder was: nothing is due before the grace ends."""
    del clocks
    folder = put(keystores, valid(-100, 1000))
    (folder / "tenant.toml").write_text("removal_grace = 600")
    async with followed(keystores, timing=OFTEN) as world:
        await world.settled()
        (folder / "tenant.toml").unlink()
        (folder / "k.pem").unlink()
        await eventually(lambda: any(missing_policy(publication) for publication in world.store))
        folder.rmdir()
        await eventually(lambda: not any(publication.present for publication in world.store))
        await world.settled()
        loads = world.readers.loads[TENANT]
        surveys = world.readers.surveys
        await eventually(lambda: world.readers.surveys > surveys)
        assert world.readers.loads[TENANT] - loads <= 3
