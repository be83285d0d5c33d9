"""Hints of the watch's threads, gathered and handed to the event loop."""

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Listener:
    """Three calls, made on the event loop.

    `dirty` gets the names of folders in which something happened, `everything` why any folder may have changed, and
    `broken` why events were or will be lost.
    """

    dirty: Callable[[frozenset[str]], None]
    everything: Callable[[str], None]
    broken: Callable[[str], None]


class Hints:
    """Collects hints from watchdog's threads and hands them to the loop in one call for many events."""

    def __init__(self, root: bytes, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self.root = root
        self._listener = listener
        self._loop = loop
        self._lock = threading.Lock()
        self._dirty: set[str] = set()
        self._everything: str | None = None
        self._broken: str | None = None
        self._is_scheduled = False
        self._closed = False

    def dirty(self, path: bytes) -> None:
        """Note an event at a path below the root."""
        relative = path[len(self.root) :].lstrip(b"/") if path.startswith(self.root) else b""
        name = os.fsdecode(relative.split(b"/", 1)[0])
        with self._lock:
            if name.startswith("..") or not name:
                # A Kubernetes volume at the root swaps all its tenants behind names like `..data`.
                self._everything = self._everything or "the tree itself changed"
            else:
                self._dirty.add(name)
            self._schedule()

    def everything(self, reason: str) -> None:
        """Note that any tenant may have changed."""
        with self._lock:
            self._everything = reason
            self._schedule()

    def broken(self, reason: str) -> None:
        """Note that hints were or will be lost."""
        with self._lock:
            self._broken = reason
            self._schedule()

    def close(self) -> None:
        """Drop all that comes from now on."""
        with self._lock:
            self._closed = True

    def _schedule(self) -> None:
        if self._is_scheduled or self._closed:
            return
        try:
            self._loop.call_soon_threadsafe(self._deliver)
            self._is_scheduled = True
        except RuntimeError:
            self._closed = True  # the loop is closed: the server is stopping

    def _deliver(self) -> None:
        with self._lock:
            dirty, self._dirty = frozenset(self._dirty), set()
            everything, self._everything = self._everything, None
            broken, self._broken = self._broken, None
            self._is_scheduled = False
            if self._closed:
                return
        if dirty:
            self._listener.dirty(dirty)
        if everything is not None:
            self._listener.everything(everything)
        if broken is not None:
            self._listener.broken(broken)
