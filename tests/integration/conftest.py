from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from support.certificates import certificate, der, pem, private_key
from support.server import Server


@pytest.fixture
def keystores(tmp_path: Path) -> Path:
    """Make an empty tree of keystores."""
    root = tmp_path / "keystores"
    root.mkdir()
    return root


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server that several tests only read from."""
    root = tmp_path_factory.mktemp("served") / "keystores"
    for tenant in ("carbon.super", "foo.com", "empty.com", "broken.com", "revoked.com", "Upper.com"):
        (root / tenant).mkdir(parents=True)
    (root / "carbon.super" / "a.pem").write_bytes(pem(certificate(private_key("RSA"), "a")))
    (root / "foo.com" / "b.der").write_bytes(der(certificate(private_key("P-256"), "b")))
    (root / "broken.com" / "c.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    revoked = certificate(private_key("P-256", 1))
    (root / "revoked.com" / "d.pem").write_bytes(pem(revoked))
    (root / "revoked.com" / "revoked").write_text(sha256(der(revoked)).hexdigest() + "\n")
    with Server(root) as server:
        yield server
