"""`revoke`: adds a key to its tenant's list of keys never to publish."""

import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

from jwks_server.core.errors import KeyFileError, ReaderError, SettingsError
from jwks_server.core.kid import thumbprint
from jwks_server.core.lifecycle import key_identity
from jwks_server.core.revoked import MAX_BYTES
from jwks_server.core.snapshot import Snapshot
from jwks_server.core.tenant import REVOKED_FILE, TenantName
from jwks_server.host import clock
from jwks_server.reading.apart import read_apart
from jwks_server.reading.jobs import LoadJob
from jwks_server.reading.source import Source
from jwks_server.reading.tree import open_folder, opened_root
from jwks_server.state.directory import recall_tenant


def revoke_key(source: Source, tenant: TenantName, kid: str, state_dir: Path | None, *, force: bool) -> int:
    """Append the key's id to the tenant's list, and its thumbprint, which revokes the key under any other id.

    Raise SettingsError where the id is not published now and `force` does not insist.
    """
    kid = kid.strip()
    if not kid or not kid.isprintable() or kid.startswith("#"):
        raise SettingsError(f"{kid!r} is no key id")
    folder = Path(source.root, tenant)
    if not folder.is_dir():
        raise SettingsError(f"no tenant {tenant} in {source.root}: there is no such folder")
    try:
        remembered = None if state_dir is None else recall_tenant(state_dir, tenant)
    except (OSError, KeyFileError) as error:
        raise SettingsError(f"state directory {state_dir} cannot be used: {error}") from error
    if remembered is not None:
        # The server publishes the keys that its record owes, even if this command was told of no grace: look there too.
        grace = max(source.defaults.removal_grace, remembered.policy.removal_grace)
        source = replace(source, defaults=replace(source.defaults, removal_grace=grace))
    names: list[str] = []
    try:
        names = _names(read_apart(source, LoadJob(tenant), remembered), kid)
    except ReaderError:
        if not force:
            raise
    if not names and not force:
        raise SettingsError(
            f"{tenant} publishes no {kid!r} ('jwks-server check' prints what it does); --force revokes it all the same"
        )
    _append(source.root, tenant, [f"# revoked {clock.now().wall:%Y-%m-%dT%H:%M:%SZ}", kid, *names])
    sys.stdout.write(f"revoked {kid} of {tenant}: it is in {folder / REVOKED_FILE}\n")
    return 0


def _names(snapshot: Snapshot, kid: str) -> list[str]:
    """Return the thumbprint (RFC 7638) of the key that is published under the id: it revokes all its certificates."""
    meant = {key.identity for key in snapshot.published if key.kid == kid}
    offered = [key for file in snapshot.files for key in file.keys] + [owed.key for owed in snapshot.owed]
    return sorted({thumbprint(key.public) for key in offered if key_identity(key) in meant})


def _append(root: str, tenant: TenantName, lines: list[str]) -> None:
    """Add lines in one write, so that the server never sees half of them, to a file that it may read.

    The folder may be a tenant's, and we root: nothing is followed, and nothing changed but a list that is the folder's.
    """
    where = f"{tenant}/{REVOKED_FILE}"
    try:
        with opened_root(root) as (root_descriptor, _):
            folder = open_folder(tenant, root_descriptor)
            try:
                descriptor = _open_list(folder, where, lines)
            finally:
                os.close(folder)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            data = ("\n" * torn + "\n".join(lines) + "\n").encode()
            if size + len(data) > MAX_BYTES:
                raise SettingsError(f"{where} would be larger than {MAX_BYTES >> 10} KiB: remove old lines")
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SettingsError(f"{where} cannot be written: {error.strerror}") from error


def _open_list(folder: int, where: str, lines: list[str]) -> int:
    """Open the list in an opened folder, or make it for the folder's owner; raise SettingsError where it is no such."""
    owner = os.fstat(folder).st_uid
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        _demand_list(os.stat(REVOKED_FILE, dir_fd=folder, follow_symlinks=False), owner, where, lines)
    except FileNotFoundError:
        descriptor = os.open(REVOKED_FILE, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        if os.geteuid() == 0:
            os.fchown(descriptor, owner, -1)
        os.fchmod(descriptor, 0o644)  # whatever the umask: no secret, and the server has to read it
        return descriptor
    descriptor = os.open(REVOKED_FILE, flags, dir_fd=folder)
    try:
        _demand_list(os.fstat(descriptor), owner, where, lines)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _demand_list(status: os.stat_result, owner: int, where: str, lines: list[str]) -> None:
    """Raise SettingsError for what a tenant could have put there to have something else written to."""
    if stat.S_ISLNK(status.st_mode):
        reason = "is a symbolic link, which is not followed"
    elif not stat.S_ISREG(status.st_mode):
        reason = "is no regular file"
    elif status.st_nlink != 1:
        reason = "has another name as well (a hard link)"
    elif status.st_uid not in {0, os.geteuid(), owner}:
        reason = f"belongs to uid {status.st_uid}, not to the owner of its folder"
    else:
        return
    raise SettingsError(f"{where} {reason}: put a file in its place, with the line {lines[1]!r}")
