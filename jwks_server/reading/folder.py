"""Reading one tenant's opened folder: its policy, its revoked keys and as many key files as a turn has time for."""

import errno
import hashlib
import os
import stat
import time
from collections import deque
from collections.abc import Callable

from jwks_server.core import policy, revoked
from jwks_server.core.build import faulty_key_file, read_key_file
from jwks_server.core.errors import KeyFileError, PrivateKeyOnlyError
from jwks_server.core.formats import MAX_FILE_BYTES, needs_password, recognise
from jwks_server.core.lifecycle import KeyFile
from jwks_server.core.snapshot import Folder, Snapshot, TextFile, Unfinished
from jwks_server.core.tenant import POLICY_FILE, REVOKED_FILE, TenantName, is_key_file
from jwks_server.reading.files import read_within
from jwks_server.reading.jobs import FOLDER, LoadJob
from jwks_server.reading.links import Trust, trust_below
from jwks_server.reading.passwords import password_for
from jwks_server.reading.source import Source
from jwks_server.reading.tree import FolderView, open_folder, view

_READ_ROUNDS = 3
_MAX_TEXT_BYTES = {POLICY_FILE: policy.MAX_BYTES, REVOKED_FILE: revoked.MAX_BYTES}

Report = Callable[[str, bytes], None]
"""Is told what is looked at next, before anything that may hang: a file's name, and its stamp once it was read."""


def is_linked(tenant: TenantName, root: int) -> bool:
    """Tell whether the tenant's folder is a symbolic link in the opened root."""
    try:
        return stat.S_ISLNK(os.stat(tenant, dir_fd=root, follow_symlinks=False).st_mode)
    except OSError:
        return False


def folder_of(
    source: Source, job: LoadJob, previous: Snapshot | None, root: int, report: Report
) -> tuple[Folder, FolderView | None]:
    """Return the folder's content and how it looked, or why it could not be read."""
    try:
        descriptor = open_folder(job.tenant, root)
    except OSError as error:
        if _is_absent(error, job.tenant, root):
            return Folder(present=False), None
        return Folder(fault=f"folder cannot be read: {error.strerror}"), None
    try:
        trust = trust_below(root)
        return _FolderReader(source, job, previous, descriptor=descriptor, trust=trust, report=report).read()
    except OSError as error:
        return Folder(fault=f"folder cannot be listed: {error.strerror}"), None
    finally:
        os.close(descriptor)


def _is_absent(error: OSError, tenant: TenantName, root: int) -> bool:
    """Tell whether there is no tenant's folder: no such name, or a plain file. A link that leads nowhere is a fault."""
    if error.errno == errno.ENOTDIR:
        return True
    if error.errno != errno.ENOENT:
        return False
    try:
        os.stat(tenant, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


class Turn:
    """How long one tenant is read: so many seconds of this process, or ten times as many on the clock."""

    def __init__(self, seconds: float) -> None:
        self._processor = time.process_time() + seconds
        self._clock = time.monotonic() + 10 * seconds

    def is_over(self) -> bool:
        """Tell whether the rest has to wait for another turn."""
        return time.process_time() > self._processor or time.monotonic() > self._clock


class _FolderReader:
    """Reads one tenant's opened folder."""

    def __init__(  # noqa: PLR0913 - what it reads, and what it knows before
        self, source: Source, job: LoadJob, previous: Snapshot | None, *, descriptor: int, trust: Trust, report: Report
    ) -> None:
        self._source = source
        self._job = job
        self._last = {file.name: file for file in previous.files} if previous else {}
        self._unfinished = previous.unfinished if previous else None
        self._turn = Turn(source.limits.turn_seconds)
        self._descriptor = descriptor
        self._trust = trust
        self._report = report
        self._outside = source.passwords.outside(job.tenant)

    def read(self) -> tuple[Folder, FolderView]:
        """Read until the folder looked the same before and after, or leave its signature open."""
        seen = self._view()
        folder = Folder()
        for _ in range(_READ_ROUNDS):
            if not seen.names and self._job.device not in {None, seen.device}:
                return Folder(fault="folder is empty and on another device than before; is it mounted?"), seen
            folder = self._folder(seen)
            if folder.unfinished is not None:
                break
            before, seen = seen, self._view()
            if (before.names, before.signature) == (seen.names, seen.signature):
                return folder, seen
        return folder, FolderView(seen.names, None, seen.device, seen.links)

    def _folder(self, seen: FolderView) -> Folder:
        """Read the policy, the revoked keys and as many key files as the turn has time for, at least one."""
        policy_file, revoked_file = (self._text_file(name, seen) for name in (POLICY_FILE, REVOKED_FILE))
        names, surplus = self._names(seen)
        to_read = deque(self._to_read(names, seen))
        has_read = False
        while to_read and (not has_read or not self._turn.is_over()):
            self._read(to_read.popleft())
            has_read = True
        # What a file gave stays until its turn comes.
        files = tuple(self._last[name] for name in names if name in self._last)
        has_new = any(name not in self._last for name in to_read)
        unfinished = Unfinished(tuple(to_read), seen.signature, has_new) if to_read else None
        return Folder(files, policy_file, revoked_file, unfinished=unfinished, surplus=surplus)

    def _names(self, seen: FolderView) -> tuple[list[str], int]:
        """Return the names of the key files that are read, those first that were read before, and how many are not."""
        names = list(filter(is_key_file, seen.names))
        most = self._source.limits.files
        if len(names) <= most:
            return names, 0
        kept = sorted(names, key=lambda name: name not in self._last)[:most]
        return sorted(kept), len(names) - most

    def _to_read(self, names: list[str], seen: FolderView) -> list[str]:
        """Return which of the names are to be read, those first that the last turn did not come to.

        The others were read since the folder looked as it does now, and need no second look.
        """
        if self._unfinished is None:
            return names
        there = set(names)
        pending = [name for name in self._unfinished.names if name in there]
        is_as_then = seen.signature is not None and seen.signature == self._unfinished.signature
        if is_as_then and not self._job.afresh:
            return pending
        return [*pending, *sorted(there.difference(pending))]

    def _read(self, name: str) -> None:
        """Put down what a key file gives now, or that it is gone."""
        last = self._last.get(name)
        try:
            self._last[name] = self._key_file(name, last)
        except FileNotFoundError:
            self._last.pop(name, None)
        except KeyFileError as error:
            self._last[name] = faulty_key_file(name, str(error), last)

    def _view(self) -> FolderView:
        self._report(FOLDER, b"")
        exact_times = self._source.exact_times
        return view(self._descriptor, self._trust, self._outside.mark, exact_times=exact_times, follows=self._follows)

    def _follows(self, name: str) -> bool:
        """Tell whether a link may be followed: not where a reader process hung in it before."""
        if (name, b"") in self._job.deadly:
            return False
        self._report(name, b"")
        return True

    def _content(self, name: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Return a file's bytes; raise KeyFileError where it cannot be read, or hung when it was."""
        if (name, b"") in self._job.deadly:
            raise KeyFileError(self._job.deadly[name, b""])
        self._report(name, b"")
        return read_within(name, self._descriptor, self._trust, max_bytes)

    def _key_file(self, name: str, last: KeyFile | None) -> KeyFile:
        """Return the file's keys; content that was read before is not parsed again."""
        if not name.isprintable() or "\\udc" in name:
            raise KeyFileError("file name is not readable text; rename it")
        data = self._content(name)
        is_passing, container, stamp = False, "", self._stamp(data)
        try:
            recognised = recognise(data)
            container = recognised.value
            password = None
            if needs_password(recognised):
                password = password_for(name, self._descriptor, self._trust, self._outside)
                stamp = self._stamp(data, password.value if password else b"\0none")
            if last is not None and last.stamp == stamp and not (self._job.afresh and last.is_passing):
                return last
            if (name, stamp) not in self._job.deadly:
                self._report(name, stamp)
                return self._within_limit(read_key_file(name, stamp, data, password))
            fault, is_passing = self._job.deadly[name, stamp], True
        except PrivateKeyOnlyError as error:
            if last is None or not last.keys:
                return KeyFile(name, stamp, container, (), notices=(str(error),))
            fault = str(error)
        except KeyFileError as error:
            fault = str(error)
        except Exception as error:  # noqa: BLE001 - a bug of ours or of a library: it is this file's alone
            fault, is_passing = f"its reader failed: {error!r}: a bug, send the file to the developers", True
        return faulty_key_file(name, fault, last, stamp=stamp, container=container, is_passing=is_passing)

    def _within_limit(self, file: KeyFile) -> KeyFile:
        """Return the file; raise KeyFileError where the tenant's files would then give more keys than are kept."""
        most = self._source.limits.keys
        others = sum(len(other.keys) for name, other in self._last.items() if name != file.name)
        if others + len(file.keys) > most:
            raise KeyFileError(f"its {len(file.keys)} keys would be more than {most}; remove some, or raise --max-keys")
        return file

    def _stamp(self, data: bytes, password: bytes = b"") -> bytes:
        """Return what tells one content and password from another.

        Nobody can guess the password by it: it is keyed with bytes that this process's server made and keeps nowhere.
        """
        digest = hashlib.blake2b(data, digest_size=16, key=self._source.stamp_key)
        digest.update(len(password).to_bytes(4) + password)
        return digest.digest()

    def _text_file(self, name: str, seen: FolderView) -> TextFile:
        if name not in seen.names:
            return TextFile()
        try:
            return TextFile(text=self._content(name, _MAX_TEXT_BYTES[name]).decode("utf-8-sig"))
        except FileNotFoundError:
            return TextFile()
        except KeyFileError as error:
            return TextFile(fault=str(error))
        except UnicodeDecodeError:
            return TextFile(fault="not a UTF-8 text file")
