"""The system calls that a reader process may still make once it is set up: a list of what reading needs, no more.

libseccomp, which every machine with systemd has, knows their numbers on each architecture. What is not on the list
fails with ENOSYS, as on a kernel that does not have it, so that a newer C library falls back to what is.
"""

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_LIBRARY = "libseccomp.so.2"

_PLAIN = """
    read readv pread64 write writev close dup lseek _llseek getdents getdents64 poll ppoll
    stat lstat fstat newfstatat stat64 lstat64 fstat64 fstatat64 statx statfs fstatfs statfs64 fstatfs64
    access faccessat faccessat2 readlink readlinkat getcwd
    brk munmap mremap madvise membarrier futex futex_time64 set_robust_list rseq sched_yield sched_getaffinity
    rt_sigaction rt_sigprocmask rt_sigreturn sigreturn sigaltstack restart_syscall setitimer getitimer
    clock_gettime clock_gettime64 clock_getres clock_getres_time64 gettimeofday time times getrusage
    nanosleep clock_nanosleep clock_nanosleep_time64
    getpid gettid getppid getuid geteuid getgid getegid getuid32 geteuid32 getgid32 getegid32
    getrandom uname sysinfo exit exit_group
"""
"""No thread and no process: nothing that is read needs one. No socket, no signal to another, nothing that changes a
file's name, owner, mode or times."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PROT_EXEC = 4
_F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC = 1, 2, 3, 1030
_TCGETS, _FIOCLEX, _FIONCLEX = 0x5401, 0x5451, 0x5450

_EQUAL, _MASKED_EQUAL = 4, 7
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVS_ATTRIBUTE, _ALL_THREADS_ATTRIBUTE = 3, 4


class _Argument(ctypes.Structure):
    """libseccomp's `struct scmp_arg_cmp`: which argument, how it is compared, and with what."""

    _fields_ = (
        ("index", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def _bits_clear(index: int, bits: int) -> _Argument:
    return _Argument(index, _MASKED_EQUAL, bits, 0)


def _is(index: int, value: int) -> _Argument:
    return _Argument(index, _EQUAL, value, 0)


def _rules() -> Iterator[tuple[str, Sequence[_Argument]]]:
    for name in _PLAIN.split():
        yield name, ()
    yield "open", (_bits_clear(1, _WRITING),)
    yield "openat", (_bits_clear(2, _WRITING),)  # openat2 hides its flags in memory: it is not there
    for name in ("mmap", "mmap2", "mprotect"):
        yield name, (_bits_clear(2, _PROT_EXEC),)
    for command in (_F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC):  # F_SETOWN has the kernel send signals
        for name in ("fcntl", "fcntl64"):
            yield name, (_is(1, command),)
    for request in (_TCGETS, _FIOCLEX, _FIONCLEX):
        yield "ioctl", (_is(1, request),)
    yield "prlimit64", (_is(0, 0), _is(2, 0))  # to look at its own
    yield "tgkill", (_is(0, os.getpid()),)  # abort()


def allow_only_reading() -> None:
    """Leave this process the system calls of the list; raise OSError where library or kernel cannot do that."""
    library = _library()
    with _filter(library) as context:
        # seccomp_load would otherwise demand what is set already.
        _check(library.seccomp_attr_set(context, _NO_NEW_PRIVS_ATTRIBUTE, 0))
        _check(library.seccomp_attr_set(context, _ALL_THREADS_ATTRIBUTE, 1))
        for name, arguments in _rules():
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number < 0:  # this architecture does not have it
                continue
            array = (_Argument * len(arguments))(*arguments)
            _check(library.seccomp_rule_add_array(context, _ALLOW, number, len(arguments), array))
        _check(library.seccomp_load(context))


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(_LIBRARY)  # OSError where there is none
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Argument),
    ]  # fmt: skip
    return library


@contextmanager
def _filter(library: ctypes.CDLL) -> Iterator[int]:
    context: int | None = library.seccomp_init(_ERRNO | errno.ENOSYS)
    if context is None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    try:
        yield context
    finally:
        library.seccomp_release(context)


def _check(result: int) -> None:
    """Raise OSError where a call of libseccomp failed: it returns the error's number below zero."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
