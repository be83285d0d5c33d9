from http import HTTPStatus

from hypothesis import given
from hypothesis import strategies as st

from jwks_server.core.contract import problem
from jwks_server.serving.framing import pieces, rendered


@given(st.lists(st.sampled_from([b"\r\n\r\n", b"\r\n", b"\r", b"\n", b"a"])).map(b"".join))
def test_cutting_loses_nothing(data: bytes) -> None:
    """Every piece but the last ends with a head, and none is empty but where nothing came."""
    cut = list(pieces(data))
    assert b"".join(cut) == data
    assert len(cut) <= 33
    assert all(piece.endswith(b"\r\n\r\n") for piece in cut[:-1])
    assert data == b"" or all(cut)


def test_each_head_is_a_piece_of_its_own() -> None:
    """The parser sees one request at a time."""
    assert list(pieces(b"A\r\n\r\nB\r\n\r\nbody")) == [b"A\r\n\r\n", b"B\r\n\r\n", b"body"]
    assert list(pieces(b"")) == [b""]


def test_a_last_answer_is_whole() -> None:
    """With its date, and the end of the connection."""
    reply = problem(HTTPStatus.BAD_REQUEST, "no")
    head, _, body = rendered(reply).partition(b"\r\n\r\n")
    assert body == reply.body
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 400 Bad Request"
    assert b"Connection: close" in lines
    assert lines[-2].startswith(b"Date: ")
