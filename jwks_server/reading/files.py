"""Bounded reads of one file, and the facts that tell one state of it from another.

A file is looked at before it is opened, and no FIFO or device is ever opened. In a tenant's folder, links are followed
by the rule of `links` alone; a path from a setting is the operator's.
"""

import errno
import os
import stat
from collections.abc import Callable

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import MAX_FILE_BYTES
from jwks_server.reading.links import LinkRefusedError, Reached, Trust, walked

_READ_TRIES = 3
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def through(name: str, descriptor: int, trust: Trust, own: os.stat_result, text: str) -> tuple[os.stat_result, str]:
    """Return what a link with this text is signed by: what it leads to, or its own status where it is not followed."""
    with walked(name, descriptor) as reached:
        try:
            reached.demand(reached.status.st_uid, trust)
        except LinkRefusedError as error:
            is_folder = stat.S_ISDIR(reached.status.st_mode)  # folders are passed over, whosever they are
            return (reached.status if is_folder else own), f"{text}\0{error.strerror}"
        return reached.status, text


def file_facts(path: str) -> tuple[object, ...]:
    """Return what tells one state of a file from another; empty where there is none. Links are followed."""
    return _facts_or_why(lambda: os.stat(path))


def facts_within(name: str, descriptor: int, trust: Trust) -> tuple[object, ...]:
    """Return the same of a file in an opened tenant's folder, whose links are followed by the rule alone."""

    def look() -> os.stat_result:
        own = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        return through(name, descriptor, trust, own, "")[0] if stat.S_ISLNK(own.st_mode) else own

    return _facts_or_why(look)


def _facts_or_why(look: Callable[[], os.stat_result]) -> tuple[object, ...]:
    try:
        return facts(look())
    except OSError as error:
        return () if error.errno in {errno.ENOENT, errno.ENOTDIR} else (error.errno,)


def facts(status: os.stat_result) -> tuple[object, ...]:
    """Return what tells one state of a file from another."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode


def read_file(name: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return a regular file's bytes, all from one state of it.

    The name is the operator's, from a setting: links are followed as the kernel does. Raise as `read_within` does.
    """
    return _read(name, None, None, max_bytes)


def read_within(name: str, descriptor: int, trust: Trust, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of a regular file in an opened tenant's folder, all from one state of it.

    Raise FileNotFoundError where the name itself is gone, and KeyFileError, with what to do, for all that is a fault:
    no permission, an I/O error, a link to nothing or one that may not be followed, something that is no regular file, a
    file too large.
    """
    return _read(name, descriptor, trust, max_bytes)


def _read(name: str, descriptor: int | None, trust: Trust | None, max_bytes: int) -> bytes:
    try:
        for _ in range(_READ_TRIES):
            content = _read_once(name, descriptor, trust, max_bytes)
            if content is not None:
                return content
    except FileNotFoundError:
        if stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
            raise KeyFileError("symbolic link to a file that does not exist") from None
        raise
    except LinkRefusedError as error:
        raise KeyFileError(error.strerror) from None
    except PermissionError as error:
        raise KeyFileError(
            "permission denied: let the server's user or group read it (chmod 0640, chgrp jwks-keystores)"
        ) from error
    except OSError as error:
        raise KeyFileError(f"cannot be read: {error.strerror}") from error
    raise KeyFileError("keeps changing while it is read; write it under another name and rename it")


def _read_once(name: str, descriptor: int | None, trust: Trust | None, max_bytes: int) -> bytes | None:
    """Return the content, or None where the file changed meanwhile."""
    status = os.stat(name, dir_fd=descriptor, follow_symlinks=trust is None)
    if trust is not None and stat.S_ISLNK(status.st_mode):
        assert descriptor is not None  # noqa: S101 - whoever trusts somebody has opened a folder
        with walked(name, descriptor) as reached:
            reached.demand(reached.status.st_uid, trust)
            _demand_regular(reached.status, max_bytes)
            return _content(_opened(reached.name, reached.folder, follow=False), max_bytes, reached, trust)
    _demand_regular(status, max_bytes)
    return _content(_opened(name, descriptor, follow=trust is None), max_bytes)


def _opened(name: str, descriptor: int | None, *, follow: bool) -> int | None:
    """Open a file that was looked at; None where it is a link by now."""
    try:
        return os.open(name, _OPEN_FLAGS if follow else _OPEN_FLAGS | os.O_NOFOLLOW, dir_fd=descriptor)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            return None
        raise


def _content(
    file: int | None, max_bytes: int, reached: Reached | None = None, trust: Trust | None = None
) -> bytes | None:
    """Return an opened file's content, or None where it changed meanwhile; `reached` is how links led to it."""
    if file is None:
        return None
    try:
        before = os.fstat(file)
        if reached is not None and trust is not None:
            reached.demand(before.st_uid, trust)
        _demand_regular(before, max_bytes)
        parts: list[bytes] = []
        left = max_bytes + 1
        while left > 0 and (part := os.read(file, left)):
            parts.append(part)
            left -= len(part)
        content = b"".join(parts)
        if len(content) > max_bytes:
            raise KeyFileError(_too_large(max_bytes))
        after = os.fstat(file)
        return content if facts(before) == facts(after) and len(content) == after.st_size else None
    finally:
        os.close(file)


def _demand_regular(status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError("not a regular file")
    if status.st_size > max_bytes:
        raise KeyFileError(_too_large(max_bytes))


def _too_large(max_bytes: int) -> str:
    limit = f"{max_bytes >> 20} MiB" if max_bytes >= 1 << 20 else f"{max_bytes >> 10} KiB"
    return f"file larger than {limit}"
