import os
import ssl
import time
from hashlib import sha256
from pathlib import Path

import jwt
import pytest
from support.certificates import certificate, der, pem, private_key, replace_file
from support.server import Server, wait_until

from jwks_server.core.kid import hexified

A, B = certificate(private_key("RSA", 1), "a"), certificate(private_key("P-256", 1), "b")


def kid(item: object, alg: str) -> str:
    return f"{hexified(sha256(der(item)).digest())}_{alg}"  # type: ignore[arg-type]


KID_A, KID_B = kid(A, "RS256"), kid(B, "ES256")


def test_the_job_drop_a_certificate_and_a_token_signed_with_its_key_verifies(keystores: Path) -> None:
    """Over HTTPS, through a rotation, as a relying party with PyJWT sees it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def verifies(token: str) -> bool:
        client = jwt.PyJWKClient(f"{server.url}/t/foo.com/oauth2/jwks", ssl_context=context)
        try:
            key = client.get_signing_key_from_jwt(token)
        except jwt.PyJWKClientError:
            return False
        return bool(jwt.decode(token, key, algorithms=["RS256", "ES256"]) == {"sub": "somebody"})

    old = jwt.encode({"sub": "somebody"}, private_key("RSA", 1), "RS256", {"kid": KID_A})
    new = jwt.encode({"sub": "somebody"}, private_key("P-256", 1), "ES256", {"kid": KID_B})
    with Server(keystores, tls=True) as server:
        (keystores / "foo.com").mkdir()
        replace_file(keystores / "foo.com" / "2026-05.pem", pem(A))
        wait_until(lambda: verifies(old), "the first token to verify")
        assert not verifies(new)
        replace_file(keystores / "foo.com" / "2026-11.pem", pem(B))
        wait_until(lambda: verifies(new), "the second token to verify")
        assert verifies(old)
        (keystores / "foo.com" / "2026-05.pem").unlink()
        wait_until(lambda: not verifies(old), "the first key to go")
        assert verifies(new)
        assert server.terminate() == 0


def test_every_way_of_changing_the_tree_is_followed(keystores: Path) -> None:
    """Create, overwrite, rename, delete; a folder made, moved in, renamed and removed."""
    with Server(keystores, "--admin-port", "0") as server:
        assert server.tenant("foo.com").status == 404
        folder = keystores / "foo.com"
        folder.mkdir()
        wait_until(lambda: "INFO no key files, not served tenant=foo.com" in server.log, "the new tenant")
        assert server.tenant("foo.com").status == 404
        assert server.metric("tenants_withheld") == 0
        (folder / "k.pem").write_bytes(b"nonsense")
        wait_until(lambda: server.tenant("foo.com").status == 503, "the tenant to be withheld")
        assert "WARNING key set withheld tenant=foo.com" in server.log
        assert server.metric("tenants_withheld") == 1
        (folder / "k.pem").write_bytes(pem(A))
        server.wait_for_kids("foo.com", {KID_A})
        (folder / "k.pem").write_bytes(pem(B))
        server.wait_for_kids("foo.com", {KID_B})
        replace_file(folder / "k.pem", pem(A))
        server.wait_for_kids("foo.com", {KID_A})
        (folder / "l.der").write_bytes(der(B))
        server.wait_for_kids("foo.com", {KID_A, KID_B})
        (folder / "k.pem").unlink()
        server.wait_for_kids("foo.com", {KID_B})
        folder.rename(keystores / "bar.com")
        server.wait_for_kids("bar.com", {KID_B})
        wait_until(lambda: server.tenant("foo.com").status == 404, "the old name to go")
        (keystores / "bar.com" / "l.der").unlink()
        (keystores / "bar.com").rmdir()
        wait_until(lambda: server.tenant("bar.com").status == 404, "the removed tenant to go")
        outside = keystores.parent / "prepared"
        outside.mkdir()
        (outside / "k.pem").write_bytes(pem(A, B))
        outside.rename(keystores / "moved.in")
        server.wait_for_kids("moved.in", {KID_A, KID_B})


def test_a_file_that_stops_parsing_keeps_the_keys_it_last_gave(keystores: Path) -> None:
    """And one line of the log says so, with tenant, file and reason."""
    folder = keystores / "foo.com"
    folder.mkdir()
    (folder / "k.pem").write_bytes(pem(A))
    with Server(keystores) as server:
        server.wait_for_kids("foo.com", {KID_A})
        replace_file(folder / "k.pem", pem(A)[:300])
        wait_until(lambda: "truncated" in server.log, "the fault in the log")
        assert server.kids("foo.com") == [KID_A]
        lines = [line for line in server.log.splitlines() if "truncated" in line]
        assert len(lines) == 1
        assert "tenant=foo.com" in lines[0]
        assert "file=k.pem" in lines[0]
        replace_file(folder / "k.pem", pem(B))
        server.wait_for_kids("foo.com", {KID_B})
        wait_until(lambda: "fault gone" in server.log, "the end of the fault in the log")


def test_a_tenant_is_loaded_when_it_is_asked_for_before_its_turn(keystores: Path) -> None:
    """The first request after the start gets the right answer, not a 404 or an empty set."""
    tenants = [f"t{number}.example" for number in range(200)]
    for tenant in tenants:
        (keystores / tenant).mkdir()
        (keystores / tenant / "k.pem").write_bytes(pem(B))
    with Server(keystores) as server:
        assert server.kids(tenants[-1]) == [KID_B]
        wait_until(lambda: "all tenants loaded" in server.log, "all tenants to be loaded")
        assert all(server.kids(tenant) == [KID_B] for tenant in tenants[::20])


@pytest.mark.parametrize("write", ["fifo", "folder", "huge"])
def test_what_is_no_small_regular_file_never_blocks(keystores: Path, write: str) -> None:
    """A FIFO is not opened, a folder not entered, a huge file not read."""
    folder = keystores / "foo.com"
    folder.mkdir()
    match write:
        case "fifo":
            os.mkfifo(folder / "x.pem")
        case "folder":
            (folder / "x.pem").mkdir()
        case _:
            with (folder / "x.pem").open("wb") as file:
                file.truncate(1 << 30)
    with Server(keystores) as server:
        (folder / "k.pem").write_bytes(pem(A))
        server.wait_for_kids("foo.com", {KID_A})


def test_links_are_followed_where_they_lead(keystores: Path) -> None:
    """A linked file, a linked tenant and a linked root, changed behind the link."""
    elsewhere = keystores.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "real.pem").write_bytes(pem(A))
    (keystores / "foo.com").mkdir()
    (keystores / "foo.com" / "k.pem").symlink_to(elsewhere / "real.pem")
    (keystores / "bar.com").symlink_to(elsewhere)
    root = keystores.parent / "link"
    root.symlink_to(keystores)
    with Server(root) as server:
        server.wait_for_kids("foo.com", {KID_A})
        server.wait_for_kids("bar.com", {KID_A})
        replace_file(elsewhere / "real.pem", pem(B))
        server.wait_for_kids("foo.com", {KID_B})
        server.wait_for_kids("bar.com", {KID_B})


def test_sigterm_lets_an_answer_finish(keystores: Path) -> None:
    """A request that was accepted is answered, and the exit code is 0."""
    (keystores / "foo.com").mkdir()
    (keystores / "foo.com" / "k.pem").write_bytes(pem(A))
    with Server(keystores) as server:
        server.wait_for_kids("foo.com", {KID_A})
        server.process.terminate()
        wait_until(lambda: "stopping" in server.log, "the server to stop")
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.log
        assert time.monotonic() > 0
