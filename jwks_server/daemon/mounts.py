"""Which file system the tree lies on: some never tell of changes that other machines make."""

import os
import re
from pathlib import Path

_EVENTLESS = re.compile(r"nfs\d?|cifs|smb3?|9p|virtiofs|afs|ceph|glusterfs|lustre|fuse(\..+)?|vboxsf|drvfs|prl_fs")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def file_system_without_events(root: str) -> str | None:
    """Return the type of a file system at or below the root that raises no events, or None."""
    try:
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    return eventless_mount(table, os.path.realpath(root))


def eventless_mount(table: str, root: str) -> str | None:
    """Return the same from the text of /proc/self/mountinfo (proc(5)). A later mount of a point covers earlier ones."""
    holding, holding_type = "", ""
    below: dict[str, str] = {}
    for line in table.splitlines():
        left, separator, right = line.partition(" - ")
        if not separator:
            continue
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), left.split()[4])
        kind = right.split()[0]
        if root == point or root.startswith(point.rstrip("/") + "/"):
            if len(point) >= len(holding):
                holding, holding_type = point, kind
        elif point.startswith(root.rstrip("/") + "/"):
            below[point] = kind
    return next((kind for kind in (holding_type, *below.values()) if _EVENTLESS.fullmatch(kind)), None)
