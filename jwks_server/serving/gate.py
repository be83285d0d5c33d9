"""What every request passes before it is answered, on either listener: its Host, and the end of its body."""

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from ipaddress import AddressValueError, IPv6Address

from aiohttp import web

from jwks_server.core.contract import Reply, problem

MAX_BODY_BYTES = 4096

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._~!$&'()*+,;=%-]*))(?::[0-9]{0,5})?", re.ASCII)

_BAD_HOST = problem(HTTPStatus.BAD_REQUEST, "The request needs one well-formed Host header.")
_OTHER_HOST = problem(HTTPStatus.MISDIRECTED_REQUEST, "This listener answers under other names only.")
_TOO_LARGE = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A body may have {MAX_BODY_BYTES} bytes.")
_LATE = problem(HTTPStatus.REQUEST_TIMEOUT, "The body took too long.")
_BAD_BODY = problem(HTTPStatus.BAD_REQUEST, "The body is malformed.")


def host_of(header: str) -> str | None:
    """Return the host of a Host header (RFC 9110, section 7.2) in lower case and without port, None if malformed."""
    match = _HOST.fullmatch(header)
    if match is None:
        return None
    if match[1] is None:
        return str(match[2]).lower()
    try:
        return str(IPv6Address(match[1]))
    except AddressValueError:
        return None


async def refusal(request: web.BaseRequest, *, answers_to: Callable[[str], bool], body_seconds: float) -> Reply | None:
    """Return why a request is not answered, after which its connection has to end; else None, with its body gone."""
    hosts = request.headers.getall("Host", ())
    names = [host_of(host) for host in hosts]
    if None in names or len(names) > 1:  # that there is one in HTTP/1.1, aiohttp's parser sees to
        return _BAD_HOST
    if not all(answers_to(name) for name in names if name is not None):
        return _OTHER_HOST
    return await _without_body(request, body_seconds) if request.body_exists else None


async def _without_body(request: web.BaseRequest, seconds: float) -> Reply | None:
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
