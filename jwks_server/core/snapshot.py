"""Everything that is known of a tenant at one moment, as one value; and what reading its folder gave."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from jwks_server.core.keyset import KeySet, PublishedKey
from jwks_server.core.lifecycle import KeyFile, NextChange, Owed
from jwks_server.core.policy import Policy
from jwks_server.core.tenant import TenantName

T = TypeVar("T")


class Level(StrEnum):
    """How bad a problem is: a fault has to be corrected, a warning should be looked at, a notice only explains."""

    FAULT = "fault"
    WARNING = "warning"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to say about a tenant, or about one of its files."""

    level: Level
    text: str
    file_name: str | None = None


@dataclass(frozen=True, slots=True)
class TextFile:
    """A small text file as it was read: its text, or why it could not be read, or neither where there is none."""

    text: str | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Key files that are still to be read in later turns, and how the folder looked when reading it began.

    `has_new` says that some of them were never read.
    """

    names: tuple[str, ...]
    signature: bytes | None
    has_new: bool


@dataclass(frozen=True, slots=True)
class Folder:
    """What reading a tenant's folder gave. With a `fault`, nothing else is known and all stays as it was.

    `surplus` counts the key files beyond the limit, which are not read.
    """

    files: tuple[KeyFile, ...] = ()
    policy: TextFile = TextFile()
    revoked: TextFile = TextFile()
    present: bool = True
    fault: str | None = None
    unfinished: Unfinished | None = None
    surplus: int = 0


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is known of a tenant from before the start: its policy, and the keys it published, each with its deadline.

    A key whose file was there when it was last seen has an infinite deadline; the grace cuts it.
    """

    policy: Policy
    keys: tuple[Owed, ...]


@dataclass(frozen=True, slots=True)
class Settled(Generic[T]):
    """A value that outlives its file by the settling time; `missing_since` is on the steady clock.

    `known` is False while nobody could read what the file says: `value` is then no more than a stand-in.
    """

    value: T
    known: bool
    missing_since: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A tenant at one moment. `key_set` is None where no set may be answered: the tenant is vacant or withheld.

    `vacant` says that there is no tenant: there are no key files, nothing is owed and nothing is wrong.

    `rules_unknown` says that nothing may be published: the tenant's policy or its list of revoked keys is faulty, and
    what it said before is not known.

    `unfinished` says which key files are still to be read, `being_read` that they include some that were never read, so
    that nothing may be published yet.

    Two times say when the tenant must be built again although no file changed: at `next_change` its set changes; at
    `look_again` its problems do, or a missing policy or list of revoked keys counts as removed.
    """

    tenant: TenantName
    present: bool
    files: tuple[KeyFile, ...]
    owed: tuple[Owed, ...]
    policy: Settled[Policy]
    revoked: Settled[frozenset[str]]
    published: tuple[PublishedKey, ...]
    key_set: KeySet | None
    vacant: bool
    rules_unknown: bool
    unfinished: Unfinished | None
    being_read: bool
    problems: tuple[Problem, ...]
    next_change: NextChange
    look_again: NextChange

    @property
    def gone(self) -> bool:
        """Tell whether the tenant has neither a folder nor a key that is still owed."""
        return not self.present and not self.owed
