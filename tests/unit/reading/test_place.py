import mmap
import os
import signal
import struct

import pytest

from jwks_server.reading.jobs import Place
from jwks_server.reading.place import PlaceCell


def test_what_a_child_notes_is_known_after_its_death() -> None:
    """Whatever ended it: a file with its stamp, of any name that a file can have, or a folder."""
    for place in (Place("k.pem", b"0123456789abcdef"), Place("a.com"), Place("é" * 127, bytes(16))):
        cell, descriptor = PlaceCell.shared()
        child = os.fork()
        if child == 0:
            PlaceCell(descriptor).write(place)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(descriptor)
        assert cell.place == place


def test_nothing_is_known_before_the_first_note_and_after_clearing() -> None:
    """So that nobody is blamed for what another job was at."""
    cell, descriptor = PlaceCell.shared()
    os.close(descriptor)
    assert cell.place is None
    cell.write(Place("k.pem", b"x"))
    cell.write(None)
    assert cell.place is None


def test_each_note_is_a_step() -> None:
    """This is how one who takes long is told from one who hangs."""
    cell, descriptor = PlaceCell.shared()
    os.close(descriptor)
    steps = []
    for name in ("a.pem", "a.pem", "b.pem"):
        cell.write(Place(name))
        steps.append(cell.steps)
    assert len(set(steps)) == 3


def test_a_note_that_was_not_finished_names_nobody() -> None:
    """The process crashed while it wrote its place; half a name is none."""
    cell, descriptor = PlaceCell.shared()
    cell.write(Place("k.pem", b"x"))
    with mmap.mmap(descriptor, 2048) as memory:
        struct.pack_into("=I", memory, 0, cell.steps + 1)
    os.close(descriptor)
    assert cell.place is None


def test_a_name_that_no_encoding_holds_is_escaped() -> None:
    """A place is always text that can be sent on."""
    cell, descriptor = PlaceCell.shared()
    os.close(descriptor)
    cell.write(Place("\udcff.pem"))
    assert cell.place == Place("\\udcff.pem")


@pytest.mark.parametrize(("name", "stamp"), [(0, 0), (2000, 0), (5, 65_535), (65_535, 65_535), (3, 0)])
def test_lengths_and_text_that_a_child_forged_name_nobody(name: int, stamp: int) -> None:
    """The server looks at nothing beyond the cell, and takes no bytes for text that are none."""
    cell, descriptor = PlaceCell.shared()
    cell.write(Place("k.pem"))
    with mmap.mmap(descriptor, 2048) as memory:
        struct.pack_into("=HH", memory, 4, name, stamp)
        memory[8:11] = b"\xff\xfe\xfd"
    os.close(descriptor)
    assert cell.place is None


def test_a_child_cannot_make_the_memory_smaller() -> None:
    """The server would be ended by SIGBUS when it looks at what is gone."""
    cell, descriptor = PlaceCell.shared()
    with pytest.raises(PermissionError):
        os.truncate(descriptor, 0)
    os.close(descriptor)
    assert cell.place is None
