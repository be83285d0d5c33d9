"""All delays of the server as one frozen value; tests pass another instead of patching constants."""

from dataclasses import dataclass
from typing import NamedTuple


class Pause(NamedTuple):
    """A pause after some work: `share` times as long as the work took, at least `least` and at most `most` seconds."""

    share: float
    least: float
    most: float

    def after(self, took: float) -> float:
        """Return the seconds to pause after work of so many seconds."""
        return min(max(self.share * took, self.least), self.most)


@dataclass(frozen=True, slots=True)
class Timing:
    """Delays in seconds, by who waits for what.

    A tenant's turn: its folder has to be quiet for `quiet`, and is read after `longest_quiet` in any case. A folder
    with faults is read again after each of `retries` and then every `slow_retry`. A tenant whose folder hung once is
    tried again after `first_suspicion`; one that hung again, or that crashed a reader process, after `suspicion`. A set
    that changes by itself is built again then, `shortest_timer` from now at the least, `longest_timer` at the most.
    """

    quiet: float = 0.001
    longest_quiet: float = 0.05
    retries: tuple[float, ...] = (0.02, 0.05, 0.1, 0.5)
    slow_retry: float = 30.0
    shortest_timer: float = 0.005
    longest_timer: float = 3600.0
    first_suspicion: float = 1.0
    suspicion: float = 30.0

    # The root's identity is looked at every `root_poll`, for at most `root_patience`. Every `health` the watch's
    # threads are checked, and whether the wall clock jumped by more than `clock_jump`. The watch is built again after
    # `shortest_rebuild` at the least, ever more slowly up to `longest_rebuild` while that does not help. Of events that
    # make the whole tree be compared, one in `event_log` is logged.
    root_poll: float = 0.25
    root_patience: float = 5.0
    health: float = 1.0
    clock_jump: float = 0.5
    shortest_rebuild: float = 0.2
    longest_rebuild: float = 30.0
    event_log: float = 60.0

    # The tree is compared with what is published after `first_comparison`, then with a pause: `comparison`, or
    # `deaf_comparison` while the watch misses events; after each one `breath` times what it took, so that a fifth of a
    # reader process is used at most. `links` is the pause between looks at files outside the tree that links lead to.
    # One job of a comparison takes `slice`. An event has `event_patience` to arrive before a change counts as missed.
    first_comparison: float = 1.0
    comparison: Pause = Pause(50, 1.0, 60.0)
    deaf_comparison: Pause = Pause(10, 0.1, 10.0)
    breath: float = 4.0
    links: Pause = Pause(10, 0.25, 60.0)
    slice: float = 0.003
    event_patience: float = 0.1

    # Reader processes: a file may take `file`, after which the process ends itself; the server kills it `reader_grace`
    # later if it did not. A listing of the root may take `listing`, the start of a process `reader_start`; a start that
    # fails is tried again after `reader_restart`.
    file: float = 5.0
    reader_grace: float = 2.0
    listing: float = 60.0
    reader_start: float = 60.0
    reader_restart: float = 1.0

    # The state directory: new keys under a grace wait for it for `state_wait`; where it fails it is tried again after
    # `state_retry`.
    state_wait: float = 0.25
    state_retry: float = 2.0

    # The listeners: a TLS handshake has `handshake`, a request's head `head` from its first byte (or from the start of
    # the connection), and its body as long again. An idle connection is kept for `keepalive`; one whose output makes no
    # progress for `stalled` is aborted. Every `sweep` that is looked after. A tenant's first load is waited for
    # `first_load`. Without descriptors accepting pauses for `accept_retry`. Of each kind of complaint one line is
    # logged in `limit_pace`, of bugs in `bug_pace`.
    handshake: float = 10.0
    head: float = 15.0
    keepalive: float = 75.0
    stalled: float = 30.0
    sweep: float = 0.5
    first_load: float = 3.0
    accept_retry: float = 0.1
    bug_pace: float = 1.0
    limit_pace: float = 60.0

    # A stop waits `drain` for requests of connections that were just accepted, or are kept alive, and `shutdown` for
    # answers under way, of all connections together; it takes no longer than `stop` in all.
    drain: float = 0.5
    shutdown: float = 5.0
    stop: float = 8.0
