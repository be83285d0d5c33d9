"""`check`: the tree as the server would load it, printed instead of served."""

import json
import sys
from collections.abc import Iterator
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from jwks_server.core.contract import Ask, answer
from jwks_server.core.keyset import PublishedKey
from jwks_server.core.lifecycle import KeyFile
from jwks_server.core.publication import publication_of
from jwks_server.core.snapshot import Level, Problem, Snapshot
from jwks_server.core.tenant import TenantName
from jwks_server.host import clock
from jwks_server.reading.apart import read_apart
from jwks_server.reading.jobs import LoadJob
from jwks_server.reading.source import Source
from jwks_server.reading.tree import list_root

_WIDE_COLUMNS = 400
NO_KEY_FILES = "no key files: not served (404)"
_COLOURS = {Level.FAULT: "red", Level.WARNING: "yellow", Level.NOTICE: "dim"}


def check_tree(source: Source, *, as_json: bool) -> int:
    """Print what each file of each tenant gives, and return 1 where there is a fault, else 0."""
    listing = list_root(source.root)
    snapshots = list(_load_all(source, listing.tenants))
    faulty = bool(listing.strangers) or any(
        problem.level is Level.FAULT for snapshot in snapshots for problem in snapshot.problems
    )
    if as_json:
        tenants = [_tenant_json(snapshot) for snapshot in snapshots]
        report = {"ok": not faulty, "tenants": tenants, "not_served": list(listing.strangers)}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return int(faulty)
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=_WIDE_COLUMNS, highlight=False)
    console.print(_table(snapshots, listing.strangers))
    keys = sum(len(snapshot.published) for snapshot in snapshots)
    console.print(f"{len(snapshots)} tenants, {keys} keys, {'problems found' if faulty else 'no problem'}")
    return int(faulty)


def _load_all(source: Source, tenants: tuple[TenantName, ...]) -> Iterator[Snapshot]:
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        for tenant in progress.track(tenants, description="Reading keystores"):
            yield read_apart(source, LoadJob(tenant))


def _table(snapshots: list[Snapshot], strangers: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("Tenant", "File", "Format", "Key id", "Type", "Algorithm", "Expires / problem"):
        table.add_column(name, overflow="fold")
    for snapshot in snapshots:
        for row in _rows(snapshot):
            table.add_row(snapshot.tenant, *row)
    for name in strangers:
        table.add_row(escape(ascii(name)), "", "", "", "", "", "[red]not served: its name is no tenant domain[/]")
    return table


def _rows(snapshot: Snapshot) -> Iterator[tuple[str, ...]]:
    without_keys = "withheld" if snapshot.rules_unknown else "its keys are in another file or left out"
    for file in snapshot.files:
        keys = _keys_of(file, snapshot)
        problems = [problem for problem in snapshot.problems if problem.file_name == file.name]
        for key in keys:
            yield escape(file.name), file.container, escape(key.kid), key.kty, key.alg, _day(key.not_after)
        for problem in problems:
            yield escape(file.name), file.container, "", "", "", _coloured(problem)
        if not keys and not problems:
            yield (
                escape(file.name),
                file.container,
                "",
                "",
                "",
                f"[dim]{without_keys}[/]",
            )
    for problem in snapshot.problems:
        if not _of_a_file(problem, snapshot):
            yield escape(problem.file_name or ""), "", "", "", "", _coloured(problem)
    if snapshot.vacant:
        yield "", "", "", "", "", f"[dim]{NO_KEY_FILES}[/]"


def _coloured(problem: Problem) -> str:
    return f"[{_COLOURS[problem.level]}]{problem.level}: {escape(problem.text)}[/]"


def _keys_of(file: KeyFile, snapshot: Snapshot) -> list[PublishedKey]:
    return sorted((key for key in snapshot.published if key.file_name == file.name), key=lambda key: key.kid)


def _tenant_json(snapshot: Snapshot) -> dict[str, object]:
    return {
        "tenant": snapshot.tenant,
        "served": snapshot.key_set is not None,
        "status": _status(snapshot),
        "etag": snapshot.key_set.etag if snapshot.key_set else None,
        "files": [_file_json(file, snapshot) for file in snapshot.files],
        "problems": [_problem_json(problem) for problem in snapshot.problems if not _of_a_file(problem, snapshot)],
    }


def _status(snapshot: Snapshot) -> int:
    """Return the status that a GET would be answered with."""
    return answer(Ask("GET"), publication_of(snapshot), clock.now(), expected=True, media_type="").status.value


def _file_json(file: KeyFile, snapshot: Snapshot) -> dict[str, object]:
    keys = _keys_of(file, snapshot)
    return {
        "file": file.name,
        "format": file.container,
        "keys": [{"kid": key.kid, "kty": key.kty, "alg": key.alg, "expires": _iso(key.not_after)} for key in keys],
        "problems": [_problem_json(problem) for problem in snapshot.problems if problem.file_name == file.name],
    }


def _problem_json(problem: Problem) -> dict[str, str | None]:
    return {"level": problem.level.value, "file": problem.file_name, "text": problem.text}


def _of_a_file(problem: Problem, snapshot: Snapshot) -> bool:
    return any(file.name == problem.file_name for file in snapshot.files)


def _iso(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def _day(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d") if moment else ""
