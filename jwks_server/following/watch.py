"""watchdog, made safe: its events become three kinds of hint, and where it stops giving events that is said.

Hints only say where to look; comparing the tree with what is published decides. So a hint too many costs one read, and
a change without a hint is found by the comparison. docs/architecture.md says which names of watchdog's this rests on.
"""

import asyncio
import logging
import os
import warnings
from contextlib import suppress
from pathlib import Path

from watchdog.events import (
    DirAttribEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import DEFAULT_OBSERVER_TIMEOUT, BaseObserver
from watchdog.observers.inotify import InotifyEmitter, InotifyObserver
from watchdog.observers.inotify_c import InotifyEvent, InotifyFD
from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper

from jwks_server.following.hints import Hints, Listener
from jwks_server.following.shallow import ShallowGroup

# Everything but "opened" and "closed unwritten": those are raised by our own reading, and at some thousand folders
# watchdog's own walk of the tree then overflows its queue for ever.
EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileModifiedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirAttribEvent,
    DirMovedEvent,
    DirDeletedEvent,
]

# A file that leaves the tree is otherwise held back half a second, and every later event of every tenant behind it.
InotifyMoveEventGrouper.delay = 0

# Raised in watchdog's reader thread for two watches of one folder. Where warnings are errors, it would end that thread.
warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)

logging.getLogger("watchdog").setLevel(logging.CRITICAL)


class Watch:
    """One watch of the root and its tenants' folders. `start` and `stop` block: call them off the event loop."""

    def __init__(self, root: str, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self._hints = Hints(os.fsencode(os.path.abspath(root)), listener, loop)
        self._root = os.path.abspath(root)
        self._observer: _SafeObserver | None = None

    def start(self) -> None:
        """Begin to watch; raise OSError where the kernel has no watch or no instance left for the root."""
        observer = _SafeObserver(self._hints)
        self._observer = observer
        try:
            observer.schedule(_Handler(self._hints), self._root, recursive=False, event_filter=EVENTS)
            observer.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the watch and its threads; hints on their way are dropped."""
        self._hints.close()
        observer, self._observer = self._observer, None
        if observer is None:
            return
        if observer.is_alive():
            observer.stop()
            observer.join()
        else:
            observer.on_thread_stop()

    def ailment(self) -> str | None:
        """Return why no more hints can come, or None while the threads live."""
        observer = self._observer
        if observer is None:
            return "not started"
        threads = (observer, observer.reader, *observer.emitters)
        dead = [type(thread).__name__ for thread in threads if not thread.is_alive()]
        if len(threads) < 3:  # noqa: PLR2004 - dispatcher, reader and one emitter
            dead.append("emitter")
        return f"dead thread: {', '.join(dead)}" if dead else None

    def watched_folders(self) -> int | None:
        """Return how many watches the kernel holds for this instance, or None where it does not say."""
        observer = self._observer
        if observer is None:
            return None
        try:
            return Path(f"/proc/self/fdinfo/{observer.reader.descriptor}").read_bytes().count(b"inotify wd:")
        except OSError:
            return None


class _Handler(FileSystemEventHandler):
    """Turns watchdog's events into hints. It never raises: an exception would end the dispatcher thread."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints

    def dispatch(self, event: FileSystemEvent) -> None:
        try:
            source, target = os.fsencode(event.src_path), os.fsencode(event.dest_path)
            if isinstance(event, DirDeletedEvent) and source == self._hints.root:
                self._hints.broken("the keystores folder was removed")
                return
            self._hints.dirty(source)
            if target:
                self._hints.dirty(target)
                if event.is_directory:
                    # watchdog may have lost track of which watch is which folder.
                    self._hints.everything("a folder was renamed")
        except Exception as error:  # noqa: BLE001 - see the docstring
            self._hints.broken(f"event handler: {error!r}")


class _SafeInotifyFD(InotifyFD):
    """watchdog's reader thread. An overflow and an exception, of which watchdog tells nobody, are reported.

    An event becomes a hint here, without watchdog's other threads, unless it changes which folders there are to watch.
    """

    def __init__(self, hints: Hints) -> None:
        super().__init__()
        self._hints = hints

    @property
    def descriptor(self) -> int:
        return self._inotify_fd

    def handle_event(self, event: InotifyEvent) -> None:
        if event.is_queue_overflow:
            # watchdog's own recovery drops what is queued and, in a large tree, overflows the queue again.
            self._hints.broken("the kernel's event queue overflowed")
            return
        try:
            if event.is_ignored or (event.is_directory and self._is_of_a_tenants_folder(event)):
                super().handle_event(event)
            else:
                self._hint(event)
        except Exception as error:  # noqa: BLE001 - a KeyError here would end the thread without a sign
            self._hints.broken(f"reader: {error!r}")

    def _groups(self, event: InotifyEvent) -> list[ShallowGroup]:
        watch = self._watch_for_wd.get(event.wd)
        groups = watch.callbacks.values() if watch is not None else ()
        return [group for group in groups if isinstance(group, ShallowGroup)]

    def _is_of_a_tenants_folder(self, event: InotifyEvent) -> bool:
        """Tell whether a folder of the root was made, moved or removed: of those, watchdog keeps account.

        Folders within a tenant's folder are not watched. Their events, of which a tenant may raise any number, take no
        more time than those of files.
        """
        return not event.is_attrib and (not event.name or any(group.is_root(event.wd) for group in self._groups(event)))

    def _hint(self, event: InotifyEvent) -> None:
        """Say at once which folder an event came from.

        Only events of the root's folders change watchdog's table of which watch is which folder, so others can leave
        out its other two threads. Those pair moves and describe events, which no hint needs, and each is one more wait
        for the interpreter: without them a change is published a fifth sooner.
        """
        groups = self._groups(event)
        paths = [(group, group._build_event_source_path(event)) for group in groups]  # noqa: SLF001 - see the head
        for group, path in paths:
            if path is not None:
                self._hints.dirty(path)
            if path is None:
                self._hints.everything("an event in a folder whose name is not known")
            elif event.is_directory and group.lacks(event.wd, path):
                self._hints.everything("the mode of a folder changed that could not be watched")
        if not paths:
            self._hints.everything("an event in a folder whose name is not known")

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:  # noqa: BLE001 - reading failed: this instance is over
            self._hints.broken(f"reader: {error!r}")
        finally:
            self._is_reading = False  # else watchdog would not close the inotify instance of a reader that failed

    def on_thread_stop(self) -> None:
        with suppress(Exception):  # its descriptors are closed by then; what fails is book-keeping nobody needs
            super().on_thread_stop()


class _SafeEmitter(InotifyEmitter):
    """watchdog's emitter thread, which ends even where watchdog's table of watches and folders contradicts itself.

    It is told that its watch is not recursive, or it would walk through each folder that is moved into the tree; its
    group is, or it would not add the watch of a new folder.
    """

    def on_thread_start(self) -> None:
        self._inotify = ShallowGroup(
            self._inotify_fd,
            os.fsencode(self.watch.path),
            is_recursive=True,
            event_mask=self.get_event_mask_from_filter(),
        )

    def on_thread_stop(self) -> None:
        group = self._inotify
        try:
            super().on_thread_stop()
        except Exception:  # noqa: BLE001 - whatever failed, the thread has to end
            if group is not None:
                group._move_event_grouper.close()  # noqa: SLF001 - what the thread waits for


class _SafeObserver(InotifyObserver):
    """watchdog's observer around the safe reader."""

    def __init__(self, hints: Hints) -> None:
        # InotifyObserver's own constructor makes the reader it wants; this one differs in that alone.
        self.reader = _SafeInotifyFD(hints)
        self._inotify_fd = self.reader
        self.reader.start()
        BaseObserver.__init__(self, _SafeEmitter, timeout=DEFAULT_OBSERVER_TIMEOUT, inotify_fd=self.reader)
