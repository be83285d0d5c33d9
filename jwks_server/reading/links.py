"""Whose symbolic links are followed, and the walk that follows them.

A link is followed where it belongs to root, to the server's own user, to the owner of the keystores folder, or to the
owner of what it leads to: who owns only a tenant's folder then cannot have the server read what is another's. The rule
holds for each link on the way. The walk opens every step by a descriptor and follows no name that the kernel would
follow, so that a link which is swapped meanwhile changes nothing that was looked at.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

MOST_LINKS = 40
"""As many as Linux itself follows in one path."""

MOST_STEPS = 256
"""How many names a chain of links may lead through: forty links of 4 KiB each would be eighty thousand."""

NOBODY = 65_534
"""The owner that the kernel shows where it cannot or may not show the real one (user namespaces, some mounts, NFS)."""

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MAPPED = re.compile(r"^\s*(\d+)\s+\d+\s+(\d+)\s*$", re.MULTILINE)


class LinkRefusedError(PermissionError):
    """A symbolic link that may not be followed; its text says what to do."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The users whose links are followed wherever they lead, and the user ids that name one user each."""

    uids: frozenset[int]
    distinct: tuple[range, ...]

    def tells(self, uid: int) -> bool:
        """Tell whether two files with this owner have the same owner; `nobody` stands for any number of users."""
        return uid != NOBODY and any(uid in ids for ids in self.distinct)


def may_follow(link_uid: int, target_uid: int, trust: Trust) -> bool:
    """Tell whether a link of one user to a file of another is followed."""
    return trust.tells(link_uid) and (link_uid in trust.uids or link_uid == target_uid)


def trust_below(root: int) -> Trust:
    """Return whose links are followed in the tree with this opened root."""
    return Trust(frozenset((0, os.geteuid(), os.fstat(root).st_uid)), distinct_uids())


@cache
def distinct_uids() -> tuple[range, ...]:
    """Return the user ids that this process's user namespace has; the owners of all other files show as `nobody`."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as table:
            text = table.read()
    except OSError:
        return (range(NOBODY),)
    return tuple(range(int(first), int(first) + int(count)) for first, count in _MAPPED.findall(text))


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a name leads: the last name, in an opened folder; its status; and the owners of the links on the way."""

    folder: int
    name: str
    status: os.stat_result
    owners: tuple[int, ...]

    def demand(self, owner: int, trust: Trust) -> None:
        """Raise LinkRefusedError where one of the links may not be followed to what belongs to `owner`."""
        for uid in self.owners:
            if not may_follow(uid, owner, trust):
                raise LinkRefusedError(errno.EACCES, _refusal(uid, owner, trust))


def _refusal(uid: int, owner: int, trust: Trust) -> str:
    if trust.tells(uid):
        whose = f"symbolic link belongs to uid {uid}, and its target to uid {owner}"
    else:
        whose = f"symbolic link belongs to a user whom the server cannot tell from others (shown as uid {uid})"
    return f"{whose}: let root or the owner of the target own the link (chown -h), or put the file itself in its place"


@contextmanager
def walked(name: str, folder: int, *, to_folder: bool = False) -> Iterator[Reached]:
    """Follow the links from a name in an opened folder; what is reached is neither opened nor judged yet.

    `to_folder` says that it has to be a folder. Raise OSError where the way ends, or is longer than the limits above.
    """
    walk = _Walk(folder)
    try:
        yield walk.to(name, to_folder=to_folder)
    finally:
        walk.stand(folder)


class _Walk:
    """A walk: the folder that it began in, which stays open, and the one that it stands in."""

    def __init__(self, folder: int) -> None:
        self._beginning = self._here = folder

    def stand(self, folder: int) -> None:
        """Leave the folder where the walk stands for this one."""
        left, self._here = self._here, folder
        if left not in {self._beginning, folder}:
            os.close(left)

    def to(self, name: str, *, to_folder: bool) -> Reached:
        rest, owners = [name], list[int]()
        for _ in range(MOST_STEPS):
            part = rest.pop()
            found = self._step(part, is_folder=bool(rest) or to_folder)
            try:
                status = os.fstat(found)
                if stat.S_ISLNK(status.st_mode):
                    owners.append(status.st_uid)
                    if len(owners) > MOST_LINKS:
                        break
                    text = os.readlink("", dir_fd=found)
                    rest += _parts(text)[::-1]
                    if text.startswith("/"):
                        self.stand(os.open("/", _STEP | os.O_DIRECTORY))
                elif not rest:
                    return Reached(self._here, part, status, tuple(owners))
                elif not stat.S_ISDIR(status.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                else:
                    self.stand(found)
            finally:
                if found != self._here:
                    os.close(found)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def _step(self, part: str, *, is_folder: bool) -> int:
        """Open one name without following it. O_DIRECTORY has automounts mounted, and refuses a link."""
        if is_folder:
            try:
                return os.open(part, _STEP | os.O_DIRECTORY, dir_fd=self._here)
            except NotADirectoryError:
                pass
        return os.open(part, _STEP, dir_fd=self._here)


def _parts(text: str) -> list[str]:
    """Return the names in a link's text; one that ends with a slash leads to a folder."""
    parts = [part for part in text.split("/") if part]
    return [*parts, "."] if text.endswith("/") else parts
