"""What a reader process is at, in memory that it shares with the server.

The server need not be told of each file, and still knows after a reader's death what ended it, or finds that one who
takes long gets on all the same.
"""

import mmap
import os
import struct
from dataclasses import dataclass
from typing import Self

_STEPS = struct.Struct("=I")
_LENGTHS = struct.Struct("=HH")
_TEXT_AT = _STEPS.size + _LENGTHS.size
_BYTES = 1024  # a name has at most 255 bytes, a stamp 16


FOLDER = "."
"""Stands for the folder itself among the names of its files."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A file by its name and the stamp of its content, or a folder, without a stamp."""

    name: str
    stamp: bytes = b""


class Progress:
    """One reader's place in its job. The reader writes, the server only looks, and clears it between two jobs."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _BYTES)

    @classmethod
    def shared(cls) -> tuple[Self, int]:
        """Return new memory and the descriptor that a child inherits; the caller closes it."""
        descriptor = os.memfd_create("jwks-server-progress")
        os.truncate(descriptor, _BYTES)
        return cls(descriptor), descriptor

    def note(self, reading: Reading | None) -> None:
        """Put down what is read from now on."""
        name = os.fsencode(reading.name) if reading else b""
        stamp = reading.stamp if reading else b""
        text = name + stamp
        # An odd number of steps says that the rest is being written: whoever dies here is at nothing known.
        steps = self.steps
        _STEPS.pack_into(self._memory, 0, (steps + 1) & 0xFFFFFFFF)
        _LENGTHS.pack_into(self._memory, _STEPS.size, len(name), len(stamp))
        self._memory[_TEXT_AT : _TEXT_AT + len(text)] = text
        _STEPS.pack_into(self._memory, 0, (steps + 2) & 0xFFFFFFFF)

    @property
    def steps(self) -> int:
        """A number that grows with each thing that was begun."""
        steps: int = _STEPS.unpack_from(self._memory)[0]
        return steps

    @property
    def reading(self) -> Reading | None:
        """What was begun last, or None where that is not known."""
        name_bytes, stamp_bytes = _LENGTHS.unpack_from(self._memory, _STEPS.size)
        if self.steps % 2 or not name_bytes:
            return None
        end = _TEXT_AT + name_bytes
        return Reading(os.fsdecode(self._memory[_TEXT_AT:end]), self._memory[end : end + stamp_bytes])
