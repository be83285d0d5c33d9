"""The list of keys never to publish again: ids or certificate thumbprints, one a line."""

import re

from jwks_server.core.errors import KeyFileError

MAX_BYTES = 256 << 10
"""How long the list may be."""

MOST_NAMES = 4096
"""How many names the list may have: a tenant that needs more has keys that its files need not give."""

_FINGERPRINT = re.compile(r"(?i)(?:sha-?(?:1|256) fingerprint=)?((?:[0-9a-f]{2}:?){20}|(?:[0-9a-f]{2}:?){32})")


def parse_revoked(text: str) -> frozenset[str]:
    """Return the names in the list; blank lines and those that begin with `#` say nothing.

    Thumbprints in hexadecimal may be written as openssl and keytool print them, with colons and in any case. Raise
    KeyFileError where there are too many names.
    """
    lines = (line.strip() for line in text.splitlines())
    names = frozenset(_normal(line) for line in lines if line and not line.startswith("#"))
    if len(names) > MOST_NAMES:
        raise KeyFileError(f"{len(names)} revoked names, more than {MOST_NAMES}: remove those whose keys no file gives")
    return names


def _normal(line: str) -> str:
    match = _FINGERPRINT.fullmatch(line)
    return match[1].replace(":", "").lower() if match else line
