"""Open connections of a listener: how many there are, of whom, what each waits for and until when.

Pure bookkeeping: time is an argument, nothing is closed here. All waits of one phase are equally long, so connections
that enter it in turn leave it in turn, and each operation takes the same time however many connections there are.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Protocol

_IPV6_SITE_BITS = 64
KERNEL_BYTES_OF_STALLED = 65_536
"""What the kernel holds of a connection that does not read, besides what this process does (`listen.SEND_BUFFER`)."""


class Phase(StrEnum):
    """What a connection waits for. Nothing limits `BUSY`: the handler does that itself."""

    HANDSHAKE = "handshake"
    HEAD = "head"
    BUSY = "busy"
    IDLE = "idle"
    STALLED = "stalled"


class Excess(Enum):
    """Why a connection has to go before its time."""

    ADDRESS = "address"
    TOTAL = "total"


class Held(Protocol):
    """What is behind a connection, and how to be rid of it."""

    def abort(self) -> None:
        """End it at once, whatever waits to be sent."""


@dataclass(slots=True, eq=False)
class Connection:
    """One accepted connection; `held` is what carries it now, and `site` whom it counts for."""

    site: str
    held: Held
    phase: Phase = Phase.HEAD
    deadline: float | None = None
    unsent: int = field(default=0)


@lru_cache(maxsize=4096)
def site_of(address: str) -> str:
    """Return whom an address counts for: IPv4 also where it is mapped, and an IPv6 network of 64 bits as one."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Address(int(parsed) >> _IPV6_SITE_BITS << _IPV6_SITE_BITS))
    return str(parsed)


class Connections:
    """The connections of one listener. `seconds` says how long each phase may last; 0 as a limit is none."""

    def __init__(
        self, *, most: int, most_per_site: int, most_stalled_bytes: int, seconds: Mapping[Phase, float]
    ) -> None:
        self.most = most
        self._most_per_site = most_per_site
        self._most_stalled_bytes = most_stalled_bytes
        self._seconds = seconds
        self._by_use: OrderedDict[Connection, None] = OrderedDict()
        self._by_site: dict[str, OrderedDict[Connection, None]] = {}
        self._by_phase: dict[Phase, OrderedDict[Connection, None]] = {phase: OrderedDict() for phase in Phase}
        self._stalled_bytes = 0

    def __len__(self) -> int:
        return len(self._by_use)

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._by_use

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._by_use))

    def __repr__(self) -> str:
        phases = ", ".join(f"{len(them)} {phase.value}" for phase, them in self._by_phase.items() if them)
        return f"<{len(self)} connections of {len(self._by_site)} sites: {phases}>"

    def in_phase(self, phase: Phase) -> int:
        """Return how many connections are in a phase."""
        return len(self._by_phase[phase])

    def open(self, connection: Connection, now: float) -> tuple[Connection, Excess] | None:
        """Take in a connection; return the one that was taken out for it, and why, where there were enough already."""
        of_site = self._by_site.get(connection.site, OrderedDict[Connection, None]())
        victim: tuple[Connection, Excess] | None = None
        if self._most_per_site and len(of_site) >= self._most_per_site:
            victim = next(iter(of_site)), Excess.ADDRESS
        elif self._by_use and len(self._by_use) >= self.most:
            victim = next(iter(self._by_use)), Excess.TOTAL
        if victim is not None:
            self.close(victim[0])
        self._by_use[connection] = None
        self._by_site.setdefault(connection.site, of_site)[connection] = None
        self.enter(connection, connection.phase, now)
        return victim

    def close(self, connection: Connection) -> None:
        """Forget a connection; one that is forgotten already stays so."""
        if connection not in self._by_use:
            return
        self._leave_phase(connection)
        del self._by_use[connection]
        of_site = self._by_site[connection.site]
        del of_site[connection]
        if not of_site:
            del self._by_site[connection.site]

    def used(self, connection: Connection) -> None:
        """Note that a whole request came: the connection is now the one that was idle for the shortest time."""
        if connection in self._by_use:
            self._by_use.move_to_end(connection)
            self._by_site[connection.site].move_to_end(connection)

    def enter(self, connection: Connection, phase: Phase, now: float, unsent: int = 0) -> tuple[Connection, ...]:
        """Begin a phase anew. `unsent` bytes wait in it to be sent; return those taken out because it is too many."""
        if connection not in self._by_use:
            return ()
        self._leave_phase(connection)
        connection.phase, connection.unsent = phase, unsent
        seconds = self._seconds.get(phase)
        connection.deadline = None if seconds is None else now + seconds
        self._by_phase[phase][connection] = None
        if phase is not Phase.STALLED:
            return ()
        self._stalled_bytes += unsent + KERNEL_BYTES_OF_STALLED
        return tuple(self._over_budget())

    def due(self, now: float) -> Iterator[Connection]:
        """Yield the connections whose phase lasted too long; whoever asks ends each, or lets it enter a phase."""
        for connections in self._by_phase.values():
            for _ in range(len(connections)):
                if not connections:
                    break
                connection = next(iter(connections))
                if connection.deadline is None or connection.deadline > now:
                    break
                yield connection

    def idlest(self, count: int) -> tuple[Connection, ...]:
        """Return connections that wait for a request, those that do so for longest first."""
        idle = iter(self._by_phase[Phase.IDLE])
        return tuple(connection for _, connection in zip(range(count), idle, strict=False))

    def _over_budget(self) -> Iterator[Connection]:
        stalled = self._by_phase[Phase.STALLED]
        while self._stalled_bytes > self._most_stalled_bytes and stalled:
            victim = next(iter(stalled))
            self.close(victim)
            yield victim

    def _leave_phase(self, connection: Connection) -> None:
        if self._by_phase[connection.phase].pop(connection, self) is None and connection.phase is Phase.STALLED:
            self._stalled_bytes -= connection.unsent + KERNEL_BYTES_OF_STALLED
