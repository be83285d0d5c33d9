import mmap
import os
import signal
import struct

from jwks_server.reading.place import Progress, Reading


def test_what_a_child_notes_is_known_after_its_death() -> None:
    """Whatever ended it: a file with its stamp, of any name that a file can have, or a folder."""
    for reading in (Reading("k.pem", b"0123456789abcdef"), Reading("a.com"), Reading("\udcff" * 255, bytes(16))):
        progress, descriptor = Progress.shared()
        child = os.fork()
        if child == 0:
            Progress(descriptor).note(reading)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(descriptor)
        assert progress.reading == reading


def test_nothing_is_known_before_the_first_note_and_after_clearing() -> None:
    """So that nobody is blamed for what another job was at."""
    progress, descriptor = Progress.shared()
    os.close(descriptor)
    assert progress.reading is None
    progress.note(Reading("k.pem", b"x"))
    progress.note(None)
    assert progress.reading is None


def test_each_note_is_a_step() -> None:
    """This is how one who takes long is told from one who hangs."""
    progress, descriptor = Progress.shared()
    os.close(descriptor)
    steps = []
    for name in ("a.pem", "a.pem", "b.pem"):
        progress.note(Reading(name))
        steps.append(progress.steps)
    assert len(set(steps)) == 3


def test_a_note_that_was_not_finished_names_nobody() -> None:
    """Its writer died in the middle of it; half a name is none."""
    progress, descriptor = Progress.shared()
    progress.note(Reading("k.pem", b"x"))
    with mmap.mmap(descriptor, 1024) as memory:
        struct.pack_into("=I", memory, 0, progress.steps + 1)
    os.close(descriptor)
    assert progress.reading is None
