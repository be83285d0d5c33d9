"""What a tenant publishes and what is said of it, in a size that does not grow with the tenant's files and keys.

The key set, the sealed snapshot and the record are bytes that the server carries; of everything else a publication
holds counts and the first few. So the event loop does the same for a change of one key and of thousands.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

from jwks_server.core.keyset import KeySet
from jwks_server.core.lifecycle import KeyFile, NextChange
from jwks_server.core.snapshot import Level, Problem, Snapshot
from jwks_server.core.tenant import POLICY_FILE, REVOKED_FILE, TenantName

MOST_NAMED = 50
"""How many problems, added keys and removed keys are named; the rest is counted."""

MOST_TEXT = 2000
"""How many characters of a problem's text are kept: a file with thousands of bad keys has a long one."""


@dataclass(frozen=True, slots=True)
class Record:
    """What of a tenant has to outlive the process, as text for the state directory.

    `digest` is the same for the same policy, keys and deadlines, whenever the text was written. `adds_keys` says that
    it holds a key that the tenant did not publish before.
    """

    text: bytes
    digest: bytes
    adds_keys: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What a publication changes, for the log: key ids and problems that came and went, the first MOST_NAMED of each.

    `more` counts what is not named.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    come: tuple[Problem, ...] = ()
    gone: tuple[Problem, ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True)
class Publication:
    """All that the server holds of a tenant: its key set, its problems, its next changes, its sealed snapshot.

    `key_set` is None where no set may be answered: with 404 where `vacant` says that there is no tenant, else with 503.
    `keys` counts the members of the set, `owed` the keys that no file gives any longer. `problems` are the first
    MOST_NAMED, `faults`, `warnings` and `notices` count them all. `faulty` is a digest of the names and stamps of
    faulty key files, empty where there are none; `folder_fault` says that the folder, its policy or its list of revoked
    keys is faulty. For the two times see Snapshot. `record` is what has to outlive the process, None where nothing has.
    """

    tenant: TenantName
    present: bool
    key_set: KeySet | None
    vacant: bool
    keys: int
    owed: int
    problems: tuple[Problem, ...]
    faults: int
    warnings: int
    notices: int
    faulty: bytes
    folder_fault: bool
    next_change: NextChange
    look_again: NextChange
    sealed: bytes
    record: Record | None = None
    change: Change = Change()

    @property
    def gone(self) -> bool:
        """Tell whether the tenant has neither a folder nor a key that is still owed."""
        return not self.present and not self.owed

    def count(self, level: Level) -> int:
        """Return how many problems of this level there are."""
        return {Level.FAULT: self.faults, Level.WARNING: self.warnings, Level.NOTICE: self.notices}[level]


def publication_of(
    snapshot: Snapshot, previous: Snapshot | None = None, sealed: bytes = b"", record: Record | None = None
) -> Publication:
    """Return what the serving process needs of a snapshot that was built on the previous one."""
    levels = [problem.level for problem in snapshot.problems]
    return Publication(
        tenant=snapshot.tenant,
        present=snapshot.present,
        key_set=snapshot.key_set,
        vacant=snapshot.vacant,
        keys=len(snapshot.published),
        owed=len(snapshot.owed),
        problems=_first(snapshot.problems),
        faults=levels.count(Level.FAULT),
        warnings=levels.count(Level.WARNING),
        notices=levels.count(Level.NOTICE),
        faulty=_faulty(snapshot.files),
        folder_fault=any(_is_of_folder(problem) for problem in snapshot.problems),
        next_change=snapshot.next_change,
        look_again=snapshot.look_again,
        sealed=sealed,
        record=record,
        change=_change(snapshot, previous),
    )


def _first(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the first MOST_NAMED problems, their texts cut where they are very long."""
    return tuple(replace(problem, text=problem.text[:MOST_TEXT]) for problem in islice(problems, MOST_NAMED))


def _faulty(files: Iterable[KeyFile]) -> bytes:
    faulty = [(file.name, file.stamp) for file in files if file.faults]
    return hashlib.blake2b(repr(faulty).encode(), digest_size=16).digest() if faulty else b""


def _is_of_folder(problem: Problem) -> bool:
    return problem.level is Level.FAULT and problem.file_name in {None, POLICY_FILE, REVOKED_FILE}


def _change(snapshot: Snapshot, previous: Snapshot | None) -> Change:
    before = {key.kid for key in previous.published} if previous else set()
    after = {key.kid for key in snapshot.published}
    old = frozenset(previous.problems) if previous else frozenset[Problem]()
    added, removed = sorted(after - before), sorted(before - after)
    come = [problem for problem in snapshot.problems if problem not in old]
    gone = sorted(old - frozenset(snapshot.problems), key=lambda problem: (problem.file_name or "", problem.text))
    return Change(
        added=tuple(added[:MOST_NAMED]),
        removed=tuple(removed[:MOST_NAMED]),
        come=_first(come),
        gone=_first(gone),
        more=sum(max(0, len(items) - MOST_NAMED) for items in (added, removed, come, gone)),
    )
