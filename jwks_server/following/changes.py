"""One log line for each change of what a tenant publishes, and one for each problem that comes or goes."""

import logging

from jwks_server.core.publication import Publication
from jwks_server.core.snapshot import Level
from jwks_server.host.logs import fields

_log = logging.getLogger(__name__)
_LEVELS = {Level.FAULT: logging.ERROR, Level.WARNING: logging.WARNING, Level.NOTICE: logging.INFO}


def log_change(previous: Publication | None, publication: Publication, seconds: float) -> None:
    """Say what a publication changes against the tenant's previous one; nothing where nothing does."""
    tenant, change = publication.tenant, publication.change
    if publication.gone:
        if previous is not None:
            _log.info("tenant removed", extra=fields(tenant=tenant, removed=change.removed))
        return
    if previous is None or _served(previous) != _served(publication):
        _log.log(
            *_headline(publication),
            extra=fields(
                tenant=tenant,
                keys=publication.keys,
                added=change.added,
                removed=change.removed,
                ms=round(seconds * 1000, 1),
            ),
        )
    for problem in change.come:
        _log.log(
            _LEVELS[problem.level],
            problem.level.value,
            extra=fields(tenant=tenant, file=problem.file_name, reason=problem.text),
        )
    for problem in change.gone:
        if problem.level is Level.FAULT:
            _log.info("fault gone", extra=fields(tenant=tenant, file=problem.file_name, reason=problem.text))
    if change.more:
        _log.warning(
            "more changed than is named here; 'jwks-server check' lists all",
            extra=fields(tenant=tenant, more=change.more),
        )


def _served(publication: Publication) -> tuple[str | None, bool]:
    return publication.key_set.etag if publication.key_set else None, publication.vacant


def _headline(publication: Publication) -> tuple[int, str]:
    """Return level and text of the line about what the tenant publishes now."""
    if publication.key_set is not None:
        return logging.INFO, "key set published"
    if publication.vacant:
        return logging.INFO, "no key files, not served"
    return logging.WARNING, "key set withheld"
