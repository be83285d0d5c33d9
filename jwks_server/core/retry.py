"""When a tenant is read again: one decision from what came of its last turn. A turn reads one tenant's folder once."""

from dataclasses import dataclass
from enum import Enum, auto

from jwks_server.core.timing import Timing


class Came(Enum):
    """What came of a turn: what is known of the tenant after it."""

    GOOD = auto()
    """The folder was read, and nothing in it is faulty."""

    FAULTY = auto()
    """The folder was read; the same faults as before are in it."""

    NEWLY_FAULTY = auto()
    """The folder was read; it has other faults than before, such as a file that is half-written."""

    UNFINISHED = auto()
    """A part of the folder was read; the rest is read in the next turn."""

    NOTHING = auto()
    """Nothing could be learned: the tree or the reader process failed, or the tree is another than is believed."""

    CRASH = auto()
    """A reader process crashed or hung, and no file is known that could be left out of the next reading."""

    BLAME = auto()
    """A reader process crashed or hung at a file; the tenant can be read at once without it."""

    @property
    def crashed(self) -> bool:
        """Tell whether a reader process crashed or hung."""
        return self in {Came.CRASH, Came.BLAME}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a turn, and in how many seconds what is published changes by itself, if it will.

    `suspected` says that a reader process crashed or hung at this tenant, `hung` that opening its folder or a file
    hangs. A hung tenant gets no timer: the comparison of the tree retries such tenants one after the other.
    """

    came: Came
    due: float | None = None
    suspected: bool = False
    hung: bool = False


@dataclass(frozen=True, slots=True)
class NextTurn:
    """Read again after `delay` seconds, or not before something happens where that is None.

    `afresh` says that content which failed before is tried again; `failures` is handed to the next decision.
    """

    delay: float | None
    failures: int = 0
    afresh: bool = False


def next_turn(outcome: Outcome, failures: int, timing: Timing) -> NextTurn:
    """Return when the tenant is read again; `failures` counts the turns with the same faults so far."""
    due = None if outcome.due is None else min(max(outcome.due, timing.shortest_timer), timing.longest_timer)
    match outcome.came:
        case Came.GOOD:
            return NextTurn(due)
        case Came.BLAME:
            return NextTurn(0.0, failures)  # without that file
        case Came.UNFINISHED if not outcome.hung:
            return NextTurn(0.0, failures)
        case Came.NEWLY_FAULTY:
            failures = 0
        case _:
            pass
    if outcome.hung or (outcome.suspected and failures >= len(timing.retries)):
        return NextTurn(due, failures)
    if failures < len(timing.retries):
        return NextTurn(_sooner(timing.retries[failures], due), failures + 1)
    delay = _sooner(timing.slow_retry, due)
    return NextTurn(delay, failures, afresh=delay == timing.slow_retry)


def _sooner(delay: float, due: float | None) -> float:
    return delay if due is None else min(delay, due)
