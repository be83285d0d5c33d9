"""Tenants and files at which a reader process crashed or hung: what is left out, and when it is tried again.

A file that crashes its reader is left out of the next reading, so that the rest of its folder is published. A folder on
a dead network mount hangs every process that opens it: its tenant has no timers of its own but is tried by the
comparison, one such tenant after the other, so that any number of them holds one reader process at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.reading.jobs import Place

MOST_FILES = 1000
"""How many files of a tenant may crash a reader process each before the tenant is only tried now and then."""


@dataclass(frozen=True, slots=True)
class _Suspect:
    """A tenant at which a reader process crashed: when it is tried again, and whether it hung before it had content."""

    due: float
    hung: bool


class Quarantine:
    """What crashed reader processes, by tenant. Times are seconds on one clock of the caller's."""

    def __init__(self, timing: Timing, most_files: int = MOST_FILES) -> None:
        self._timing = timing
        self._most_files = most_files
        self._suspects: dict[TenantName, _Suspect] = {}
        self._files: dict[TenantName, dict[tuple[str, bytes], str]] = {}
        self._hangs: dict[TenantName, int] = {}

    def blame(self, tenant: TenantName, place: Place | None, text: str, now: float, *, hung: bool) -> bool:
        """Take in that a reader process crashed, or `hung`, while it read this tenant.

        Return True where it was at a file that is left out from now on: then the tenant can be read again at once.
        """
        self.suspect(tenant, now, hung=hung and place is not None and not place.stamp, counts=hung)
        files = self._files.get(tenant, {})
        if place is None or place.file is None:
            return False
        if (place.name, place.stamp) in files or len(files) >= self._most_files:
            return False
        self._files.setdefault(tenant, {})[place.name, place.stamp] = text
        return True

    def suspect(self, tenant: TenantName, now: float, *, hung: bool = True, counts: bool = True) -> None:
        """Take in that looking at the tenant crashed a reader process, or hung; `counts` says that it took too long."""
        self._hangs[tenant] = self._hangs.get(tenant, 0) + counts
        is_first = counts and self._hangs[tenant] == 1
        delay = self._timing.first_suspicion if is_first else self._timing.suspicion
        self._suspects[tenant] = _Suspect(now + delay, hung=hung or self.is_hung(tenant))

    def without(self, tenant: TenantName) -> Mapping[tuple[str, bytes], str]:
        """Return the files that are to be left out, by name and stamp, with what to say of each."""
        return dict(self._files.get(tenant, {}))

    def learned(self, tenant: TenantName) -> None:
        """Take in that a reading was accepted: from now on the tenant's snapshot knows which files were left out."""
        self._files.pop(tenant, None)

    def acquit(self, tenant: TenantName) -> None:
        """Forget the tenant's past, for it was read and nothing in it is faulty, or it is gone."""
        self._suspects.pop(tenant, None)
        self._hangs.pop(tenant, None)

    def is_suspect(self, tenant: TenantName) -> bool:
        """Tell whether a reader process crashed or hung at the tenant, and it was not read well since."""
        return tenant in self._suspects

    def is_hung(self, tenant: TenantName) -> bool:
        """Tell whether looking at the tenant's folder or opening its files hangs, as far as is known."""
        suspect = self._suspects.get(tenant)
        return suspect is not None and suspect.hung

    def due(self, now: float) -> TenantName | None:
        """Return the tenant that is to be tried again next, or None while none is due."""
        tenant = min(self._suspects, key=lambda name: self._suspects[name].due, default=None)
        return tenant if tenant is not None and self._suspects[tenant].due <= now else None

    def hold(self, tenant: TenantName) -> None:
        """Let the tenant not be due while it is tried."""
        if tenant in self._suspects:
            self._suspects[tenant] = replace(self._suspects[tenant], due=inf)

    def release(self, tenant: TenantName) -> bool:
        """Suspect a tenant no longer, which was tried and crashed nothing; return False where nobody did."""
        return self._suspects.pop(tenant, None) is not None

    def hurry(self) -> None:
        """Make all suspects due: others may have hung for the same reason as one that answers again."""
        self._suspects = {name: replace(suspect, due=-inf) for name, suspect in self._suspects.items()}

    def state(self, tenant: TenantName, now: float) -> Mapping[str, object]:
        """Return what is held against a tenant, for whoever wants to see it."""
        suspect = self._suspects.get(tenant)
        return {
            "suspected": suspect is not None,
            "hung": self.is_hung(tenant),
            "tried_again_in_seconds": (
                None if suspect is None or suspect.due == inf else max(0.0, round(suspect.due - now, 3))
            ),
            "files_left_out": [{"file": name, "reason": text} for (name, _), text in self.without(tenant).items()],
        }
