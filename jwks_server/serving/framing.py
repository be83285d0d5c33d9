"""Where requests are cut apart before aiohttp parses them, and a last answer is written without it."""

from collections.abc import Iterator
from email.utils import formatdate

from jwks_server.core.contract import Reply

_MAX_PIECES = 32
"""As many requests as aiohttp queues; what has more ends of heads is no client's, and is cut no further."""


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut what came behind each end of a head, so that the parser sees one request at a time.

    It forgets the requests before a malformed one, and those after an offer to upgrade, of what it is given at once.
    """
    start = 0
    for _ in range(_MAX_PIECES):
        end = data.find(b"\r\n\r\n", start) + 4
        if end in {3, len(data)}:
            break
        yield data[start:end]
        start = end
    yield data[start:]


def rendered(reply: Reply) -> bytes:
    """Return a reply as it is sent where aiohttp cannot, as the last one of a connection."""
    headers = (*reply.headers, ("Date", formatdate(usegmt=True)), ("Connection", "close"))
    lines = (f"HTTP/1.1 {reply.status.value} {reply.status.phrase}", *(f"{name}: {value}" for name, value in headers))
    return "\r\n".join((*lines, "", "")).encode("latin-1") + reply.body
