"""A reader process that a key file took over, as far as the tests go: each load tries everything that it must not do.

It is run in the place of `jwks_server.reading.child`. An environment variable holds JSON: `write` names folders and
files, `read` files and folders, and `walls` which of the walls are put up: all of them, or one, to see what each is
good for. The job fails with a text that names the acts that were possible.
"""

import _thread
import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

from jwks_server.core.errors import ReaderError
from jwks_server.reading import child, sandbox, seccomp
from jwks_server.reading.child import answer
from jwks_server.reading.folder import Report
from jwks_server.reading.jobs import LoadJob
from jwks_server.reading.source import Source
from jwks_server.reading.wire import Job, encode_failure

MODULE = "support.captive_reader"
TARGETS = "CAPTIVE_READER"
POSSIBLE = "captive reader: possible:"

_DENIALS = {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EROFS}
_RAW = """
    ptrace process_vm_readv process_vm_writev pidfd_open pidfd_getfd kcmp memfd_create memfd_secret userfaultfd
    perf_event_open bpf io_uring_setup keyctl add_key mount umount2 unshare setns pivot_root chroot clone clone3 vfork
    execveat kexec_load init_module open_by_handle_at shmget msgget semget mq_open inotify_init1 fanotify_init
    timer_create prctl pkey_mprotect remap_file_pages splice openat2 setuid setgid sched_setaffinity kill tkill
    rt_sigqueueinfo setpriority landlock_restrict_self seccomp
""".split()  # noqa: SIM905
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_READ, _WRITE, _EXEC = 1, 2, 4

Act = Callable[[], object]


def _numbers() -> dict[str, int]:
    with suppress(OSError):
        library = ctypes.CDLL("libseccomp.so.2")
        return {name: library.seccomp_syscall_resolve_name(name.encode()) for name in _RAW}
    return {}


_NUMBERS = _numbers()


def possible(targets: dict[str, list[str]]) -> tuple[str, ...]:
    """Return what was possible, by name."""
    done: list[str] = []
    for name, act in _acts(targets):
        try:
            act()
        except OSError as error:
            is_hidden = error.errno == errno.ENOENT and name.startswith("look into the parent")  # ProtectProc=invisible
            if error.errno in _DENIALS or is_hidden:
                continue
            done.append(f"{name} ({errno.errorcode.get(error.errno or 0)})")
        except (ValueError, RuntimeError):  # how Python says that a limit or a thread is not to be had
            continue
        else:
            done.append(name)
    return tuple(done)


def _acts(targets: dict[str, list[str]]) -> Iterator[tuple[str, Act]]:
    parent = os.getppid()
    for name, number in _NUMBERS.items():
        if number >= 0:
            yield f"system call {name}", lambda name=name, number=number: _raw(name, number, parent)  # type: ignore[misc]
    for path in targets["read"]:
        yield f"read {path}", lambda path=path: _read(path)  # type: ignore[misc]
    for file in ("mem", "environ", "maps", "fd"):
        yield f"look into the parent: {file}", lambda file=file: _read(f"/proc/{parent}/{file}")  # type: ignore[misc]
    for path in targets["write"]:
        for what, act in _writes(Path(path)):
            yield f"{what} {path}", act
    for kind in ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"):
        yield f"socket {kind}", lambda kind=kind: socket.socket(getattr(socket, kind), socket.SOCK_DGRAM).close()  # type: ignore[misc]
    yield "socket pair", socket.socketpair
    yield "signal the parent", lambda: os.kill(parent, 0)
    yield "signal the group", lambda: os.killpg(os.getpgid(parent), 0)
    yield "signals from the kernel", lambda: fcntl.fcntl(0, fcntl.F_SETOWN, parent)
    yield "memory to write and execute", lambda: _map(_READ | _WRITE | _EXEC)
    yield "memory to execute", lambda: _protect(_map(_READ | _WRITE), _READ | _EXEC)
    yield "raise a limit", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    yield "a thread", lambda: _thread.start_new_thread(signal.pause, ())
    yield "a process", _fork
    yield "a program", _execute  # last: where it succeeds this process is no more


def _raw(name: str, number: int, parent: int) -> None:
    """Make a system call with arguments that harm nobody: it is possible where the kernel looked at them at all."""
    if name in {"clone", "clone3", "vfork"}:  # tried as a process
        raise PermissionError(errno.EPERM, name)
    of_parent = {"pidfd_open", "kill", "tkill", "process_vm_readv"}
    first = 16 if name == "ptrace" else 4 if name == "prctl" else parent if name in of_parent else -1
    second = parent if name == "ptrace" else 0
    if _LIBC.syscall(*map(ctypes.c_long, (number, first, second, 0, 0, 0, 0))) < 0:
        raise OSError(ctypes.get_errno(), name)


def _read(path: str) -> None:
    if os.path.isdir(path):
        os.listdir(path)
    else:
        os.close(os.open(path, os.O_RDONLY))


def _writes(target: Path) -> Iterator[tuple[str, Act]]:
    if target.is_dir():
        new = target / "captive"
        yield "create in", lambda: os.close(os.open(new, os.O_WRONLY | os.O_CREAT))
        yield "mkdir in", lambda: os.mkdir(new)
        yield "symlink in", lambda: os.symlink("x", new)
        yield "fifo in", lambda: os.mkfifo(new)
        yield "unnamed file in", lambda: os.close(os.open(target, os.O_WRONLY | os.O_TMPFILE))
    else:
        yield "write", lambda: os.close(os.open(target, os.O_WRONLY))
        yield "append", lambda: os.close(os.open(target, os.O_WRONLY | os.O_APPEND))
        yield "read and write", lambda: os.close(os.open(target, os.O_RDWR))
        yield "open to truncate", lambda: os.close(os.open(target, os.O_TRUNC))
        yield "truncate", lambda: os.truncate(target, 5)
        yield "link", lambda: os.link(target, f"{target}.captive")
        yield "attribute", lambda: os.setxattr(target, "user.captive", b"1")
        yield "rename", lambda: os.rename(target, f"{target}.renamed")
        yield "unlink", lambda: os.unlink(target)
    yield "chmod", lambda: os.chmod(target, 0o755)  # noqa: S103 - it must fail
    yield "chown", lambda: os.chown(target, os.getuid(), os.getgid())
    yield "utime", lambda: os.utime(target)


def _map(protection: int) -> int:
    address: int = _LIBC.mmap(None, ctypes.c_size_t(mmap.PAGESIZE), protection, 0x22, -1, ctypes.c_long(0))
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return address


def _protect(address: int, protection: int) -> None:
    if _LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), protection):
        raise OSError(ctypes.get_errno(), "mprotect")


def _execute() -> None:
    os.execv("/bin/true", ["true"])  # noqa: S606 - it must fail


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def captive_answer(source: Source, job: Job, report: Report) -> bytes:
    """Try everything where a tenant is read, and answer with what was possible."""
    if not isinstance(job, LoadJob):
        return answer(source, job, report)
    return encode_failure(
        ReaderError(f"{POSSIBLE} {'; '.join(possible(json.loads(os.environ[TARGETS]))) or 'nothing'}")
    )


def _confine(root: str, closed: Collection[str]) -> Collection[str]:
    walls = json.loads(os.environ[TARGETS]).get("walls", "all")
    if walls == "none":
        return ()
    if walls == "landlock":
        seccomp.allow_only_reading = lambda: None
    if walls == "seccomp":
        sandbox.restrict_files = lambda root, closed: iter((root, *closed)[:0])
    return sandbox.confine(root, closed)


def main() -> None:
    """Read jobs as the server's child."""
    child.main(captive_answer, confine=_confine)
