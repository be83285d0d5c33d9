"""Reading one tenant's folder and building its snapshot: the slow part, run where it cannot delay an answer.

`load` and `survey` are plain functions of their job; the server runs them in worker processes, the command line in
its own.
"""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jwks_server.core.build import build, faulty_key_file, read_key_file
from jwks_server.core.errors import KeyFileError, PrivateKeyOnlyError
from jwks_server.core.formats import MAX_FILE_BYTES, needs_password, recognise
from jwks_server.core.lifecycle import KeyFile
from jwks_server.core.policy import Policy
from jwks_server.core.snapshot import Folder, Remembered, Snapshot, TextFile
from jwks_server.core.tenant import PASSWORD_ENDING, POLICY_FILE, REVOKED_FILE, TenantName, is_key_file
from jwks_server.daemon import clock
from jwks_server.daemon.keystore import FolderView, Listing, file_facts, list_root, opened_root, read_file, view
from jwks_server.daemon.passwords import PasswordSources

_READ_ROUNDS = 3

Reading = Callable[[str, bytes], None]
"""Is told the name and the stamp of each file before its content is parsed."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where keys and their passwords come from, and the policy of tenants that state none.

    `exact_times` says that the tree's file system tells any two states of a file apart by their times.
    """

    root: str
    passwords: PasswordSources = PasswordSources()
    defaults: Policy = Policy()
    exact_times: bool = False


@dataclass(frozen=True, slots=True)
class LoadJob:
    """Read and build one tenant.

    `device` is the one its folder was on; `deadly` are the files that ended their reader, by name and
    stamp, with what to say of them; with `afresh`, content that failed before is tried again.
    """

    source: Source
    tenant: TenantName
    previous: Snapshot | None = None
    device: int | None = None
    remembered: Remembered | None = None
    deadly: Mapping[tuple[str, bytes], str] = field(default_factory=dict)
    afresh: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """A tenant's new snapshot, the (device, inode) of the root that it was read below, and its folder's signature.

    `signature` is None where the folder changed while it was read or just before: it has to be read again.
    """

    snapshot: Snapshot
    root: tuple[int, int]
    signature: bytes | None
    device: int | None
    links: bool


@dataclass(frozen=True, slots=True)
class SurveyJob:
    """Look at the whole tree without reading a file, or only at some of its tenants."""

    source: Source
    only: tuple[TenantName, ...] | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """The tree's listing, and the signature of each tenant's folder, None where it cannot be told yet.

    `seconds` is how long it took, without the time in which it waited for its turn.
    """

    listing: Listing
    signatures: Mapping[TenantName, bytes | None]
    seconds: float


def load(job: LoadJob, reading: Reading = lambda _name, _stamp: None) -> Loaded:
    """Return the tenant's snapshot; raise RootUnavailableError where the tree itself cannot be read.

    `reading` is told of each file before its content is parsed.
    """
    with opened_root(job.source.root) as (root, identity):
        is_link = _is_link(job.tenant, root)
        folder, seen = _folder(job, root, reading)
    snapshot = build(job.tenant, folder, job.previous, job.source.defaults, clock.now(), remembered=job.remembered)
    if folder.fault is not None:
        return Loaded(snapshot, identity, None, job.device, links=is_link or (seen is not None and seen.links))
    if seen is None:
        return Loaded(snapshot, identity, b"", None, links=False)
    return Loaded(snapshot, identity, seen.signature, seen.device, links=is_link or seen.links)


def survey(job: SurveyJob) -> Survey:
    """Return the listing and the signatures; raise RootUnavailableError where the tree cannot be listed."""
    started = time.monotonic()
    listing = list_root(job.source.root)
    tenants = listing.tenants if job.only is None else job.only
    with opened_root(job.source.root) as (root, _):
        signatures = {tenant: _signature(job.source, tenant, root) for tenant in tenants}
    return Survey(listing, signatures, time.monotonic() - started)


def _signature(source: Source, tenant: TenantName, root: int) -> bytes | None:
    try:
        descriptor = _open_folder(tenant, root)
    except FileNotFoundError:
        return b""
    except OSError:
        return None
    try:
        return view(descriptor, source.passwords.facts(tenant), exact_times=source.exact_times).signature
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _is_link(tenant: TenantName, root: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(tenant, dir_fd=root, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _open_folder(tenant: TenantName, root: int) -> int:
    return os.open(tenant, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY, dir_fd=root)


def _folder(job: LoadJob, root: int, reading: Reading) -> tuple[Folder, FolderView | None]:
    """Return the folder's content and how it looked, or why it could not be read."""
    try:
        descriptor = _open_folder(job.tenant, root)
    except OSError as error:
        if _is_absent(error, job.tenant, root):
            return Folder(present=False), None
        return Folder(fault=f"folder cannot be read: {error.strerror}"), None
    try:
        return _opened_folder(job, descriptor, reading)
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


def _opened_folder(job: LoadJob, descriptor: int, reading: Reading) -> tuple[Folder, FolderView]:
    """Read until the folder looked the same before and after, or leave its signature open."""
    facts = job.source.passwords.facts(job.tenant)
    seen = view(descriptor, facts, exact_times=job.source.exact_times)
    folder = Folder()
    for _ in range(_READ_ROUNDS):
        if not seen.names and job.device not in {None, seen.device}:
            return Folder(fault="folder is empty and on another device than before; is it mounted?"), seen
        folder = _read_folder(job, descriptor, seen, facts, reading)
        before, seen = seen, view(descriptor, facts, exact_times=job.source.exact_times)
        if (before.names, before.signature) == (seen.names, seen.signature):
            return folder, seen
    return folder, FolderView(seen.names, None, seen.device, seen.links)


def _read_folder(
    job: LoadJob, descriptor: int, seen: FolderView, facts: tuple[object, ...], reading: Reading
) -> Folder:
    last = {file.name: file for file in job.previous.files} if job.previous else {}
    files = []
    for name in seen.names:
        if not is_key_file(name):
            continue
        try:
            files.append(_key_file(job, name, descriptor, last.get(name), facts, reading))
        except FileNotFoundError:
            continue
        except KeyFileError as error:
            files.append(faulty_key_file(name, str(error), last.get(name)))
    return Folder(tuple(files), _text_file(POLICY_FILE, descriptor, seen), _text_file(REVOKED_FILE, descriptor, seen))


def _key_file(  # noqa: PLR0913, PLR0917 - one file of one job, and what is known around it
    job: LoadJob,
    name: str,
    descriptor: int,
    last: KeyFile | None,
    facts: tuple[object, ...],
    reading: Reading,
) -> KeyFile:
    """Return the file's keys; content that was read before is not parsed again."""
    if not name.isprintable():
        raise KeyFileError("file name is not readable text; rename it")
    data = read_file(name, descriptor)
    beside = file_facts(f"{name}{PASSWORD_ENDING}", descriptor)
    stamp = hashlib.blake2b(repr((facts, beside)).encode() + data, digest_size=16).digest()
    if last is not None and last.stamp == stamp and not (job.afresh and last.faults):
        return last
    container = ""
    try:
        recognised = recognise(data)
        container = recognised.value
        if (name, stamp) not in job.deadly:
            find = job.source.passwords.find
            password = find(job.tenant, name, descriptor) if needs_password(recognised) else None
            reading(name, stamp)
            return read_key_file(name, stamp, data, password)
        fault = job.deadly[name, stamp]
    except PrivateKeyOnlyError as error:
        if last is None or not last.keys:
            return KeyFile(name, stamp, container, (), notices=(str(error),))
        fault = str(error)
    except KeyFileError as error:
        fault = str(error)
    except Exception as error:  # noqa: BLE001 - a bug of ours or of a library: it is this file's alone
        fault = f"its reader failed: {error!r}: a bug, send the file to the developers"
    return faulty_key_file(name, fault, last, stamp=stamp, container=container)


def _text_file(name: str, descriptor: int, seen: FolderView) -> TextFile:
    if name not in seen.names:
        return TextFile()
    try:
        return TextFile(text=read_file(name, descriptor, MAX_FILE_BYTES).decode("utf-8-sig"))
    except FileNotFoundError:
        return TextFile()
    except KeyFileError as error:
        return TextFile(fault=str(error))
    except UnicodeDecodeError:
        return TextFile(fault="not a UTF-8 text file")
