"""What every request passes before it is answered, on either listener: its Host, and the end of its body."""

import asyncio
import re
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from ipaddress import AddressValueError, IPv6Address

from aiohttp import web

from jwks_server.core.contract import Reply, problem

MAX_BODY_BYTES = 4096

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._~!$&'()*+,;=%-]*))(?::[0-9]{0,5})?", re.ASCII)

_LONGEST_HOST = 320
"""A name has 255 characters at most; so what is remembered of them stays small."""

_BAD_HOST = problem(HTTPStatus.BAD_REQUEST, "The request needs one well-formed Host header.")
_OTHER_HOST = problem(HTTPStatus.MISDIRECTED_REQUEST, "This listener answers under other names only.")
_TOO_LARGE = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A body may have {MAX_BODY_BYTES} bytes.")
_LATE = problem(HTTPStatus.REQUEST_TIMEOUT, "The body took too long.")
_BAD_BODY = problem(HTTPStatus.BAD_REQUEST, "The body is malformed.")


@lru_cache(maxsize=1024)
def host_of(header: str) -> str | None:
    """Return the host of a Host header (RFC 9110, section 7.2) in lower case and without port, None if malformed."""
    match = _HOST.fullmatch(header) if len(header) <= _LONGEST_HOST else None
    if match is None:
        return None
    if match[1] is None:
        return str(match[2]).lower()
    try:
        return str(IPv6Address(match[1]))
    except AddressValueError:
        return None


def host_fault(request: web.BaseRequest, answers_to: Callable[[str], bool]) -> Reply | None:
    """Return what is wrong with a request's Host; that there is one in HTTP/1.1, aiohttp's parser sees to."""
    hosts = request.headers.getall("Host", ())
    if len(hosts) > 1:
        return _BAD_HOST
    for header in hosts:
        host = host_of(header)
        if host is None:
            return _BAD_HOST
        if not answers_to(host):
            return _OTHER_HOST
    return None


async def body_fault(request: web.BaseRequest, seconds: float) -> Reply | None:
    """Return what is wrong with the body that a request has; None where it has been read away."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        return _TOO_LARGE
    if "Expect" in request.headers:
        return None  # the answer tells the client not to send it (RFC 9110, section 10.1.1)
    read = 0
    try:
        async with asyncio.timeout(seconds):
            while part := await request.content.readany():
                read += len(part)
                if read > MAX_BODY_BYTES:
                    return _TOO_LARGE
    except TimeoutError:
        return _LATE
    except (web.RequestPayloadError, ValueError):
        return _BAD_BODY
    return None
