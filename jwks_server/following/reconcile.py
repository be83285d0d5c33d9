"""The only writer of the store: hints, timers and comparisons become loads, and loads become publications.

Nothing is taken from a hint but the tenant's name. What is published follows from reading its folder, so a hint that
comes twice, late or for nothing does no harm.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Protocol, overload

from jwks_server.core.errors import LoaderError, RootUnavailableError, TenantNameError
from jwks_server.core.publication import Publication
from jwks_server.core.snapshot import Level, Remembered
from jwks_server.core.tenant import POLICY_FILE, REVOKED_FILE, TenantName, tenant_name
from jwks_server.following.changes import log_change
from jwks_server.following.store import Store
from jwks_server.host import clock
from jwks_server.host.logs import fields
from jwks_server.readers.pool import ROUTINE, URGENT, ReaderDiedError
from jwks_server.reading.load import Loaded, LoadJob
from jwks_server.reading.place import FOLDER
from jwks_server.reading.source import Source
from jwks_server.reading.survey import ListingJob, Survey, SurveyJob
from jwks_server.reading.tree import Listing

QUIET_SECONDS = 0.001
LONGEST_QUIET_SECONDS = 0.05
RETRY_SECONDS = (0.02, 0.05, 0.1, 0.5)
LATER_SECONDS = 30.0
LONGEST_TIMER_SECONDS = 3600.0
SUSPECT_SECONDS = 30.0
"""When a tenant at which a reader ended is tried again: that may cost another one, and some seconds."""

HICCUP_SECONDS = 1.0
"""When a folder is tried again that hung for the first time."""

MOST_DEADLY = 1000
"""How many files of a tenant may end a reader each before the tenant is tried again only now and then."""

_log = logging.getLogger(__name__)


class Loader(Protocol):
    """What reads folders for the reconciler."""

    @overload
    async def run(self, job: LoadJob, urgency: int) -> Loaded: ...
    @overload
    async def run(self, job: SurveyJob, urgency: int) -> Survey: ...
    @overload
    async def run(self, job: ListingJob, urgency: int) -> Listing: ...
    def hurry(self, job: LoadJob) -> bool:
        """Move a job that still waits before the others; False where its folder may have been read already."""
        ...


@dataclass(slots=True)
class _Slot:
    """What the reconciler knows of a tenant besides its publication."""

    timer: asyncio.TimerHandle | None = None
    first_hint: float | None = None
    task: asyncio.Task[None] | None = None
    job: LoadJob | None = None
    again: bool = False
    deadly: dict[tuple[str, bytes], str] = field(default_factory=dict)
    urgency: int = ROUTINE
    afresh: bool = False
    wake: asyncio.TimerHandle | None = None
    wake_at: float = 0.0
    retries: int = 0
    hangs: int = 0
    is_unread: bool = False
    told: Remembered | None = None
    signature: bytes | None = None
    device: int | None = None
    links: bool = False
    read_at: float = 0.0
    event_at: float = 0.0

    @property
    def busy(self) -> bool:
        return self.timer is not None or self.task is not None


@dataclass(frozen=True, slots=True)
class _Suspect:
    """A tenant at which a reader ended: when it is tried again, and whether something hung before it gave any content.

    What hangs, the folder, a file or what a link leads to, hangs for whoever looks.
    """

    due: float
    hung: bool


class Reconciler:
    """Keeps the store equal to the tree. All methods belong to the event loop.

    `root` is the (device, inode) of the tree that is believed; what was read below another one is not published.
    `on_root_doubt` is told when a load saw another root or none, `before_change` each publication before it is made and
    `on_change` after.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        loader: Loader,
        *,
        before_change: Callable[[Publication], Awaitable[None]] | None = None,
        on_change: Callable[[Publication], None] = lambda _publication: None,
    ) -> None:
        self.root: tuple[int, int] | None = None
        self.on_root_doubt: Callable[[], None] = lambda: None
        self.loads = 0
        self.swaps = 0
        self._before_change = before_change
        self._on_change = on_change
        self._source = source
        self._store = store
        self._loader = loader
        self._slots: dict[TenantName, _Slot] = {}
        self._unloaded: dict[TenantName, None] = {}
        self._remembered: dict[TenantName, Remembered] = {}
        self._suspects: dict[TenantName, _Suspect] = {}
        self._closed = False

    # --- the first load

    def expect(self, tenants: Iterable[TenantName], remembered: Mapping[TenantName, Remembered]) -> None:
        """Take in the tenants that the tree has at the start, and the keys of earlier ones that are still owed."""
        self._remembered = dict(remembered)
        self._unloaded = dict.fromkeys([*tenants, *remembered])

    def recall(self, remembered: Mapping[TenantName, Remembered]) -> None:
        """Take in what is still owed from before the start, learned only now."""
        self._remembered |= remembered
        for tenant in remembered:
            if self._store.get(tenant) is None:
                self._unloaded.setdefault(tenant)
            self.hint(tenant)

    @property
    def unloaded(self) -> int:
        """How many tenants wait for their first load."""
        return len(self._unloaded)

    def expects(self, tenant: str) -> bool:
        """Tell whether this is the name of a tenant that is known and was not loaded yet."""
        return tenant in self._unloaded

    async def load_expected(self, side_by_side: int) -> None:
        """Load all expected tenants, a few at a time; those that fail are tried again on their own timers."""
        turns = iter(tuple(self._unloaded))

        async def take_turns() -> None:
            for tenant in turns:
                await self.first_load(tenant, ROUTINE)

        await asyncio.gather(*(take_turns() for _ in range(side_by_side)))

    async def first_load(self, tenant: TenantName, urgency: int = URGENT) -> Publication | None:
        """Return what the tenant publishes, after its first load where it waits for that; None where it failed."""
        if tenant in self._unloaded and not self.is_hung(tenant) and not self._closed:
            slot = self._slots.setdefault(tenant, _Slot())
            slot.urgency = min(slot.urgency, urgency)
            await asyncio.shield(slot.task or self._start(tenant, slot))
        return self._store.get(tenant)

    # --- hints

    def event(self, names: Collection[str]) -> None:
        """Take in names of folders that the watch saw something in; any names."""
        now = time.monotonic()
        for name in names:
            try:
                tenant = tenant_name(name)
            except TenantNameError:
                continue
            self.hint(tenant, URGENT)
            slot = self._slots.get(tenant)
            if slot is not None:
                slot.event_at = now

    def hint(self, tenant: TenantName, urgency: int = ROUTINE, *, afresh: bool = False) -> None:
        """Read the tenant's folder once it has been quiet for a moment, or has not been for too long.

        What somebody just changed is urgent; looking once more at what may have settled waits behind it.
        """
        if self._closed:
            return
        slot = self._slots.setdefault(tenant, _Slot())
        slot.urgency = min(slot.urgency, urgency)
        slot.afresh |= afresh
        loop = asyncio.get_running_loop()
        now = loop.time()
        if slot.first_hint is None:
            slot.first_hint = now
        if slot.timer is not None:
            slot.timer.cancel()
        due = min(now + QUIET_SECONDS, slot.first_hint + LONGEST_QUIET_SECONDS)
        slot.timer = loop.call_at(due, self._quiet, tenant, slot)

    def hint_timed(self) -> None:
        """Build again all that depends on the wall clock, which has jumped."""
        for publication in tuple(self._store):
            timed = (publication.next_change.wall, publication.next_change.steady, publication.look_again.wall)
            if publication.problems or any(due is not None for due in timed):
                self.hint(publication.tenant)

    async def close(self) -> None:
        """Let no timer start another load, and wait for none."""
        self._closed = True
        tasks = []
        for slot in self._slots.values():
            for timer in (slot.timer, slot.wake):
                if timer is not None:
                    timer.cancel()
            if slot.task is not None:
                slot.task.cancel()
                tasks.append(slot.task)
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- comparison

    @property
    def known(self) -> Collection[TenantName]:
        """The tenants that are published, or wait for their first load."""
        return {*self._store.tenants(), *self._unloaded}

    def differing(self, signatures: Mapping[TenantName, bytes | None]) -> tuple[TenantName, ...]:
        """Return the tenants whose folder is not as it was when it was read; those being read or hung are left out."""
        return tuple(tenant for tenant, seen in signatures.items() if self._differs(tenant, seen))

    def _differs(self, tenant: TenantName, seen: bytes | None) -> bool:
        slot = self._slots.get(tenant)
        if (slot is not None and slot.busy) or self.is_hung(tenant):
            return False
        if slot is None and tenant in self._unloaded:
            return False  # its turn will come
        return slot is None or seen is None or slot.signature != seen

    def was_certain(self, tenant: TenantName) -> bool:
        """Tell whether the tenant's last reading left nothing open, so that a difference is a change."""
        slot = self._slots.get(tenant)
        return slot is None or slot.signature is not None

    def had_event_since(self, tenant: TenantName, moment: float) -> bool:
        """Tell whether the watch named the tenant after `moment` on the monotonic clock."""
        slot = self._slots.get(tenant)
        return slot is not None and slot.event_at >= moment

    @property
    def uncertain(self) -> tuple[TenantName, ...]:
        """The tenants that are being read, or whose last reading has to be done once more."""
        return tuple(tenant for tenant, slot in self._slots.items() if slot.busy or slot.signature is None)

    @property
    def unread(self) -> int:
        """How many tenants' last reading failed as a whole: nothing is known of them but what they last gave."""
        return sum(slot.is_unread for slot in self._slots.values())

    # --- suspects

    def suspect(self, tenant: TenantName) -> None:
        """Take in that a look at the tenant's folder hung."""
        self._suspect(tenant, self._slots.setdefault(tenant, _Slot()), hung=True)

    def _suspect(self, tenant: TenantName, slot: _Slot, *, hung: bool) -> None:
        slot.hangs += hung
        delay = HICCUP_SECONDS if hung and slot.hangs == 1 else SUSPECT_SECONDS
        self._suspects[tenant] = _Suspect(time.monotonic() + delay, hung=hung or self.is_hung(tenant))

    def is_hung(self, tenant: TenantName) -> bool:
        """Tell whether looking at the tenant's folder and files hangs, as far as is known."""
        suspect = self._suspects.get(tenant)
        return suspect is not None and suspect.hung

    def due_suspect(self) -> TenantName | None:
        """Return the tenant that is to be tried again next, or None while none is due."""
        tenant = min(self._suspects, key=lambda name: self._suspects[name].due, default=None)
        return tenant if tenant is not None and self._suspects[tenant].due <= time.monotonic() else None

    async def try_again(self, tenant: TenantName) -> bool:
        """Read a suspect, with the files that ended readers; tell whether it ended none."""
        slot = self._slots.setdefault(tenant, _Slot())
        slot.afresh = slot.again = True
        tried = self._suspects[tenant] = replace(self._suspects[tenant], due=inf)
        await asyncio.shield(slot.task or self._start(tenant, slot))
        if self._suspects.get(tenant, tried) is not tried:
            return False
        if self._suspects.pop(tenant, None) is not None:
            self._later(tenant, slot)  # it has ordinary faults, which have their own timer
        self.hurry_suspects()  # others may have hung for the same reason, and that is gone
        return True

    def hurry_suspects(self) -> None:
        """Have all suspects tried again by the next comparison."""
        self._suspects = {name: replace(suspect, due=0.0) for name, suspect in self._suspects.items()}

    def linked(self) -> tuple[TenantName, ...]:
        """Return the tenants some of whose files lie elsewhere, where the watch sees nothing."""
        return tuple(tenant for tenant, slot in self._slots.items() if slot.links)

    # --- loads

    def _quiet(self, tenant: TenantName, slot: _Slot) -> None:
        slot.timer = None
        slot.first_hint = None
        if slot.task is None:
            self._start(tenant, slot)
        elif slot.job is None or slot.urgency == ROUTINE or not self._loader.hurry(slot.job):
            slot.again = True

    def _start(self, tenant: TenantName, slot: _Slot) -> asyncio.Task[None]:
        slot.task = asyncio.get_running_loop().create_task(self._load(tenant, slot))
        return slot.task

    async def _load(self, tenant: TenantName, slot: _Slot) -> None:
        """Load until no further hint came meanwhile. The one place that survives any failure of a rebuild."""
        try:
            slot.again = True
            while slot.again:
                slot.again = False
                try:
                    loaded = await self._read(tenant, slot)
                    if self._before_change is not None and loaded.root == self.root:
                        await self._before_change(loaded.publication)
                    slot.is_unread = False
                    self._accept(tenant, slot, loaded)
                    slot.deadly.clear()  # from now on the snapshot knows
                except ReaderDiedError as error:
                    self._blame(tenant, slot, error)
                except RootUnavailableError:
                    self.on_root_doubt()
                    self._later(tenant, slot)
                except LoaderError as error:
                    _log.error("tenant not read", extra=fields(tenant=tenant, reason=error))
                    self._fail(tenant, slot)
                except Exception:  # noqa: BLE001 - whatever it is, it is this tenant's alone
                    _log.exception("tenant not read: a bug", extra=fields(tenant=tenant))
                    self._fail(tenant, slot)
        finally:
            slot.task = None

    def _blame(self, tenant: TenantName, slot: _Slot, error: ReaderDiedError) -> None:
        """Have the folder read without the file that ended a reader; without any such file, look again later."""
        reading = error.reading
        file = None if reading is None or reading.name == FOLDER else reading
        _log.error("reader lost", extra=fields(tenant=tenant, file=file and file.name, reason=error))
        self._suspect(tenant, slot, hung=error.hung and reading is not None and not reading.stamp)
        known = file is not None and (file.name, file.stamp) in slot.deadly
        if file is None or known or len(slot.deadly) >= MOST_DEADLY:
            self._fail(tenant, slot)
        else:
            slot.deadly[file.name, file.stamp] = str(error)
            slot.again = True

    async def _read(self, tenant: TenantName, slot: _Slot) -> Loaded:
        afresh, slot.afresh = slot.afresh, False
        urgency, slot.urgency = slot.urgency, ROUTINE
        slot.read_at = time.monotonic()
        self.loads += 1
        previous = self._store.get(tenant)
        slot.told = self._remembered.get(tenant)
        slot.job = LoadJob(
            self._source,
            tenant,
            previous=None if previous is None else previous.sealed,
            device=slot.device,
            remembered=slot.told,
            deadly=dict(slot.deadly),
            afresh=afresh,
        )
        try:
            return await self._loader.run(slot.job, urgency)
        finally:
            slot.job = None

    def _accept(self, tenant: TenantName, slot: _Slot, loaded: Loaded) -> None:
        """Publish what was read, unless it was read below another root than the one that is believed."""
        if loaded.root != self.root:
            slot.signature = None
            self.on_root_doubt()
            self._later(tenant, slot)
            return
        publication, previous = loaded.publication, self._store.get(tenant)
        slot.signature, slot.device, slot.links = loaded.signature, loaded.device, loaded.links
        self._unloaded.pop(tenant, None)
        if self._remembered.get(tenant) is slot.told:
            self._remembered.pop(tenant, None)  # from now on its snapshot remembers
        if publication.gone:
            self._store.remove(tenant)
            self._forget(tenant, slot)
        else:
            self._store.swap(publication)
            self._wake_on_time(tenant, slot, publication)
            self._retry(tenant, slot, publication, previous)
        self.swaps += previous is None or previous.key_set != publication.key_set
        log_change(previous, publication, time.monotonic() - slot.read_at)
        self._on_change(publication)

    def _forget(self, tenant: TenantName, slot: _Slot) -> None:
        self._suspects.pop(tenant, None)
        if slot.wake is not None:
            slot.wake.cancel()
        if slot.timer is None and not slot.again:
            self._slots.pop(tenant, None)

    # --- time

    def _wake_on_time(self, tenant: TenantName, slot: _Slot, publication: Publication) -> None:
        """Build again when validity, a grace or a settling time ends: a set changes with time as well as with files."""
        if slot.wake is not None:
            slot.wake.cancel()
            slot.wake = None
        now = clock.now()
        waits = [due.seconds_from(now) for due in (publication.next_change, publication.look_again)]
        due = min((wait for wait in waits if wait is not None), default=None)
        if due is not None:
            self._call_later(min(due, LONGEST_TIMER_SECONDS), tenant, slot)

    def _retry(self, tenant: TenantName, slot: _Slot, publication: Publication, previous: Publication | None) -> None:
        """Look again soon at files that may be half-written, and now and then at those that stay bad."""
        if not publication.faulty and (publication.present or publication.owed) and not _folder_fault(publication):
            slot.retries = slot.hangs = 0
            self._suspects.pop(tenant, None)
            return
        if previous is None or publication.faulty != previous.faulty:
            slot.retries = 0
        self._later(tenant, slot)

    def _fail(self, tenant: TenantName, slot: _Slot) -> None:
        """Note that nothing could be learned of the tenant, which stays as it is, and try again."""
        slot.is_unread = True
        self._later(tenant, slot)

    def _later(self, tenant: TenantName, slot: _Slot) -> None:
        if self.is_hung(tenant) or (tenant in self._suspects and slot.retries == len(RETRY_SECONDS)):
            return  # the comparison tries it again when it is due
        if slot.retries < len(RETRY_SECONDS):
            delay, afresh = RETRY_SECONDS[slot.retries], False
            slot.retries += 1
        else:
            delay, afresh = LATER_SECONDS, True
        if slot.wake is None or slot.wake_at > asyncio.get_running_loop().time() + delay:
            self._call_later(delay, tenant, slot, afresh=afresh)

    def _call_later(self, delay: float, tenant: TenantName, slot: _Slot, *, afresh: bool = False) -> None:
        if slot.wake is not None:
            slot.wake.cancel()

        def wake() -> None:
            slot.wake = None
            self.hint(tenant, afresh=afresh)

        if not self._closed:
            loop = asyncio.get_running_loop()
            slot.wake_at = loop.time() + delay
            slot.wake = loop.call_at(slot.wake_at, wake)


def _folder_fault(publication: Publication) -> bool:
    """Tell whether something of the tenant that is no key file cannot be used."""
    return any(
        problem.level is Level.FAULT and (problem.file_name is None or problem.file_name in {POLICY_FILE, REVOKED_FILE})
        for problem in publication.problems
    )
