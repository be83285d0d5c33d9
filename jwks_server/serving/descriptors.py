"""How many connections the process has descriptors for."""

import logging
import resource

from jwks_server.host.logs import fields

RESERVE = 64
"""Descriptors kept from the connections, for reader processes, the watch and the private listener."""

_log = logging.getLogger(__name__)


def raise_limit() -> int:
    """Raise the soft limit on open files to the hard one where that is allowed, and return what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        _log.warning("the limit on open files stays", extra=fields(limit=soft, hard=hard, reason=str(error)))
        return soft
    return hard


def affordable(wanted: int, limit: int) -> int:
    """Return how many of so many connections there are descriptors for; say so where that is fewer."""
    most = max(1, min(wanted, limit - RESERVE))
    if most < wanted:
        text = "fewer connections than --max-connections: raise LimitNOFILE= or ulimit -n"
        _log.warning(text, extra=fields(connections=most, wanted=wanted, open_files=limit))
    return most
