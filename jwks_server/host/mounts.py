"""Which file systems the tree lies on: some never tell of changes that other machines make, some have coarse clocks."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

_EVENTLESS = re.compile(r"nfs\d?|cifs|smb3?|9p|virtiofs|afs|ceph|glusterfs|lustre|fuse(\..+)?|vboxsf|drvfs|prl_fs")
_MULTIGRAIN = frozenset({"ext4", "xfs", "btrfs", "tmpfs"})
_MULTIGRAIN_KERNEL = (6, 13)
_ESCAPED = re.compile(r"\\([0-7]{3})")
_RELEASE = re.compile(r"(\d+)\.(\d+)")


def file_system_without_events(root: str) -> str | None:
    """Return the type of a file system at or below the root that raises no events, or None."""
    return next((kind for kind in _kinds(root) if _EVENTLESS.fullmatch(kind)), None)


def tells_changes_apart(root: str) -> bool:
    """Tell whether a file that was looked at and then changed always has other times, however soon it was.

    Linux 6.13 gives files on these systems fine-grained times once somebody has seen the coarse ones.
    """
    release = _RELEASE.match(os.uname().release)
    kinds = tuple(_kinds(root))
    new_enough = release is not None and (int(release[1]), int(release[2])) >= _MULTIGRAIN_KERNEL
    return new_enough and bool(kinds) and _MULTIGRAIN.issuperset(kinds)


def _kinds(root: str) -> Iterable[str]:
    try:
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ()
    return mounted_kinds(table, os.path.realpath(root))


def mounted_kinds(table: str, root: str) -> tuple[str, ...]:
    """Return the types of the file systems that hold the root and that are mounted below it.

    `table` is the text of /proc/self/mountinfo (proc(5)); a later mount of a point covers earlier ones.
    """
    holding, kind_of_holding = "", ""
    below: dict[str, str] = {}
    for line in table.splitlines():
        left, separator, right = line.partition(" - ")
        if not separator:
            continue
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), left.split()[4])
        kind = right.split()[0]
        if root == point or root.startswith(point.rstrip("/") + "/"):
            if len(point) >= len(holding):
                holding, kind_of_holding = point, kind
        elif point.startswith(root.rstrip("/") + "/"):
            below[point] = kind
    return (*((kind_of_holding,) if holding else ()), *below.values())
