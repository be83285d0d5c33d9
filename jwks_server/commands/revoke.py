"""`revoke`: adds a key to its tenant's list of keys never to publish."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from jwks_server.core.errors import KeyFileError, SettingsError
from jwks_server.core.kid import thumbprint
from jwks_server.core.lifecycle import key_identity
from jwks_server.core.snapshot import Snapshot
from jwks_server.core.tenant import REVOKED_FILE, TenantName
from jwks_server.host import clock
from jwks_server.reading.jobs import LoadJob
from jwks_server.reading.load import read_tenant
from jwks_server.reading.source import Source
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
    snapshot = read_tenant(source, LoadJob(tenant), None, remembered).snapshot
    names = _names(snapshot, kid)
    if not names and not force:
        raise SettingsError(
            f"{tenant} publishes no {kid!r} ('jwks-server check' prints what it does); --force revokes it all the same"
        )
    _append(folder / REVOKED_FILE, [f"# revoked {clock.now().wall:%Y-%m-%dT%H:%M:%SZ}", kid, *names])
    sys.stdout.write(f"revoked {kid} of {tenant}: it is in {folder / REVOKED_FILE}\n")
    return 0


def _names(snapshot: Snapshot, kid: str) -> list[str]:
    """Return the thumbprint (RFC 7638) of the key that is published under the id: it revokes all its certificates."""
    meant = {key.identity for key in snapshot.published if key.kid == kid}
    offered = [key for file in snapshot.files for key in file.keys] + [owed.key for owed in snapshot.owed]
    return sorted({thumbprint(key.public) for key in offered if key_identity(key) in meant})


def _append(path: Path, lines: list[str]) -> None:
    """Add lines in one write, so that the server never sees half of them, to a file that it may read."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size == 0:
                os.fchmod(descriptor, 0o644)  # whatever the umask: no secret, and the server has to read it
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, ("\n" * torn + "\n".join(lines) + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from error
