"""Reading one tenant's folder and building its snapshot: the slow part, run where it cannot delay an answer.

`load` is a plain function of its job; the server runs it in worker processes, the command line in its own.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from jwks_server.core.build import build, faulty_key_file, read_key_file
from jwks_server.core.errors import KeyFileError, PrivateKeyOnlyError
from jwks_server.core.formats import needs_password, recognise
from jwks_server.core.lifecycle import KeyFile
from jwks_server.core.publication import Publication, Sealed, publication_of
from jwks_server.core.snapshot import Folder, Remembered, Snapshot, TextFile
from jwks_server.core.tenant import PASSWORD_ENDING, POLICY_FILE, REVOKED_FILE, TenantName, is_key_file
from jwks_server.host import clock
from jwks_server.reading.place import FOLDER
from jwks_server.reading.source import Source
from jwks_server.reading.tree import FolderView, file_facts, open_folder, opened_root, read_file, view

_READ_ROUNDS = 3

Reading = Callable[[str, bytes], None]
"""Is told where a reader is before anything that may hang: a file's name, and its content's stamp once it is known."""


@dataclass(frozen=True, slots=True)
class LoadJob:
    """Read and build one tenant.

    `device` is the one its folder was on; `deadly` are the files that ended their reader, by name and
    stamp, with what to say of them; those without a stamp did so before they were read. With `afresh`, content that
    failed before is tried again.
    """

    source: Source
    tenant: TenantName
    previous: Sealed | None = None
    device: int | None = None
    remembered: Remembered | None = None
    deadly: Mapping[tuple[str, bytes], str] = field(default_factory=dict)
    afresh: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a tenant publishes now, the (device, inode) of the root that it was read below, and its folder's signature.

    `signature` is None where the folder changed while it was read or just before: it has to be read again.
    """

    publication: Publication
    root: tuple[int, int]
    signature: bytes | None
    device: int | None
    links: bool


def load(job: LoadJob, reading: Reading = lambda _name, _stamp: None) -> Loaded:
    """Return what the tenant publishes; raise RootUnavailableError where the tree itself cannot be read.

    `reading` is told of the folder and of each file before they are read.
    """
    reading(FOLDER, b"")
    previous = job.previous.open() if job.previous is not None else None
    with opened_root(job.source.root) as (root, identity):
        is_link = _is_link(job.tenant, root)
        folder, seen = _folder(job, previous, root, reading)
    snapshot = build(job.tenant, folder, previous, job.source.defaults, clock.now(), remembered=job.remembered)
    publication = publication_of(snapshot)
    if folder.fault is not None:
        return Loaded(publication, identity, None, job.device, links=is_link or (seen is not None and seen.links))
    if seen is None:
        return Loaded(publication, identity, b"", None, links=False)
    return Loaded(publication, identity, seen.signature, seen.device, links=is_link or seen.links)


def _is_link(tenant: TenantName, root: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(tenant, dir_fd=root, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _folder(job: LoadJob, previous: Snapshot | None, root: int, reading: Reading) -> tuple[Folder, FolderView | None]:
    """Return the folder's content and how it looked, or why it could not be read."""
    try:
        descriptor = open_folder(job.tenant, root)
    except OSError as error:
        if _is_absent(error, job.tenant, root):
            return Folder(present=False), None
        return Folder(fault=f"folder cannot be read: {error.strerror}"), None
    try:
        return _FolderReader(job, previous, descriptor, reading).read()
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


class _FolderReader:
    """Reads one tenant's opened folder."""

    def __init__(self, job: LoadJob, previous: Snapshot | None, descriptor: int, reading: Reading) -> None:
        self._job = job
        self._last = {file.name: file for file in previous.files} if previous else {}
        self._descriptor = descriptor
        self._reading = reading
        self._facts = job.source.passwords.facts(job.tenant)

    def read(self) -> tuple[Folder, FolderView]:
        """Read until the folder looked the same before and after, or leave its signature open."""
        seen = self._view()
        folder = Folder()
        for _ in range(_READ_ROUNDS):
            if not seen.names and self._job.device not in {None, seen.device}:
                return Folder(fault="folder is empty and on another device than before; is it mounted?"), seen
            policy, revoked = (self._text_file(name, seen) for name in (POLICY_FILE, REVOKED_FILE))
            folder = Folder(tuple(self._key_files(seen)), policy, revoked)
            before, seen = seen, self._view()
            if (before.names, before.signature) == (seen.names, seen.signature):
                return folder, seen
        return folder, FolderView(seen.names, None, seen.device, seen.links)

    def _view(self) -> FolderView:
        exact_times = self._job.source.exact_times
        return view(self._descriptor, self._facts, exact_times=exact_times, follows=self._follows)

    def _follows(self, name: str) -> bool:
        """Tell whether a link may be followed, as one whose target hung may not."""
        if (name, b"") in self._job.deadly:
            return False
        self._reading(name, b"")
        return True

    def _content(self, name: str) -> bytes:
        """Return a file's bytes; raise KeyFileError where it cannot be read, or hung when it was."""
        if (name, b"") in self._job.deadly:
            raise KeyFileError(self._job.deadly[name, b""])
        self._reading(name, b"")
        return read_file(name, self._descriptor)

    def _key_files(self, seen: FolderView) -> Iterator[KeyFile]:
        for name in filter(is_key_file, seen.names):
            last = self._last.get(name)
            try:
                yield self._key_file(name, last)
            except FileNotFoundError:
                continue
            except KeyFileError as error:
                yield faulty_key_file(name, str(error), last)

    def _key_file(self, name: str, last: KeyFile | None) -> KeyFile:
        """Return the file's keys; content that was read before is not parsed again."""
        if not name.isprintable():
            raise KeyFileError("file name is not readable text; rename it")
        data = self._content(name)
        beside = file_facts(f"{name}{PASSWORD_ENDING}", self._descriptor)
        stamp = hashlib.blake2b(repr((self._facts, beside)).encode() + data, digest_size=16).digest()
        if last is not None and last.stamp == stamp and not (self._job.afresh and last.faults):
            return last
        container = ""
        try:
            recognised = recognise(data)
            container = recognised.value
            if (name, stamp) not in self._job.deadly:
                find = self._job.source.passwords.find
                password = find(self._job.tenant, name, self._descriptor) if needs_password(recognised) else None
                self._reading(name, stamp)
                return read_key_file(name, stamp, data, password)
            fault = self._job.deadly[name, stamp]
        except PrivateKeyOnlyError as error:
            if last is None or not last.keys:
                return KeyFile(name, stamp, container, (), notices=(str(error),))
            fault = str(error)
        except KeyFileError as error:
            fault = str(error)
        except Exception as error:  # noqa: BLE001 - a bug of ours or of a library: it is this file's alone
            fault = f"its reader failed: {error!r}: a bug, send the file to the developers"
        return faulty_key_file(name, fault, last, stamp=stamp, container=container)

    def _text_file(self, name: str, seen: FolderView) -> TextFile:
        if name not in seen.names:
            return TextFile()
        try:
            return TextFile(text=self._content(name).decode("utf-8-sig"))
        except FileNotFoundError:
            return TextFile()
        except KeyFileError as error:
            return TextFile(fault=str(error))
        except UnicodeDecodeError:
            return TextFile(fault="not a UTF-8 text file")
