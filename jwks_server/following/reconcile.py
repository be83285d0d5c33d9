"""The only writer of what is published: a tenant's turn reads its folder, and the answer becomes its publication.

Nothing is taken from a hint but the tenant's name. What is published follows from reading the folder, so a hint that
comes twice, late or for nothing does no harm.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

from jwks_server.core.errors import ReaderError, RootUnavailableError
from jwks_server.core.publication import Publication
from jwks_server.core.retry import Came, Outcome
from jwks_server.core.tenant import TenantName
from jwks_server.following.changes import log_change
from jwks_server.following.quarantine import Quarantine
from jwks_server.following.root import Root
from jwks_server.following.schedule import Turn
from jwks_server.following.seen import Seen
from jwks_server.following.store import Store
from jwks_server.host import clock
from jwks_server.host.logs import fields
from jwks_server.reading.jobs import Loaded, LoadJob, ReaderCrashedError, Readers

_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """What puts down what has to outlive the process."""

    async def secure(self, publication: Publication) -> None:
        """Put down new keys before they are published, or return after a short while."""

    def note(self, publication: Publication) -> None:
        """Put down what was published, later."""

    def doubt(self) -> None:
        """Put down again whatever is noted next: the wall clock, on which deadlines are written, has jumped."""


class Reconciler:
    """Makes one tenant's publication equal to its folder. All methods belong to the event loop.

    `unloaded` are the tenants that wait for their first load, `unread` those whose last reading failed as a whole,
    `records` what is known of tenants from before the start and was not handed to a reading yet. `loads` counts the
    times that a folder was read, `swaps` the changed key sets.
    """

    def __init__(  # noqa: PLR0913 - what it decides with, each a room of its own
        self, *, store: Store, readers: Readers, recorder: Recorder, root: Root, seen: Seen, quarantine: Quarantine
    ) -> None:
        self.unloaded: dict[TenantName, None] = {}
        self.unread: set[TenantName] = set()
        self.records: dict[TenantName, bytes] = {}
        self.loads = 0
        self.swaps = 0
        self._store = store
        self._readers = readers
        self._recorder = recorder
        self._root = root
        self._seen = seen
        self._quarantine = quarantine
        self._jobs: dict[TenantName, LoadJob] = {}

    def expect(self, tenants: Iterable[TenantName], records: Mapping[TenantName, bytes]) -> None:
        """Take in the tenants that the tree has at the start, and the records of tenants from before it."""
        self.records = dict(records)
        self.unloaded = dict.fromkeys([*tenants, *records])

    def recall(self, records: Mapping[TenantName, bytes]) -> None:
        """Take in records from before the start that could be read only now."""
        self.records |= records
        self.unloaded |= dict.fromkeys(tenant for tenant in records if self._store.get(tenant) is None)

    def promote(self, tenant: TenantName) -> bool:
        """Let a reading of the tenant that still waits overtake; False where it is under way or there is none."""
        job = self._jobs.get(tenant)
        return job is not None and self._readers.promote(job)

    async def take_turn(self, tenant: TenantName, turn: Turn) -> Outcome:
        """Read and publish the tenant once. The one place that survives any failure of that."""
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("turn", extra=fields(tenant=tenant, urgency=turn.urgency.name.lower(), afresh=turn.afresh))
        started = time.monotonic()
        try:
            came = await self._read(tenant, turn, started)
        except ReaderCrashedError as error:
            came = self._blame(tenant, error)
        except RootUnavailableError:
            self._root.doubted.set()
            came = Came.NOTHING
        except ReaderError as error:
            _log.error("tenant not read", extra=fields(tenant=tenant, reason=error))
            came = self._nothing_read(tenant)
        except Exception:  # noqa: BLE001 - whatever it is, it is this tenant's alone
            _log.exception("tenant not read: a bug", extra=fields(tenant=tenant))
            came = self._nothing_read(tenant)
        return self.outcome(tenant, came)

    async def _read(self, tenant: TenantName, turn: Turn, started: float) -> Came:
        self.loads += 1
        self._seen.attempt(tenant)
        previous = self._store.get(tenant)
        job = self._jobs[tenant] = LoadJob(
            tenant,
            previous=None if previous is None else previous.sealed,
            record=self.records.get(tenant),
            device=self._seen.device(tenant),
            deadly=self._quarantine.without(tenant),
            afresh=turn.afresh,
        )
        try:
            loaded = await self._readers.run(job, turn.urgency)
        finally:
            del self._jobs[tenant]
        if self._root.believes(loaded.root):
            await self._recorder.secure(loaded.publication)
        if not self._root.believes(loaded.root):
            # Of what was read below another root nothing is kept, and nothing is forgotten.
            self._root.doubted.set()
            return Came.NOTHING
        return self._accept(tenant, job, loaded, previous, started)

    def _accept(
        self, tenant: TenantName, job: LoadJob, loaded: Loaded, previous: Publication | None, started: float
    ) -> Came:
        """Publish what was read, and return whether something in it is faulty."""
        publication = loaded.publication
        self._seen.record(tenant, loaded)
        self.unloaded.pop(tenant, None)
        self.unread.discard(tenant)
        self._quarantine.learned(tenant)
        if self.records.get(tenant) == job.record:
            self.records.pop(tenant, None)  # from now on its snapshot knows
        if publication.gone:
            self._store.remove(tenant)
            self._seen.forget(tenant)
        else:
            self._store.swap(publication)
        self.swaps += previous is None or previous.key_set != publication.key_set
        log_change(previous, publication, time.monotonic() - started)
        self._recorder.note(publication)
        if loaded.unfinished:
            return Came.UNFINISHED
        if publication.gone or not (publication.faulty or publication.folder_fault):
            self._quarantine.acquit(tenant)
            return Came.GOOD
        return Came.FAULTY if previous and previous.faulty == publication.faulty else Came.NEWLY_FAULTY

    def _blame(self, tenant: TenantName, error: ReaderCrashedError) -> Came:
        """Have the folder read without the file at which a reader process crashed; without any, look again later."""
        place = error.place
        file = None if place is None else place.file
        _log.error("reader lost", extra=fields(tenant=tenant, file=file, reason=error))
        if self._quarantine.blame(tenant, place, str(error), time.monotonic(), hung=error.hung):
            return Came.BLAME
        self.unread.add(tenant)
        return Came.CRASH

    def _nothing_read(self, tenant: TenantName) -> Came:
        self.unread.add(tenant)
        return Came.NOTHING

    def outcome(self, tenant: TenantName, came: Came) -> Outcome:
        """Return what came of a turn, with all that decides when the next one is."""
        publication, now = self._store.get(tenant), clock.now()
        dues = (publication.next_change, publication.look_again) if publication else ()
        waits = [wait for due in dues if (wait := due.seconds_from(now)) is not None]
        suspected, hung = self._quarantine.is_suspect(tenant), self._quarantine.is_hung(tenant)
        return Outcome(came, min(waits, default=None), suspected=suspected, hung=hung)
