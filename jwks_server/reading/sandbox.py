"""The walls that a reader process puts up around itself before its first job, as far as the kernel has the means.

A key file that takes the process over finds itself without a program to execute, a socket, a file to write, a process
to signal or to look into, and without a way to the places that the server names: secrets and state. What a kernel
lacks is returned as text for the log; the process works all the same.

Landlock allows and never denies. So reading is allowed below each entry of `/` except those that are closed and the
folders above them, whose other entries are allowed one by one. What is put into such a folder later is closed too.
"""

import os
import resource
import stat
from collections.abc import Collection, Iterator

import landlockpy
from landlockpy import AccessFS, Ruleset, Scope

from jwks_server.host import kernel
from jwks_server.reading import seccomp

_DESCRIPTORS = 64
_SYSTEM = ("/proc", "/sys", "/dev")
"""Nothing that a link in a tree of keystores leads to lies there, but what other processes do and hold does."""

_SINCE = {
    2: "moving files is not judged (Linux 5.19)",
    3: "truncating files is not judged (6.2)",
    4: "TCP is not judged (6.7)",
    5: "devices are not judged (6.10)",
    6: "signals and abstract sockets are not judged (6.12)",
}
"""What a Landlock before each of these versions cannot do."""


def confine(root: str, closed: Collection[str]) -> tuple[str, ...]:
    """Put up the walls; return what is missing of them. The process has one thread, and has opened what it needs.

    Of the folders and files in `closed` nothing can be read afterwards, except what lies below the root of the tree.
    """
    _limit()
    kernel.forbid_looking_inside()
    kernel.forbid_new_privileges()
    missing = [*restrict_files(root, closed)]
    try:
        seccomp.allow_only_reading()
    except OSError as error:
        missing.append(f"seccomp: {error}")
    return tuple(missing)


def _limit() -> None:
    """Bound what is bounded by a number; a program or a library that is loaded later cannot raise it."""
    for name, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(name, (most, most))
    if not stat.S_ISREG(os.fstat(2).st_mode):  # where the log is a file, complaints go there
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def restrict_files(root: str, closed: Collection[str]) -> Iterator[str]:
    """Let Landlock forbid all files but what may be read; return what it cannot do here."""
    root, shut = os.path.realpath(root), {os.path.realpath(path) for path in closed}
    inside = sorted(path for path in shut if _holds(root, path))
    if inside:
        yield f"Landlock: {', '.join(inside)} lies in the tree of keystores and can be read there"
    shut.difference_update(inside)
    try:
        version = landlockpy.abi_version()
        with Ruleset(scoped=Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL) as rules:  # everything else by default
            for path in readable_entries("/", root, {*shut, *_SYSTEM}):
                try:
                    rules.allow_path(path, AccessFS.READ_FILE | AccessFS.READ_DIR)
                except OSError:  # gone meanwhile, or nothing that is opened
                    continue
            rules.restrict()
    except OSError as error:
        yield f"Landlock: {error.strerror}"
    else:
        yield from (f"Landlock: {text}" for since, text in _SINCE.items() if version < since)


def readable_entries(folder: str, root: str, shut: Collection[str]) -> Iterator[str]:
    """Return the folders and files below `folder` that are allowed whole, so that what is shut is in none of them."""
    try:
        with os.scandir(folder) as entries:  # what a link leads to is an entry elsewhere
            paths = [entry.path for entry in entries if not entry.is_symlink()]
    except OSError:
        return
    in_shut = any(_holds(other, folder) for other in shut)
    for path in paths:
        if (in_shut or path in shut) and not _holds(path, root):
            continue
        if path != root and (in_shut or any(_holds(path, other) for other in shut)):
            yield from readable_entries(path, root, shut)
        else:
            yield path


def _holds(folder: str, path: str) -> bool:
    """Tell whether a path is the folder or lies in it; both are without links."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
