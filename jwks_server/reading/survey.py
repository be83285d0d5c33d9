"""Looking at the tree without reading a file: which tenants there are, and whether their folders are as they were.

A tree of many tenants is looked over in slices. No changed file waits longer for its reader than one of them takes.
"""

import errno
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jwks_server.core.tenant import TenantName
from jwks_server.reading.source import Source
from jwks_server.reading.tree import open_folder, opened_root, view

SLICE_SECONDS = 0.003


@dataclass(frozen=True, slots=True)
class ListingJob:
    """List the root of a tree; the answer is a Listing."""

    source: Source


@dataclass(frozen=True, slots=True)
class SurveyJob:
    """Look at the folders of these tenants, in their order, for as long as a slice; the answer is a Survey."""

    source: Source
    tenants: tuple[TenantName, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """The signatures of the first of a job's tenants, at least of one, below the root with this (device, inode).

    A signature is empty where there is no folder, and None where it cannot be told yet. `seconds` is how long it took.
    """

    root: tuple[int, int]
    signatures: Mapping[TenantName, bytes | None]
    seconds: float


def survey(job: SurveyJob, looking: Callable[[TenantName], None] = lambda _tenant: None) -> Survey:
    """Return the signatures; raise RootUnavailableError where the tree cannot be opened.

    `looking` is told of each tenant before its folder is looked at.
    """
    started = time.monotonic()
    signatures: dict[TenantName, bytes | None] = {}
    with opened_root(job.source.root) as (root, identity):
        for tenant in job.tenants:
            looking(tenant)
            signatures[tenant] = _signature(job.source, tenant, root)
            if time.monotonic() - started > SLICE_SECONDS:
                break
    return Survey(identity, signatures, time.monotonic() - started)


def _signature(source: Source, tenant: TenantName, root: int) -> bytes | None:
    try:
        descriptor = open_folder(tenant, root)
    except OSError as error:
        return b"" if error.errno in {errno.ENOENT, errno.ENOTDIR} else None
    try:
        return view(descriptor, source.passwords.facts(tenant), exact_times=source.exact_times).signature
    except OSError:
        return None
    finally:
        os.close(descriptor)
