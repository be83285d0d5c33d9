"""Where a reader process is in its job, in memory that it shares with the server.

The server need not be told of each file. It sees after a crash which file or folder the process was at, and it tells a
process that gets on slowly from one that hangs.
"""

import fcntl
import mmap
import os
import struct
from typing import Self

from jwks_server.core.text import readable
from jwks_server.reading.jobs import Place

_STEPS = struct.Struct("=I")
_LENGTHS = struct.Struct("=HH")
_TEXT_AT = _STEPS.size + _LENGTHS.size
_MEMORY_BYTES = 2048
_MOST_NAME_BYTES, _MOST_STAMP_BYTES = 1600, 64


class PlaceCell:
    """One reader process's place. The process writes it; the server looks at it, and clears it between two jobs.

    The server trusts nothing in it: lengths are checked, and text that is none counts as no place.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _MEMORY_BYTES)

    @classmethod
    def shared(cls) -> tuple[Self, int]:
        """Return new memory and the descriptor that a child inherits; the caller closes it."""
        descriptor = os.memfd_create("jwks-server-place", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.truncate(descriptor, _MEMORY_BYTES)
        # A child that made it smaller would have the kernel end the server with SIGBUS at its next look.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return cls(descriptor), descriptor

    def write(self, place: Place | None) -> None:
        """Put down what is looked at from now on."""
        name = readable(place.name).encode()[:_MOST_NAME_BYTES] if place else b""
        stamp = place.stamp if place else b""
        text = name + stamp
        # An odd number of steps says that the rest is being written: a process that crashes here is at nothing known.
        steps = self.steps
        _STEPS.pack_into(self._memory, 0, (steps + 1) & 0xFFFFFFFF)
        _LENGTHS.pack_into(self._memory, _STEPS.size, len(name), len(stamp))
        self._memory[_TEXT_AT : _TEXT_AT + len(text)] = text
        _STEPS.pack_into(self._memory, 0, (steps + 2) & 0xFFFFFFFF)

    @property
    def steps(self) -> int:
        """A number that grows with each place that was written."""
        steps: int = _STEPS.unpack_from(self._memory)[0]
        return steps

    @property
    def place(self) -> Place | None:
        """The place that was written last, or None where that is not known."""
        name_bytes, stamp_bytes = _LENGTHS.unpack_from(self._memory, _STEPS.size)
        if self.steps % 2 or not 0 < name_bytes <= _MOST_NAME_BYTES or stamp_bytes > _MOST_STAMP_BYTES:
            return None
        end = _TEXT_AT + name_bytes
        try:
            name = self._memory[_TEXT_AT:end].decode("utf-8")
        except UnicodeDecodeError:
            return None
        return Place(name, self._memory[end : end + stamp_bytes])
