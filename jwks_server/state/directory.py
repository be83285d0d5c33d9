"""The state directory: a record for each tenant with a removal grace, so that its keys stay owed across restarts.

One file a tenant, replaced as a whole: written aside, synced, renamed. A directory that fails is logged as an error and
tried again; it never stops the server from answering.
"""

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from jwks_server.core.errors import KeyFileError, TenantNameError
from jwks_server.core.publication import Publication, Record
from jwks_server.core.remembered import from_text, without_keys
from jwks_server.core.snapshot import Remembered
from jwks_server.core.tenant import TenantName, tenant_name
from jwks_server.core.timing import Timing
from jwks_server.host import clock
from jwks_server.host.logs import fields
from jwks_server.state.files import UNFINISHED, prepare, replace_file

_FOLDER = "owed"
_MAX_BYTES = 64 << 20
_MOST_NOTED_UNREAD = 50

_log = logging.getLogger(__name__)


class StateDirectory:
    """Keeps tenants' records in a directory, or nowhere where none is given.

    `fault` says why records cannot be written or read at the moment.
    """

    def __init__(self, directory: Path | None, timing: Timing) -> None:
        self.fault: str | None = None
        self._directory = directory / _FOLDER if directory is not None else None
        self._timing = timing
        self._waiting: dict[TenantName, Record | None] = {}
        self._noted: dict[TenantName, Record] = {}
        self._written: dict[TenantName, bytes | None] = {}
        self._is_unread = False
        self._unread: Mapping[TenantName, OSError] = {}
        self._noted_unread: dict[TenantName, dict[bytes, bytes]] = {}
        self._late: dict[TenantName, bytes] = {}
        self._passed_on: set[TenantName] = set()
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._has_warned = False

    def recall(self) -> Mapping[TenantName, bytes]:
        """Return the records of the last run, as far as they can be read now. Blocks."""
        if self._directory is None:
            return {}
        try:
            records, self._unread = self._recall(self._directory)
        except OSError as error:
            self._is_unread = True
            self._fail(error)
            return {}
        if self._unread:
            self._fail_for_unread()
        return records

    def _recall(self, directory: Path) -> tuple[Mapping[TenantName, bytes], Mapping[TenantName, OSError]]:
        """Return the records that were not read before, and which tenants' files cannot be read.

        A damaged file is logged and renamed; the other tenants' files are not concerned.
        """
        records: dict[TenantName, bytes] = {}
        unread: dict[TenantName, OSError] = {}
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for abandoned in directory.glob(f"{UNFINISHED}*"):
            abandoned.unlink()
        names: Iterable[str] = self._unread or (path.name for path in directory.iterdir())
        for path in sorted(directory / name for name in names if not name.startswith(".")):
            try:
                tenant = tenant_name(path.name)
                text = _read(path)
                from_text(text, clock.now())  # so that a damaged one is logged and renamed
                records[tenant] = text
                self._written[tenant] = None
            except FileNotFoundError:
                continue
            except (KeyFileError, TenantNameError, IsADirectoryError) as error:
                _log.error(
                    "record of removed keys not used; keys that were owed from before the start may be missing",
                    extra=fields(file=path, reason=error),
                )
                with suppress(OSError):
                    path.rename(path.with_name(f".damaged-{path.name[:200]}"))
            except OSError as error:
                unread[TenantName(path.name)] = error
        return records, unread

    async def secure(self, publication: Publication) -> None:
        """Write keys that are new before they are published, so that no crash loses one that somebody has seen.

        Return without having written where the directory fails, or takes longer than `Timing.state_wait`.
        """
        record = publication.record
        if self._directory is None or self.fault is not None or record is None:
            return
        if not record.adds_keys and publication.tenant not in self._passed_on:
            return
        self.note(publication)
        writing = asyncio.ensure_future(self._write(publication.tenant))
        done, _ = await asyncio.wait({writing}, timeout=self._timing.state_wait)
        if not done:
            self._fail(OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))

    def note(self, publication: Publication) -> None:
        """Take in what was published; `write_forever` writes it later."""
        tenant, record = publication.tenant, publication.record
        if (self._is_unread or tenant in self._unread) and record is not None:
            noted = self._noted_unread.setdefault(tenant, {})
            noted[record.digest] = record.text
            if len(noted) > _MOST_NOTED_UNREAD:
                del noted[next(iter(noted))]
        if record is not None:
            self._noted[tenant] = record
        else:
            self._noted.pop(tenant, None)
        if self._directory is None:
            if record is not None and not self._has_warned:
                self._has_warned = True
                _log.warning(
                    "removal grace without a state directory: a restart ends it (set --state-dir)",
                    extra=fields(tenant=tenant),
                )
        elif tenant in self._waiting or (record.digest if record else b"") != self._written.get(tenant, b""):
            self._waiting[tenant] = record
            self._wake.set()

    def doubt(self) -> None:
        """Write each record again when it is next noted: the wall clock, on which deadlines are written, has jumped."""
        self._written = dict.fromkeys(self._written)

    async def write_forever(self) -> AsyncIterator[Mapping[TenantName, bytes]]:
        """Write what was noted, tenant by tenant, in a thread; go on trying where it fails.

        Yield records from before the start that could be read only now: the caller has those tenants read again, and
        only after that is the old record replaced by a new one.
        """
        while True:
            if self.fault is None:
                await self._wake.wait()
            self._wake.clear()
            works = await self.flush()
            if late := self.late():
                yield late
            if not works:
                await asyncio.sleep(self._timing.state_retry)

    def late(self) -> Mapping[TenantName, bytes]:
        """Return the records that could be read only after the start, once."""
        late, self._late = self._late, {}
        return late

    async def flush(self) -> bool:
        """Write what waits; return False where not all could be written."""
        if self.fault is not None and not await self._try_directory():
            return False
        for tenant in self._waiting.keys() - self._unread.keys():
            if not await self._write(tenant):
                return False
        if self._unread:
            self._fail_for_unread()
            return False
        if self.fault is not None:
            _log.info("state directory works again", extra=fields(directory=self._directory))
            self.fault = None
        return True

    async def _try_directory(self) -> bool:
        """Tell whether files can be written again. Where the directory had to be made anew, write all records again."""
        assert self._directory is not None  # noqa: S101 - without a directory there is no fault to get over
        is_unread = self._is_unread or bool(self._unread)
        try:
            is_new = await asyncio.to_thread(prepare, self._directory)
            late, unread = await asyncio.to_thread(self._recall, self._directory) if is_unread else ({}, {})
        except OSError as error:
            self._fail(error)
            return False
        if is_new:
            self._waiting = {**self._noted, **self._waiting}
        if is_unread:
            self._is_unread, self._unread = False, unread
            await self._pass_on(late)
        return True

    async def _pass_on(self, late: Mapping[TenantName, bytes]) -> None:
        """Hand on records from before the start, and write none for their tenants until those were read again.

        Keys that were published since the start are left out of them: for those the new record decides.
        """
        noted = self._noted_unread
        self._noted_unread = {tenant: noted[tenant] for tenant in noted.keys() & self._unread.keys()}
        for tenant, text in late.items():
            self._waiting.pop(tenant, None)
            since = tuple(noted.get(tenant, {}).values())
            self._passed_on.add(tenant)
            self._late[tenant] = await asyncio.to_thread(without_keys, text, since, clock.now())

    async def _write(self, tenant: TenantName) -> bool:
        assert self._directory is not None  # noqa: S101 - nothing waits without one
        async with self._writing:
            if tenant not in self._waiting:
                return True
            record = self._waiting.pop(tenant)
            path = self._directory / tenant
            self._written[tenant] = None  # what is noted while this is written has to be written after it
            try:
                if record is None:
                    await asyncio.to_thread(path.unlink, missing_ok=True)
                    self._written.pop(tenant, None)
                else:
                    await asyncio.to_thread(replace_file, path, record.text)
                    self._written[tenant] = record.digest
            except OSError as error:
                self._waiting.setdefault(tenant, record)
                self._fail(error)
                return False
            self._passed_on.discard(tenant)
            return True

    def _fail_for_unread(self) -> None:
        tenant, error = next(iter(self._unread.items()))
        self._fail(error, f"file {tenant} of the state directory")

    def _fail(self, error: OSError, what: str = "state directory") -> None:
        reason = f"{what} {self._directory} cannot be used: {error.strerror}"
        if self.fault != reason:
            _log.error("removed keys are not remembered across a restart", extra=fields(reason=reason))
        self.fault = reason
        self._wake.set()


def recall_tenant(state_directory: Path, tenant: TenantName) -> Remembered | None:
    """Return the record that a server with this state directory has of a tenant; change nothing."""
    try:
        return from_text(_read(state_directory / _FOLDER / tenant), clock.now())
    except FileNotFoundError:
        return None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_BYTES)
