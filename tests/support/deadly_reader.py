"""A reader process that crashes, hangs or lies where a marked file says so, for tests of what that does to others.

It is run in the place of `jwks_server.reading.child`, without its walls, for it writes. The test names a folder in an
environment variable: there the process writes down what it read, and finds files that say what else it shall do.

A key file's first line says what happens when it is parsed: `# spin`, `# sleep`, `# nap`, `# exit`, `# crash`,
`# fail`, `# gate` (wait for the file `open`), `# forge` (answer with something else). A tenant's folder with a file
`hang` in it hangs, as on a network file system without its server. The file `.build` in it says what happens when all
files are read. A file in the test's folder makes the file of the same name in a tenant's folder hang, or what a link
of this name leads to; while the file `late` is there, no process that starts gets ready.
"""

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path

from jwks_server.reading import child
from jwks_server.reading.child import answer
from jwks_server.reading.folder import Report
from jwks_server.reading.frames import HEADER_BYTES
from jwks_server.reading.jobs import BUILD, FOLDER, LoadJob, SurveyJob
from jwks_server.reading.source import Source
from jwks_server.reading.wire import Job

MODULE = "support.deadly_reader"
OTHER_SIDE = "DEADLY_READER_FOLDER"


def deadly_answer(source: Source, job: Job, report: Report) -> bytes:
    """Answer as a reader process does, and do what a marked file says when it is read."""
    other_side = Path(os.environ[OTHER_SIDE])
    forged: list[bytes] = []

    def look(name: str, stamp: bytes) -> None:
        report(name, stamp)
        folder = _folder(source, job, name)
        if "hang" in (os.listdir(folder) if folder.is_dir() else ()):
            time.sleep(3600)
        if name == BUILD and (folder / ".build").exists():
            _obey(folder / ".build", other_side, forged)
        if isinstance(job, LoadJob) and name not in {FOLDER, BUILD}:
            if not stamp and (other_side / name).exists():
                time.sleep(3600)
            if stamp:
                _obey(folder / name, other_side, forged)

    frame = answer(source, job, look)
    return forged[0] if forged else frame


def _folder(source: Source, job: Job, name: str) -> Path:
    """Return the tenant's folder that is looked at."""
    if isinstance(job, SurveyJob):
        return Path(source.root, name)
    return Path(source.root, job.tenant if isinstance(job, LoadJob) else "")


def _obey(path: Path, other_side: Path, forged: list[bytes]) -> None:
    word = path.read_bytes().partition(b"\n")[0]
    if not word.startswith(b"# "):
        return
    with (other_side / "read").open("a") as log:
        log.write(f"{os.getpid()} {word[2:].decode()}\n")
    deeds: dict[bytes, Callable[[], object]] = {
        b"spin": _spin,
        b"sleep": lambda: time.sleep(3600),
        b"nap": lambda: time.sleep(0.4),
        b"exit": lambda: os._exit(3),
        b"crash": os.abort,
        b"fail": _fail,
        b"gate": lambda: _wait(other_side / "open"),
        b"forge": lambda: forged.append(_forged(other_side)),
    }
    deeds[word[2:].split(b" ")[0]]()


def _spin() -> None:
    while True:
        pass


def _fail() -> None:
    raise ZeroDivisionError("nobody thought of this")


def _wait(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.002)


def _forged(other_side: Path) -> bytes:
    """Return a frame around what would make a directory if it were unpickled."""

    class Call:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(other_side / "forged"),)

    data = pickle.dumps(Call())
    total = HEADER_BYTES + len(data)
    return total.to_bytes(4) + len(data).to_bytes(4) + data


def main() -> None:
    """Read jobs as the server's child, once it may start."""
    while Path(os.environ[OTHER_SIDE], "late").exists():
        time.sleep(0.002)
    child.main(deadly_answer, confine=lambda _root, _closed: ())
