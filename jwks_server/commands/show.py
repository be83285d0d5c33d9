"""`show`: one tenant's key set as the server would answer with it."""

import sys

from jwks_server.commands.check import NO_KEY_FILES
from jwks_server.core.errors import SettingsError
from jwks_server.core.tenant import TenantName
from jwks_server.reading.apart import read_apart
from jwks_server.reading.jobs import LoadJob
from jwks_server.reading.source import Source
from jwks_server.reading.tree import list_root


def show_tenant(source: Source, tenant: TenantName) -> int:
    """Print the tenant's key set; return 1 where the server would answer without one. Its problems go to stderr."""
    if tenant not in list_root(source.root).tenants:
        raise SettingsError(f"no tenant {tenant} in {source.root}: there is no such folder")
    snapshot = read_apart(source, LoadJob(tenant))
    for problem in snapshot.problems:
        sys.stderr.write(f"{problem.level}: {problem.file_name or tenant}: {problem.text}\n")
    if snapshot.key_set is None:
        sys.stderr.write(f"{tenant}: {NO_KEY_FILES if snapshot.vacant else 'nothing is published (503)'}\n")
        return 1
    sys.stdout.write(snapshot.key_set.body.decode("ascii") + "\n")
    return 0
