"""Limits, mounts and permissions of one server's own: nothing that another test or program would notice.

They need no privilege where the kernel lets everybody make user namespaces. Where it does not, tests skip and say so.
"""

import os
import subprocess

import pytest

Launcher = tuple[str, ...]

_OWN_USER = ("unshare", "--user", "--map-root-user")


def with_limit(name: str, value: int) -> Launcher:
    """Return a launcher under which one of /proc/sys/user's limits is lower."""
    script = f'echo {value} > /proc/sys/user/{name}; exec "$@"'
    return _allowed(*_OWN_USER, "sh", "-c", script, "sh")


def with_mounts(script: str = "") -> Launcher:
    """Return a launcher with mounts of its own, made by a script."""
    return _allowed(*_OWN_USER, "--mount", "sh", "-ec", f'{script}\nexec "$@"', "sh")


def without_override() -> Launcher:
    """Return a launcher under which file modes count for root as they do for everybody."""
    if os.geteuid() != 0:
        return ()
    dropped = "-dac_override,-dac_read_search"
    return _allowed("setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", "--")


def inside(pid: int, script: str) -> None:
    """Run a script where a process that was started by one of these launchers is."""
    entry = ("nsenter", "--target", str(pid), "--user", "--mount", "--preserve-credentials")
    subprocess.run([*entry, "sh", "-ec", script], check=True)


def _allowed(*launcher: str) -> Launcher:
    """Return the launcher, or skip the test where this machine does not allow it."""
    result = subprocess.run([*launcher, "true"], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip(f"{launcher[0]} is not allowed here: {result.stderr.strip()}")
    return launcher
