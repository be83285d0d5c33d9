"""Keys over time: what a file last gave, which removed keys are still published, when the set changes by itself.

A key is owed while no file gives it any longer and a removal grace still keeps it published.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from jwks_server.core.jwk import Identity, Key, Time
from jwks_server.core.policy import OutOfValidity, Policy


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, on two clocks: `wall` is aware UTC and may jump; `steady` counts seconds and never does."""

    wall: datetime
    steady: float


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What a key file last gave, and what is wrong with its present content.

    `stamp` tells whether the content was read before; an empty one says: read it again. While `faults` is not empty,
    `keys` are those of the last content that had none. `is_passing` says that the fault may be gone when the same
    content is read again. `refusals` are keys of the present content that are not published.
    """

    name: str
    stamp: bytes
    container: str
    keys: tuple[Key, ...]
    faults: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    is_passing: bool = False


@dataclass(frozen=True, slots=True)
class Owed:
    """A key whose file no longer gives it, published until `until` on the steady clock."""

    file_name: str
    key: Key
    until: float


@dataclass(frozen=True, slots=True)
class NextChange:
    """When a set changes without any file changing: by validity on the wall clock, by a grace on the steady one."""

    wall: Time | None = None
    steady: float | None = None

    def seconds_from(self, now: Moment) -> float | None:
        """Return the seconds until the change, not below zero, or None where none is due."""
        waits = []
        if self.wall is not None:
            waits.append((self.wall - now.wall).total_seconds())
        if self.steady is not None:
            waits.append(self.steady - now.steady)
        return max(0.0, min(waits)) if waits else None


def owed_after(
    before: Iterable[tuple[str, Key]], owed: Iterable[Owed], current: Iterable[KeyFile], now: float, grace: float
) -> tuple[Owed, ...]:
    """Return the keys still owed: those owed before, and those that the files gave before and give no longer.

    `before` pairs file names with the keys they gave. A key that any file gives again is owed no longer. No deadline
    lies further ahead than `grace` from now: a policy may have shortened the grace.
    """
    given = {key_identity(key) for file in current for key in file.keys}
    still: dict[Identity, Owed] = {}
    for debt in owed:
        until = min(debt.until, now + grace)
        if until > now:
            still.setdefault(key_identity(debt.key), Owed(debt.file_name, debt.key, until))
    if grace > 0:
        for name, key in before:
            still.setdefault(key_identity(key), Owed(name, key, now + grace))
    return tuple(debt for identity, debt in sorted(still.items(), key=_by_name) if identity not in given)


def _by_name(item: tuple[Identity, Owed]) -> tuple[str, tuple[tuple[str, str], ...]]:
    return item[1].file_name, item[1].key.public.members


def key_identity(key: Key) -> Identity:
    """Return what makes two keys one for publication: the public key, the certificate, and the id it states."""
    return key.public.kty, key.public.members, key.chain[:1], key.stated_kid


def out_of_validity(key: Key, now: datetime) -> str | None:
    """Return how the key's certificate is outside its validity, or None. Both ends are valid (RFC 5280, 4.1.2.5)."""
    if key.not_before is not None and now < key.not_before:
        return f"not valid before {_iso(key.not_before)}"
    if key.not_after is not None and now > key.not_after:
        return f"expired on {_iso(key.not_after)}"
    return None


def hidden(key: Key, policy: Policy, now: datetime) -> bool:
    """Tell whether the policy keeps the key out of the set at this time."""
    if policy.not_yet_valid is OutOfValidity.HIDE and key.not_before is not None and now < key.not_before:
        return True
    return policy.expired is OutOfValidity.HIDE and key.not_after is not None and now > key.not_after


def next_visibility_change(key: Key, policy: Policy, now: datetime) -> datetime | None:
    """Return when the key appears or disappears by its validity, if it will."""
    if policy.not_yet_valid is OutOfValidity.HIDE and key.not_before is not None and now < key.not_before:
        return key.not_before
    if policy.expired is OutOfValidity.HIDE and key.not_after is not None and now <= key.not_after:
        return key.not_after
    return None


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
