"""Random changes of a tree by several processes, while others read every tenant, and what came of it.

The claim: at every quiet point what is published equals what a fresh start on the same tree would publish; no answer in
between is an error, empty, torn, or without a key that was there before and after. `make soak` runs it long.
"""

import argparse
import ctypes
import http.client
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Self

from jwks_server.reading.jobs import LoadJob
from jwks_server.reading.load import load
from jwks_server.reading.source import UNHURRIED, Limits, Source
from jwks_server.reading.tree import list_root
from support.certificates import certificate, pem, private_key, replace_file
from support.server import Server

CERTIFICATES = 40
PROBE = "probe.example"
QUIET_LIMIT_SECONDS = 30.0
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@dataclass(frozen=True)
class Plan:
    """How much of what: `rate` is in operations a second, all writers together; 0 is as fast as they can."""

    operations: int = 3000
    tenants: int = 60
    writers: int = 2
    rounds: int = 4
    rate: float = 0.0
    seed: int = 1
    seconds: float = 600.0


@dataclass
class Report:
    """What came of it. `missed` are tenants that differ at a quiet point, `torn` are wrong answers in between."""

    operations: int = 0
    quiet_points: int = 0
    answers: int = 0
    seconds: float = 0.0
    missed: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        times = sorted(self.milliseconds)
        cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else [float("nan")] * 99
        return (
            f"{self.operations} operations in {self.seconds:.0f} s, {self.quiet_points} quiet points, "
            f"{self.answers} answers read: {len(self.missed)} missed, {len(self.torn)} torn; "
            f"write → published, {len(times)} times: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms"
        )


def anchored(number: int) -> str:
    """Return the name of a tenant whose folder stays, and in it one key, in whatever way it is written again."""
    return f"anchored{number}.example"


def moving(number: int) -> str:
    """Return the name of a tenant whose folder comes and goes."""
    return f"moving{number}.example"


def volume(number: int) -> str:
    """Return the name of a tenant whose folder is a Kubernetes volume."""
    return f"volume{number}.example"


class Writer:
    """One process's random changes. What it breaks it mends before the round is over."""

    def __init__(self, workspace: Path, plan: Plan, pems: list[bytes], number: int, stop: Event) -> None:
        self.stop = stop
        self.root, self.outside = workspace / "keystores", workspace / "outside"
        self.plan, self.number, self.pems = plan, number, pems
        self.random = random.Random(plan.seed * 1000 + number)
        self.broken: set[Path] = set()
        self.operations: list[Callable[[Path], None]] = [
            self.create, self.create, self.overwrite, self.replace, self.replace, self.delete, self.delete,
            self.garbage, self.cut, self.touch, self.mode, self.link, self.hard_link, self.move_in, self.move_out,
            self.rename, self.set_policy, self.drop_policy, self.subfolder,
        ]  # fmt: skip

    def run(self, count: int) -> int:
        """Make so many changes, at the plan's rate, and mend; fewer where all is to stop."""
        started = time.monotonic()
        for done in range(count):
            if self.stop.is_set():
                break
            with suppress(FileNotFoundError, FileExistsError, NotADirectoryError, OSError):
                self.change()
            if self.plan.rate:
                pause = started + done * self.plan.writers / self.plan.rate - time.monotonic()
                if pause > 0:
                    time.sleep(pause)
        for path in tuple(self.broken):
            path.unlink(missing_ok=True)
        self.broken.clear()
        return count

    def change(self) -> None:
        """Make one change somewhere."""
        kind = self.random.random()
        if kind < 0.8:
            folder = self.root / anchored(self.random.randrange(self.plan.tenants))
            self.random.choice(self.operations)(folder / f"{self.number}-{self.random.randrange(4)}.pem")
        elif kind < 0.88:
            own = range(self.number, self.plan.tenants, self.plan.writers)
            self.anchor(self.root / anchored(self.random.choice(own)) / "anchor.pem")
        elif kind < 0.94:
            self.move(self.random.choice(range(self.number, max(4, self.plan.tenants // 10), self.plan.writers)))
        else:
            self.swap_volume(self.random.choice(range(self.number, max(4, self.plan.tenants // 10), self.plan.writers)))

    def content(self) -> bytes:
        """Return some certificate."""
        return self.random.choice(self.pems)

    # --- files of anchored tenants

    def create(self, path: Path) -> None:
        """Write in one go."""
        path.write_bytes(self.content())
        self.broken.discard(path)

    def overwrite(self, path: Path) -> None:
        """Write in two pieces."""
        content = self.content()
        with path.open("wb", buffering=0) as file:
            file.write(content[:200])
            file.write(content[200:])
        self.broken.discard(path)

    def replace(self, path: Path) -> None:
        """Write aside and rename."""
        aside = path.with_name(f".{path.name}")
        aside.write_bytes(self.content())
        aside.rename(path)
        self.broken.discard(path)

    def delete(self, path: Path) -> None:
        """Remove."""
        path.unlink()
        self.broken.discard(path)

    def garbage(self, path: Path) -> None:
        """Write what is no key."""
        self.own(path)
        path.write_bytes(b"garbage" * self.random.randrange(3))

    def cut(self, path: Path) -> None:
        """Leave half of it, by truncate(2)."""
        self.own(path)
        os.truncate(path, 300)

    def own(self, path: Path) -> None:
        """See to it that breaking the file breaks no other tenant's through a link."""
        if path.is_symlink() or path.stat().st_nlink > 1:
            replace_file(path, self.content())
        self.broken.add(path)

    def touch(self, path: Path) -> None:
        """Change nothing but the times."""
        os.utime(path)

    def mode(self, path: Path) -> None:
        """Change nothing but the mode."""
        path.chmod(self.random.choice((0o600, 0o640, 0o644)))

    def link(self, path: Path) -> None:
        """Put a symbolic link in its place."""
        aside = path.with_name(f".{path.name}")
        aside.unlink(missing_ok=True)
        aside.symlink_to(self.outside / f"{self.random.randrange(len(self.pems))}.pem")
        aside.rename(path)
        self.broken.discard(path)

    def hard_link(self, path: Path) -> None:
        """Link a file from outside in."""
        path.unlink(missing_ok=True)
        self.broken.discard(path)
        os.link(self.outside / f"{self.random.randrange(len(self.pems))}.pem", path)

    def move_in(self, path: Path) -> None:
        """Rename from outside."""
        aside = self.outside / f"in-{self.number}"
        aside.write_bytes(self.content())
        aside.rename(path)
        self.broken.discard(path)

    def move_out(self, path: Path) -> None:
        """Rename to outside."""
        path.rename(self.outside / f"out-{self.number}")
        self.broken.discard(path)

    def rename(self, path: Path) -> None:
        """Rename within the tree, to another tenant."""
        if path.is_symlink() or path in self.broken:
            return
        target = self.root / anchored(self.random.randrange(self.plan.tenants)) / path.name
        path.rename(target)
        self.broken.discard(target)

    def set_policy(self, path: Path) -> None:
        """Write the tenant's policy."""
        replace = path.with_name(f".policy-{self.number}")
        replace.write_text(self.random.choice(("x5c = false\n", "x5t = true\n", "max_age = 5\n")))
        replace.rename(path.with_name("tenant.toml"))

    def drop_policy(self, path: Path) -> None:
        """Remove the tenant's policy."""
        path.with_name("tenant.toml").unlink()

    def subfolder(self, path: Path) -> None:
        """Make and remove a folder that means nothing."""
        folder = path.with_name(f"folder-{self.number}")
        folder.mkdir()
        (folder / "x.pem").write_bytes(self.content())
        shutil.rmtree(folder)

    def anchor(self, path: Path) -> None:
        """Write the anchor's own content again, in some way."""
        content = (self.outside / "anchor").read_bytes()
        match self.random.randrange(4):
            case 0:
                path.write_bytes(content)
            case 1:
                replace_file(path, content)
            case 2:
                path.unlink()
                path.write_bytes(content)
            case _:
                other = path.with_name("anchor-moved.pem")
                path.rename(other)
                other.rename(path)

    # --- whole tenants

    def move(self, number: int) -> None:
        """Make, fill, rename, exchange, move out or remove a tenant's folder."""
        folder, other = self.root / moving(number), self.root / moving(number + 1000)
        match self.random.randrange(6):
            case 0 | 1:
                folder.mkdir(exist_ok=True)
                (folder / f"{self.random.randrange(3)}.pem").write_bytes(self.content())
            case 2:
                shutil.rmtree(folder)
            case 3:
                folder.rename(other)
            case 4:
                other.mkdir(exist_ok=True)
                (other / "0.pem").write_bytes(self.content())
                libc = ctypes.CDLL(None, use_errno=True)
                libc.renameat2(_AT_FDCWD, os.fsencode(folder), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
            case _:
                away = self.outside / f"folder-{self.number}"
                folder.rename(away)
                (away / "9.pem").write_bytes(self.content())
                away.rename(folder)

    def swap_volume(self, number: int) -> None:
        """Swap a volume's data as the kubelet does."""
        folder = self.root / volume(number)
        folder.mkdir(exist_ok=True)
        fresh = folder / f"..{time.time_ns()}"
        fresh.mkdir()
        (fresh / "tls.crt").write_bytes(self.content())
        data, temporary = folder / "..data", folder / "..data_tmp"
        old = data.readlink() if data.is_symlink() else None
        temporary.symlink_to(fresh.name)
        temporary.rename(data)
        if not (folder / "tls.crt").is_symlink():
            (folder / "tls.crt").symlink_to("..data/tls.crt")
        if old is not None:
            shutil.rmtree(folder / old)


_writer: Writer | None = None


def start_writer(
    workspace: Path, plan: Plan, pems: list[bytes], numbers: "multiprocessing.Queue[int]", stop: Event
) -> None:
    """Begin a writing process."""
    global _writer  # noqa: PLW0603 - one a process
    _writer = Writer(workspace, plan, pems, numbers.get(), stop)


def write(count: int) -> int:
    """Make changes in a writing process."""
    assert _writer is not None
    return _writer.run(count)


class Client:
    """One connection kept alive."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, tenant: str) -> tuple[int, bytes, str]:
        """Return status, body and tag."""
        self._connection.request("GET", f"/t/{tenant}/oauth2/jwks")
        response = self._connection.getresponse()
        return response.status, response.read(), response.headers.get("ETag", "")


def read_forever(port: int, plan: Plan, anchor: str, stop: Event, result: "multiprocessing.Queue[object]") -> None:
    """Poll every tenant until told to stop; put down the number of answers and the wrong ones."""
    client = Client(port)
    answers, torn = 0, []
    fixed = [anchored(number) for number in range(plan.tenants)]
    others = [kind(number) for kind in (moving, volume) for number in range(max(4, plan.tenants // 10))]
    while not stop.is_set():
        for tenant in fixed + others:
            status, body, etag = client.get(tenant)
            answers += 1
            if status == 200 and etag != f'"{urlsafe_b64encode(sha256(body).digest()).rstrip(b"=").decode()}"':
                torn.append(f"{tenant}: the tag is not the body's")
            if tenant in others:
                if status not in {200, 404, 503}:
                    torn.append(f"{tenant}: {status}")
            elif status != 200:
                torn.append(f"{tenant}: {status}")
            elif anchor not in {key["kid"] for key in json.loads(body)["keys"]}:
                torn.append(f"{tenant}: lacks the anchor")
            if stop.is_set():
                break
            time.sleep(0.001)
    result.put((answers, torn))


def probe_forever(
    port: int, folder: Path, pems: list[bytes], stop: Event, result: "multiprocessing.Queue[object]"
) -> None:
    """Rotate a tenant's key again and again; put down the milliseconds from the write to the first answer with it."""
    request = f"GET /t/{PROBE}/oauth2/jwks HTTP/1.1\r\nHost: probe\r\n\r\n".encode()
    times = []
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:

        def keys() -> bytes:
            connection.sendall(request)
            received = b""
            while not received.endswith(b"]}"):
                piece = connection.recv(65536)
                if not piece:
                    raise ConnectionResetError("the server has gone")
                received += piece
            return received.partition(b"\r\n\r\n")[2]

        turn = 0
        while not stop.is_set():
            turn += 1
            before = keys()
            aside = folder / ".k.pem"
            aside.write_bytes(pems[turn % 2])
            aside.rename(folder / "k.pem")
            written = time.perf_counter()
            while keys() == before:
                time.sleep(0.0002)
            times.append((time.perf_counter() - written) * 1000)
            # The replaced key is published until it has settled; the next turn begins with a set at rest.
            while len(json.loads(keys())["keys"]) > 1:
                time.sleep(0.005)
    result.put(times)


def churn(plan: Plan, workspace: Path, say: Callable[[str], None] = lambda _: None) -> Report:
    """Run the whole plan in an empty folder and return what came of it."""
    root, outside = workspace / "keystores", workspace / "outside"
    outside.mkdir()
    certificates = [certificate(private_key("P-256", number), str(number)) for number in range(CERTIFICATES)]
    pems = [pem(item) for item in certificates]
    anchor = certificate(private_key("P-256", -1), "anchor")
    (outside / "anchor").write_bytes(pem(anchor))
    for number, content in enumerate(pems):
        (outside / f"{number}.pem").write_bytes(content)
    for number in range(plan.tenants):
        (root / anchored(number)).mkdir(parents=True)
        (root / anchored(number) / "anchor.pem").write_bytes(pem(anchor))
    (root / PROBE).mkdir()
    (root / PROBE / "k.pem").write_bytes(pems[0])
    report = Report()
    context = multiprocessing.get_context("spawn")
    numbers: multiprocessing.Queue[int] = context.Queue()
    for number in range(plan.writers):
        numbers.put(number)
    stop, read, probed = context.Event(), context.Queue(), context.Queue()
    initial = (workspace, plan, pems, numbers, stop)
    with (
        Server(root) as server,
        ProcessPoolExecutor(plan.writers, context, initializer=start_writer, initargs=initial) as writers,
    ):
        kid = (server.kids(anchored(0)) or [""])[0]
        helpers = [
            context.Process(target=read_forever, args=(server.port, plan, kid, stop, read)),
            context.Process(target=probe_forever, args=(server.port, root / PROBE, pems[-2:], stop, probed)),
        ]
        for helper in helpers:
            helper.start()
        started = time.monotonic()
        try:
            for turn in range(plan.rounds):
                share = plan.operations // plan.rounds // plan.writers
                report.operations += sum(writers.map(write, [share] * plan.writers))
                report.missed += differing(root, server, turn)
                report.quiet_points += 1
                report.seconds = time.monotonic() - started
                say(f"{report.operations} operations, {len(report.missed)} missed")
                if report.seconds > plan.seconds:
                    break
        finally:
            stop.set()
            report.answers, report.torn = read.get(timeout=60)
            report.milliseconds = probed.get(timeout=60)
            for helper in helpers:
                helper.join()
        report.torn += [line for line in server.log.splitlines() if "Traceback" in line]
    return report


def differing(root: Path, server: Server, turn: int) -> list[str]:
    """Return the tenants that are not published as a fresh start on the tree would publish them, before long."""
    source = Source(str(root), limits=Limits(turn_seconds=UNHURRIED))
    expected: dict[str, tuple[int, bytes | None]] = {}
    for name in list_root(str(root)).tenants:
        if name != PROBE:
            publication = load(source, LoadJob(name)).publication
            key_set, status = publication.key_set, 404 if publication.vacant else 503
            expected[name] = (status, None) if key_set is None else (200, key_set.body)
    pending = {*expected, *(kind(n + m) for kind in (moving, volume) for n in range(100) for m in (0, 1000))}
    deadline = time.monotonic() + QUIET_LIMIT_SECONDS
    with Client(server.port) as client:
        while pending and time.monotonic() < deadline:
            for tenant in tuple(pending):
                status, body, _ = client.get(tenant)
                if (status, body if status == 200 else None) == expected.get(tenant, (404, None)):
                    pending.discard(tenant)
    return [f"quiet point {turn}: {tenant}" for tenant in sorted(pending)]


def main() -> None:
    """Run a long churn from the command line, print its report, and fail where something was missed or torn."""
    parser = argparse.ArgumentParser(description=churn.__doc__)
    for name, default in (("operations", 100_000), ("tenants", 1000), ("writers", 2), ("rounds", 20), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=200.0, help="operations a second; 0 is as fast as possible")
    parser.add_argument("--seconds", type=float, default=900.0, help="stop after the round in which these are over")
    plan = Plan(**vars(parser.parse_args()))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no process of it is left
    with tempfile.TemporaryDirectory() as folder:
        report = churn(plan, Path(folder), lambda text: print(text, file=sys.stderr))  # noqa: T201
    print(report)  # noqa: T201
    for line in (report.missed + report.torn)[:20]:
        print(line)  # noqa: T201
    sys.exit(bool(report.missed or report.torn))


if __name__ == "__main__":
    main()
