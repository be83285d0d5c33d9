"""What strangers may send, and what it costs: each of these once hurt the server or another client."""

import contextlib
import gzip
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import certificate, pem, private_key
from support.server import Server, wait_until

GET = b"GET /t/foo.com/oauth2/jwks HTTP/1.1\r\nHost: x\r\n%s\r\n"
LAST = GET % b"Connection: close\r\n"
PATIENCE_SECONDS = 30


def planted(root: Path) -> Path:
    """Make a tree with one tenant."""
    (root / "foo.com").mkdir(parents=True)
    (root / "foo.com" / "a.pem").write_bytes(pem(certificate(private_key("P-256"))))
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a tree for a server of the test's own."""
    return planted(tmp_path / "keystores")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with all limits as they are."""
    with Server(planted(tmp_path_factory.mktemp("strangers") / "keystores"), "--admin-port", "0") as server:
        wait_until(lambda: "all tenants loaded" in server.log, "the first load")
        yield server


@contextlib.contextmanager
def limited(tree: Path, *arguments: str, tls: bool = False, **timing: float) -> Iterator[Server]:
    """Start a server with other limits."""
    altered = {"timing": {"sweep": 0.02, **timing}}
    with Server(tree, "--admin-port", "0", *arguments, tls=tls, altered=altered) as server:
        wait_until(lambda: "all tenants loaded" in server.log, "the first load")
        yield server


def connect(server: Server, port: int | None = None) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port or server.port), timeout=PATIENCE_SECONDS)


def rest(connection: socket.socket) -> bytes:
    """Return all that is sent until the server ends the connection, in whatever way."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            received += part
    return received


def exchange(server: Server, sent: bytes, *, half_close: bool = False, port: int | None = None) -> bytes:
    """Return all answers to what is sent at once, until the server ends the connection."""
    with connect(server, port) as connection:
        connection.sendall(sent)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return rest(connection)


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d+) ", received)]


def refused(server: Server, reason: str, listener: str = "public") -> float:
    """Return how often something was refused."""
    return server.metric(rf'refused_total\{{listener="{listener}",reason="{reason}"\}}')


def connections(server: Server) -> float:
    """Return how many public connections are open."""
    pattern = r'^jwks_server_connections\{listener="public",phase="\w+"\} (\S+)$'
    return sum(map(float, re.findall(pattern, server.admin("/metrics").body.decode(), re.MULTILINE)))


def admin_port(server: Server) -> int:
    match = re.search(r"admin listening url=http://127.0.0.1:(\d+)", server.log)
    assert match
    return int(match[1])


# --- bodies


def test_a_compressed_body_is_not_inflated(server: Server) -> None:
    """A megabyte of gzip once stopped all answers for seconds: now it is a body too many, whatever it is."""
    bomb = gzip.compress(bytes(1 << 20))
    head = GET.replace(b"GET", b"POST") % b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"
    assert len(bomb) < 4096
    small = head + b"%x\r\n" % len(bomb) + bomb + b"\r\n0\r\n\r\n"
    assert statuses(exchange(server, small + LAST)) == [405, 200]
    broken = head + b"8\r\nnot gzip\r\n0\r\n\r\n"
    assert statuses(exchange(server, broken + LAST)) == [405, 200]


@pytest.mark.parametrize("method", [b"GET", b"POST", b"OPTIONS"])
def test_a_large_body_is_refused_and_ends_the_connection(server: Server, method: bytes) -> None:
    """Announced, or in chunks that do not end."""
    head = method + b" /t/foo.com/oauth2/jwks HTTP/1.1\r\nHost: x\r\n%s\r\n"
    assert statuses(exchange(server, head % b"Content-Length: 4097\r\n")) == [413]
    chunk = b"400\r\n" + bytes(1024) + b"\r\n"
    assert statuses(exchange(server, head % b"Transfer-Encoding: chunked\r\n" + chunk * 4 + b"1\r\nx\r\n")) == [413]


@pytest.mark.parametrize("port_of", [lambda server: server.port, admin_port])
def test_a_small_body_is_passed_over(server: Server, port_of: object) -> None:
    """The answer is right, and the next request is not taken for the rest of the body."""
    assert callable(port_of)
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    body = b"GET /x HTTP/1.1\r\n\r\n"
    first = request % (b"Content-Length: %d\r\n" % len(body))
    received = exchange(server, first + body + request % b"Connection: close\r\n", port=port_of(server))
    assert len(set(statuses(received))) == 1
    assert len(statuses(received)) == 2


def test_a_body_in_pieces_is_waited_for(server: Server) -> None:
    """The connection is kept."""
    with connect(server) as connection:
        connection.sendall(GET % b"Content-Length: 3\r\n" + b"a")
        connection.sendall(b"bc")
        connection.sendall(LAST)
        assert statuses(rest(connection)) == [200, 200]


def test_a_client_that_asks_whether_to_send_its_body_is_answered(server: Server) -> None:
    """Finally, which tells it not to."""
    received = exchange(server, GET % b"Expect: 100-continue\r\nContent-Length: 3\r\n")
    assert statuses(received) == [200]
    assert b"Connection: close" in received


@pytest.mark.parametrize("chunk", [b"zz\r\nabc\r\n", b"3\r\nabcXX\r\n"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_malformed_chunk_ends_the_connection(server: Server, chunk: bytes, *, apart: bool) -> None:
    """At once: whoever reads the body hears of it."""
    with connect(server) as connection:
        head = GET % b"Transfer-Encoding: chunked\r\n"
        connection.sendall(head + b"1\r\nx\r\n" if apart else head + chunk)
        if apart:
            wait_until(lambda: server.metric(r'connections\{listener="public",phase="busy"\}'), "the request to begin")
            connection.sendall(chunk)
        assert statuses(rest(connection)) == [400]


def test_a_body_that_does_not_come_is_not_waited_for_long(tree: Path) -> None:
    """It has as long as a head."""
    with limited(tree, head=0.2) as server, connect(server) as connection:
        connection.sendall(GET % b"Content-Length: 3\r\n" + b"a")
        assert statuses(rest(connection)) == [408]


# --- shapes of requests


@pytest.mark.parametrize(
    "request_line",
    [
        b"CONNECT \r\n\r\n", b"CONNECT  HTTP/1.1\r\nHost: x\r\n\r\n", b"CONNECT x:99999 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET \r\n\r\n", b"GET /t/foo.com/oauth2/jwks\r\n\r\n", b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("port_of", [lambda server: server.port, admin_port])
def test_a_malformed_request_gets_400_and_the_connection_ends(
    server: Server, request_line: bytes, port_of: object
) -> None:
    """On either listener; what aiohttp's parser makes of some killed its task, and left the connection for ever."""
    assert callable(port_of)
    received = exchange(server, request_line, port=port_of(server))
    assert statuses(received) == [400]
    assert b"aiohttp" not in received


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("host", [b"Host: a b\r\n", b"Host: x\r\nHost: x\r\n", b"Host: a@b\r\n", b"Host: [x]\r\n"])
def test_a_bad_host_is_refused(server: Server, host: bytes, version: bytes) -> None:
    """RFC 9112, section 3.2."""
    request = b"GET /t/foo.com/oauth2/jwks HTTP/" + version + b"\r\n" + host + b"\r\n"
    assert statuses(exchange(server, request)) == [400]


def test_a_missing_host_is_refused_where_it_is_due(server: Server) -> None:
    """In HTTP/1.1 it is."""
    request = b"GET /t/foo.com/oauth2/jwks HTTP/%s\r\nConnection: close\r\n\r\n"
    assert statuses(exchange(server, request % b"1.1")) == [400]
    assert statuses(exchange(server, request % b"1.0")) == [200]


UPGRADE = GET % b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (UPGRADE + LAST, [200, 200]),
        (GET % b"" + UPGRADE + GET % b"" + LAST, [200, 200, 200, 200]),
        (UPGRADE + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [200, 400]),
        (GET % b"" + b"nonsense\r\n\r\n", [200, 400]),
        (LAST + b"nonsense", [200]),
        (LAST + LAST, [200]),
        (b"GET /t/foo.com/oauth2/jwks HTTP/1.0\r\n\r\nnonsense", [200]),
        (b"\r\n\r\n" * 20_000 + LAST, [200]),
        (GET % b"" * 100 + LAST, [200] * 101),
    ],
)
def test_what_comes_after_a_request_loses_no_request(server: Server, sent: bytes, expected: list[int]) -> None:
    """An offer to upgrade, nonsense, bytes after the last request."""
    assert statuses(exchange(server, sent)) == expected


@pytest.mark.parametrize("count", [1, 3, 50])
def test_a_client_that_ends_its_side_is_answered(server: Server, count: int) -> None:
    """All that it had asked, and then the connection ends."""
    assert statuses(exchange(server, GET % b"" * count, half_close=True)) == [200] * count


def test_strangers_cannot_fill_the_log(server: Server) -> None:
    """Nothing is written of a thousand malformed requests; they are counted."""
    before, counted = len(server.log), refused(server, "malformed")
    for _ in range(250):
        for sent in (b"CONNECT \r\n\r\n", b"nonsense\r\n\r\n", GET % b"Transfer-Encoding: chunked\r\n" + b"zz\r\n"):
            exchange(server, sent)
    assert refused(server, "malformed") >= counted + 750
    assert server.log[before:] == ""


# --- slow clients


def test_a_head_that_comes_byte_by_byte_has_its_time_once(tree: Path) -> None:
    """Each byte does not extend it, and the next request of a connection has no more."""
    with limited(tree, head=0.3) as server, connect(server) as connection:
        connection.sendall(GET % b"")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        connection.settimeout(0.01)

        def ended() -> bool:
            try:
                connection.sendall(b"x")
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        wait_until(ended, "the connection to be ended")
        assert refused(server, "head_late") == 1


@pytest.mark.parametrize("port_of", [lambda server: server.port, admin_port])
def test_a_connection_that_says_nothing_is_ended(tree: Path, port_of: object) -> None:
    """On either listener."""
    assert callable(port_of)
    with limited(tree, "--head-timeout", "0.2") as server, connect(server, port_of(server)) as connection:
        assert rest(connection) == b""


def test_an_idle_connection_is_kept_for_its_time(tree: Path) -> None:
    """And ended then."""
    with limited(tree, "--keepalive-timeout", "0.2") as server:
        assert statuses(exchange(server, GET % b"")) == [200]
        assert refused(server, "idle") == 1


def test_a_tls_handshake_has_its_time(tree: Path) -> None:
    """A client that says nothing holds nothing."""
    with limited(tree, "--handshake-timeout", "0.2", tls=True) as server, connect(server) as connection:
        assert rest(connection) == b""
        assert refused(server, "handshake_failed") == 1
        assert connections(server) == 0


@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_does_not_read_is_cut_off(tree: Path, *, tls: bool) -> None:
    """Its answers wait nowhere for ever."""
    with limited(tree, "--stalled-timeout", "0.2", tls=tls) as server:
        with contextlib.closing(stalled(server, tls=tls)):
            wait_until(lambda: refused(server, "stalled") == 1, "the connection to be aborted")
            wait_until(lambda: connections(server) == 0, "the connection to be gone")
        assert "their clients do not read" in server.log


def stalled(server: Server, *, tls: bool = False) -> socket.socket:
    """Return a connection on which as much was asked as the server takes, and nothing is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(PATIENCE_SECONDS)
    connection.connect(("127.0.0.1", server.port))
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = context.wrap_socket(connection)
    connection.settimeout(0.2)
    with contextlib.suppress(OSError):
        for _ in range(10_000):
            connection.sendall(GET % b"")
    return connection


# --- how many


def test_beyond_the_limit_the_connection_idle_for_longest_goes(tree: Path) -> None:
    """And a line says so, once."""
    with limited(tree, "--max-connections", "2") as server, contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(connect(server)) for _ in range(2))
        for early in (two, one, two):
            early.sendall(GET % b"")
            assert statuses(early.recv(65536)) == [200]
        three = stack.enter_context(connect(server))
        assert rest(one) == b""
        for other in (two, three):
            other.sendall(LAST)
            assert statuses(rest(other)) == [200]
        assert refused(server, "over_limit") == 1
        assert server.log.count("too many open connections") == 1


def test_one_address_has_a_limit_of_its_own(tree: Path) -> None:
    """Its own connections go; 0 is none."""
    with limited(tree, "--max-connections-per-address", "1") as server, connect(server) as one:
        one.sendall(GET % b"")
        assert statuses(one.recv(65536)) == [200]
        with connect(server) as two:
            assert rest(one) == b""
            two.sendall(LAST)
            assert statuses(rest(two)) == [200]
        assert refused(server, "over_address_limit") == 1


def test_no_more_connections_than_descriptors(tree: Path) -> None:
    """The soft limit is raised to the hard one, a reserve is kept, and the log says so."""
    launcher = ["sh", "-c", 'ulimit -Sn 90; ulimit -Hn 100; exec "$@"', "sh"]
    with Server(tree, "--admin-port", "0", launcher=launcher) as server, contextlib.ExitStack() as stack:
        assert server.metric(r'connections_limit\{listener="public"\}') == 36
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        assert re.search(r"^Max open files +100 +100 ", limits, re.MULTILINE)
        for _ in range(100):
            stack.enter_context(connect(server))
        assert statuses(exchange(server, LAST)) == [200]
        assert refused(server, "over_limit") >= 64
        assert "fewer connections than --max-connections" in server.log


# --- the end


def test_busy_keep_alive_clients_lose_nothing_at_a_stop(tree: Path) -> None:
    """Each request that could be sent is answered; the last answer says that it is the last."""
    lost: list[BaseException] = []
    answered = threading.Semaphore(0)

    def ask_on(port: int) -> None:
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
            except ConnectionRefusedError:
                return
            with connection:
                try:
                    while b"Connection: close" not in answer_on(connection):
                        answered.release()
                except (OSError, AssertionError) as error:
                    lost.append(error)

    with limited(tree) as server:
        clients = [threading.Thread(target=ask_on, args=(server.port,)) for _ in range(8)]
        for client in clients:
            client.start()
        for _ in range(400):
            assert answered.acquire(timeout=PATIENCE_SECONDS)
        assert server.terminate() == 0
        for client in clients:
            client.join(PATIENCE_SECONDS)
    assert lost == []


def answer_on(connection: socket.socket) -> bytes:
    """Return the answer to one GET."""
    connection.sendall(GET % b"")
    received = b""
    while b"\r\n\r\n" not in received or len(received) < sum(lengths(received)):
        part = connection.recv(65536)
        assert part, "the connection ended without an answer"
        received += part
    return received


def lengths(received: bytes) -> tuple[int, int]:
    """Return the lengths of an answer's head and body."""
    match = re.search(rb"Content-Length: (\d+)", received)
    assert match, received
    return received.index(b"\r\n\r\n") + 4, int(match[1])


def test_a_client_that_does_not_read_does_not_hold_up_a_stop(tree: Path) -> None:
    """There is one deadline for all, and the last resort of a stop is not needed."""
    with limited(tree, drain=0.05, shutdown=0.1) as server:
        with contextlib.closing(stalled(server)), contextlib.closing(stalled(server)):
            assert server.terminate() == 0
        assert "not waiting any longer" not in server.log


# --- the private listener


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9543", "[::1]:1"])
def test_the_private_listener_answers_to_its_own_names(server: Server, host: str) -> None:
    """With any port."""
    request = f"GET /livez HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert statuses(exchange(server, request.encode(), port=admin_port(server))) == [200]


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.2", "", "[::2]"])
def test_the_private_listener_answers_to_no_other_name(server: Server, host: str) -> None:
    """A web page that had its name lead to 127.0.0.1 reads nothing."""
    request = f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n"
    received = exchange(server, request.encode(), port=admin_port(server))
    assert statuses(received) == [421]
    assert not host or host.encode() not in received


@pytest.mark.parametrize("path", ["/livez", "/stranger", "/tenants/stranger.json", "/metrics", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_private_listener_tells_nothing_of_itself_or_of_the_request(server: Server, method: str, path: str) -> None:
    """No banner with versions, no echo."""
    request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nX: stranger\r\nConnection: close\r\n\r\n"
    received = exchange(server, request.encode(), port=admin_port(server))
    assert re.findall(rb"Server: (.*)\r\n", received) == [b"jwks-server"]
    assert b"stranger" not in received
