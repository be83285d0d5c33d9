"""The listener from inside: what a client cannot bring about at will."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
from aiohttp import web
from support.inprocess import eventually

from jwks_server.core.timing import Timing
from jwks_server.serving import descriptors
from jwks_server.serving.complaints import Complaints, Kind
from jwks_server.serving.limits import Connections, Phase
from jwks_server.serving.listen import BACKLOG, bind
from jwks_server.serving.listener import Listener
from jwks_server.serving.protocol import HttpServer

TIMING = Timing(drain=1.0, shutdown=1.0, accept_retry=0.01)

BIG = 4 << 20
"""More than sockets' buffers take."""


class Starved(socket.socket):
    """A listening socket that cannot accept, for want of descriptors or another reason, as often as the test says."""

    failures = 0
    reason = errno.EMFILE

    def accept(self) -> tuple[socket.socket, object]:
        """Fail, or accept."""
        if self.failures:
            self.failures -= 1
            raise OSError(self.reason, os.strerror(self.reason))
        return super().accept()


@asynccontextmanager
async def listening(starved: bool = False) -> AsyncIterator[tuple[Listener, socket.socket]]:
    """Listen, and answer 200, at length, or fail, as the path says."""

    async def handler(request: web.BaseRequest) -> web.Response:
        if request.path == "/bug":
            raise KeyError(request.path)
        return web.Response(body=bytes(BIG if request.path == "/big" else 0))

    (bound,) = bind("127.0.0.1", 0)
    if starved:
        bound = Starved(fileno=bound.detach())
    connections = Connections(most=1000, most_per_site=0, most_stalled_bytes=1 << 30, seconds={Phase.IDLE: 75.0})
    complaints = Complaints("test", asyncio.get_running_loop().time, bug_pace=60.0, limit_pace=60.0)
    server = HttpServer(handler, connections=connections, complaints=complaints, body_seconds=1.0)
    listener = Listener(server, [bound], TIMING, descriptors=100)
    listener.begin()
    try:
        yield listener, bound
    finally:
        await listener.drain()


async def ask(bound: socket.socket, path: str = "/", last: str = "Connection: close\r\n") -> bytes:
    """Return the answer."""
    reader, writer = await asyncio.open_connection(*bound.getsockname())
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{last}\r\n".encode())
        return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()


async def test_all_that_wait_are_accepted_in_one_turn() -> None:
    """One in each turn of the loop keeps new clients waiting for seconds while others keep it busy."""
    async with listening() as (listener, bound):
        with ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(socket.create_connection(bound.getsockname()))
            seen = set()
            while len(listener.connections) < 20:
                seen.add(len(listener.connections))
                await asyncio.sleep(0)
            assert seen == {0}


async def test_what_waits_to_be_accepted_at_a_stop_is_answered() -> None:
    """Its clients are connected already; closing the listening socket would reset them."""
    async with listening() as (listener, bound):
        with ExitStack() as stack:
            clients = [
                stack.enter_context(socket.create_connection(bound.getsockname(), timeout=30)) for _ in range(100)
            ]
            for client in clients:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await listener.drain()
            for client in clients:
                answer = client.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert b"Connection: close" in answer


async def test_those_who_connect_without_end_do_not_prolong_a_stop() -> None:
    """The queue is emptied once; what comes into it meanwhile is left."""
    async with listening(starved=True) as (listener, bound):
        assert isinstance(bound, Starved)
        endless = 1_000_000
        bound.failures, bound.reason = endless, errno.ECONNABORTED
        await listener.drain()
        assert bound.failures > endless - 2 * BACKLOG


async def test_without_descriptors_idle_connections_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, by its name, and counted; the next one is accepted as soon as there is room."""
    async with listening(starved=True) as (listener, bound):
        assert isinstance(bound, Starved)
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await eventually(lambda: listener.connections.in_phase(Phase.IDLE) == 1)
        bound.failures = 3
        assert (await ask(bound)).startswith(b"HTTP/1.1 200 ")
        await reader.read()
        writer.close()
        assert listener.complaints.counts[Kind.NO_DESCRIPTORS] == 3
        assert caplog.text.count("EMFILE") == 1


async def test_a_bug_of_ours_is_answered_and_logged_without_the_request(caplog: pytest.LogCaptureFixture) -> None:
    """Once, with the place in the code."""
    async with listening() as (listener, bound):
        for _ in range(3):
            assert (await ask(bound, "/bug")).startswith(b"HTTP/1.1 500 ")
        assert listener.complaints.counts[Kind.BUG] == 3
        (record,) = caplog.records
        assert "KeyError" in record.__dict__["fields"]["traceback"]
        assert "/bug" not in str(record.__dict__)


async def test_what_is_held_is_forgotten_with_the_connection() -> None:
    """Also where the client is gone before it is accepted."""
    async with listening() as (listener, bound):
        for _ in range(20):
            socket.create_connection(bound.getsockname()).close()
        await ask(bound)
        await eventually(lambda: len(listener.connections) == 0)
        assert "0 connections" in repr(listener.connections)


async def test_a_client_that_ends_its_side_while_it_is_answered_has_all_of_the_answer() -> None:
    """And the connection ends then, also where the end came in the midst of it."""
    async with listening() as (listener, bound):
        reader, writer = await asyncio.open_connection(*bound.getsockname(), limit=1024)
        writer.write(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        await eventually(lambda: listener.connections.in_phase(Phase.STALLED) == 1)
        writer.write_eof()
        await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(30):
            assert len(await reader.read(-1)) == BIG
        writer.close()


def test_a_reserve_of_descriptors_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """And said where it takes from what was asked for."""
    assert descriptors.affordable(100, 1000) == 100
    assert not caplog.records
    assert descriptors.affordable(8000, 1024) == 1024 - descriptors.RESERVE
    assert "LimitNOFILE" in caplog.text
    assert descriptors.affordable(8000, 10) == 1
