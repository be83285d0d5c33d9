import asyncio
import errno
import http.client
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import pytest
from cryptography import x509
from support.certificates import certificate, der, pem, private_key, replace_file
from support.inprocess import eventually
from support.server import Answer, Server, wait_until

from jwks_server.core.build import build, read_key_file
from jwks_server.core.kid import hexified
from jwks_server.core.lifecycle import KeyFile, Owed
from jwks_server.core.policy import Policy
from jwks_server.core.publication import Publication, publication_of
from jwks_server.core.remembered import from_text, record_of
from jwks_server.core.sealed import seal
from jwks_server.core.snapshot import Folder
from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.host import clock
from jwks_server.state import directory, files
from jwks_server.state.directory import StateDirectory

TENANT = "foo.com"
GRACE = ("--removal-grace", "1h")


def kid(item: x509.Certificate) -> str:
    return f"{hexified(sha256(der(item)).digest())}_ES256"


CERTIFICATES = [certificate(private_key("P-256", number), str(number)) for number in range(4)]
A, B = CERTIFICATES[:2]
KID_A, KID_B = kid(A), kid(B)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Name a state directory that the server makes."""
    return tmp_path / "state"


@pytest.fixture
def folder(keystores: Path) -> Path:
    """Make a tenant's folder with the certificates A and B."""
    made = keystores / TENANT
    made.mkdir()
    (made / "a.pem").write_bytes(pem(A))
    (made / "b.pem").write_bytes(pem(B))
    return made


def state_file(state: Path) -> Path:
    return state / "owed" / TENANT


def memory(state: Path) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(state_file(state).read_text())
    except FileNotFoundError:
        return {"keys": []}


def deadlines(state: Path) -> list[object]:
    return [key["until"] for key in memory(state)["keys"] if key["until"] is not None]


def kill(server: Server) -> None:
    server.process.kill()
    server.process.wait()


def admin(server: Server, path: str) -> Answer:
    ports = wait_until(lambda: re.findall(r"admin listening url=http://127.0.0.1:(\d+)", server.log))
    connection = http.client.HTTPConnection("127.0.0.1", int(ports[0]), timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Answer(response.status, {}, response.read())
    finally:
        connection.close()


def failing(server: Server) -> bool:
    return b"\njwks_server_state_failing 1.0\n" in admin(server, "/metrics").body


def revoke(keystores: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jwks_server", "revoke", str(keystores), TENANT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("where", ["flag", "config file", "tenant.toml"])
def test_a_removed_key_stays_over_a_restart(keystores: Path, folder: Path, state: Path, where: str) -> None:
    """Wherever the grace is stated, and however often the server is killed."""
    arguments = ["--state-dir", str(state)]
    match where:
        case "flag":
            arguments += GRACE
        case "config file":
            (keystores.parent / "config.toml").write_text(f'removal_grace = "1h"\nstate_dir = "{state}"\n')
            arguments = ["--config", str(keystores.parent / "config.toml")]
        case _:
            (folder / "tenant.toml").write_text('removal_grace = "1h"')
    with Server(keystores, *arguments) as server:
        server.wait_for_kids(TENANT, {KID_A, KID_B})
        (folder / "a.pem").unlink()
        wait_until(lambda: deadlines(state), "the removal to be remembered")
        (until,) = deadlines(state)
        kill(server)
    for _ in range(2):
        with Server(keystores, *arguments) as server:
            server.wait_for_kids(TENANT, {KID_A, KID_B})
            wait_until(lambda: "all tenants loaded" in server.log)
            kill(server)
    (later,) = deadlines(state)
    drift = datetime.fromisoformat(str(later)) - datetime.fromisoformat(str(until))
    assert abs(drift) < timedelta(seconds=1), "a restart neither lengthens nor shortens a grace"


def test_a_removal_while_the_server_is_down_is_still_owed(keystores: Path, folder: Path, state: Path) -> None:
    """For the whole grace from the start on."""
    with Server(keystores, "--state-dir", str(state), *GRACE) as server:
        server.wait_for_kids(TENANT, {KID_A, KID_B})
        wait_until(lambda: len(memory(state)["keys"]) == 2)
        kill(server)
    (folder / "a.pem").unlink()
    with Server(keystores, "--state-dir", str(state), *GRACE) as server:
        server.wait_for_kids(TENANT, {KID_A, KID_B})


def test_a_kill_at_any_point_loses_no_key_and_leaves_no_half_file(keystores: Path, state: Path) -> None:
    """A tenant is rotated as fast as its new keys appear; what was published is published after the restart."""
    folder = keystores / TENANT
    folder.mkdir()
    (folder / "k.pem").write_bytes(pem(A))
    chance, number, published = random.Random(7), 0, set[str]()
    torn: list[str] = []
    finished = threading.Event()

    def parse_forever() -> None:
        while not finished.is_set():
            try:
                memory(state)
            except ValueError as error:
                torn.append(str(error))
            time.sleep(0.002)

    reader = threading.Thread(target=parse_forever)
    reader.start()
    try:
        for _ in range(6):
            with Server(keystores, "--state-dir", str(state), *GRACE) as server:
                wait_until(lambda: server.kids(TENANT) is not None)
                assert published <= set(server.kids(TENANT) or ())
                killer = threading.Timer(chance.uniform(0.02, 0.2), server.process.kill)
                killer.start()
                try:
                    while True:
                        number += 1
                        item = certificate(private_key("P-256", number % 4), str(number))
                        replace_file(folder / "k.pem", pem(item))
                        wait_until(lambda: kid(item) in (server.kids(TENANT) or ()))  # noqa: B023 - used at once
                        published.add(kid(item))
                except (OSError, http.client.HTTPException):
                    killer.join()
                    server.process.wait()
    finally:
        finished.set()
        reader.join()
    with Server(keystores, "--state-dir", str(state), *GRACE) as server:
        wait_until(lambda: server.kids(TENANT) is not None)
        assert published <= set(server.kids(TENANT) or ())
        assert server.terminate() == 0  # a kill might meet it in a write
    assert len(published) > 4
    assert torn == []
    assert [path.name for path in (state / "owed").iterdir()] == [TENANT], "nothing unfinished is left"


@pytest.mark.parametrize(
    "text", [b"", b"\xff\x00", b'{"version": 1', b'{"version": 1, "policy": {}, "keys": [{"x5c": []}]}']
)
def test_a_corrupt_record_is_loud_set_aside_and_serves_on(
    keystores: Path, folder: Path, state: Path, text: bytes
) -> None:
    """It costs what only it knew, and the next one is written."""
    state_file(state).parent.mkdir(parents=True)
    state_file(state).write_bytes(text)
    (state / "owed" / ".new-abandoned").write_text("half")
    (state / "owed" / "No Tenant").write_text("what is this?")
    with Server(keystores, "--state-dir", str(state), *GRACE) as server:
        server.wait_for_kids(TENANT, {KID_A, KID_B})
        lines = [line for line in server.log.splitlines() if "record of removed keys not used" in line]
        assert len(lines) == 2
        assert any(f"file={state_file(state)}" in line for line in lines)
        assert (state / "owed" / f".damaged-{TENANT}").read_bytes() == text
        assert not (state / "owed" / ".new-abandoned").exists()
        wait_until(lambda: len(memory(state)["keys"]) == 2)
        assert (folder / "a.pem").exists()


def test_a_corrupt_record_is_handed_to_no_reading(state: Path) -> None:
    """It is set aside, and its tenant's first load knows nothing of it."""
    state_file(state).parent.mkdir(parents=True)
    state_file(state).write_bytes(b"damaged")
    assert not StateDirectory(state, Timing()).recall()


def put_file(state: Path) -> None:
    state.write_text("not a directory")


def put_loop(state: Path) -> None:
    state.symlink_to(state)


def put_nothing(state: Path) -> None:
    del state


@pytest.mark.parametrize("spoil", [put_file, put_loop, put_nothing])
def test_a_state_directory_that_goes_is_loud_and_made_good_when_it_can_be(
    keystores: Path, folder: Path, state: Path, spoil: Callable[[Path], None]
) -> None:
    """Serving and rotating go on; afterwards all tenants are remembered again, not only those that changed."""
    (keystores / "quiet.com").mkdir()
    (keystores / "quiet.com" / "k.pem").write_bytes(pem(A))
    with Server(keystores, "--state-dir", str(state), "--admin-port", "0", *GRACE) as server:
        wait_until(lambda: len(memory(state)["keys"]) == 2 and (state / "owed" / "quiet.com").exists())
        assert not failing(server)
        shutil.rmtree(state)
        spoil(state)
        replace_file(folder / "a.pem", pem(CERTIFICATES[2]))
        server.wait_for_kids(TENANT, {KID_A, KID_B, kid(CERTIFICATES[2])})
        wait_until(lambda: "ERROR removed keys are not remembered across a restart" in server.log)
        if spoil is not put_nothing:
            assert failing(server)
            ready = admin(server, "/readyz")
            assert (ready.status, ready.json()["status"]) == (200, "degraded")
            assert "state directory" in ready.json()["degraded"][0]
            assert server.kids("quiet.com") == [KID_A]
            state.unlink()
        wait_until(lambda: "state directory works again" in server.log)
        assert not failing(server)
        assert admin(server, "/readyz").json()["status"] == "ready"
        assert len(memory(state)["keys"]) == 3
        assert (state / "owed" / "quiet.com").exists()
        kill(server)
    with Server(keystores, "--state-dir", str(state), *GRACE) as server:
        server.wait_for_kids(TENANT, {KID_A, KID_B, kid(CERTIFICATES[2])})


def test_a_state_directory_that_cannot_be_used_at_the_start_is_loud_and_used_later(
    keystores: Path, folder: Path, state: Path
) -> None:
    """Also where no tenant has a grace yet, so that nothing waits to be written."""
    put_file(state)
    with Server(keystores, "--state-dir", str(state), "--admin-port", "0") as server:
        server.wait_for_kids(TENANT, {KID_A, KID_B})
        assert "ERROR removed keys are not remembered across a restart" in server.log
        assert failing(server)
        state.unlink()
        wait_until(lambda: not failing(server))
        (folder / "tenant.toml").write_text('removal_grace = "1h"')
        wait_until(lambda: len(memory(state)["keys"]) == 2)


def put_away(state: Path) -> Path:
    """Put a file in the place of a state directory; return where that is now."""
    away = state.rename(state.with_name("away"))
    put_file(state)
    return away


def put_back(away: Path, state: Path) -> None:
    """Put the directory back into its place."""
    state.unlink()
    away.rename(state)


def test_what_could_not_be_read_at_the_start_is_owed_when_it_can_be(keystores: Path, folder: Path, state: Path) -> None:
    """Keys and whole tenants that went before the start; one that came and went meanwhile is owed only once."""
    (keystores / "left.com").mkdir()
    (keystores / "left.com" / "k.pem").write_bytes(pem(A))
    with Server(keystores, "--state-dir", str(state), *GRACE) as server:
        wait_until(lambda: len(memory(state)["keys"]) == 2 and (state / "owed" / "left.com").exists())
        kill(server)
    shutil.rmtree(keystores / "left.com")
    (folder / "a.pem").unlink()
    away = put_away(state)
    (folder / "tenant.toml").write_text("removal_grace = 1\n")
    with Server(keystores, "--state-dir", str(state), "--admin-port", "0", *GRACE) as server:
        server.wait_for_kids(TENANT, {KID_B})
        (folder / "b.pem").rename(folder / ".b")  # owed for a second, then over, whatever the directory says of it
        wait_until(lambda: server.tenant(TENANT).status == 404, "the end of the grace")
        assert server.tenant("left.com").status == 404
        (folder / "tenant.toml").write_text('removal_grace = "1h"\n')
        (folder / "c.pem").write_bytes(pem(CERTIFICATES[2]))
        server.wait_for_kids(TENANT, {kid(CERTIFICATES[2])})
        put_back(away, state)
        server.wait_for_kids(TENANT, {KID_A, kid(CERTIFICATES[2])})
        server.wait_for_kids("left.com", {KID_A})
        wait_until(lambda: not failing(server))
        wait_until(lambda: len(memory(state)["keys"]) == 2)
        kill(server)
    with Server(keystores, "--state-dir", str(state), *GRACE) as server:
        server.wait_for_kids(TENANT, {KID_A, kid(CERTIFICATES[2])})
        server.wait_for_kids("left.com", {KID_A})


def test_a_full_state_directory_keeps_the_old_record_whole(keystores: Path, folder: Path, state: Path) -> None:
    """What does not fit is loud, leaves no rest behind, and is written when there is room."""
    many = [certificate(private_key("P-256", number % 4), str(number)) for number in range(60)]
    with Server(keystores, "--state-dir", str(state), "--admin-port", "0", *GRACE) as server:
        wait_until(lambda: len(memory(state)["keys"]) == 2)
        before = state_file(state).read_bytes()
        limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (32_768, resource.RLIM_INFINITY))
        replace_file(folder / "a.pem", pem(*many))
        wait_until(lambda: len(server.kids(TENANT) or ()) == 62)
        wait_until(lambda: failing(server))
        assert state_file(state).read_bytes() == before
        assert [path.name for path in (state / "owed").iterdir()] == [TENANT]
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
        wait_until(lambda: not failing(server))
        wait_until(lambda: len(memory(state)["keys"]) == 62)
        assert "File too large" in server.log


def test_without_a_state_directory_a_grace_ends_with_the_process_and_the_log_says_so(
    keystores: Path, folder: Path
) -> None:
    """One warning, whatever the number of tenants."""
    (keystores / "bar.com").mkdir()
    (keystores / "bar.com" / "k.pem").write_bytes(pem(A))
    with Server(keystores, *GRACE, environment={"STATE_DIRECTORY": ""}) as server:
        server.wait_for_kids(TENANT, {KID_A, KID_B})
        wait_until(lambda: "all tenants loaded" in server.log)
        assert server.log.count("WARNING removal grace without a state directory") == 1
        (folder / "a.pem").unlink()
        replace_file(folder / "c.pem", pem(CERTIFICATES[2]))
        server.wait_for_kids(TENANT, {KID_A, KID_B, kid(CERTIFICATES[2])})
        kill(server)
    with Server(keystores, *GRACE, environment={"STATE_DIRECTORY": ""}) as server:
        server.wait_for_kids(TENANT, {KID_B, kid(CERTIFICATES[2])})


@pytest.mark.parametrize("how", ["command", "file"])
def test_revoked_wins_over_the_grace_and_a_restart(keystores: Path, folder: Path, state: Path, how: str) -> None:
    """Also for a key that is published by its grace alone, which the command finds in the state directory."""
    arguments = ("--state-dir", str(state), *GRACE)
    with Server(keystores, *arguments) as server:
        server.wait_for_kids(TENANT, {KID_A, KID_B})
        (folder / "a.pem").unlink()
        wait_until(lambda: deadlines(state))
        if how == "command":
            assert revoke(keystores, KID_A, *GRACE).returncode == 2, "without the state directory nobody knows it"
            assert revoke(keystores, KID_A, "--state-dir", str(state)).returncode == 0, "whose grace is in it"
        else:
            (folder / "revoked").write_text(f"# stolen\n{KID_A}\n")
        server.wait_for_kids(TENANT, {KID_B})
        wait_until(lambda: len(memory(state)["keys"]) == 1)
        kill(server)
    with Server(keystores, *arguments) as server:
        server.wait_for_kids(TENANT, {KID_B})
        renewed = certificate(private_key("P-256", 0), "renewed")
        (folder / "again.pem").write_bytes(pem(renewed if how == "command" else A))
        wait_until(lambda: "file=again.pem" in server.log)
        assert server.kids(TENANT) == [KID_B]


def test_a_removed_tenant_is_served_to_the_end_of_its_own_grace_and_then_404(
    keystores: Path, folder: Path, state: Path
) -> None:
    """Its policy lay in the folder that is gone, and holds over a restart; then nothing is left of it."""
    (folder / "tenant.toml").write_text('removal_grace = "1h"\nmax_age = 7\nstale_if_error = 0')
    with Server(keystores, "--state-dir", str(state)) as server:
        server.wait_for_kids(TENANT, {KID_A, KID_B})
        shutil.rmtree(folder)
        wait_until(lambda: len(deadlines(state)) == 2)
        assert server.tenant(TENANT).status == 200
        kill(server)
    with Server(keystores, "--state-dir", str(state)) as server:
        server.wait_for_kids(TENANT, {KID_A, KID_B})
        assert server.tenant(TENANT).headers["cache-control"] == "public, max-age=7"
        wait_until(lambda: "all tenants loaded" in server.log)
        kill(server)
    shortened = memory(state)
    for key in shortened["keys"]:
        key["until"] = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    state_file(state).write_text(json.dumps(shortened))
    with Server(keystores, "--state-dir", str(state)) as server:
        wait_until(lambda: server.tenant(TENANT).status == 404, "the end of the grace")
        wait_until(lambda: not state_file(state).exists(), "the state to be deleted")
        kill(server)
    with Server(keystores, "--state-dir", str(state)) as server:
        assert server.tenant(TENANT).status == 404


def test_a_lowered_grace_takes_effect_and_its_state_is_deleted(keystores: Path, folder: Path, state: Path) -> None:
    """While the server runs, and where it was lowered while the server was down."""
    policy = folder / "tenant.toml"
    policy.write_text('removal_grace = "1h"')
    with Server(keystores, "--state-dir", str(state)) as server:
        server.wait_for_kids(TENANT, {KID_A, KID_B})
        (folder / "a.pem").unlink()
        wait_until(lambda: deadlines(state))
        replace_file(policy, b'removal_grace = "0s"')
        server.wait_for_kids(TENANT, {KID_B})
        wait_until(lambda: not state_file(state).exists())
        replace_file(policy, b'removal_grace = "1h"')
        wait_until(lambda: len(memory(state)["keys"]) == 1)
        (folder / "b.pem").unlink()
        wait_until(lambda: deadlines(state))
        kill(server)
    policy.unlink()
    with Server(keystores, "--state-dir", str(state)) as server:
        wait_until(lambda: server.tenant(TENANT).status == 404, "the end of the grace")
        wait_until(lambda: not state_file(state).exists())


def published(tenant: str, file: KeyFile, grace: int) -> Publication:
    """Return the first publication of a tenant with one key file."""
    now = clock.now()
    snapshot = build(TenantName(tenant), Folder((file,)), None, Policy(removal_grace=grace), now)
    return publication_of(snapshot, None, seal(snapshot), record_of(snapshot, None, None, now))


def owed_in(state: StateDirectory) -> tuple[Owed, ...]:
    """Return the keys of the tenant that were remembered and could be read only late."""
    return from_text(state.late()[TenantName(TENANT)], clock.now()).keys


async def test_a_record_that_changes_back_while_it_is_written_is_written_again(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is noted meanwhile is not compared with what the disk held before."""
    begun, gate = threading.Event(), threading.Event()
    write_whole = files.replace_file

    def write_slowly(path: Path, text: bytes) -> None:
        begun.set()
        gate.wait()
        write_whole(path, text)

    file = read_key_file("a.pem", b"", pem(A), None)
    minute, hour = (published(TENANT, file, seconds) for seconds in (60, 3600))
    remembering = StateDirectory(state, Timing())
    remembering.recall()
    remembering.note(minute)
    await remembering.flush()
    before = memory(state)["policy"]
    monkeypatch.setattr(directory, "replace_file", write_slowly)
    remembering.note(hour)
    flushing = asyncio.ensure_future(remembering.flush())
    await eventually(begun.is_set)
    remembering.note(minute)
    gate.set()
    await flushing
    await remembering.flush()
    assert memory(state)["policy"] == before


async def test_an_old_record_is_not_written_over_before_it_was_passed_on(state: Path) -> None:
    """A crash in between would lose it for good."""
    files = [read_key_file("k.pem", b"", pem(item), None) for item in (A, B)]
    old, new = (published(TENANT, file, 60) for file in files)
    first = StateDirectory(state, Timing())
    first.recall()
    first.note(old)
    await first.flush()
    before = state_file(state).read_bytes()
    away = put_away(state)
    second = StateDirectory(state, Timing())
    assert not second.recall()
    second.note(new)
    put_back(away, state)
    assert await second.flush()
    assert [owed.key for owed in owed_in(second)] == list(files[0].keys)
    assert state_file(state).read_bytes() == before
    second.note(new)
    assert await second.flush()
    assert state_file(state).read_bytes() != before


async def test_a_record_that_cannot_be_read_is_left_alone_until_it_can_be(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loud, and costs nobody else anything; a bad sector is no reason to forget what may still be owed."""
    files = {item: read_key_file("k.pem", b"", pem(item), None) for item in (A, B)}

    def publication(tenant: str, item: x509.Certificate) -> Publication:
        return published(tenant, files[item], 60)

    first = StateDirectory(state, Timing())
    first.recall()
    first.note(publication(TENANT, A))
    first.note(publication("bar.com", A))
    assert await first.flush()
    unreadable, beside = state_file(state), state / "owed" / "bar.com"
    before = unreadable.read_bytes()
    assert beside.read_bytes() == before
    second = StateDirectory(state, Timing())
    opened = Path.open

    def fail_for_one(path: Path, mode: str) -> IO[Any]:
        if path == unreadable:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(path, mode)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", fail_for_one)
        assert second.recall().keys() == {"bar.com"}
        assert f"file {TENANT} of the state directory" in str(second.fault)
        assert "Input/output error" in str(second.fault)
        second.note(publication(TENANT, B))
        second.note(publication("bar.com", B))
        assert not await second.flush()
        assert not second.late()
    assert unreadable.read_bytes() == before != beside.read_bytes()
    assert await second.flush()
    assert second.fault is None
    assert [owed.key for owed in owed_in(second)] == list(files[A].keys)
    assert unreadable.read_bytes() == before
    second.note(publication(TENANT, B))
    assert await second.flush()
    assert unreadable.read_bytes() == beside.read_bytes()
