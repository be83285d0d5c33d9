"""What a tenant publishes and what is said of it; the snapshot behind it is carried along unread.

A snapshot grows with a tenant's files, and only the next build needs it. So the serving process keeps it as the bytes
that a reader process made of it, and hands those to the next reader.
"""

import copyreg
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any, ClassVar

from jwks_server.core.jwk import Key, PublicKey
from jwks_server.core.keyset import KeySet, PublishedKey
from jwks_server.core.kid import Scheme
from jwks_server.core.lifecycle import KeyFile, NextChange, Owed
from jwks_server.core.policy import OutOfValidity, Policy
from jwks_server.core.snapshot import Level, Problem, Settled, Snapshot
from jwks_server.core.tenant import TenantName


def _by_value(member: Enum) -> tuple[Any, ...]:
    return type(member), (member.value,)


for _kind in (Level, OutOfValidity, Scheme):
    copyreg.pickle(_kind, _by_value)  # Python before 3.11.4 would make it a call of getattr

Types = Mapping[tuple[str, str], type]
"""Types by their module and name."""


def types_by_name(*types: type) -> Types:
    """Return the types for DataAlone."""
    return {(kind.__module__, kind.__qualname__): kind for kind in types}


SNAPSHOT_TYPES = types_by_name(
    Snapshot, KeyFile, Key, PublicKey, Owed, PublishedKey, Settled, Policy, OutOfValidity, Scheme,
    KeySet, Problem, Level, NextChange, datetime, timedelta, timezone,
)  # fmt: skip
"""What a snapshot consists of."""


class DataAlone(pickle.Unpickler):
    """Makes values of the given types and of no others, so that what a reader process says can be data and no more."""

    types: ClassVar[Types] = SNAPSHOT_TYPES

    def find_class(self, module: str, name: str) -> type:
        """Return the type; raise UnpicklingError for any other name."""
        try:
            return self.types[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{f'{module}.{name}'[:80]} is no type of data") from None


class Sealed:
    """A snapshot that crosses between processes as bytes, without its key set, and is not read on the way."""

    __slots__ = ("_content",)

    def __init__(self, content: Snapshot | bytes) -> None:
        self._content = content

    def open(self) -> Snapshot:
        """Return the snapshot; only the process that built it has its key set, too."""
        if isinstance(self._content, Snapshot):
            return self._content
        snapshot: Snapshot = DataAlone(io.BytesIO(self._content)).load()
        return snapshot

    def __reduce__(self) -> tuple[Any, ...]:
        content = self._content
        if isinstance(content, Snapshot):
            # The finished set is the largest part of a snapshot, and the next build does not look at it.
            content = pickle.dumps(replace(content, key_set=None), protocol=pickle.HIGHEST_PROTOCOL)
        return Sealed, (content,)


@dataclass(frozen=True, slots=True)
class Publication:
    """What is served of a tenant, said of it and due for it, and its sealed snapshot.

    `key_set` is None where there is nothing that could honestly be answered. `kids` are the ids in it, `owed` counts
    keys that no file gives any longer, `faulty` are the files that give only what they last gave, by name and stamp.
    `is_remembered` says that its keys have to outlive the process. For the two times see Snapshot.
    """

    tenant: TenantName
    present: bool
    key_set: KeySet | None
    kids: tuple[str, ...]
    owed: int
    problems: tuple[Problem, ...]
    faulty: frozenset[tuple[str, bytes]]
    is_remembered: bool
    next_change: NextChange
    look_again: NextChange
    sealed: Sealed

    @property
    def gone(self) -> bool:
        """Tell whether the tenant has neither a folder nor a key that is still owed."""
        return not self.present and not self.owed


def publication_of(snapshot: Snapshot) -> Publication:
    """Return what the serving process needs of a snapshot."""
    return Publication(
        tenant=snapshot.tenant,
        present=snapshot.present,
        key_set=snapshot.key_set,
        kids=tuple(key.kid for key in snapshot.published),
        owed=len(snapshot.owed),
        problems=snapshot.problems,
        faulty=frozenset((file.name, file.stamp) for file in snapshot.files if file.faults),
        is_remembered=snapshot.policy.value.removal_grace > 0 and not snapshot.gone,
        next_change=snapshot.next_change,
        look_again=snapshot.look_again,
        sealed=Sealed(snapshot),
    )
