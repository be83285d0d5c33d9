"""One certificate in DER (X.690)."""

from jwks_server.core.formats.certificates import load_der, signing_entries
from jwks_server.core.formats.contents import Contents


def read(data: bytes) -> Contents:
    """Return the one certificate that `data` is."""
    entries, refusals = signing_entries([load_der(data)])
    return Contents("DER certificate", entries, refusals)
