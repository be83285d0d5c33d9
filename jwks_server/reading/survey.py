"""Looking at tenants' folders without reading a file, to see whether they are as they were when they were read.

A tree of many tenants is looked over in slices, so that a changed file waits no longer for its reader than one takes.
"""

import errno
import os
import time
from collections.abc import Callable

from jwks_server.core.tenant import TenantName
from jwks_server.reading.jobs import Survey, SurveyJob
from jwks_server.reading.links import Trust, trust_below
from jwks_server.reading.source import Source
from jwks_server.reading.tree import open_folder, opened_root, view


def survey(source: Source, job: SurveyJob, report: Callable[[TenantName], None] = lambda _tenant: None) -> Survey:
    """Return the signatures; raise RootUnavailableError where the tree cannot be opened.

    `report` is told of each tenant before its folder is looked at, which may hang.
    """
    started = time.monotonic()
    signatures: dict[TenantName, bytes | None] = {}
    with opened_root(source.root) as (root, identity):
        trust = trust_below(root)
        for tenant in job.tenants:
            report(tenant)
            signatures[tenant] = _signature(source, tenant, root, trust)
            if time.monotonic() - started > job.seconds:
                break
    return Survey(identity, signatures, time.monotonic() - started)


def _signature(source: Source, tenant: TenantName, root: int, trust: Trust) -> bytes | None:
    try:
        descriptor = open_folder(tenant, root)
    except OSError as error:
        return b"" if error.errno in {errno.ENOENT, errno.ENOTDIR} else None
    try:
        return view(descriptor, trust, source.passwords.mark(tenant), exact_times=source.exact_times).signature
    except OSError:
        return None
    finally:
        os.close(descriptor)
