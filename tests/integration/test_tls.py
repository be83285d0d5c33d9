"""The certificate that the server makes for itself."""

import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.server import Server

from jwks_server.serving.tls import names_for

OWN = ("localhost", "127.0.0.1", "::1")


def test_a_self_made_certificate_is_no_authority_and_names_the_host(keystores: Path) -> None:
    """A client that is given it verifies the server by every name, and could not be fooled with others made from it."""
    with Server(keystores, "--host", "127.0.0.2", tls=True) as server:
        text = ssl.get_server_certificate(("127.0.0.2", server.port))
        made = x509.load_pem_x509_certificate(text.encode())
        basic = made.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (basic.critical, basic.value.ca) == (True, False)
        usage = made.extensions.get_extension_for_class(x509.KeyUsage).value
        assert usage.digital_signature
        assert not usage.key_cert_sign
        extended = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(extended) == [ExtendedKeyUsageOID.SERVER_AUTH]
        context = ssl.create_default_context(cadata=text)
        for name in (*OWN, "127.0.0.2"):
            with (
                socket.create_connection(("127.0.0.2", server.port), timeout=30) as connection,
                context.wrap_socket(connection, server_hostname=name) as secured,
            ):
                assert secured.version() == "TLSv1.3"


@pytest.mark.parametrize(
    ("host", "added"),
    [
        ("", ()), ("localhost", ()), ("0.0.0.0", ()), ("::", ()), ("127.0.0.1", ()), ("10.0.0.1", ("10.0.0.1",)),  # noqa: S104
        ("fe80::1%eth0", ("fe80::1",)), ("Keys.Example", ("keys.example",)), ("a" * 64, ()),
    ],
)  # fmt: skip
def test_which_names_it_has(host: str, added: tuple[str, ...]) -> None:
    """This machine's own, and the host where it is one."""
    assert names_for(host) == (*OWN, *added)
