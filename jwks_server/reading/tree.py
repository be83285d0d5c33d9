"""The tree of keystores: its root, its tenants' folders, and their signatures.

Nothing here trusts a name twice: a folder is opened once and its files are looked at through its descriptor. Whose
links are followed, `links` decides.
"""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

from jwks_server.core.errors import RootUnavailableError, TenantNameError
from jwks_server.core.tenant import POLICY_FILE, REVOKED_FILE, TenantName, is_temporary, tenant_name
from jwks_server.core.text import readable
from jwks_server.reading.files import facts, through
from jwks_server.reading.jobs import Listing, RootIdentity
from jwks_server.reading.links import Trust, trust_below, walked

FRESH_SECONDS = 0.02
"""A file changed this recently may change again within the same tick of a coarse file system clock."""

_FOLDER_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW

MOST_ENTRIES = 10_000
"""A folder with more entries is not looked at: that would take longer than other tenants can wait."""


@dataclass(frozen=True, slots=True)
class FolderView:
    """The files of one tenant's folder as their metadata say, their names as `core.text.readable` gives them.

    `signature` changes whenever a file may have; None says that the clock cannot tell yet. `links` says that some of
    what is here lies elsewhere, where no watch of the tree sees a change.
    """

    names: tuple[str, ...]
    signature: bytes | None
    device: int
    links: bool


@contextmanager
def opened_root(root: str) -> Iterator[tuple[int, RootIdentity]]:
    """Open the root; give its descriptor and its (device, inode). Raise RootUnavailableError where it is not there."""
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    except OSError as error:
        raise RootUnavailableError(f"keystores folder {root} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        yield descriptor, (status.st_dev, status.st_ino)
    finally:
        os.close(descriptor)


def open_folder(tenant: TenantName, root_descriptor: int) -> int:
    """Return a descriptor of the tenant's folder, for the caller to close; raise OSError where there is none.

    LinkRefusedError, an OSError, says that it is a link that may not be followed.
    """
    try:
        return os.open(tenant, _FOLDER_FLAGS, dir_fd=root_descriptor)
    except NotADirectoryError:
        if not stat.S_ISLNK(os.stat(tenant, dir_fd=root_descriptor, follow_symlinks=False).st_mode):
            raise
    with walked(tenant, root_descriptor, to_folder=True) as reached:
        descriptor = os.open(reached.name, _FOLDER_FLAGS, dir_fd=reached.folder)
        try:
            reached.demand(os.fstat(descriptor).st_uid, trust_below(root_descriptor))
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def list_root(root: str) -> Listing:
    """Return the tenants in the tree, by name; raise RootUnavailableError where it cannot be listed."""
    tenants: list[TenantName] = []
    strangers: list[str] = []
    folders = 1
    with opened_root(root) as (descriptor, identity):
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    is_real_folder = entry.is_dir(follow_symlinks=False)
                    if entry.name.startswith(".") or not (is_real_folder or entry.is_symlink()):
                        continue
                    try:
                        name = tenant_name(entry.name)
                    except TenantNameError:
                        strangers.append(readable(entry.name))
                        continue
                    folders += is_real_folder
                    if is_real_folder or _is_folder(entry.name, descriptor):
                        tenants.append(name)
        except OSError as error:
            raise RootUnavailableError(f"keystores folder {root} cannot be listed: {error.strerror}") from error
    return Listing(identity, tuple(sorted(tenants)), tuple(sorted(strangers)), folders)


def _is_folder(name: str, root_descriptor: int) -> bool:
    """Tell whether a link leads to a folder; one that leads nowhere for the moment counts, so that it is a fault."""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=root_descriptor).st_mode)
    except OSError:
        return True


def view(
    descriptor: int,
    trust: Trust,
    extra: bytes = b"",
    *,
    exact_times: bool = False,
    follows: Callable[[str], bool] = lambda _name: True,
) -> FolderView:
    """Return the names in an opened tenant's folder with their common signature; `extra` is signed along.

    A link that may not be followed is signed by what it is itself and by the owner of what it leads to.
    With `exact_times` the file system tells any two states of a file apart, however soon they follow each other.
    `follows` is asked before a link is followed: what it leads to may not answer. Raise OSError where the folder cannot
    be listed, or has more than MOST_ENTRIES.
    """
    folder = os.fstat(descriptor)
    rows: list[tuple[object, ...]] = [(folder.st_dev, folder.st_ino, folder.st_mode), (extra,)]
    names: list[str] = []
    newest = 0
    links = False
    with os.scandir(descriptor) as entries:
        found = list(islice(entries, MOST_ENTRIES + 1))
        if len(found) > MOST_ENTRIES:
            raise OSError(errno.E2BIG, f"more than {MOST_ENTRIES} entries; move elsewhere what is no key file")
        for entry in sorted(found, key=lambda entry: entry.name):
            if is_temporary(entry.name):
                continue
            with suppress(FileNotFoundError):
                own = os.stat(entry.name, dir_fd=descriptor, follow_symlinks=False)
                status, target = own, ""
                if stat.S_ISLNK(own.st_mode):
                    links = True
                    with suppress(OSError):  # no link any more: the next look will differ
                        target = os.readlink(entry.name, dir_fd=descriptor)
                    if follows(readable(entry.name)):
                        with suppress(OSError):
                            status, target = through(entry.name, descriptor, trust, own, target)
                # Container runtimes make a folder where a file to be mounted is missing: that takes no policy away.
                if stat.S_ISDIR(status.st_mode) and entry.name not in {POLICY_FILE, REVOKED_FILE}:
                    continue
                names.append(readable(entry.name))
                newest = max(newest, status.st_mtime_ns, status.st_ctime_ns, own.st_ctime_ns)
                rows.append((entry.name, own.st_ino, own.st_ctime_ns, target, *facts(status)))
    age = time.time_ns() - newest
    exact = exact_times and not links  # what a link leads to may lie on another file system
    settled = exact or age > FRESH_SECONDS * 1e9 or age < -FRESH_SECONDS * 1e9
    digest = hashlib.blake2b(repr(rows).encode("utf-8", "surrogateescape"), digest_size=16).digest()
    return FolderView(tuple(names), digest if settled else None, folder.st_dev, links)
