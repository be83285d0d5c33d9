"""The key files in tests/fixtures, read once a run: some derive keys with a hundred thousand rounds."""

from functools import cache
from pathlib import Path

from jwks_server.core.build import faulty_key_file, read_key_file
from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import Password
from jwks_server.core.lifecycle import KeyFile

FOLDER = Path(__file__).parents[1] / "fixtures"


@cache
def fixture_files() -> tuple[KeyFile, ...]:
    """Return all of them, those that cannot be used with their fault; each with a stamp of its own."""
    names = sorted(path.name for path in FOLDER.iterdir() if path.name not in {"make", "README.md"})
    return tuple(_read(name) for name in names)


def _read(name: str) -> KeyFile:
    password = Password(b"" if name.startswith("empty-password") else b"changeit")
    stamp = name.encode()
    try:
        return read_key_file(name, stamp, (FOLDER / name).read_bytes(), password)
    except KeyFileError as error:
        return faulty_key_file(name, str(error), None, stamp=stamp)
