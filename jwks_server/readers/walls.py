"""The walls around reader processes as the server sees them: what they lack, and a tree that they shut out."""

import asyncio
import logging
import os
from collections.abc import Collection

from jwks_server.host.logs import fields

_LOOK_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Walls:
    """Says once what this machine lacks of the means to confine a reader process, however many are started."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._said: set[str] = set()

    def say(self, missing: Collection[str]) -> None:
        """Log what was not said before."""
        for text in missing:
            if text not in self._said:
                self._said.add(text)
                _log.warning("reader processes are less confined than they could be", extra=fields(missing=text))

    async def shut_out(self) -> bool:
        """Tell whether the server can open the root that a reader process could not.

        Landlock knows files and not names: a tree that was put in the place of another is closed to the processes that
        were there before, where something that is closed to them lies beside it.
        """
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                return await asyncio.to_thread(os.access, self._root, os.R_OK | os.X_OK)
        except TimeoutError:
            return False
