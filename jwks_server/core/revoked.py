"""The list of keys never to publish again: ids or certificate thumbprints, one a line."""

import re

_FINGERPRINT = re.compile(r"(?i)(?:sha-?(?:1|256) fingerprint=)?((?:[0-9a-f]{2}:?){20}|(?:[0-9a-f]{2}:?){32})")


def parse_revoked(text: str) -> frozenset[str]:
    """Return the names in the list; blank lines and those that begin with `#` say nothing.

    Thumbprints in hexadecimal may be written as openssl and keytool print them, with colons and in any case.
    """
    lines = (line.strip() for line in text.splitlines())
    return frozenset(_normal(line) for line in lines if line and not line.startswith("#"))


def _normal(line: str) -> str:
    match = _FINGERPRINT.fullmatch(line)
    return match[1].replace(":", "").lower() if match else line
