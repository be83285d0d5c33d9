"""The state directory: what is published under a removal grace, remembered across restarts.

One file a tenant, replaced as a whole: written aside, synced, renamed. Whatever happens to the directory is loud and
never stops serving; what cannot be written is tried again.
"""

import asyncio
import errno
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from jwks_server.core.errors import KeyFileError, TenantNameError
from jwks_server.core.lifecycle import Owed, key_identity
from jwks_server.core.publication import Publication
from jwks_server.core.remembered import from_text, to_text, worth_remembering
from jwks_server.core.snapshot import Remembered
from jwks_server.core.tenant import TenantName, tenant_name
from jwks_server.host import clock
from jwks_server.host.logs import fields

_FOLDER = "owed"
_UNFINISHED = ".new-"
_MAX_BYTES = 64 << 20
_AGAIN_SECONDS = 2.0
_LONGEST_WAIT_SECONDS = 0.25

_log = logging.getLogger(__name__)


class Memory:
    """Remembers tenants' keys in a directory, or nothing where there is none.

    `fault` says why what is published is not remembered at the moment; `on_recall` is told what is remembered from
    before the start where that could not be read then.
    """

    def __init__(self, directory: Path | None) -> None:
        self.fault: str | None = None
        self.on_recall: Callable[[Mapping[TenantName, Remembered]], None] = lambda _remembered: None
        self._directory = directory / _FOLDER if directory is not None else None
        self._waiting: dict[TenantName, Publication] = {}
        self._noted: dict[TenantName, Publication] = {}
        self._written: dict[TenantName, tuple[object, ...] | None] = {}
        self._known: dict[TenantName, frozenset[object]] = {}
        self._is_unread = False
        self._unread: Mapping[TenantName, OSError] = {}
        self._noted_unread: dict[TenantName, frozenset[object]] = {}
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._has_warned = False

    def recall(self) -> Mapping[TenantName, Remembered]:
        """Return what is remembered, as far as it can be read now. Blocks."""
        if self._directory is None:
            return {}
        try:
            remembered, self._unread = self._recall(self._directory)
        except OSError as error:
            self._is_unread = True
            self._fail(error)
            return {}
        if self._unread:
            self._fail_for_unread()
        return remembered

    def _recall(self, directory: Path) -> tuple[Mapping[TenantName, Remembered], Mapping[TenantName, OSError]]:
        """Return what is remembered and was not read before, and which tenants' files cannot be read.

        A file that is damaged is said so, set aside and costs its tenant only.
        """
        remembered: dict[TenantName, Remembered] = {}
        unread: dict[TenantName, OSError] = {}
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for abandoned in directory.glob(f"{_UNFINISHED}*"):
            abandoned.unlink()
        names: Iterable[str] = self._unread or (path.name for path in directory.iterdir())
        for path in sorted(directory / name for name in names if not name.startswith(".")):
            try:
                tenant = tenant_name(path.name)
                remembered[tenant] = _read(path)
                self._written[tenant] = None
                self._known[tenant] = _identities(remembered[tenant].keys)
            except FileNotFoundError:
                continue
            except (KeyFileError, TenantNameError, IsADirectoryError) as error:
                _log.error(
                    "memory of removed keys not used; keys that were owed from before the start may be missing",
                    extra=fields(file=path, reason=error),
                )
                with suppress(OSError):
                    path.rename(path.with_name(f".damaged-{path.name[:200]}"))
            except OSError as error:
                unread[TenantName(path.name)] = error
        return remembered, unread

    async def secure(self, publication: Publication) -> None:
        """Write keys that are new before they are published, so that no crash loses one that somebody has seen.

        A directory that fails or takes its time does not hold them back.
        """
        if self._directory is None or self.fault is not None or not publication.is_remembered:
            return
        tenant = publication.tenant
        if _identities(_owed(_worth(publication))) <= self._known.get(tenant, frozenset()):
            return
        self.note(publication)
        done, _ = await asyncio.wait({asyncio.ensure_future(self._write(tenant))}, timeout=_LONGEST_WAIT_SECONDS)
        if not done:
            self._fail(OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))

    def note(self, publication: Publication) -> None:
        """Take in what was published; the writing follows."""
        tenant, worth = publication.tenant, _worth(publication)
        if self._is_unread or tenant in self._unread:
            self._noted_unread[tenant] = self._noted_unread.get(tenant, frozenset()) | _identities(_owed(worth))
        if worth:
            self._noted[tenant] = publication
        else:
            self._noted.pop(tenant, None)
        if self._directory is None:
            if worth and not self._has_warned:
                self._has_warned = True
                _log.warning(
                    "removal grace without a state directory: a restart ends it (set --state-dir)",
                    extra=fields(tenant=tenant),
                )
        elif tenant in self._waiting or worth != self._written.get(tenant, ()):
            self._waiting[tenant] = publication
            self._wake.set()

    def doubt(self) -> None:
        """Write everything again when it is next noted: the clock that its deadlines were written on has jumped."""
        self._written = dict.fromkeys(self._written)

    async def write_forever(self) -> None:
        """Write what was noted, tenant by tenant, in a thread; go on trying where it fails."""
        while True:
            if self.fault is None:
                await self._wake.wait()
            self._wake.clear()
            if not await self.flush():
                await asyncio.sleep(_AGAIN_SECONDS)

    async def flush(self) -> bool:
        """Write what waits; return False where the directory does not take it."""
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
        """Tell whether the directory takes a file again; in one that had to be made anew everything is missing."""
        assert self._directory is not None  # noqa: S101 - none cannot fail
        is_unread = self._is_unread or bool(self._unread)
        try:
            is_new = await asyncio.to_thread(_prepare, self._directory)
            late, unread = await asyncio.to_thread(self._recall, self._directory) if is_unread else ({}, {})
        except OSError as error:
            self._fail(error)
            return False
        if is_new:
            self._waiting = {**self._noted, **self._waiting}
        if is_unread:
            self._is_unread, self._unread = False, unread
            self._pass_on(late)
        return True

    def _pass_on(self, late: Mapping[TenantName, Remembered]) -> None:
        """Have what was owed before the start published again, and only then replaced by what is owed now.

        Keys that were noted since are left out: whether those are owed is known better by now.
        """
        noted = self._noted_unread
        self._noted_unread = {tenant: noted[tenant] for tenant in noted.keys() & self._unread.keys()}
        for tenant in late:
            self._waiting.pop(tenant, None)
        self.on_recall(
            {
                tenant: Remembered(
                    remembered.policy,
                    tuple(owed for owed in remembered.keys if key_identity(owed.key) not in noted.get(tenant, ())),
                )
                for tenant, remembered in late.items()
            }
        )

    async def _write(self, tenant: TenantName) -> bool:
        assert self._directory is not None  # noqa: S101 - nothing waits without one
        async with self._writing:
            publication = self._waiting.pop(tenant, None)
            if publication is None:
                return True
            worth = _worth(publication)
            path = self._directory / tenant
            self._written[tenant] = None  # what is noted while this is written has to be written after it
            try:
                if not worth:
                    await asyncio.to_thread(path.unlink, missing_ok=True)
                    self._written.pop(tenant, None)
                else:
                    await asyncio.to_thread(_replace, path, to_text(publication.sealed.open(), clock.now()))
                    self._written[tenant] = worth
            except OSError as error:
                self._waiting.setdefault(tenant, publication)
                self._fail(error)
                return False
            self._known[tenant] = _identities(_owed(worth))
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
    """Return what a server that uses this state directory remembers of a tenant, touching nothing."""
    try:
        return _read(state_directory / _FOLDER / tenant)
    except FileNotFoundError:
        return None


def _read(path: Path) -> Remembered:
    with path.open("rb") as file:
        return from_text(file.read(_MAX_BYTES).decode("ascii", "replace"), clock.now())


def _worth(publication: Publication) -> tuple[object, ...]:
    """Return what is to be remembered of the tenant, empty for nothing."""
    return worth_remembering(publication.sealed.open()) if publication.is_remembered else ()


def _owed(worth: tuple[object, ...]) -> Iterable[Owed]:
    return (owed for owed in worth if isinstance(owed, Owed))


def _identities(owed: Iterable[Owed]) -> frozenset[object]:
    return frozenset(key_identity(debt.key) for debt in owed)


def _prepare(directory: Path) -> bool:
    """Make the directory where it is missing, try to make a file in it, and tell whether it was missing."""
    is_new = not directory.is_dir()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=directory, prefix=_UNFINISHED)
    os.close(descriptor)
    os.unlink(name)
    return is_new


def _replace(path: Path, text: str) -> None:
    """Replace a file so that after any crash it holds the old text or the new one, whole."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
    try:
        try:
            data = memoryview(text.encode("ascii"))
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
