"""The current snapshot of each tenant: one reference, swapped at once.

The reconciler is the only writer. A reader takes the reference and keeps a whole, finished set, whatever is swapped
in meanwhile.
"""

from collections.abc import Collection, Iterator

from jwks_server.core.snapshot import Snapshot
from jwks_server.core.tenant import TenantName


class Store:
    """Snapshots by tenant."""

    def __init__(self) -> None:
        self._snapshots: dict[TenantName, Snapshot] = {}

    def get(self, tenant: str) -> Snapshot | None:
        """Return the tenant's present snapshot, or None; any text may be asked for."""
        return self._snapshots.get(TenantName(tenant))

    def swap(self, snapshot: Snapshot) -> None:
        """Put a snapshot in the place of the tenant's last."""
        self._snapshots[snapshot.tenant] = snapshot

    def remove(self, tenant: TenantName) -> None:
        """Forget a tenant that is gone."""
        self._snapshots.pop(tenant, None)

    def tenants(self) -> Collection[TenantName]:
        """Return the tenants that have a snapshot."""
        return self._snapshots.keys()

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self._snapshots.values())
