"""Which folders watchdog watches: the root and its tenants' folders, and nothing that lies deeper."""

import os

from watchdog.observers.inotify import InotifyWatchGroup
from watchdog.observers.inotify_c import InotifyEvent, WatchDescriptor

from jwks_server.core.tenant import is_tenant_name


class ShallowGroup(InotifyWatchGroup):
    """watchdog's watches of the root and its tenants' folders. It would watch every folder below them as well.

    What lies deeper is never read, and a tenant may make any number of folders: each would cost a watch and a walk.
    """

    def is_root(self, wd: WatchDescriptor) -> bool:
        """Tell whether this is the watch of the root."""
        return self._active_callbacks_by_watch.get(wd) == self.path

    def lacks(self, wd: WatchDescriptor, path: bytes) -> bool:
        """Tell whether an event of the root's watch was one of a tenant's folder that is not watched."""
        return self.is_root(wd) and self._is_tenant(path) and path not in self._active_callbacks_by_path

    def _add_all_callbacks(self, path: bytes) -> None:
        if path != self.path:
            if self._is_tenant(path):
                self._add_callback(path)
            return
        self._add_callback(path)
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and self._is_tenant(entry.path):
                    self._add_callback(entry.path)

    def _recursive_simulate(self, src_path: bytes) -> list[InotifyEvent]:
        """Make up no events for what is in a new folder: that the folder is new has its tenant read."""
        del src_path
        return []

    def _is_tenant(self, path: bytes) -> bool:
        folder, _, name = path.rpartition(b"/")
        return folder == self.path.rstrip(b"/") and is_tenant_name(os.fsdecode(name))
