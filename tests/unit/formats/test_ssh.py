"""OpenSSH public keys, one line each."""

import base64
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from jwks_server.core.errors import KeyFileError
from jwks_server.core.formats import read


@pytest.mark.parametrize("name", ["id_rsa.pub", "id_ed25519.pub", "id_ecdsa.pub"])
def test_a_line_of_ssh_keygen_is_its_key(fixture_file: Callable[[str], bytes], name: str) -> None:
    """The comment at its end means nothing."""
    (entry,) = read(fixture_file(name)).entries
    assert entry.public_key == load_ssh_public_key(fixture_file(name))
    assert entry.alias is None


@pytest.mark.parametrize(
    "kind",
    ["ssh-dss", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com", "ssh-rsa-cert-v01@openssh.com"],
)
def test_other_types_are_refused_by_name(kind: str) -> None:
    """Keys of hardware tokens sign more than the message; DSA has no JWS algorithm."""
    contents = read(kind.encode() + b" AAAA comment\n")
    assert contents.entries == ()
    assert f"unsupported key: {kind};" in contents.refusals[0]


@pytest.mark.parametrize("payload", [b"AAAA", b"!", base64.b64encode(b"\0\0\0\x07ssh-rsa")])
def test_a_damaged_line_is_a_fault(payload: bytes) -> None:
    """Half a line was copied."""
    with pytest.raises(KeyFileError, match="not a readable ssh-rsa line"):
        read(b"ssh-rsa " + payload + b" comment")


def test_a_compressed_point_is_a_fault() -> None:
    """The library does not implement it, and says so in its own way."""
    point = b"\x02" + bytes(32)
    fields = [b"ecdsa-sha2-nistp256", b"nistp256", point]
    blob = b"".join(len(one).to_bytes(4) + one for one in fields)
    with pytest.raises(KeyFileError, match="not a readable ecdsa-sha2-nistp256 line"):
        read(b"ecdsa-sha2-nistp256 " + base64.b64encode(blob))


def test_several_lines_are_a_fault(fixture_file: Callable[[str], bytes]) -> None:
    """An authorized_keys file says who may log in, not who signs."""
    with pytest.raises(KeyFileError, match="2 lines with OpenSSH keys"):
        read(fixture_file("id_rsa.pub") + fixture_file("id_ed25519.pub"))
