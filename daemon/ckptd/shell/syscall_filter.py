"""The system calls that a confined process may make, as a seccomp program; all others fail.

What is allowed is what Python, numpy and glibc or musl need to read files, compute, start threads and answer
through pipes that are open already. The list is closed: what a newer kernel adds does not widen it.

Sources: `linux/seccomp.h`, `linux/filter.h`, `linux/bpf_common.h`, `linux/audit.h`, `linux/sched.h`,
`asm-generic/fcntl.h`, `asm-generic/mman-common.h`, `asm-generic/ioctls.h`, `linux/prctl.h`; the numbers are
those of `asm/unistd_64.h` for x86_64 and of `asm-generic/unistd.h` for aarch64.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import Final

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# struct seccomp_data: nr, arch, instruction_pointer, args[6]; both machines are little-endian.
_NUMBER_AT: Final = 0
_ARCH_AT: Final = 4
_ARGUMENTS_AT: Final = 16

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_IF_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_ALLOW: Final = 0x7FFF0000  # SECCOMP_RET_ALLOW
_FAIL: Final = 0x00050000  # SECCOMP_RET_ERRNO, the errno in its low half
_KILL: Final = 0x80000000  # SECCOMP_RET_KILL_PROCESS; kernels before 4.14 end the thread alone

# From here on numbers are younger than this list, or of the x32 table (bit 30). libc takes ENOSYS for an
# older kernel and does without.
_YOUNGER: Final = 450

_ALLOWED: Final = {  # x86_64, aarch64; None: the machine does not have it
    "read": (0, 63),
    "readv": (19, 65),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "preadv2": (327, 286),
    "write": (1, 64),  # to what is open already; nothing can be opened for writing
    "writev": (20, 66),
    "close": (3, 57),
    "close_range": (436, 436),
    "lseek": (8, 62),
    "stat": (4, None),
    "lstat": (6, None),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "fadvise64": (221, 223),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "membarrier": (324, 283),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "set_tid_address": (218, 96),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getrandom": (318, 278),
    "getrlimit": (97, 163),
    "setrlimit": (160, 164),  # its own; the hard limits stay
    "getrusage": (98, 165),
    "times": (100, 153),
    "time": (201, None),
    "gettimeofday": (96, 169),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
}

_ABSENT: Final = {  # their arguments are behind a pointer; after ENOSYS libc falls back to what can be judged
    "clone3": (435, 435),
    "openat2": (437, 437),
}

_DEADLY: Final = {  # nothing that a scan runs asks for these: who does has taken the process over
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "bpf": (321, 280),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "mount": (165, 40),
    "pivot_root": (155, 41),
}

_WRITING: Final = 0o3 | 0o100 | 0o1000 | 0o20000000  # O_WRONLY | O_RDWR, O_CREAT, O_TRUNC, __O_TMPFILE
_PROT_EXEC: Final = 4
_CLONE_THREAD: Final = 0x00010000
_CLONE_NEW: Final = 0x7E020000  # every CLONE_NEW*
_FCNTLS: Final = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
_IOCTLS: Final = (0x5401, 0x5450, 0x5451, 0x541B)  # TCGETS, FIONCLEX, FIOCLEX, FIONREAD
_PRCTLS: Final = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA (malloc names its mappings)


@dataclass(frozen=True, slots=True)
class _Guarded:
    """A call that is allowed when the low half of one argument is as it must be."""

    numbers: tuple[int | None, int | None]
    argument: int
    only: tuple[int, ...] = ()  # it must be one of these, where there are any,
    without: int = 0  # have none of these bits,
    with_any: int = 0  # and one of these


def syscall_filter(machine: str, pid: int, *, may_map_code: bool) -> bytes | None:
    """The program, as an array of `struct sock_filter`.

    Args:
        machine: As `os.uname` tells it.
        pid: The process it is for: it may signal itself, as `abort` does, and nobody else.
        may_map_code: Let memory be made executable: libraries still to be loaded, generated code.

    Returns:
        None for a machine whose numbers are not known here.
    """
    if machine not in _AUDIT_ARCH:
        return None
    column = tuple(_AUDIT_ARCH).index(machine)
    code = 0 if may_map_code else _PROT_EXEC
    guarded = (
        _Guarded((2, None), 1, without=_WRITING),  # open
        _Guarded((257, 56), 2, without=_WRITING),  # openat
        _Guarded((9, 222), 2, without=code),  # mmap
        _Guarded((10, 226), 2, without=code),  # mprotect
        _Guarded((56, 220), 0, without=_CLONE_NEW, with_any=_CLONE_THREAD),  # clone
        _Guarded((72, 25), 1, only=_FCNTLS),  # fcntl
        _Guarded((16, 29), 1, only=_IOCTLS),  # ioctl
        _Guarded((157, 167), 0, only=_PRCTLS),  # prctl
        _Guarded((302, 261), 0, only=(0, pid)),  # prlimit64
        _Guarded((234, 131), 0, only=(pid,)),  # tgkill
    )
    lines = [
        _line(_LOAD, _ARCH_AT),
        _line(_IF_EQUAL, _AUDIT_ARCH[machine], yes=1),
        _line(_RETURN, _KILL),  # the numbers of another machine mean other calls
        _line(_LOAD, _NUMBER_AT),
    ]
    for numbers, answer in (
        (_ALLOWED.values(), _ALLOW),
        (_ABSENT.values(), _FAIL | errno.ENOSYS),
        (_DEADLY.values(), _KILL),
    ):
        for each in numbers:
            if (number := each[column]) is not None:
                lines += [_line(_IF_EQUAL, number, no=1), _line(_RETURN, answer)]
    for guard in guarded:
        if (number := guard.numbers[column]) is not None:
            checks = _checks(guard)
            lines += [_line(_IF_EQUAL, number, no=len(checks)), *checks]
    lines += [
        _line(_IF_AT_LEAST, _YOUNGER, no=1),
        _line(_RETURN, _FAIL | errno.ENOSYS),
        _line(_RETURN, _FAIL | errno.EPERM),
    ]
    return b"".join(lines)


def _checks(guard: _Guarded) -> list[bytes]:
    """What decides about a guarded call; ends with an answer whatever the argument is."""
    lines = [_line(_LOAD, _ARGUMENTS_AT + 8 * guard.argument)]
    refuse = _line(_RETURN, _FAIL | errno.EPERM)
    if guard.without:
        lines += [_line(_IF_ANY_BIT, guard.without, no=1), refuse]
    if guard.with_any:
        lines += [_line(_IF_ANY_BIT, guard.with_any, yes=1), refuse]
    for value in guard.only:
        lines += [_line(_IF_EQUAL, value, no=1), _line(_RETURN, _ALLOW)]
    return [*lines, refuse if guard.only else _line(_RETURN, _ALLOW)]


def _line(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """One `struct sock_filter`; `yes` and `no` are how many lines a condition skips."""
    return struct.pack("<HBBI", code, yes, no, value)
