from hypothesis import given
from hypothesis import strategies as st

from jwks_server.serving.limits import KERNEL_BYTES_OF_STALLED, Connection, Connections, Excess, Phase, site_of

SECONDS = {Phase.HEAD: 15.0, Phase.IDLE: 75.0, Phase.STALLED: 30.0}


class Nothing:
    """Carries no connection."""

    def abort(self) -> None:
        """Do nothing."""


def a_connection(site: str = "1.2.3.4") -> Connection:
    return Connection(site, Nothing())


def a_table(most: int = 100, per_site: int = 0, stalled: int = 1 << 30) -> Connections:
    return Connections(most=most, most_per_site=per_site, most_stalled_bytes=stalled, seconds=SECONDS)


def due(table: Connections, now: float) -> list[Connection]:
    """Return what is due, and close it."""
    found = []
    for connection in table.due(now):
        found.append(connection)
        table.close(connection)
    return found


def test_beyond_the_limit_the_one_idle_for_longest_goes() -> None:
    """A whole request makes a connection the last to go."""
    table = a_table(most=2)
    one, two, three, four = (a_connection() for _ in range(4))
    assert table.open(one, 0) is None
    assert table.open(two, 1) is None
    table.used(one)
    assert table.open(three, 2) == (two, Excess.TOTAL)
    assert table.open(four, 3) == (one, Excess.TOTAL)
    assert list(table) == [three, four]


def test_one_address_takes_from_itself_alone() -> None:
    """Its own connection goes, and another address's longer idle one stays."""
    table = a_table(per_site=1)
    other, one, two = a_connection("other"), a_connection("one"), a_connection("one")
    table.open(other, 0)
    table.open(one, 1)
    assert table.open(two, 2) == (one, Excess.ADDRESS)
    assert list(table) == [other, two]


def test_a_head_has_its_time_from_the_first_byte_and_no_byte_extends_it() -> None:
    """The phase is entered once; what is busy has no time of its own."""
    table, one, busy = a_table(), a_connection(), a_connection()
    table.open(one, 0)
    table.open(busy, 0)
    table.enter(busy, Phase.BUSY, 0)
    assert due(table, 14.9) == []
    assert due(table, 15.0) == [one]
    assert due(table, 1e9) == []
    assert table.in_phase(Phase.BUSY) == 1


def test_what_makes_progress_is_given_its_time_again() -> None:
    """It enters the phase anew, and is not due in the same look."""
    table, one, two = a_table(), a_connection(), a_connection()
    for connection in (one, two):
        table.open(connection, 0)
        table.enter(connection, Phase.STALLED, 0, 10)
    seen = []
    for connection in table.due(30):
        seen.append(connection)
        table.enter(connection, Phase.STALLED, 30, 5)
    assert seen == [one, two]
    assert due(table, 59) == []
    assert due(table, 60) == [one, two]


def test_what_stalled_clients_hold_has_a_budget() -> None:
    """The one that is stalled for longest goes first; those that went on do not count."""
    table = a_table(stalled=2 * (KERNEL_BYTES_OF_STALLED + 100))
    one, two, three = (a_connection() for _ in range(3))
    for connection in (one, two, three):
        table.open(connection, 0)
    assert table.enter(one, Phase.STALLED, 0, 100) == ()
    assert table.enter(two, Phase.STALLED, 0, 100) == ()
    table.enter(one, Phase.BUSY, 1)
    assert table.enter(three, Phase.STALLED, 1, 100) == ()
    assert table.enter(one, Phase.STALLED, 2, 100) == (two,)


def test_the_idlest_are_named_in_order() -> None:
    """Only those that wait for a request."""
    table = a_table()
    connections = [a_connection() for _ in range(4)]
    for connection in connections:
        table.open(connection, 0)
        table.enter(connection, Phase.IDLE, 0)
    table.enter(connections[0], Phase.BUSY, 1)
    assert table.idlest(2) == tuple(connections[1:3])


def test_whom_an_address_counts_for() -> None:
    """A mapped IPv4 address is that one; an IPv6 network of 64 bits is one."""
    assert site_of("::ffff:10.1.2.3") == site_of("10.1.2.3") == "10.1.2.3"
    assert site_of("2001:db8::1") == site_of("2001:db8::ffff") != site_of("2001:db8:0:1::1")
    assert site_of("fe80::1%eth0") == "fe80::"
    assert site_of("") == ""


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["open", "close", "used", *Phase]), st.integers(0, 50))),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_nothing_is_left_behind(steps: list[tuple[int, str | Phase, int]], most: int, per_site: int) -> None:
    """Whatever happens in whatever order: the limits hold, all views agree, and an empty table holds nothing."""
    table = a_table(most, per_site, stalled=3 * KERNEL_BYTES_OF_STALLED)
    connections = [a_connection(str(number % 3)) for number in range(10)]
    for now, (number, step, unsent) in enumerate(steps):
        connection = connections[number]
        match step:
            case "open" if connection not in table:
                table.open(connection, now)
            case "close":
                table.close(connection)
            case "used":
                table.used(connection)
            case Phase():
                table.enter(connection, step, now, unsent)
            case _:
                pass
        due(table, now - 20)
        assert len(table) <= most
        assert sum(table.in_phase(phase) for phase in Phase) == len(table)
    for connection in connections:
        table.close(connection)
    assert repr(table) == "<0 connections of 0 sites: >"
    assert not table._stalled_bytes  # noqa: SLF001 - what the next budget begins with
