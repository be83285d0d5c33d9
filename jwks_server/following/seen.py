"""The last look at each tenant's folder: its signature, its device, whether files lie elsewhere, and its last event."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jwks_server.core.tenant import TenantName
from jwks_server.reading.jobs import Loaded


@dataclass(frozen=True, slots=True)
class _Look:
    signature: bytes | None = None
    device: int | None = None
    links: bool = False


class Seen:
    """How tenants' folders looked when they were read last. Times are seconds on one clock of the caller's."""

    def __init__(self) -> None:
        self._looks: dict[TenantName, _Look] = {}
        self._events: dict[TenantName, float] = {}

    def attempt(self, tenant: TenantName) -> None:
        """Take in that the folder is being read; a tenant that was attempted is known, whatever comes of it."""
        self._looks.setdefault(tenant, _Look())

    def knows(self, tenant: TenantName) -> bool:
        """Tell whether the tenant was ever attempted."""
        return tenant in self._looks

    def record(self, tenant: TenantName, loaded: Loaded) -> None:
        """Take in how the folder looked when it was read."""
        self._looks[tenant] = _Look(loaded.signature, loaded.device, loaded.links)

    def forget(self, tenant: TenantName) -> None:
        """Drop a tenant that is gone."""
        self._looks.pop(tenant, None)
        self._events.pop(tenant, None)

    def device(self, tenant: TenantName) -> int | None:
        """Return the device that the folder was on, or None where that is not known."""
        return self._looks.get(tenant, _Look()).device

    def differs(self, tenant: TenantName, signature: bytes | None) -> bool:
        """Tell whether a folder that looks so now may not be as it was read; None is a look that could not tell."""
        look = self._looks.get(tenant)
        return look is None or signature is None or look.signature != signature

    def was_certain(self, tenant: TenantName) -> bool:
        """Tell whether the last reading left nothing open, so that a difference is a change."""
        look = self._looks.get(tenant)
        return look is None or look.signature is not None

    @property
    def open(self) -> Iterator[TenantName]:
        """The tenants whose last reading has to be done once more."""
        return (tenant for tenant, look in self._looks.items() if look.signature is None)

    def linked(self) -> tuple[TenantName, ...]:
        """Return the tenants some of whose files lie elsewhere, where the watch sees nothing."""
        return tuple(tenant for tenant, look in self._looks.items() if look.links)

    def event(self, tenant: TenantName, now: float) -> None:
        """Take in that the watch named the tenant."""
        self._events[tenant] = now

    def had_event_since(self, tenant: TenantName, moment: float) -> bool:
        """Tell whether the watch named the tenant at or after this moment."""
        return self._events.get(tenant, float("-inf")) >= moment

    def state(self, tenant: TenantName) -> Mapping[str, object]:
        """Return the last look at a tenant, for whoever wants to see it."""
        look = self._looks.get(tenant)
        return {
            "known": look is not None,
            "certain": look is not None and look.signature is not None,
            "links": look is not None and look.links,
        }
