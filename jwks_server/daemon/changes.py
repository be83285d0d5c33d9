"""One log line for each change of what a tenant publishes, and one for each problem that comes or goes."""

import logging

from jwks_server.core.snapshot import Level, Problem, Snapshot
from jwks_server.daemon.logs import fields

_log = logging.getLogger(__name__)
_LEVELS = {Level.FAULT: logging.ERROR, Level.WARNING: logging.WARNING, Level.NOTICE: logging.INFO}


def log_change(previous: Snapshot | None, snapshot: Snapshot, seconds: float) -> None:
    """Say what differs between two snapshots of a tenant; nothing where nothing does."""
    before = {key.kid for key in previous.published} if previous else set()
    after = {key.kid for key in snapshot.published}
    milliseconds = round(seconds * 1000, 1)
    if snapshot.gone:
        if previous is not None:
            _log.info("tenant removed", extra=fields(tenant=snapshot.tenant, removed=sorted(before)))
        return
    if previous is None or _body(previous) != _body(snapshot):
        _log.log(
            logging.INFO if snapshot.key_set else logging.WARNING,
            "key set published" if snapshot.key_set else "key set withheld",
            extra=fields(
                tenant=snapshot.tenant,
                keys=len(after),
                added=sorted(after - before),
                removed=sorted(before - after),
                ms=milliseconds,
            ),
        )
    old: frozenset[Problem] = frozenset(previous.problems) if previous else frozenset()
    for problem in snapshot.problems:
        if problem not in old:
            _log.log(
                _LEVELS[problem.level],
                problem.level.value,
                extra=fields(tenant=snapshot.tenant, file=problem.file_name, reason=problem.text),
            )
    for problem in sorted(
        old - frozenset(snapshot.problems), key=lambda problem: (problem.file_name or "", problem.text)
    ):
        if problem.level is Level.FAULT:
            _log.info("fault gone", extra=fields(tenant=snapshot.tenant, file=problem.file_name, reason=problem.text))


def _body(snapshot: Snapshot) -> bytes | None:
    return snapshot.key_set.body if snapshot.key_set else None
