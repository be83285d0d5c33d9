"""Following the tree: all rooms of this wing put together, and the loops that never end while the server runs."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress

from jwks_server.core.errors import ReaderError, RootUnavailableError
from jwks_server.core.publication import Publication
from jwks_server.core.tenant import TenantName
from jwks_server.core.timing import Timing
from jwks_server.following.compare import Comparer, Comparison
from jwks_server.following.quarantine import MOST_FILES, Quarantine
from jwks_server.following.reconcile import Reconciler, Recorder
from jwks_server.following.root import Root
from jwks_server.following.rootkeeper import RootKeeper, identity_of
from jwks_server.following.seen import Seen
from jwks_server.following.store import Store
from jwks_server.following.turns import Turns
from jwks_server.following.watchkeeper import WatchKeeper
from jwks_server.host import clock
from jwks_server.host.logs import fields
from jwks_server.reading.jobs import Listing, Readers, RootIdentity

_log = logging.getLogger(__name__)


class Follower:
    """Keeps what is published equal to the tree below `path`, which `list_root` lists at the start.

    `missed` counts the changes that no event named. The rooms that a test looks into are attributes.
    """

    def __init__(  # noqa: PLR0913 - the parts it works with, and what a test replaces
        self,
        path: str,
        *,
        store: Store,
        readers: Readers,
        recorder: Recorder,
        list_root: Callable[[], Listing],
        timing: Timing,
        most_deadly_files: int = MOST_FILES,
        look_at_root: Callable[[str], RootIdentity] = identity_of,
    ) -> None:
        self.missed = 0
        self.root = Root(path)
        self.seen = Seen()
        self.quarantine = Quarantine(timing, most_deadly_files)
        self.reconciler = Reconciler(
            store=store,
            readers=readers,
            recorder=recorder,
            root=self.root,
            seen=self.seen,
            quarantine=self.quarantine,
        )
        self.turns = Turns(self.reconciler, store, self.seen, self.quarantine, timing)
        self._comparison_wanted = asyncio.Event()
        self.watchkeeper = WatchKeeper(
            self.root, readers, timing, on_event=self.turns.event, comparison_wanted=self._comparison_wanted
        )
        self._rootkeeper = RootKeeper(self.root, readers, self.quarantine, timing, look=look_at_root)
        self._comparer = Comparer(
            turns=self.turns,
            readers=readers,
            root=self.root,
            seen=self.seen,
            quarantine=self.quarantine,
            timing=timing,
        )
        self._list_root = list_root
        self._recorder = recorder
        self._timing = timing
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> Listing:
        """Watch first, then list: what changes in between is seen twice and not missed.

        Raise RootUnavailableError where there is no tree to start with.
        """
        await self.watchkeeper.build()
        listing = await asyncio.to_thread(self._list_root)
        self._rootkeeper.believe(listing)
        return listing

    def expect(self, tenants: Iterable[TenantName], records: Mapping[TenantName, bytes]) -> None:
        """Take in the tenants that the tree has at the start, and the records of tenants from before it."""
        self.reconciler.expect(tenants, records)

    def run(self) -> None:
        """Begin to follow."""
        for loop in (
            self._follow_root,
            self._follow_clock,
            self._compare,
            self._compare_linked,
            self.watchkeeper.look_after,
            self.watchkeeper.rebuild,
        ):
            self._tasks.append(asyncio.get_running_loop().create_task(self._survive(loop)))

    async def close(self) -> None:
        """Follow no longer: no turn begins, those under way are given up, and the watch ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.watchkeeper.close()
        await self.turns.close()

    def compare_now(self, reason: str) -> None:
        """Compare the whole tree at once, for instance because somebody asks for it by SIGHUP."""
        _log.info("comparing the whole tree", extra=fields(reason=reason))
        self._comparison_wanted.set()

    @property
    def unloaded(self) -> Collection[TenantName]:
        """The tenants that wait for their first load."""
        return self.reconciler.unloaded.keys()

    async def first_load(self, tenant: TenantName) -> Publication | None:
        """Return what the tenant publishes, after its first load where it waits for that; None where it failed."""
        return await self.turns.first_load(tenant)

    # --- loops

    async def _follow_root(self) -> None:
        while True:
            await self._rootkeeper.next_change()
            await self.watchkeeper.follow_root()

    async def _follow_clock(self) -> None:
        """Build again what depends on the wall clock where it jumps."""
        offset = clock.wall_offset()
        while True:
            await asyncio.sleep(self._timing.health)
            before, offset = offset, clock.wall_offset()
            if abs(offset - before) > self._timing.clock_jump:
                _log.warning("the wall clock jumped", extra=fields(seconds=round(offset - before, 1)))
                self._recorder.doubt()
                self.turns.hint_timed()

    async def _compare(self) -> None:
        """Compare the whole tree for ever, and soon where something asks for it."""
        pause = self._timing.first_comparison
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._comparison_wanted.wait()
            self._comparison_wanted.clear()
            took = 0.0
            try:
                found = await self._comparer.compare()
                took = found.took
                self._take_in(found)
                await self._comparer.retry_suspects()
            except RootUnavailableError:
                self.root.doubted.set()
            except ReaderError as error:
                _log.error("comparison failed", extra=fields(reason=error))
            await asyncio.sleep(self._timing.breath * took)
            pauses = self._timing.deaf_comparison if self.watchkeeper.is_deaf else self._timing.comparison
            pause = pauses.after(took)

    async def _compare_linked(self) -> None:
        took = 0.0
        while True:
            await asyncio.sleep(self._timing.links.after(took))
            with suppress(RootUnavailableError, ReaderError):
                took = (await self._comparer.compare_linked()).took

    def _take_in(self, found: Comparison) -> None:
        if found.listing is not None:
            self._rootkeeper.believe(found.listing)
        if found.changed and not self.watchkeeper.is_deaf:
            # An event for it may still be on its way.
            asyncio.get_running_loop().call_later(self._timing.event_patience, self._count_missed, found)

    def _count_missed(self, found: Comparison) -> None:
        """Take a change that no event named for a sign of a deaf watch."""
        unnamed = self._comparer.unnamed(found)
        if unnamed and not self.watchkeeper.is_deaf:
            self.missed += len(unnamed)
            self.watchkeeper.want_rebuild(f"no event named a change of {unnamed[0]}")

    async def _survive(self, loop: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run a loop for ever: a failure nobody thought of is logged, and the loop starts over."""
        while True:
            try:
                await loop()
            except Exception:  # noqa: BLE001 - see the docstring
                _log.exception("following the tree failed and starts over: a bug")
            await asyncio.sleep(self._timing.health)
