import shutil
import subprocess
import sys
from pathlib import Path

from support.certificates import certificate, pem, private_key, replace_file
from support.server import Server, wait_until

FIXTURES = Path(__file__).parents[1] / "fixtures"
SECRET = "changeit"
A, B = certificate(private_key("RSA", 1), "a"), certificate(private_key("P-256", 1), "b")


def make_tenant(keystores: Path, *files: str, **passwords: str) -> Path:
    folder = keystores / "foo.com"
    folder.mkdir()
    for file in files:
        shutil.copy(FIXTURES / file, folder)
    for name, password in passwords.items():
        (folder / f"{name}.p12.password").write_text(password + "\n")
    return folder


def test_a_policy_is_hot_and_a_wrong_one_leaves_the_last_good_one_in_force(keystores: Path) -> None:
    """Within the life of the server, as a key file is."""
    folder = make_tenant(keystores)
    (folder / "2026-05.pem").write_bytes(pem(A))
    with Server(keystores) as server:
        wait_until(lambda: server.kids("foo.com"))
        replace_file(folder / "tenant.toml", b'kid = "filename"\nmax_age = 7\nstale_if_error = 8\n')
        server.wait_for_kids("foo.com", {"2026-05"})
        assert server.tenant("foo.com").headers["cache-control"] == "public, max-age=7, stale-if-error=8"
        replace_file(folder / "tenant.toml", b'kid = "file"\n')
        wait_until(lambda: "kid = 'file' is not allowed; allowed: 'wso2'" in server.log)
        assert server.kids("foo.com") == ["2026-05"]
        (folder / "tenant.toml").unlink()
        wait_until(lambda: (server.kids("foo.com") or [""])[0].endswith("_RS256"))


def test_a_typo_and_a_restart_do_not_publish_by_another_policy(keystores: Path) -> None:
    """The running server keeps the last good policy; one that starts withholds the tenant until it is corrected."""
    folder = make_tenant(keystores)
    (folder / "k.pem").write_bytes(pem(A))
    good, typo = b'rsa_algorithms = ["PS256"]\nkid = "filename"\n', b'rsa_algorithms = ["PS256"\nkid = "filename"\n'
    (folder / "tenant.toml").write_bytes(good)
    with Server(keystores) as server:
        server.wait_for_kids("foo.com", {"k"})
        replace_file(folder / "tenant.toml", typo)
        wait_until(lambda: "the last good policy is in force" in server.log)
        assert [key["alg"] for key in server.tenant("foo.com").json()["keys"]] == ["PS256"]
    with Server(keystores, "--admin-port", "0") as server:
        withheld = server.tenant("foo.com")
        assert (withheld.status, withheld.headers["cache-control"]) == (503, "no-store")
        wait_until(lambda: "because the tenant's policy is not known" in server.log)
        assert server.metric("tenants_withheld") == 1
        assert "1 tenants have faulty files" in server.degraded
        replace_file(folder / "tenant.toml", good)
        server.wait_for_kids("foo.com", {"k"})
        assert [key["alg"] for key in server.tenant("foo.com").json()["keys"]] == ["PS256"]


def test_a_list_of_revoked_keys_that_cannot_be_read_at_the_start_publishes_none_of_them(keystores: Path) -> None:
    """Nobody knows which they are, so nothing is published until it can be read."""
    folder = make_tenant(keystores)
    for name, item in (("a", A), ("b", B)):
        (folder / f"{name}.pem").write_bytes(pem(item))
    (folder / "tenant.toml").write_text('kid = "filename"')
    (folder / "revoked").write_bytes(b"\xff\xfe")
    with Server(keystores) as server:
        assert server.tenant("foo.com").status == 503
        replace_file(folder / "revoked", b"a\n")
        server.wait_for_kids("foo.com", {"b"})
        replace_file(folder / "revoked", b"\xff\xfe")
        wait_until(lambda: server.log.count("not a UTF-8 text file") == 2)
        assert server.kids("foo.com") == ["b"]


def test_a_keystore_gives_all_its_key_entries_or_those_the_policy_names(keystores: Path) -> None:
    """Three keys in one store, each with its chain; aliases choose among them."""
    folder = make_tenant(keystores, "three-keys.jks")
    (folder / "three-keys.jks.password").write_text(SECRET)
    with Server(keystores) as server:
        wait_until(lambda: len(server.kids("foo.com") or []) == 3)
        assert all(len(key["x5c"]) > 1 for key in server.tenant("foo.com").json()["keys"])
        (folder / "tenant.toml").write_text('aliases = ["EC", "nobody"]')
        wait_until(lambda: len(server.kids("foo.com") or []) == 1)
        wait_until(lambda: "nobody" in server.log)


def test_passwords_are_found_beside_by_tenant_and_server_wide(keystores: Path, tmp_path: Path) -> None:
    """The nearest wins; a password that changes is tried."""
    folder = make_tenant(keystores, "three-keys.jks")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    server_wide = tmp_path / "password"
    server_wide.write_text(SECRET)
    with Server(keystores, "--password-dir", str(credentials), "--password-file", str(server_wide)) as server:
        wait_until(lambda: len(server.kids("foo.com") or []) == 3)
        (credentials / "foo.com.password").write_text("of the tenant, wrong")
        (folder / "three-keys.jks").touch()
        wait_until(lambda: "wrong password" in server.log)
        assert len(server.kids("foo.com") or []) == 3
        (folder / "three-keys.jks.password").write_text(SECRET + "\r\nanother line")
        wait_until(lambda: "fault gone" in server.log)


def test_no_password_appears_in_any_output(keystores: Path, tmp_path: Path) -> None:
    """Right or wrong, good file or bad: not in the log, not in `check`, not in the process list."""
    secret, wrong = SECRET, "a-very-wrong-secret"
    folder = make_tenant(keystores, "openssl.p12", "rc2-40.p12", "pbmac1.p12", openssl=secret, pbmac1=wrong)
    (folder / "rc2-40.p12.password").write_text(wrong)
    password_file = tmp_path / "password"
    password_file.write_text(secret)
    with Server(keystores, "--password-file", str(password_file)) as server:
        wait_until(lambda: server.log.count("wrong password") == 2)
        outputs = [server.log, server.tenant("foo.com").body.decode()]
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = process.read_bytes()
            except OSError:
                continue
            if b"jwks_server" in command:
                outputs.append(command.decode())
    tree = str(keystores)
    for arguments in (["check", tree], ["check", tree, "--json"], ["show", tree, "foo.com"]):
        result = subprocess.run(
            [sys.executable, "-m", "jwks_server", *arguments, "--password-file", str(password_file)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        outputs += [result.stdout, result.stderr]
    for output in outputs:
        assert secret not in output
        assert wrong not in output


def test_a_revoked_key_goes_at_once_and_stays_away_under_any_name(keystores: Path) -> None:
    """Over the removal grace, and in another file; the command refuses an id that is not published."""
    folder = make_tenant(keystores)
    (folder / "a.pem").write_bytes(pem(A))
    (folder / "b.pem").write_bytes(pem(B))

    def revoke(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jwks_server", "revoke", str(keystores), "foo.com", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with Server(keystores, "--removal-grace", "1h") as server:
        wait_until(lambda: len(server.kids("foo.com") or []) == 2)
        kid_a, kid_b = sorted(server.kids("foo.com") or [], key=lambda kid: kid.endswith("_ES256"))
        refused = revoke("nobody")
        assert refused.returncode == 2
        assert "--force" in refused.stderr
        assert not (folder / "revoked").exists()
        assert revoke(kid_a).returncode == 0
        server.wait_for_kids("foo.com", {kid_b})
        (folder / "a.pem").unlink()
        replace_file(folder / "tenant.toml", b'kid = "filename"\n')
        replace_file(folder / "another.pem", pem(A))
        server.wait_for_kids("foo.com", {"b"})
        assert revoke("nobody", "--force").returncode == 0
        assert "nobody" in (folder / "revoked").read_text().splitlines()
