"""What the parts of the server say of themselves, gathered when somebody asks."""

from collections.abc import Mapping

from jwks_server.core.snapshot import Level
from jwks_server.core.tenant import TenantName
from jwks_server.following.follow import Follower
from jwks_server.following.store import Store
from jwks_server.readers.pool import ReaderPool
from jwks_server.serving.listener import Listener
from jwks_server.state.directory import StateDirectory


class Health:
    """Looks at the parts of the server; changes none."""

    def __init__(
        self,
        store: Store,
        follower: Follower,
        state: StateDirectory,
        readers: ReaderPool,
        listeners: Mapping[str, Listener],
    ) -> None:
        self.store = store
        self.follower = follower
        self.state = state
        self.readers = readers
        self.listeners = listeners

    def not_ready(self) -> list[str]:
        """Return why answers may be missing or old."""
        reasons = []
        if self.follower.root.fault is not None:
            reasons.append(self.follower.root.fault)
        if self.follower.unloaded:
            reasons.append(f"{len(self.follower.unloaded)} tenants wait for their first load")
        return reasons

    def degraded(self) -> list[str]:
        """Return what is wrong while the answers are right."""
        reasons = [fault for fault in (self.follower.watchkeeper.fault, self.state.fault) if fault is not None]
        faulty = self.tenants_with(Level.FAULT)
        if faulty:
            reasons.append(f"{faulty} tenants have faulty files; 'jwks-server check' and the log name them")
        if self.follower.reconciler.unread:
            reasons.append(f"{len(self.follower.reconciler.unread)} tenants cannot be read; the log names them")
        return reasons

    def tenants_with(self, level: Level) -> int:
        """Return how many tenants have a problem of this level."""
        return sum(publication.count(level) > 0 for publication in self.store)

    def tenant(self, name: TenantName) -> Mapping[str, object] | None:
        """Return what is published and known of a tenant, and what waits for it; None for one that is unknown."""
        publication = self.store.get(name)
        if publication is None and name not in self.follower.unloaded:
            return None
        return {
            "tenant": name,
            "published": None
            if publication is None
            else {
                "etag": publication.key_set.etag if publication.key_set else None,
                "keys": publication.keys,
                "owed": publication.owed,
                "folder": publication.present,
                "problems": [
                    {"level": problem.level.value, "file": problem.file_name, "text": problem.text}
                    for problem in publication.problems
                ],
                "problem_counts": {level.value: publication.count(level) for level in Level},
            },
            **self.follower.turns.state(name),
        }
