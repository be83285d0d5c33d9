"""How jobs and answers cross the border between the server and its reader processes.

A reader process handles bytes that strangers made, and may have fallen to them. So the server takes of its answer
values of the types below and nothing else; it checks every length and total, pairs the answer with the job that it
gave, looks once more at the names of all published members, and computes the ETag itself.
"""

import math
from collections.abc import Collection
from dataclasses import replace

import msgspec

from jwks_server.core.errors import KeySetError, ReaderError, RootUnavailableError, TenantNameError
from jwks_server.core.keyset import KeySet, etag_of
from jwks_server.core.members import count_public_keys
from jwks_server.core.publication import Record
from jwks_server.core.tenant import TenantName, tenant_name, tenant_names
from jwks_server.core.text import readable
from jwks_server.reading.frames import (
    Blobs,
    BugHeader,
    FailedHeader,
    GarbledError,
    ListingHeader,
    ListingJobHeader,
    LoadedHeader,
    LoadJobHeader,
    ReadyHeader,
    SetupHeader,
    SurveyHeader,
    SurveyJobHeader,
    frame_of,
    opened,
)
from jwks_server.reading.jobs import Listing, ListingJob, Loaded, LoadJob, Survey, SurveyJob
from jwks_server.reading.passwords import NOTHING, HandedPasswords, Outside
from jwks_server.reading.source import Source

_MOST_HEADER_BYTES = 1 << 20
_MOST_STRANGERS = 1000
_MOST_TEXT = 4096
_MOST_TRACEBACK = 65_536


Job = LoadJob | SurveyJob | ListingJob
Answer = Loaded | Survey | Listing


class ReaderBugError(Exception):
    """A reader process met a failure that nobody thought of; the text is its traceback."""


_JOBS = msgspec.json.Decoder(LoadJobHeader | SurveyJobHeader | ListingJobHeader)
_READY = msgspec.json.Decoder(ReadyHeader)
_SETUP = msgspec.json.Decoder(SetupHeader)
_ANSWERS = msgspec.json.Decoder(LoadedHeader | SurveyHeader | ListingHeader | FailedHeader | BugHeader)


# --- from the server


def encode_setup(source: Source, file_seconds: float) -> bytes:
    """Return the frame that a reader process is sent once, before any job."""
    header = SetupHeader(
        root=source.root,
        defaults=source.defaults,
        exact_times=source.exact_times,
        closed=source.closed,
        limits=source.limits,
        stamp_key=source.stamp_key,
        file_seconds=file_seconds,
    )
    return frame_of(header)


def decode_setup(frame: bytes) -> tuple[Source, float]:
    """Return where keys come from, without their passwords, and how many seconds a file may take."""
    setup, blobs = opened(frame, _SETUP, len(frame))
    blobs.end()
    source = Source(
        setup.root,
        NOTHING,
        setup.defaults,
        setup.exact_times,
        limits=setup.limits,
        closed=setup.closed,
        stamp_key=setup.stamp_key,
    )
    return source, setup.file_seconds


def encode_job(job: Job, passwords: HandedPasswords = NOTHING) -> bytes:
    """Return the frame of the job and of the passwords that are handed over with it."""
    match job:
        case LoadJob():
            given = passwords.given
            header = LoadJobHeader(
                tenant=job.tenant,
                previous_bytes=None if job.previous is None else len(job.previous),
                record_bytes=None if job.record is None else len(job.record),
                device=job.device,
                deadly=tuple((name, stamp, text) for (name, stamp), text in job.deadly.items()),
                afresh=job.afresh,
                password_mark=given.mark,
                password_name=given.name,
                password_bytes=None if given.value is None else len(given.value),
                password_fault=given.fault,
            )
            return frame_of(header, job.previous or b"", job.record or b"", given.value or b"")
        case SurveyJob():
            marks = tuple(map(passwords.mark, job.tenants)) if passwords.marks else ()
            return frame_of(SurveyJobHeader(job.tenants, marks, job.seconds))
        case _:
            return frame_of(ListingJobHeader())


def decode_job(frame: bytes) -> tuple[Job, HandedPasswords]:
    """Return the job in a frame, and the passwords that it is handed."""
    header, blobs = opened(frame, _JOBS, len(frame))
    match header:
        case LoadJobHeader():
            previous = None if header.previous_bytes is None else blobs.take(header.previous_bytes)
            record = None if header.record_bytes is None else blobs.take(header.record_bytes)
            deadly = {(name, stamp): text for name, stamp, text in header.deadly}
            password = None if header.password_bytes is None else blobs.take(header.password_bytes)
            given = Outside(header.password_mark, header.password_name, password, header.password_fault)
            job = LoadJob(tenant_name(header.tenant), previous, record, header.device, deadly, header.afresh)
            return job, HandedPasswords(given)
        case SurveyJobHeader():
            tenants = tuple(map(tenant_name, header.tenants))
            return SurveyJob(tenants, header.seconds), HandedPasswords(
                marks=dict(zip(tenants, header.marks, strict=False))
            )
        case _:
            return ListingJob(), NOTHING


# --- from a reader process


def encode_ready(missing: Collection[str]) -> bytes:
    """Return the frame that says that a reader process can take jobs, and what it could not do to confine itself."""
    return frame_of(ReadyHeader(tuple(readable(text)[:_MOST_TEXT] for text in missing)))


def decode_ready(frame: bytes) -> tuple[str, ...]:
    """Return what a reader process that is ready lacks; raise GarbledError where the frame says something else."""
    ready, blobs = opened(frame, _READY, _MOST_HEADER_BYTES)
    blobs.end()
    return ready.missing


def encode_answer(answer: Answer) -> bytes:
    """Return the answer's frame."""
    match answer:
        case Loaded():
            return _encode_loaded(answer)
        case Survey():
            return frame_of(SurveyHeader(answer.root, tuple(answer.signatures.values()), answer.seconds))
        case _:
            tenants = "\n".join(answer.tenants).encode("ascii")
            strangers = tuple(name[:_MOST_TEXT] for name in answer.strangers[:_MOST_STRANGERS])
            return frame_of(ListingHeader(answer.root, answer.folders, len(tenants), strangers), tenants)


def encode_failure(error: RootUnavailableError | ReaderError) -> bytes:
    """Return the frame that says that a job could not be done."""
    return frame_of(FailedHeader(isinstance(error, RootUnavailableError), readable(str(error))[:_MOST_TEXT]))


def encode_bug(traceback: str) -> bytes:
    """Return the frame that says that a job met a failure which nobody thought of."""
    return frame_of(BugHeader(readable(traceback)[-_MOST_TRACEBACK:]))


def decode_answer(frame: bytes, job: Job) -> Answer:
    """Return the answer to this job; raise GarbledError where the frame is none.

    Raise what the reader process says instead of an answer: RootUnavailableError, ReaderError, ReaderBugError.
    """
    header, blobs = opened(frame, _ANSWERS, _MOST_HEADER_BYTES)
    match header, job:
        case LoadedHeader(), LoadJob():
            answer: Answer = _decode_loaded(header, blobs, job.tenant)
        case SurveyHeader(), SurveyJob():
            answer = _decode_survey(header, job)
        case ListingHeader(), ListingJob():
            answer = Listing(header.root, _names(blobs.take(header.tenants_bytes)), header.strangers, header.folders)
        case FailedHeader(), _:
            raise RootUnavailableError(header.text) if header.root else ReaderError(header.text)
        case BugHeader(), _:
            raise ReaderBugError(header.traceback)
        case _:
            raise GarbledError(f"a {type(header).__name__.strip('_')} is no answer to a {type(job).__name__}")
    blobs.end()
    return answer


def _encode_loaded(loaded: Loaded) -> bytes:
    publication = loaded.publication
    key_set, record = publication.key_set, publication.record
    header = LoadedHeader(
        root=loaded.root,
        signature=loaded.signature,
        device=loaded.device,
        links=loaded.links,
        unfinished=loaded.unfinished,
        publication=replace(publication, key_set=None, sealed=b"", record=None),
        body_bytes=None if key_set is None else len(key_set.body),
        max_age=0 if key_set is None else key_set.max_age,
        stale_if_error=0 if key_set is None else key_set.stale_if_error,
        sealed_bytes=len(publication.sealed),
        record_bytes=None if record is None else len(record.text),
        record_digest=b"" if record is None else record.digest,
        record_adds_keys=record is not None and record.adds_keys,
    )
    blobs = key_set.body if key_set else b"", publication.sealed, record.text if record else b""
    return frame_of(header, *blobs)


def _decode_loaded(header: LoadedHeader, blobs: Blobs, tenant: TenantName) -> Loaded:
    key_set, keys = None, 0
    if header.body_bytes is not None:
        body = blobs.take(header.body_bytes)
        try:
            keys = count_public_keys(body)
        except KeySetError as error:
            raise GarbledError(str(error)) from error
        key_set = KeySet(body, etag_of(body), header.max_age, header.stale_if_error)
    sealed = blobs.take(header.sealed_bytes)
    record = None
    if header.record_bytes is not None:
        record = Record(blobs.take(header.record_bytes), header.record_digest, header.record_adds_keys)
    publication = header.publication
    counts = publication.owed, publication.faults, publication.warnings, publication.notices, publication.change.more
    if min(counts) < 0:
        raise GarbledError("a publication with a number that there is not")
    publication = replace(publication, tenant=tenant, key_set=key_set, keys=keys, sealed=sealed, record=record)
    return Loaded(publication, header.root, header.signature, header.device, header.links, unfinished=header.unfinished)


def _decode_survey(header: SurveyHeader, job: SurveyJob) -> Survey:
    if not 0 < len(header.signatures) <= len(job.tenants):
        raise GarbledError("a survey of other tenants than were asked for")
    if not math.isfinite(header.seconds) or header.seconds < 0:
        raise GarbledError("a survey that took no time that there is")
    return Survey(header.root, dict(zip(job.tenants, header.signatures, strict=False)), header.seconds)


def _names(blob: bytes) -> tuple[TenantName, ...]:
    try:
        return tenant_names(blob.decode("ascii"))
    except (UnicodeDecodeError, TenantNameError) as error:
        raise GarbledError("a listing of names that are no tenant's") from error
