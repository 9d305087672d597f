"""Takes from its own process all that a scan does not need: no writing, network, programs, children, signals.

Each layer holds by itself, and one that the kernel or a container does not offer is skipped: Landlock (from
Linux 5.13), a seccomp filter (x86_64 and aarch64), capabilities, `no_new_privs` and resource limits. None can
be taken off again. What is open already stays usable, as do threads; that is all a scan process needs. Only
output to a regular file fails too, by the limit of a file's size.

Sources: `linux/landlock.h`, `linux/seccomp.h`, `linux/capability.h`, `linux/prctl.h`, and `capabilities(7)`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

from ckptd.shell.syscall_filter import syscall_filter

if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[..., int]
    """Calls the function of the C library of that name; raises OSError where it returns -1."""

_PR_SET_SECCOMP: Final = 22
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_GET_NO_NEW_PRIVS: Final = 39
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_SYS_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_SECCOMP_MODE_FILTER: Final = 2
_SECCOMP_SET_MODE_FILTER: Final = 1
_TSYNC: Final = 1  # SECCOMP_FILTER_FLAG_TSYNC: all threads
_SPEC_ALLOW: Final = 4  # SECCOMP_FILTER_FLAG_SPEC_ALLOW: kernels before 5.16 slow filtered processes down

# The same numbers on every architecture.
_SYS_LANDLOCK_CREATE_RULESET: Final = 444
_SYS_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1
# LANDLOCK_ACCESS_FS_*: execute, write_file, remove_dir, remove_file and make_* of ABI 1; reading stays free.
_FILE_RIGHTS: Final = 0b1_1111_1111_0011
_FILE_RIGHTS_SINCE: Final = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # refer, truncate, ioctl_dev
_NETWORK_SINCE: Final = 4
_NETWORK_RIGHTS: Final = 0b11  # LANDLOCK_ACCESS_NET_BIND_TCP, _CONNECT_TCP
_SCOPES_SINCE: Final = 6
_SCOPES: Final = 0b11  # LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, _SIGNAL

_CAPABILITY_VERSION: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_CAPABILITIES: Final = 64
# What reads files of other users, best first. Containers often have the second alone; it would write as well,
# which Landlock, the filter and the file-size limit then stop.
_READING_CAPABILITIES: Final = {"CAP_DAC_READ_SEARCH": 1 << 2, "CAP_DAC_OVERRIDE": 1 << 1}


@dataclass(frozen=True, slots=True)
class Profile:
    """What a process may use once it is confined."""

    memory_bytes: int  # of address space, beyond what is mapped already
    open_files: int
    may_map_code: bool  # False: what is not loaded yet cannot be loaded any more

    @staticmethod
    def for_scans() -> Profile:
        """The scan processes': a few buffers and one thread more; what wants more is a hostile file."""
        return Profile(memory_bytes=512 << 20, open_files=256, may_map_code=False)

    @staticmethod
    def for_paddle_load(file_bytes: int) -> Profile:
        """For `paddle.load` of one file, in a process that has imported Paddle already."""
        return Profile(
            memory_bytes=(1 << 30) + 5 * file_bytes,  # it holds up to four copies at a time
            open_files=1024,
            may_map_code=True,  # it generates code, and loads libraries when they are used first
        )


@dataclass(frozen=True, slots=True)
class Confinement:
    """Which layers hold, or would."""

    landlock_abi: int  # 0: none; network from 4, signals and abstract sockets from 6
    seccomp: bool
    no_new_privileges: bool
    capabilities: tuple[str, ...]  # that are left, by name; a number where it is none that reads


def available(*, call: Call | None = None) -> Confinement:
    """What `confine` would reach on this machine; changes nothing.

    Args:
        call: Stands in for the C library.
    """
    call = call or _call
    permitted = _permitted(call)
    return Confinement(
        landlock_abi=_landlock_abi(call),
        seccomp=os.uname().machine in _SYS_SECCOMP and _takes_filters(call),
        no_new_privileges=_tried(call, "prctl", _PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) is not None,
        capabilities=_names(_kept(permitted)),
    )


def confine(profile: Profile, *, call: Call | None = None) -> Confinement:
    """Confine this process for the rest of its life; what the kernel does not offer is skipped.

    Landlock and capabilities are a thread's own, and reach the threads that it starts; the filter reaches
    those that run already, too. Load the modules and libraries that are needed first.

    Args:
        profile: The limits.
        call: Stands in for the C library.

    Returns:
        Which layers hold now.
    """
    call = call or _call
    _limit(resource.RLIMIT_AS, psutil.Process().memory_info().vms + profile.memory_bytes)
    _limit(resource.RLIMIT_NOFILE, profile.open_files)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    # No RLIMIT_NPROC: it counts all threads of the user, so it would fail by what other processes do.
    no_new_privileges = _tried(call, "prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) is not None
    capabilities = _drop_capabilities(call)
    landlock_abi = _restrict_files(call)
    seccomp = _filter_calls(call, may_map_code=profile.may_map_code)  # the last: it forbids the others
    return Confinement(landlock_abi, seccomp, no_new_privileges, capabilities)


def allow_cpu(seconds: int) -> None:
    """Let this process die by SIGXCPU once it has used so many seconds more, of all its threads together."""
    used = int(time.process_time()) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = used + seconds if hard == resource.RLIM_INFINITY else min(used + seconds, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _limit(which: int, value: int) -> None:
    """Set both limits, unless the hard one is lower already."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _permitted(call: Call) -> int:
    """The capabilities that this process has or can take, as bits."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    data = ctypes.create_string_buffer(24)  # two struct __user_cap_data_struct
    if _tried(call, "capget", header, data) is None:
        return 0
    _, low, _, _, high, _ = struct.unpack("=6I", data.raw[:24])
    return int(low | high << 32)


def _kept(permitted: int) -> int:
    """The one capability that reading needs, if it is there."""
    return next((bit for bit in _READING_CAPABILITIES.values() if permitted & bit), 0)


def _names(capabilities: int) -> tuple[str, ...]:
    names = {bit: name for name, bit in _READING_CAPABILITIES.items()}
    bits = (1 << number for number in range(_CAPABILITIES))
    return tuple(names.get(bit, str(bit.bit_length() - 1)) for bit in bits if capabilities & bit)


def _drop_capabilities(call: Call) -> tuple[str, ...]:
    """Give up all capabilities but the one for reading; the names of those that are left."""
    permitted = _permitted(call)
    if not permitted:
        return ()
    for number in range(_CAPABILITIES):
        if _tried(call, "prctl", _PR_CAPBSET_DROP, number, 0, 0, 0) is None:
            break  # the last one was the kernel's last, or it is not ours to drop
    _tried(call, "prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    kept = _kept(permitted)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    data = ctypes.create_string_buffer(struct.pack("=6I", kept, kept, 0, 0, 0, 0))
    return _names(permitted if _tried(call, "capset", header, data) is None else kept)


def _landlock_abi(call: Call) -> int:
    version = _LANDLOCK_CREATE_RULESET_VERSION
    return _tried(call, "syscall", _SYS_LANDLOCK_CREATE_RULESET, None, 0, version) or 0


def _restrict_files(call: Call) -> int:
    """Refuse through Landlock all it knows but reading; the ABI that it was done with, or 0."""
    abi = _landlock_abi(call)
    if not abi:
        return 0
    rights = _FILE_RIGHTS | sum(right for since, right in _FILE_RIGHTS_SINCE.items() if abi >= since)
    # struct landlock_ruleset_attr, which has grown with the ABI
    attributes = struct.pack("=Q", rights)
    attributes += struct.pack("=Q", _NETWORK_RIGHTS) if abi >= _NETWORK_SINCE else b""
    attributes += struct.pack("=Q", _SCOPES) if abi >= _SCOPES_SINCE else b""
    ruleset = _tried(
        call,
        "syscall",
        _SYS_LANDLOCK_CREATE_RULESET,
        ctypes.create_string_buffer(attributes),
        len(attributes),
        0,
    )
    if ruleset is None:
        return 0
    try:
        is_set = _tried(call, "syscall", _SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0) is not None
    finally:
        with suppress(OSError):
            os.close(ruleset)
    return abi if is_set else 0


def _takes_filters(call: Call) -> bool:
    """Whether the kernel knows seccomp filters: it then misses the one that it is not given."""
    try:
        call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, None, 0, 0)
    except OSError as error:
        return error.errno == errno.EFAULT
    return False


def _filter_calls(call: Call, *, may_map_code: bool) -> bool:
    machine = os.uname().machine
    program = syscall_filter(machine, os.getpid(), may_map_code=may_map_code)
    if program is None:
        return False
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and where they are
    filter_ = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    for flags in (_TSYNC | _SPEC_ALLOW, _TSYNC, 0):
        arguments = (_SYS_SECCOMP[machine], _SECCOMP_SET_MODE_FILTER, flags, filter_)
        if _tried(call, "syscall", *arguments) == 0:  # more than 0: a thread that cannot take it
            return True
    return _tried(call, "prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_, 0, 0) is not None


def _tried(call: Call, name: str, *arguments: object) -> int | None:
    """What the call returns; None where it fails."""
    try:
        return call(name, *arguments)
    except OSError:
        return None


def _call(name: str, *arguments: object) -> int:
    """Call a function of the C library; integers are passed as `long`, which `syscall` and `prctl` take."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.restype = (
        ctypes.c_int
    )  # what prctl, capget and capset return, and wide enough for these syscalls
    passed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(function(*passed))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result
