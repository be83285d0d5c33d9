"""Keeps a watch of the tree alive: looks at its health, and builds a new one before the old one is broken off.

Where there is no watch, or where it does not cover all folders, the tree is compared with what is published more often.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf

from jwks_server.core.errors import ReaderError, RootUnavailableError
from jwks_server.core.timing import Timing
from jwks_server.following.hints import Listener
from jwks_server.following.root import Root
from jwks_server.following.watch import Watch
from jwks_server.host.logs import fields
from jwks_server.host.mounts import file_system_without_events
from jwks_server.reading.jobs import ListingJob, Readers, Urgency

_log = logging.getLogger(__name__)


class WatchKeeper:
    """Owns the watch.

    `on_event` is told names of folders in which something happened. `comparison_wanted` is set where the whole tree has
    to be compared. `fault` says why there is no good watch; `rebuilds` counts the new ones.
    """

    def __init__(
        self,
        root: Root,
        readers: Readers,
        timing: Timing,
        *,
        on_event: Callable[[frozenset[str]], None],
        comparison_wanted: asyncio.Event,
    ) -> None:
        self.fault: str | None = None
        self.rebuilds = 0
        self._root = root
        self._readers = readers
        self._timing = timing
        self._on_event = on_event
        self._comparison_wanted = comparison_wanted
        self._eventless = file_system_without_events(root.path)
        self._watch: Watch | None = None
        self._rebuild_wanted = asyncio.Event()
        self._rebuild_reason = ""
        self._may_work_again = asyncio.Event()
        self._said: dict[str, float] = {}

    @property
    def is_deaf(self) -> bool:
        """Tell whether changes are found by comparing alone, at least in a part of the tree."""
        return self.fault is not None or self._rebuild_wanted.is_set() or self._eventless is not None

    async def build(self) -> None:
        """Make a new watch, and only then break the old one off; where none can be made, comparing goes on."""
        listener = Listener(self._on_event, self._everything, self.want_rebuild)
        watch = Watch(self._root.path, listener, asyncio.get_running_loop())
        try:
            await asyncio.to_thread(watch.start)
        except OSError as error:
            self.fault = f"the tree cannot be watched: {error.strerror or error}"
            return
        old, self._watch = self._watch, watch
        watched = await asyncio.to_thread(watch.watched_folders)
        self.fault = None if watched is None or watched >= self._root.folders else self._uncovered(watched)
        if old is not None:
            await asyncio.to_thread(old.stop)

    async def close(self) -> None:
        """End the watch."""
        watch, self._watch = self._watch, None
        if watch is not None:
            await asyncio.to_thread(watch.stop)

    def want_rebuild(self, reason: str) -> None:
        """Build the watch anew soon, and compare now: whatever was lost is found before the new watch stands."""
        self._rebuild_reason = reason
        self._rebuild_wanted.set()
        self._comparison_wanted.set()

    async def follow_root(self) -> None:
        """Take in that another root is believed, which the watch does not watch."""
        self._eventless = await asyncio.to_thread(file_system_without_events, self._root.path)
        self.want_rebuild("the keystores folder is not the one that was watched")
        self._may_work_again.set()

    async def look_after(self) -> None:
        """Look for ever whether the watch's threads live and its watches cover the tree."""
        while True:
            await asyncio.sleep(self._timing.health)
            watch = self._watch
            if watch is None or self._rebuild_wanted.is_set():
                continue
            ailment = watch.ailment() or await self._lack_of(watch)
            if ailment is not None and self._watch is watch:
                self.want_rebuild(ailment)

    async def rebuild(self) -> None:
        """Build the watch anew whenever something asks for it, ever more slowly while that does not help."""
        shortest, longest = self._timing.shortest_rebuild, self._timing.longest_rebuild
        delay = shortest
        if self.fault is not None:
            self.want_rebuild(self.fault)
        while True:
            await self._rebuild_wanted.wait()
            reason = self._rebuild_reason
            self._rebuild_wanted.clear()
            self._may_work_again.clear()
            self.rebuilds += 1
            await self.build()
            _log.warning(
                "watch rebuilt" if self.fault is None else "watch not rebuilt; comparing instead",
                extra=fields(reason=self.fault or reason),
            )
            self._comparison_wanted.set()
            started = time.monotonic()
            await asyncio.sleep(shortest)
            await _wait_for(self._may_work_again, delay - shortest)
            if self.fault is not None:
                self.want_rebuild(self.fault)
            await _wait_for(self._rebuild_wanted, 2 * longest)
            is_calm = time.monotonic() - started > longest and self.fault is None
            delay = shortest if is_calm or self._may_work_again.is_set() else min(2 * delay, longest)

    async def _lack_of(self, watch: Watch) -> str | None:
        """Return what the watch does not cover, or None. Folders come and go: a new look at the tree has to confirm."""
        watched = await asyncio.to_thread(watch.watched_folders)
        if watched is None or watched >= self._root.folders:
            return None
        with suppress(RootUnavailableError, ReaderError):
            self._root.recount(await self._readers.run(ListingJob(), Urgency.URGENT))
        return self._uncovered(watched) if watched < self._root.folders else None

    def _uncovered(self, watched: int) -> str:
        return (
            f"only {watched} of {self._root.folders} folders are watched: "
            "make all of them readable, or raise the sysctl fs.inotify.max_user_watches"
        )

    def _everything(self, reason: str) -> None:
        if self.fault is not None:
            self._may_work_again.set()  # a folder may have become readable
        now = time.monotonic()
        if now - self._said.get(reason, -inf) >= self._timing.event_log:  # the reasons are few; events are not
            self._said[reason] = now
            _log.info("comparing the whole tree", extra=fields(reason=reason))
        self._comparison_wanted.set()


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, for so many seconds at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
