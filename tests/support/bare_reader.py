"""A reader process on a machine that has neither Landlock nor libseccomp."""

import errno

import landlockpy

from jwks_server.reading import child, seccomp


def _no_landlock() -> int:
    raise OSError(errno.ENOSYS, "Function not implemented")


def main() -> None:
    """Read jobs as the server's child."""
    landlockpy.abi_version = _no_landlock
    seccomp._LIBRARY = "libseccomp-that-there-is-not.so.2"  # noqa: SLF001 - what this machine has
    child.main()
