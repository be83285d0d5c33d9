"""Reading one tenant's folder and building its snapshot: the slow part of every change.

The server has it done in reader processes, where it delays no answer; the commands do it in their own process.
"""

from dataclasses import dataclass, replace

from jwks_server.core.build import build
from jwks_server.core.errors import KeyFileError, SealedError
from jwks_server.core.publication import publication_of
from jwks_server.core.remembered import from_text, record_of
from jwks_server.core.sealed import seal, unseal
from jwks_server.core.snapshot import Level, Problem, Remembered, Snapshot
from jwks_server.host import clock
from jwks_server.reading.folder import Report, folder_of, is_linked
from jwks_server.reading.jobs import BUILD, FOLDER, Loaded, LoadJob, RootIdentity
from jwks_server.reading.source import Source
from jwks_server.reading.tree import opened_root


@dataclass(frozen=True, slots=True)
class TenantReading:
    """One tenant's new snapshot, the root that it was read below, and how its folder looked (see Loaded)."""

    snapshot: Snapshot
    root: RootIdentity
    signature: bytes | None
    device: int | None
    links: bool


def load(source: Source, job: LoadJob, report: Report = lambda _name, _stamp: None) -> Loaded:
    """Return what the tenant publishes; raise RootUnavailableError where the tree itself cannot be read."""
    now = clock.now()
    previous, lost = _previous(job)
    remembered = None
    if job.record is not None:
        try:
            remembered = from_text(job.record, now)
        except KeyFileError as error:
            lost += (Problem(Level.WARNING, f"what was remembered of the tenant is lost, for it was {error}"),)
    reading = read_tenant(source, job, previous, remembered, report)
    snapshot = replace(reading.snapshot, problems=(*reading.snapshot.problems, *lost))
    record = record_of(snapshot, previous, remembered, now)
    publication = publication_of(snapshot, previous, seal(snapshot), record)
    return Loaded(
        publication,
        reading.root,
        reading.signature,
        reading.device,
        reading.links,
        unfinished=snapshot.unfinished is not None,
    )


def _previous(job: LoadJob) -> tuple[Snapshot | None, tuple[Problem, ...]]:
    """Return the snapshot to build on; one that is no snapshot counts as none, loudly."""
    if job.previous is None:
        return None, ()
    try:
        return unseal(job.previous), ()
    except SealedError as error:
        return None, (Problem(Level.WARNING, f"what was known of the tenant is lost, for it was {error}"),)


def read_tenant(
    source: Source,
    job: LoadJob,
    previous: Snapshot | None = None,
    remembered: Remembered | None = None,
    report: Report = lambda _name, _stamp: None,
) -> TenantReading:
    """Return the tenant's snapshot, built on the previous one; raise RootUnavailableError as `load` does.

    `remembered` is what is known from before the start, `report` is told of the folder and of each file before they
    are read.
    """
    report(FOLDER, b"")
    with opened_root(source.root) as (root, identity):
        is_link = is_linked(job.tenant, root)
        folder, seen = folder_of(source, job, previous, root, report)
    report(BUILD, b"")
    snapshot = build(
        job.tenant,
        folder,
        previous,
        source.defaults,
        clock.now(),
        remembered=remembered,
        most_keys=source.limits.keys,
    )
    if folder.fault is not None:
        return TenantReading(snapshot, identity, None, job.device, links=is_link or (seen is not None and seen.links))
    if seen is None:
        return TenantReading(snapshot, identity, b"", None, links=False)
    return TenantReading(snapshot, identity, seen.signature, seen.device, links=is_link or seen.links)
