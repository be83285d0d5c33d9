import os
from pathlib import Path

import pytest
from support.inprocess import EVERY_TENTH, eventually, followed

from jwks_server.core.errors import ReaderError
from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.readers.handing import PasswordHanding
from jwks_server.readers.pool import ReaderPool
from jwks_server.reading.jobs import ListingJob, LoadJob
from jwks_server.reading.passwords import NOTHING, Outside, PasswordSources
from jwks_server.reading.source import Source

FIXTURES = Path(__file__).parent.parent / "fixtures"
TIMING = Timing(first_comparison=0.1, comparison=EVERY_TENTH)


async def test_a_password_outside_the_tree_that_changes_is_tried_without_any_event_in_the_tree(
    keystores: Path, tmp_path: Path
) -> None:
    """The server reads it and marks it for each comparison; no reader process knows where it lies."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name in ("a.com", "b.com"):
        (keystores / name).mkdir()
        (keystores / name / "k.p12").write_bytes((FIXTURES / "openssl.p12").read_bytes())
    (credentials / "b.com.password").write_text("changeit")
    (credentials / "keystore.password").write_text("wrong")
    sources = PasswordSources(str(credentials), str(credentials / "keystore.password"))
    pool = ReaderPool(Source(str(keystores), sources), 2, TIMING)
    await pool.start()
    try:
        async with followed(keystores, readers=pool, timing=TIMING) as world:
            assert "wrong password" in world.faults("a.com")["k.p12"]
            assert not world.faults("b.com")
            (credentials / "a.com.password").write_text("changeit")
            await eventually(lambda: world.kids("a.com"))
            assert not world.faults("a.com")
    finally:
        await pool.close()


async def test_passwords_are_read_for_loads_alone_and_never_for_longer_than_a_file_may_take(tmp_path: Path) -> None:
    """A disk that hangs fails the job, and nobody's event loop."""

    class Hanging(PasswordSources):
        def outside(self, tenant: TenantName) -> Outside:
            del tenant
            with (tmp_path / "pipe").open():
                return Outside()

    os.mkfifo(tmp_path / "pipe")
    handing = PasswordHanding(Hanging(str(tmp_path)), 0.1)
    assert await handing.for_job(ListingJob()) == NOTHING
    with pytest.raises(ReaderError, match=r"reading its password took more than 0\.1 seconds"):
        await handing.for_job(LoadJob(TenantName("a.com")))
    (tmp_path / "pipe").open("w").close()
    handing.close()
