"""The public members of a JSON Web Key, and the last check that a finished key set holds no others."""

import json

from jwks_server.core.errors import KeySetError

PUBLIC_MEMBERS = frozenset({"kty", "use", "kid", "alg", "n", "e", "crv", "x", "y", "pub", "x5t#S256", "x5t", "x5c"})
"""RFC 7517, section 4; RFC 7518, section 6; RFC 8037; RFC 9964. `d`, `k`, `p` and the like are not among them."""

_OPENING, _CLOSING = '{"keys":[', "]}"
_DECODER = json.JSONDecoder()


def count_public_keys(body: bytes) -> int:
    """Return how many keys a finished key set holds; raise KeySetError unless it is one of public members alone.

    The body is compact, as `keyset.compile_set` writes it. The keys are looked at one by one.
    """
    try:
        text = body.decode("ascii")
        if text == _OPENING + _CLOSING:
            return 0
        if not text.startswith(_OPENING):
            raise KeySetError("not a key set")
        at, count = len(_OPENING) - 1, 0
        while count == 0 or text[at] == ",":
            at = _after_key(text, at + 1)
            count += 1
        if text[at:] == _CLOSING:
            return count
    except (ValueError, IndexError, RecursionError) as error:
        raise KeySetError("a key set that is no compact JSON") from error
    raise KeySetError("a key set that is no compact JSON")


def _after_key(text: str, at: int) -> int:
    """Return where the key that begins at `at` ends; raise KeySetError where a member is not public or no text."""
    jwk, end = _DECODER.raw_decode(text, at)
    if not isinstance(jwk, dict) or not PUBLIC_MEMBERS.issuperset(jwk):
        raise KeySetError("a key of the set has a member that is not public")
    if not all(isinstance(value, str) or _is_list_of_text(value) for value in jwk.values()):
        raise KeySetError("a key of the set has a member that is no text")
    return end


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
