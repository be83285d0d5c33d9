import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.certificates import certificate, pem, private_key
from support.server import Server


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "jwks_server", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def assert_one_line(result: subprocess.CompletedProcess[str], *texts: str) -> None:
    """Assert exit code 2 and one clear line on standard error."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert all(text in result.stderr for text in texts), result.stderr


@pytest.fixture
def tree(keystores: Path) -> Path:
    """Make a tenant with a good file and one with a bad one."""
    for tenant, content in (("foo.com", pem(certificate(private_key("RSA")))), ("bar.com", b"nonsense")):
        (keystores / tenant).mkdir()
        (keystores / tenant / "k.pem").write_bytes(content)
    return keystores


def test_check_prints_keys_and_problems_and_exits_1(tree: Path) -> None:
    """With tenant, file, id, type, algorithm and expiry."""
    result = run("check", str(tree))
    assert result.returncode == 1
    good = next(line for line in result.stdout.splitlines() if line.startswith("foo.com"))
    assert all(text in good for text in ("k.pem", "PEM", "_RS256", "RSA", "RS256", "2126-"))
    bad = next(line for line in result.stdout.splitlines() if line.startswith("bar.com"))
    assert "fault: not a certificate, public key or keystore" in bad


def test_check_exits_0_where_all_is_well(tree: Path) -> None:
    """And says so in JSON too."""
    (tree / "bar.com" / "k.pem").unlink()
    result = run("check", str(tree), "--json")
    assert result.returncode == 0
    report = json.loads(result.stdout)
    assert report["ok"] is True
    (foo,) = [tenant for tenant in report["tenants"] if tenant["tenant"] == "foo.com"]
    assert foo["files"][0]["keys"][0]["alg"] == "RS256"


def test_check_names_folders_that_are_not_served(tree: Path) -> None:
    """A name with a capital letter is a problem."""
    (tree / "bar.com" / "k.pem").unlink()
    (tree / "Foo.com").mkdir()
    result = run("check", str(tree))
    assert result.returncode == 1
    assert "Foo.com" in result.stdout


def test_show_prints_what_is_served(tree: Path) -> None:
    """Byte for byte, and a newline."""
    result = run("show", str(tree), "foo.com")
    with Server(tree) as server:
        assert result.stdout.encode() == server.tenant("foo.com").body + b"\n"
    withheld = run("show", str(tree), "bar.com")
    assert (withheld.returncode, withheld.stdout) == (1, "")
    assert "k.pem" in withheld.stderr
    assert "503" in withheld.stderr
    assert_one_line(run("show", str(tree), "nobody.com"), "nobody.com")
    assert_one_line(run("show", str(tree), "../foo.com"), "not a tenant domain")


def test_check_and_show_say_of_a_folder_without_key_files_that_it_is_not_served(tree: Path) -> None:
    """It is no fault: the first file is on its way, or the last has gone."""
    (tree / "bar.com" / "k.pem").rename(tree / "bar.com" / "k.pem.password")
    said = "no key files: not served (404)"
    result = run("check", str(tree))
    assert result.returncode == 0
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("bar.com"))
    assert said in line
    (bar, foo) = json.loads(run("check", str(tree), "--json").stdout)["tenants"]
    assert (bar["tenant"], bar["served"], bar["status"], bar["problems"]) == ("bar.com", False, 404, [])
    assert (foo["tenant"], foo["served"], foo["status"]) == ("foo.com", True, 200)
    shown = run("show", str(tree), "bar.com")
    assert (shown.returncode, shown.stdout, shown.stderr) == (1, "", f"bar.com: {said}\n")
    (tree / "bar.com" / "tenant.toml").write_text("max_age =")
    assert said not in run("check", str(tree)).stdout


def test_check_and_show_say_that_a_tenant_is_withheld_while_its_first_policy_is_faulty(tree: Path) -> None:
    """As a server that starts would have it; before a restart somebody can know."""
    (tree / "foo.com" / "tenant.toml").write_text("max_age =")
    result = run("check", str(tree))
    assert result.returncode == 1
    file, policy = (line for line in result.stdout.splitlines() if line.startswith("foo.com"))
    assert "k.pem" in file
    assert "withheld" in file
    assert "nothing is published until it is corrected, because the tenant's policy is not known" in policy
    shown = run("show", str(tree), "foo.com")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "nothing is published (503)" in shown.stderr


def test_what_a_server_cannot_start_with_is_one_clear_line(tree: Path, tmp_path: Path) -> None:
    """Exit code 2, no traceback, and what to do."""
    serve = ("serve", "--keystores", str(tree), "--host", "127.0.0.1", "--port", "0")
    assert_one_line(run("serve", "--keystores", str(tmp_path / "nowhere")), "nowhere", "No such file")
    assert_one_line(run("serve"), "--keystores")
    assert_one_line(run(*serve, "--port", "http"), "--port")
    assert_one_line(run(*serve, "--port", "65000", "--port-offset", "1000"), "66000")
    assert_one_line(run(*serve, "--tls-cert", "x.pem"), "tls-key")
    assert_one_line(run(*serve, "--tls-cert", "x.pem", "--tls-key", "y.pem"), "x.pem")
    assert_one_line(run(*serve, "--super-tenant", "No"), "'No' is not a tenant domain")
    assert_one_line(run(*serve, "--max-age", "-1"), "max_age = -1")
    assert_one_line(run(*serve, "--nonsense"), "--nonsense")
    assert_one_line(run(*serve, "--host", "no.such.host.invalid"), "no.such.host.invalid")
    assert_one_line(run("check", str(tmp_path / "nowhere")), "nowhere")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    assert_one_line(run(*serve, "--tls-cert", str(garbage), "--tls-key", str(garbage)), "garbage.pem", "PEM")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_line(run(*serve[:-1], port), port, "in use")


def test_flags_win_over_the_environment_and_the_environment_over_the_file(tree: Path, tmp_path: Path) -> None:
    """The same setting in all three places."""
    file = tmp_path / "config.toml"
    file.write_text('max_age = 1\nstale_if_error = 0\nlog_format = "json"\nport_offset = 0\n')

    def max_age(*flags: str, environment: dict[str, str]) -> str:
        with Server(tree, "--config", str(file), *flags, "--log-format", "text", environment=environment) as server:
            return server.tenant("foo.com").headers["cache-control"]

    assert max_age(environment={}) == "public, max-age=1"
    assert max_age(environment={"JWKS_SERVER_MAX_AGE": "2"}) == "public, max-age=2"
    assert max_age("--max-age", "3", environment={"JWKS_SERVER_MAX_AGE": "2"}) == "public, max-age=3"


def test_a_configuration_file_with_a_slip_is_refused_by_name(tree: Path, tmp_path: Path) -> None:
    """The unknown key, or the value that is not allowed."""
    file = tmp_path / "config.toml"
    for content, texts in (
        ("max_agee = 1", ("max_agee", "config.toml")),
        ("port = 'x'", ("port",)),
        ("kid = 'md5'", ("md5", "rfc7638")),
        ("port =", ("config.toml", "TOML")),
    ):
        file.write_text(content)
        assert_one_line(run("serve", "--keystores", str(tree), "--config", str(file)), *texts)
    assert_one_line(run("serve", "--keystores", str(tree), "--config", str(tmp_path / "no.toml")), "no.toml")


def test_the_port_offset_shifts_the_port(tree: Path) -> None:
    """A second server beside a first one."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with Server(tree, "--port", str(port - 7), "--port-offset", "7") as server:
        assert server.port == port


def test_the_log_can_be_json(tree: Path) -> None:
    """One object a line."""
    with Server(tree, "--host", "127.0.0.1") as server:
        server.terminate()
    result = subprocess.Popen(
        [sys.executable, "-m", "jwks_server", "serve", "--keystores", str(tree), "--http", "--port", "0",
         "--host", "127.0.0.1", "--log-format", "json"],
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert result.stderr is not None
    line = json.loads(result.stderr.readline())
    result.kill()
    result.wait()
    result.stderr.close()
    assert line["message"] == "listening"
    assert line["level"] == "info"


def test_help_and_version_are_there() -> None:
    """For a person."""
    assert "keystores/<tenant>/" in run("--help").stdout
    assert "JWKS_SERVER_PORT" in run("serve", "--help").stdout
    assert run("--version").stdout.startswith("jwks-server, version ")
