"""A snapshot as bytes: what one reader process built, for the next build of the same tenant.

A snapshot grows with a tenant's files, and only the next build needs it. So the server carries these bytes unread from
one reader process to the next. They are typed, versioned JSON: a reader process that was taken over by a key file can
write anything into them, and the next one gets values of the listed types or an error, and runs nothing.
"""

from dataclasses import asdict, replace
from math import inf

import msgspec

from jwks_server.core.errors import PolicyError, SealedError
from jwks_server.core.jwk import Key
from jwks_server.core.lifecycle import Owed
from jwks_server.core.policy import Policy
from jwks_server.core.snapshot import Snapshot

VERSION = 1


class _Debt(msgspec.Struct, forbid_unknown_fields=True):
    """An owed key; a deadline of None is one that is not set yet, for JSON has no infinity."""

    file_name: str
    key: Key
    until: float | None


class _Sealed(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    snapshot: Snapshot
    owed: tuple[_Debt, ...]


_DECODER = msgspec.json.Decoder(_Sealed)


def seal(snapshot: Snapshot) -> bytes:
    """Return the snapshot as bytes, without its finished key set, which no build looks at."""
    debts = tuple(_Debt(debt.file_name, debt.key, None if debt.until == inf else debt.until) for debt in snapshot.owed)
    return msgspec.json.encode(_Sealed(VERSION, replace(snapshot, key_set=None, owed=()), debts))


def unseal(data: bytes) -> Snapshot:
    """Return the snapshot that `seal` was given; raise SealedError where the bytes are none of this version's.

    What is returned can be built on: it has no member that is not public, no time without a zone, and a policy that
    somebody could have written. A snapshot that fails every later build would keep its tenant unread for ever.
    """
    try:
        sealed = _DECODER.decode(data)
    except (ValueError, RecursionError) as error:
        raise SealedError(f"not a sealed snapshot: {error}") from error
    if sealed.version != VERSION:
        raise SealedError(f"a sealed snapshot of version {sealed.version}, not {VERSION}")
    try:
        _check(sealed.snapshot.policy.value)
    except PolicyError as error:
        raise SealedError(f"a sealed snapshot with a policy that there is not: {error}") from error
    debts = (Owed(debt.file_name, debt.key, inf if debt.until is None else debt.until) for debt in sealed.owed)
    return replace(sealed.snapshot, owed=tuple(debts))


def _check(policy: Policy) -> None:
    """Raise PolicyError where a value has its type and is none that a policy can have."""
    Policy().updated({key: value for key, value in asdict(policy).items() if value is not None})
