"""How much reading each tenant had of late, so that no tenant's files hold up another's.

A tenant's share is the processor seconds that reader processes spent on it; they count half after each HALF_LIFE. Who
had little goes before who had much. Tenants that had more than GREEDY seconds never have all reader processes between
them: one is left to the others.
"""

from jwks_server.core.tenant import TenantName

HALF_LIFE = 10.0
GREEDY = 0.75
"""One key derivation at the limit of what a keystore may ask for takes about a second."""

_FORGOTTEN = 0.001
_MANY = 1024


class Shares:
    """Seconds of reading by tenant; `now` is seconds on one clock of the caller's."""

    def __init__(self) -> None:
        self._used: dict[TenantName, tuple[float, float]] = {}
        self._prune_at = _MANY

    def charge(self, tenant: TenantName, seconds: float, now: float) -> None:
        """Take in that a reader process spent so many seconds on the tenant."""
        self._used[tenant] = self.used(tenant, now) + seconds, now
        if len(self._used) > self._prune_at:
            self._used = {name: used for name, used in self._used.items() if self.used(name, now) > _FORGOTTEN}
            self._prune_at = max(_MANY, 2 * len(self._used))

    def used(self, tenant: TenantName, now: float) -> float:
        """Return the seconds that the tenant had of late."""
        seconds, since = self._used.get(tenant, (0.0, now))
        return float(seconds * 0.5 ** ((now - since) / HALF_LIFE))

    def is_greedy(self, tenant: TenantName, now: float) -> bool:
        """Tell whether the tenant had so much that it may not have all reader processes."""
        return self.used(tenant, now) > GREEDY
