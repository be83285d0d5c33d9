"""Looks at the root's identity every so often, and decides with `root` whether it is the tree to believe in."""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress

from jwks_server.core.errors import ReaderError, RootUnavailableError
from jwks_server.core.timing import Timing
from jwks_server.following.quarantine import Quarantine
from jwks_server.following.root import Root, Verdict
from jwks_server.host.logs import fields
from jwks_server.reading.jobs import Listing, ListingJob, Readers, RootIdentity, Urgency

_log = logging.getLogger(__name__)


def identity_of(path: str) -> RootIdentity:
    """Return a root's identity; raise RootUnavailableError where it is not there. Blocks while it does not answer."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise RootUnavailableError(f"keystores folder {path} cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino


class RootKeeper:
    """Watches over the root. `look` is what tells its identity, where a test wants another than `identity_of`."""

    def __init__(
        self,
        root: Root,
        readers: Readers,
        quarantine: Quarantine,
        timing: Timing,
        *,
        look: Callable[[str], RootIdentity] = identity_of,
    ) -> None:
        self._root = root
        self._readers = readers
        self._quarantine = quarantine
        self._timing = timing
        self._look = look
        self._looking: asyncio.Future[RootIdentity] | None = None

    async def next_change(self) -> None:
        """Return when another root is believed than before, or the one that was lost is back."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.root_poll):
                    await self._root.doubted.wait()
            doubted = self._root.doubted.is_set()
            self._root.doubted.clear()
            try:
                if await self._is_another(doubted=doubted):
                    return
            except RootUnavailableError as error:
                self._lose(str(error))
            except ReaderError as error:
                self._lose(f"keystores folder {self._root.path}: {error}")

    def believe(self, listing: Listing) -> None:
        """Believe what a listing says, and name the folders that are not served."""
        for name in self._root.believe(listing):
            _log.warning(
                "folder not served: its name is no tenant domain (lower-case letters, digits, '.', '-', '_')",
                extra=fields(folder=name[:80]),
            )

    async def _is_another(self, *, doubted: bool) -> bool:
        """Look once. The identity tells nothing of whether a root can be listed: where something failed, list it."""
        is_same = self._root.believes(await self._identity_in_time()) and self._root.fault is None
        if is_same and not doubted:
            return False
        listing = await self._readers.run(ListingJob(), Urgency.URGENT)
        match self._root.weigh(listing, was_same=is_same):
            case Verdict.SAME:
                return False
            case Verdict.REFUSED:
                self._lose(f"keystores folder {self._root.path} is another one than before and empty; is it mounted?")
                return False
            case Verdict.BELIEVED:
                text = "keystores folder is back" if self._root.find() else "keystores folder was replaced"
                _log.warning(text, extra=fields(root=self._root.path, tenants=len(listing.tenants)))
                self.believe(listing)
                self._quarantine.hurry()  # it may have been the root that hung
                return True

    async def _identity_in_time(self) -> RootIdentity:
        """Return the root's identity. A look that hangs is waited for again, never joined by another."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(asyncio.to_thread(self._look, self._root.path))
        done, _ = await asyncio.wait((self._looking,), timeout=self._timing.root_patience)
        if not done:
            raise RootUnavailableError(f"keystores folder {self._root.path} does not answer")
        looking, self._looking = self._looking, None
        return looking.result()

    def _lose(self, reason: str) -> None:
        if self._root.lose(reason):
            _log.error("keystores folder lost; all that is published stays", extra=fields(reason=reason))
