"""Which tree is believed: the identity of its root, and why it is not believed at the moment.

What was read below another root, or below none, says nothing about the tenants: all that is published stays.
"""

import asyncio
from collections.abc import Iterable
from enum import Enum, auto

from jwks_server.reading.jobs import Listing, RootIdentity


class Verdict(Enum):
    """What a listing of the root says: it is the tree as before, another that is believed, or one that is not."""

    SAME = auto()
    BELIEVED = auto()
    REFUSED = auto()


class Root:
    """The root that is believed.

    `fault` says why there is none at the moment. `doubted` is set by whoever saw another root than the believed one.
    `folders` is how many folders a watch of the tree has to cover.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fault: str | None = None
        self.folders = 1
        self.doubted = asyncio.Event()
        self._identity: RootIdentity | None = None
        self._has_tenants = False
        self._strangers: frozenset[str] = frozenset()

    def believes(self, identity: RootIdentity) -> bool:
        """Tell whether this is the root that is believed. What is read below another is neither kept nor forgotten."""
        return identity == self._identity

    def believe(self, listing: Listing) -> Iterable[str]:
        """Take the listing for true; return the names of folders that are no tenants and were not there before."""
        self._identity = listing.root
        self.folders = listing.folders
        self._has_tenants = bool(listing.tenants)
        strangers = frozenset(listing.strangers)
        news = sorted(strangers - self._strangers)
        self._strangers = strangers
        return news

    def recount(self, listing: Listing) -> None:
        """Take in how many folders there are now, where it is the believed root's listing."""
        if self.believes(listing.root):
            self.folders = listing.folders

    def weigh(self, listing: Listing, *, was_same: bool) -> Verdict:
        """Say what to make of a listing; `was_same` says that the root's identity was the believed one just before.

        An empty root in the place of one with tenants is what an unmount leaves, whatever its identity: a folder that
        is removed and made again may get its old inode back.
        """
        if was_same and self.believes(listing.root):
            return Verdict.SAME
        return Verdict.REFUSED if self._has_tenants and not listing.tenants else Verdict.BELIEVED

    def find(self) -> bool:
        """Take in that there is a root to believe in; return True where there was none before."""
        was_lost, self.fault = self.fault is not None, None
        return was_lost

    def lose(self, reason: str) -> bool:
        """Take in that there is no root to believe in; return False where that was known for this reason already."""
        is_new = self.fault != reason
        self.fault = reason
        return is_new
