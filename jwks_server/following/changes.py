"""One log line for each change of what a tenant publishes, and one for each problem that comes or goes."""

import logging

from jwks_server.core.publication import Publication
from jwks_server.core.snapshot import Level, Problem
from jwks_server.host.logs import fields

_log = logging.getLogger(__name__)
_LEVELS = {Level.FAULT: logging.ERROR, Level.WARNING: logging.WARNING, Level.NOTICE: logging.INFO}


def log_change(previous: Publication | None, publication: Publication, seconds: float) -> None:
    """Say what differs between two publications of a tenant; nothing where nothing does."""
    before = set(previous.kids) if previous else set()
    after = set(publication.kids)
    milliseconds = round(seconds * 1000, 1)
    if publication.gone:
        if previous is not None:
            _log.info("tenant removed", extra=fields(tenant=publication.tenant, removed=sorted(before)))
        return
    if previous is None or _body(previous) != _body(publication):
        _log.log(
            logging.INFO if publication.key_set else logging.WARNING,
            "key set published" if publication.key_set else "key set withheld",
            extra=fields(
                tenant=publication.tenant,
                keys=len(after),
                added=sorted(after - before),
                removed=sorted(before - after),
                ms=milliseconds,
            ),
        )
    old: frozenset[Problem] = frozenset(previous.problems) if previous else frozenset()
    for problem in publication.problems:
        if problem not in old:
            _log.log(
                _LEVELS[problem.level],
                problem.level.value,
                extra=fields(tenant=publication.tenant, file=problem.file_name, reason=problem.text),
            )
    for problem in sorted(
        old - frozenset(publication.problems), key=lambda problem: (problem.file_name or "", problem.text)
    ):
        if problem.level is Level.FAULT:
            _log.info(
                "fault gone", extra=fields(tenant=publication.tenant, file=problem.file_name, reason=problem.text)
            )


def _body(publication: Publication) -> bytes | None:
    return publication.key_set.body if publication.key_set else None
