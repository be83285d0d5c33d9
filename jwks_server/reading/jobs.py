"""What the server and its reader processes say to each other: jobs, answers, and the error of a reader that crashed.

This is all that the rest of the server knows of reading. Where keys and passwords lie, only the reader processes know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol, overload

from jwks_server.core.errors import ReaderError
from jwks_server.core.publication import Publication
from jwks_server.core.tenant import TenantName

FOLDER = "."
"""Stands for the folder itself among the names of its files, in a Place."""

BUILD = ".."
"""Stands for what is done with all files when they are read, in a Place: no file can have this name either."""

RootIdentity = tuple[int, int]
"""The (device, inode) of the tree's root."""


class Urgency(IntEnum):
    """Who waits for a job: somebody who changed a file or asks for a key set, or nobody in particular."""

    URGENT = 0
    ROUTINE = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reader process is: a file by its name and, once it was read, the stamp of its content; or a folder.

    At BUILD it has read all of them, and what crashes it there is no single file's fault.
    """

    name: str
    stamp: bytes = b""

    @property
    def file(self) -> str | None:
        """The name of the file, or None where it is at none."""
        return None if self.name in {FOLDER, BUILD} else self.name


@dataclass(frozen=True, slots=True)
class LoadJob:
    """Read and build one tenant; the answer is Loaded.

    `previous` is its last sealed snapshot, `record` what a state directory remembers of it from before the start,
    `device` the one its folder was on. `deadly` are the files at which a reader process crashed or hung, by name and
    stamp, with what to say of them; those without a stamp did so before they were read. With `afresh`, content that
    failed before is tried again.
    """

    tenant: TenantName
    previous: bytes | None = None
    record: bytes | None = None
    device: int | None = None
    deadly: Mapping[tuple[str, bytes], str] = field(default_factory=dict)
    afresh: bool = False


@dataclass(frozen=True, slots=True)
class SurveyJob:
    """Look at the folders of these tenants, in their order, for `seconds` and at least at one; the answer is Survey."""

    tenants: tuple[TenantName, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class ListingJob:
    """List the root of the tree; the answer is Listing."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a tenant publishes now, the root that it was read below, and how its folder looked.

    `signature` is None where the folder changed while it was read or just before: it has to be read again. `links` says
    that some of its files lie elsewhere, where no watch of the tree sees a change; `unfinished` that some are still to
    be read, in another turn.
    """

    publication: Publication
    root: RootIdentity
    signature: bytes | None
    device: int | None
    links: bool
    unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Survey:
    """The signatures of the first of a job's tenants, at least of one, below this root.

    A signature is empty where there is no folder, and None where it cannot be told yet. `seconds` is how long it took.
    """

    root: RootIdentity
    signatures: Mapping[TenantName, bytes | None]
    seconds: float


@dataclass(frozen=True, slots=True)
class Listing:
    """The tenants of the tree: its root, its tenants, and the names of folders that cannot be tenants.

    `folders` counts the folders that a watch must cover: the root, and the tenants' that are no links.
    """

    root: RootIdentity
    tenants: tuple[TenantName, ...]
    strangers: tuple[str, ...]
    folders: int


class ReaderCrashedError(ReaderError):
    """A reader process crashed or was ended during a job; `hung` says that it took too long.

    `place` is where it was, or None where it was at nothing known.
    """

    def __init__(self, text: str, place: Place | None, *, hung: bool = False) -> None:
        super().__init__(text)
        self.place = place
        self.hung = hung


class Readers(Protocol):
    """What does jobs: the pool of reader processes, or a test's stand-in.

    `run` raises RootUnavailableError where the tree cannot be read, ReaderCrashedError where a reader process did not
    survive the job, ReaderError for other failures of a reader process.
    """

    @overload
    async def run(self, job: LoadJob, urgency: Urgency) -> Loaded: ...
    @overload
    async def run(self, job: SurveyJob, urgency: Urgency) -> Survey: ...
    @overload
    async def run(self, job: ListingJob, urgency: Urgency) -> Listing: ...
    def promote(self, job: LoadJob) -> bool:
        """Move a job that still waits before the routine ones; False where it is being done already."""
        ...
