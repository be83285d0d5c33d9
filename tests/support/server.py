"""The real server as a process, and plain HTTP to it."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from support import altered_server, open_reader

TESTS = Path(__file__).parents[1]

PATIENCE_SECONDS = 30.0

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str = "condition") -> T:
    """Return the first true value of the condition; fail after a time that only a broken server needs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.005)
    return value


@dataclass(frozen=True)
class Answer:
    """One response: status, headers with lower-case names, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - JSON
        """Return the body parsed."""
        return json.loads(self.body)


def with_tests() -> dict[str, str]:
    """Return the environment in which a process finds the tests' own modules."""
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


class Server:
    """`jwks-server serve` on a port of the system's choice. At the end it is killed, and a traceback in its log fails.

    `launcher` is a command that ends with exec of the command it is given, `interpreter` are arguments of Python's own,
    `altered` says what `altered_server` replaces.
    """

    def __init__(
        self,
        keystores: Path,
        *arguments: str,
        tls: bool = False,
        environment: dict[str, str] | None = None,
        launcher: Sequence[str] = (),
        interpreter: Sequence[str] = (),
        altered: Mapping[str, object] | None = None,
    ) -> None:
        if altered is None and "COVERAGE_PROCESS_START" in os.environ:
            altered = {"reader_module": open_reader.MODULE}
        self.keystores = keystores
        self.log_path = keystores.parent / f"{keystores.name}.log"
        self._log = self.log_path.open("wb")
        module = ["jwks_server"] if altered is None else [altered_server.MODULE, json.dumps(altered)]
        command = [*launcher, sys.executable, *interpreter, "-m", *module, "serve", "--keystores", str(keystores)]
        command += ["--host", "127.0.0.1", "--port", "0", *([] if tls else ["--http"]), *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=self._log, env={**with_tests(), **(environment or {})}
        )

    def __enter__(self) -> Self:
        wait_until(lambda: self.process.poll() is not None or self.url, "the server to listen")
        assert self.process.poll() is None, self.log
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.kill()
        self._log.close()
        assert kind is not None or "Traceback" not in self.log, self.log

    def kill(self) -> None:
        """End it as kill -9 does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        """All that was logged so far."""
        return self.log_path.read_text()

    @property
    def url(self) -> str:
        """Where it listens, or nothing yet."""
        match = re.search(r"(?<!admin )listening url=(\S+)", self.log)
        return match[1] if match else ""

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to a GET."""
        return self.request("GET", path, headers)

    def admin(self, path: str) -> Answer:
        """Return the private listener's answer; the server was started with --admin-port 0."""
        match = re.search(r"admin listening url=http://127.0.0.1:(\d+)", self.log)
        assert match, "no admin listener"
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=PATIENCE_SECONDS)
        ) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def metric(self, name: str) -> float:
        """Return one of the server's numbers."""
        match = re.search(rf"^jwks_server_{name}(?:_total)? (\S+)$", self.admin("/metrics").body.decode(), re.MULTILINE)
        assert match, name
        return float(match[1])

    @property
    def degraded(self) -> str:
        """What /readyz says is wrong while the answers are right."""
        return "; ".join(self.admin("/readyz").json()["degraded"])

    def tenant(self, tenant: str) -> Answer:
        """Return the answer for a tenant's key set."""
        return self.get(f"/t/{tenant}/oauth2/jwks")

    def kids(self, tenant: str) -> list[str] | None:
        """Return the key ids that the tenant publishes, or None where it does not answer 200."""
        answer = self.tenant(tenant)
        return [key["kid"] for key in answer.json()["keys"]] if answer.status == 200 else None

    def wait_for_kids(self, tenant: str, expected: set[str]) -> None:
        """Wait until the tenant publishes exactly these ids."""
        wait_until(lambda: set(self.kids(tenant) or []) == expected and self.kids(tenant) is not None, f"{expected}")

    def terminate(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_SECONDS)
