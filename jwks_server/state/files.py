"""Files of the state directory, each replaced as a whole: written aside, synced, renamed."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

UNFINISHED = ".new-"
"""What the name of a file that is being written begins with."""


def prepare(directory: Path) -> bool:
    """Make the directory where it is missing, try to make a file in it, and tell whether it was missing."""
    is_new = not directory.is_dir()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=directory, prefix=UNFINISHED)
    os.close(descriptor)
    os.unlink(name)
    return is_new


def replace_file(path: Path, text: bytes) -> None:
    """Replace a file so that after any crash it holds the old text or the new one, whole."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    try:
        try:
            data = memoryview(text)
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
