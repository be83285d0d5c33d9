import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from jwks_server.serving.gate import host_fault, host_of


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("a.example", "a.example"), ("A.Example:9443", "a.example"), ("127.0.0.1:1", "127.0.0.1"), ("[::1]:1", "::1"),
        ("[0:0::1]", "::1"), ("", ""), ("a:", "a"), ("f%C3%B6o", "f%c3%b6o"),
    ],
)  # fmt: skip
def test_a_host_is_told_without_its_port(header: str, host: str) -> None:
    """In lower case, an IPv6 address in its one form."""
    assert host_of(header) == host


@pytest.mark.parametrize(
    "header",
    ["a b", "a/b", "a@b", "a,b c", "::1", "[::1", "[::1]x", "[x]", "[1]", "a:b", "a:1:2", "a\x00", "fö", "a:123456"],
)
def test_a_malformed_host_is_none(header: str) -> None:
    """RFC 9110, section 7.2."""
    assert host_of(header) is None


@pytest.mark.parametrize(
    ("hosts", "status"),
    [(["a"], None), ([], None), (["a", "a"], 400), (["b"], 421), (["a b"], 400), (["a" * 400], 400)],
)
def test_which_hosts_are_refused(hosts: list[str], status: int | None) -> None:
    """Several at once, malformed ones, and those that are another's."""
    request = make_mocked_request("GET", "/", CIMultiDict(("Host", host) for host in hosts))
    fault = host_fault(request, {"a"}.__contains__)
    assert (None if fault is None else fault.status) == status
