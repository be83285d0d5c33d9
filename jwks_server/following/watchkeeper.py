"""Keeps the watch alive and the store honest: the root's identity, the watch's health, when to compare.

Three things can be wrong, each loud and each survived: the root is gone (all that is published stays), the watch is
deaf (comparing goes on more often), a comparison found what no event named (the watch is built anew).
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress

from jwks_server.core.errors import LoaderError, RootUnavailableError
from jwks_server.following.compare import Comparer
from jwks_server.following.reconcile import Loader, Reconciler
from jwks_server.following.watch import Listener, Watch
from jwks_server.host import clock
from jwks_server.host.logs import fields
from jwks_server.host.mounts import file_system_without_events
from jwks_server.readers.pool import URGENT
from jwks_server.reading.source import Source
from jwks_server.reading.survey import ListingJob
from jwks_server.reading.tree import Listing, list_root

ROOT_POLL_SECONDS = 0.25
ROOT_PATIENCE_SECONDS = 5.0
"""How long the root's identity may take; on a network file system without its server it takes for ever."""

HEALTH_SECONDS = 1.0
JUMP_SECONDS = 0.5

SHORTEST_REBUILD_SECONDS, LONGEST_REBUILD_SECONDS = 0.2, 30.0

_log = logging.getLogger(__name__)


class Supervisor:
    """Owns the watch. Everything runs on the event loop but what blocks, which runs in threads and workers."""

    def __init__(
        self,
        source: Source,
        reconciler: Reconciler,
        loader: Loader,
        *,
        on_clock_jump: Callable[[], None] = lambda: None,
    ) -> None:
        self.root_fault: str | None = None
        self.watch_fault: str | None = None
        self.rebuilds = 0
        self._eventless = file_system_without_events(source.root)
        self._source = source
        self._reconciler = reconciler
        self._loader = loader
        self._on_clock_jump = on_clock_jump
        self._watch: Watch | None = None
        self._folders = 1
        self._strangers: frozenset[str] = frozenset()
        self._has_tenants = False
        self._looking: asyncio.Future[tuple[int, int]] | None = None
        self._root_doubt = asyncio.Event()
        self._rebuild_now = asyncio.Event()
        self._rebuild_reason = ""
        self._hurry = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._comparer = Comparer(
            source,
            reconciler,
            loader,
            on_listing=self._believe,
            on_root_doubt=self._root_doubt.set,
            on_missed=lambda tenant: self._want_rebuild(f"no event named a change of {tenant}"),
            is_deaf=lambda: self.comparing,
        )
        reconciler.on_root_doubt = self._root_doubt.set

    async def start(self) -> Listing:
        """Watch first, then list: what changes in between is seen twice and not missed.

        Raise RootUnavailableError where there is no tree to start with.
        """
        await self._build_watch()
        listing = await asyncio.to_thread(list_root, self._source.root)
        self._believe(listing)
        return listing

    def run(self) -> None:
        """Begin to supervise."""
        if self.watch_fault is not None:
            self._want_rebuild(self.watch_fault)
        for watchman in (
            self._watch_root,
            self._watch_watch,
            self._rebuild,
            self._comparer.compare,
            self._comparer.poll_links,
        ):
            self._tasks.append(asyncio.get_running_loop().create_task(_survive(watchman)))

    async def close(self) -> None:
        """Stop supervising and watching."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        watch, self._watch = self._watch, None
        if watch is not None:
            await asyncio.to_thread(watch.stop)

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the root or the watch at the moment."""
        return tuple(fault for fault in (self.root_fault, self.watch_fault) if fault is not None)

    # --- the root

    async def _watch_root(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(ROOT_POLL_SECONDS):
                    await self._root_doubt.wait()
            doubted = self._root_doubt.is_set()
            self._root_doubt.clear()
            await self._look_at_root(doubted=doubted)

    async def _look_at_root(self, *, doubted: bool) -> None:
        """Believe the root that is there, unless it is none, or an empty other one: that is what an unmount leaves.

        Its identity tells nothing of whether it can be listed; where something failed to, it is listed here.
        """
        try:
            identity = await self._identity_in_time()
            unchanged = identity == self._reconciler.root and self.root_fault is None
            if unchanged and not doubted:
                return
            listing = await self._loader.run(ListingJob(self._source), URGENT)
        except RootUnavailableError as error:
            self._lose_root(str(error))
            return
        except LoaderError as error:
            self._lose_root(f"keystores folder {self._source.root}: {error}")
            return
        if unchanged and listing.identity == self._reconciler.root:
            return
        if not listing.tenants and self._has_tenants:
            # Whatever its identity: a folder that is removed and made again may get its old inode back.
            self._lose_root(
                f"keystores folder {self._source.root} is another one than before and empty; is it mounted?"
            )
            return
        _log.warning(
            "keystores folder is back" if self.root_fault else "keystores folder was replaced",
            extra=fields(root=self._source.root, tenants=len(listing.tenants)),
        )
        self.root_fault = None
        self._reconciler.hurry_suspects()  # it may have been the root that hung
        self._believe(listing)
        self._eventless = await asyncio.to_thread(file_system_without_events, self._source.root)
        self._want_rebuild("the keystores folder is not the one that was watched")
        self._hurry.set()

    async def _identity_in_time(self) -> tuple[int, int]:
        """Return the root's (device, inode). A look that hangs is waited for again, never joined by another."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(asyncio.to_thread(_identity, self._source.root))
        done, _ = await asyncio.wait((self._looking,), timeout=ROOT_PATIENCE_SECONDS)
        if not done:
            raise RootUnavailableError(f"keystores folder {self._source.root} does not answer")
        looking, self._looking = self._looking, None
        return looking.result()

    def _lose_root(self, reason: str) -> None:
        if self.root_fault != reason:
            _log.error("keystores folder lost; all that is published stays", extra=fields(reason=reason))
        self.root_fault = reason

    def _believe(self, listing: Listing) -> None:
        self._reconciler.root = listing.identity
        self._folders = listing.folders
        self._has_tenants = bool(listing.tenants)
        strangers = frozenset(listing.strangers)
        for name in sorted(strangers - self._strangers):
            _log.warning(
                "folder not served: its name is no tenant domain (lower-case letters, digits, '.', '-', '_')",
                extra=fields(folder=name[:80]),
            )
        self._strangers = strangers

    # --- the watch

    async def _watch_watch(self) -> None:
        """Look every second whether the watch's threads live and its watches cover the tree, and at the wall clock."""
        offset = clock.wall_offset()
        while True:
            await asyncio.sleep(HEALTH_SECONDS)
            before, offset = offset, clock.wall_offset()
            if abs(offset - before) > JUMP_SECONDS:
                _log.warning("the wall clock jumped", extra=fields(seconds=round(offset - before, 1)))
                self._on_clock_jump()
                self._reconciler.hint_timed()
            watch = self._watch
            if watch is None or self._rebuild_now.is_set():
                continue
            ailment = watch.ailment()
            watched = await asyncio.to_thread(watch.watched_folders)
            if ailment is None and watched is not None and watched < self._folders:
                # Folders come and go: only what a new look at the tree confirms is a lack of watches.
                with suppress(RootUnavailableError, LoaderError):
                    self._believe_folders(await self._loader.run(ListingJob(self._source), URGENT))
                if watched < self._folders:
                    ailment = self._uncovered(watched)
            if ailment is not None and self._watch is watch:
                self._want_rebuild(ailment)

    def _believe_folders(self, listing: Listing) -> None:
        if listing.identity == self._reconciler.root:
            self._folders = listing.folders

    def _want_rebuild(self, reason: str) -> None:
        self._rebuild_reason = reason
        self._rebuild_now.set()
        self._comparer.want()  # whatever was lost is found now, not when the new watch stands

    async def _rebuild(self) -> None:
        """Build the watch anew whenever something asks for it, ever more slowly while that does not help."""
        delay = SHORTEST_REBUILD_SECONDS
        while True:
            await self._rebuild_now.wait()
            reason = self._rebuild_reason
            self._rebuild_now.clear()
            self._hurry.clear()
            self.rebuilds += 1
            await self._build_watch()
            _log.warning(
                "watch rebuilt" if self.watch_fault is None else "watch not rebuilt; comparing instead",
                extra=fields(reason=self.watch_fault or reason),
            )
            self._comparer.want()
            started = time.monotonic()
            await asyncio.sleep(SHORTEST_REBUILD_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay - SHORTEST_REBUILD_SECONDS):
                    await self._hurry.wait()
            if self.watch_fault is not None:
                self._want_rebuild(self.watch_fault)
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * LONGEST_REBUILD_SECONDS):
                    await self._rebuild_now.wait()
            calm = time.monotonic() - started > LONGEST_REBUILD_SECONDS and self.watch_fault is None
            delay = (
                SHORTEST_REBUILD_SECONDS if calm or self._hurry.is_set() else min(2 * delay, LONGEST_REBUILD_SECONDS)
            )

    async def _build_watch(self) -> None:
        """Make the new watch before the old one is broken; without one, comparing goes on."""
        listener = Listener(self._reconciler.event, self._everything, self._want_rebuild)
        watch = Watch(self._source.root, listener, asyncio.get_running_loop())
        try:
            await asyncio.to_thread(watch.start)
        except OSError as error:
            self.watch_fault = f"the tree cannot be watched: {error.strerror or error}"
            return
        old, self._watch = self._watch, watch
        watched = await asyncio.to_thread(watch.watched_folders)
        self.watch_fault = None if watched is None or watched >= self._folders else self._uncovered(watched)
        if old is not None:
            await asyncio.to_thread(old.stop)

    def _uncovered(self, watched: int) -> str:
        return (
            f"only {watched} of {self._folders} folders are watched: "
            "make all of them readable, or raise the sysctl fs.inotify.max_user_watches"
        )

    def _everything(self, reason: str) -> None:
        if self.watch_fault is not None:
            self._hurry.set()  # a folder may have become readable
        self.compare_now(reason)

    def compare_now(self, reason: str) -> None:
        """Compare the whole tree at once, for instance because somebody asks for it by SIGHUP."""
        _log.info("comparing the whole tree", extra=fields(reason=reason))
        self._comparer.want()

    @property
    def comparing(self) -> bool:
        """Tell whether changes are found by comparing alone, at least in a part of the tree."""
        is_deaf = self.watch_fault is not None or self._rebuild_now.is_set()
        return is_deaf or self._eventless is not None

    @property
    def missed(self) -> int:
        """How many changes no event had named."""
        return self._comparer.missed


def _identity(root: str) -> tuple[int, int]:
    try:
        status = os.stat(root)
    except OSError as error:
        raise RootUnavailableError(f"keystores folder {root} cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino


async def _survive(watchman: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a watchman for ever: a failure nobody thought of is logged, and he starts over."""
    while True:
        try:
            await watchman()
        except Exception:  # noqa: BLE001 - see the docstring
            _log.exception("supervision failed and starts over: a bug")
        await asyncio.sleep(HEALTH_SECONDS)
