"""What each tenant publishes now: one reference, swapped at once.

The reconciler is the only writer. A reader takes the reference and keeps a whole, finished set, whatever is swapped
in meanwhile.
"""

from collections.abc import Collection, Iterator

from jwks_server.core.publication import Publication
from jwks_server.core.tenant import TenantName


class Store:
    """Publications by tenant."""

    def __init__(self) -> None:
        self._publications: dict[TenantName, Publication] = {}

    def get(self, tenant: str) -> Publication | None:
        """Return what the tenant publishes, or None; any text may be asked for."""
        return self._publications.get(TenantName(tenant))

    def swap(self, publication: Publication) -> None:
        """Put a publication in the place of the tenant's last."""
        self._publications[publication.tenant] = publication

    def remove(self, tenant: TenantName) -> None:
        """Forget a tenant that is gone."""
        self._publications.pop(tenant, None)

    def tenants(self) -> Collection[TenantName]:
        """Return the tenants that publish something, be it an empty set or an error."""
        return self._publications.keys()

    def __iter__(self) -> Iterator[Publication]:
        return iter(self._publications.values())
