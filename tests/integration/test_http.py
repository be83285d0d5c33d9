import socket
from email.utils import parsedate_to_datetime

import pytest
from support.server import Answer, Server

SUPER = "/oauth2/jwks"
FOO = "/t/foo.com/oauth2/jwks"


def raw(server: Server, *requests: bytes) -> bytes:
    """Return all that the server sends back for these bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"".join(requests))
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


def assert_problem(answer: Answer, status: int) -> None:
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["status"] == status


def test_a_key_set_carries_all_that_the_contract_names(served: Server) -> None:
    """200 with its headers, and no others that would vary it."""
    answer = served.get(FOO, {"Accept-Encoding": "gzip"})
    assert answer.status == 200
    assert [key["kty"] for key in answer.json()["keys"]] == ["EC"]
    date = parsedate_to_datetime(answer.headers["date"])
    assert date.tzinfo is not None
    etag = answer.headers["etag"]
    assert etag.startswith('"')
    assert etag.endswith('"')
    assert {name: value for name, value in answer.headers.items() if name not in {"date", "etag"}} == {
        "content-type": "application/json",
        "content-length": str(len(answer.body)),
        "cache-control": "public, max-age=300, stale-if-error=3600",
        "access-control-allow-origin": "*",
        "x-content-type-options": "nosniff",
        "server": "jwks-server",
    }


def test_the_super_tenant_has_two_urls(served: Server) -> None:
    """The same bytes and the same tag at both."""
    one, two = served.get(SUPER), served.get("/t/carbon.super/oauth2/jwks")
    assert (one.status, one.body, one.headers["etag"]) == (200, two.body, two.headers["etag"])


@pytest.mark.parametrize("template", ["{0}", "W/{0}", '"x", {0}', '"x",{0},"y"', '"a,b", W/{0}', "*", "  {0}  "])
def test_a_matching_validator_gets_304(served: Server, template: str) -> None:
    """By weak comparison, in a list too; with the headers that a cache updates."""
    etag = served.get(FOO).headers["etag"]
    answer = served.get(FOO, {"If-None-Match": template.format(etag)})
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["etag"] == etag
    assert answer.headers["cache-control"] == "public, max-age=300, stale-if-error=3600"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "content-type" not in answer.headers


def test_a_validator_on_a_later_header_line_counts(served: Server) -> None:
    """Several lines are one list (RFC 9110, section 5.3)."""
    etag = served.get(FOO).headers["etag"].encode()
    received = raw(
        served,
        b"GET /t/foo.com/oauth2/jwks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b'If-None-Match: "a"\r\nIf-None-Match: ' + etag + b"\r\n\r\n",
    )
    assert received.startswith(b"HTTP/1.1 304 ")


@pytest.mark.parametrize("value", ['""', '"x"', "W/", "", "unquoted", '"'])
def test_other_validators_get_the_whole_set(served: Server, value: str) -> None:
    """An empty tag too, which curl sends the first time."""
    assert served.get(FOO, {"If-None-Match": value}).status == 200


def test_a_date_alone_makes_no_304(served: Server) -> None:
    """Some clients echo Date in If-Modified-Since; sets change within a second."""
    date = served.get(FOO).headers["date"]
    assert served.get(FOO, {"If-Modified-Since": date}).status == 200


@pytest.mark.parametrize("path", [SUPER, FOO, "/nowhere", "/t/broken.com/oauth2/jwks", "/t/empty.com/oauth2/jwks"])
def test_head_is_get_without_the_body(served: Server, path: str) -> None:
    """The same status and headers, Content-Length among them."""
    head, get = served.request("HEAD", path), served.get(path)
    assert head.body == b""
    assert head.status == get.status
    assert {**head.headers, "date": ""} == {**get.headers, "date": ""}


def test_head_with_a_matching_validator_gets_304(served: Server) -> None:
    """As GET does."""
    etag = served.get(FOO).headers["etag"]
    assert served.request("HEAD", FOO, {"If-None-Match": etag}).status == 304


def test_options_answers_a_preflight(served: Server) -> None:
    """204 with what a browser asks for."""
    answer = served.request("OPTIONS", FOO, {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"})
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
    assert int(answer.headers["access-control-max-age"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
def test_other_methods_are_not_allowed(served: Server, method: str) -> None:
    """405 and what is."""
    answer = served.request(method, FOO)
    assert_problem(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/oauth2", "/oauth2/jwks/", "/OAUTH2/JWKS", "//oauth2/jwks", "/t/nobody.com/oauth2/jwks",
        "/t//oauth2/jwks",
        "/t/foo.com/oauth2/jwks/", "/t/foo.com/x/oauth2/jwks", "/t/../oauth2/jwks", "/t/./foo.com/oauth2/jwks",
        "/t/%2e%2e/oauth2/jwks", "/t/..%2fcarbon.super/oauth2/jwks", "/t/foo.com%2f/oauth2/jwks",
        "/t/foo.com%00/oauth2/jwks", "/t/%66oo.com/oauth2/jwks", "/t/FOO.com/oauth2/jwks", "/t/Upper.com/oauth2/jwks",
        "/t/" + "a" * 5000 + "/oauth2/jwks", "/t/f%C3%B6o.com/oauth2/jwks", "/t/.git/oauth2/jwks",
    ],
)  # fmt: skip
def test_any_other_path_is_not_found(served: Server, path: str) -> None:
    """Nothing is decoded, folded or redirected."""
    assert_problem(served.get(path), 404)


@pytest.mark.parametrize(
    "target", [b"/t/f\xf6o.com/oauth2/jwks", b"/t/\xc3\xa9/oauth2/jwks", b"/t/a\0b/oauth2/jwks", b"/" + b"a" * 20000]
)
def test_bytes_that_are_no_path_get_404_or_400(served: Server, target: bytes) -> None:
    """As problem details, and the server lives on."""
    received = raw(served, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert received.split(b" ", 2)[1] in {b"400", b"404"}
    assert b"application/problem+json" in received
    assert served.get(FOO).status == 200


def test_a_query_changes_nothing(served: Server) -> None:
    """It is not part of the resource's name here."""
    assert served.get(FOO + "?x=/../").body == served.get(FOO).body


def test_the_absolute_form_is_understood(served: Server) -> None:
    """RFC 9112, section 3.2.2."""
    received = raw(served, b"GET http://h:1/oauth2/jwks HTTP/1.1\r\nHost: h:1\r\nConnection: close\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_answered_in_order(served: Server) -> None:
    """All of them, on one connection."""
    request = b"GET /t/%s/oauth2/jwks HTTP/1.1\r\nHost: x\r\n%s\r\n"
    received = raw(
        served,
        request % (b"foo.com", b""), request % (b"nobody", b""), request % (b"carbon.super", b"Connection: close\r\n"),
    )  # fmt: skip
    statuses = [part.split(b" ", 1)[0] for part in received.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"404", b"200"]


def test_a_tenant_that_was_never_good_gets_503_and_an_empty_folder_404(served: Server) -> None:
    """A client must never cache a set that a fault emptied, nor one that waits for its first file."""
    broken = served.get("/t/broken.com/oauth2/jwks")
    assert_problem(broken, 503)
    assert int(broken.headers["retry-after"]) > 0
    assert_problem(served.get("/t/empty.com/oauth2/jwks"), 404)


def test_a_set_without_keys_is_asked_for_every_time(served: Server) -> None:
    """All of the tenant's keys are revoked, and nothing is wrong; no cache may keep that."""
    empty = served.get("/t/revoked.com/oauth2/jwks")
    assert (empty.status, empty.body) == (200, b'{"keys":[]}')
    assert empty.headers["cache-control"] == "no-cache"
    again = served.get("/t/revoked.com/oauth2/jwks", {"If-None-Match": empty.headers["etag"]})
    assert (again.status, again.headers["cache-control"]) == (304, "no-cache")
    assert 'WARNING warning tenant=revoked.com reason="an empty set is published' in served.log


def test_a_folder_that_is_no_tenant_is_reported(served: Server) -> None:
    """By name, once, in the log."""
    assert served.log.count("folder=Upper.com") == 1
