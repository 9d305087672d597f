from __future__ import annotations

import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.shell.syscall_filter import syscall_filter

PID = 4711
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, ABSENT = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OPENAT = {"x86_64": 257, "aarch64": 56}
machines = st.sampled_from(sorted(ARCHES))
flags = st.sets(st.integers(0, 31)).map(lambda bits: sum(1 << bit for bit in bits))


def answer(machine, number, *arguments, arch=None, may_map_code=False):
    """What the kernel would do with a call: a run of the program by the rules of `linux/filter.h`."""
    program = syscall_filter(machine, PID, may_map_code=may_map_code)
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number, ARCHES[machine] if arch is None else arch, 0, *padded)
    lines = list(struct.iter_unpack("<HBBI", program))
    value = at = 0
    while True:
        code, yes, no, operand = lines[at]
        if code == 0x06:
            return operand
        if code == 0x20:
            value = int.from_bytes(data[operand : operand + 4], "little")
            at += 1
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
            at += 1 + (yes if holds else no)


@given(machines, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_filter_kills_who_speaks_for_another_machine(machine, number, arch):
    """A number means another call on another machine, so none of those is looked at."""
    if arch != ARCHES[machine]:
        assert KILL == answer(machine, number, arch=arch)


@given(machines, st.integers(450, 2**32 - 1))
def test_filter_knows_no_call_that_is_younger_than_it(machine, number):
    """What later kernels add, and the x32 table, is not there for a confined process."""
    assert ABSENT == answer(machine, number)


@given(machines, flags)
def test_filter_opens_only_for_reading(machine, flags):
    """Whatever else the flags say: no write access, no creation, no truncation."""
    writes = flags & (os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | 0o20000000)
    assert (REFUSE if writes else ALLOW) == answer(machine, OPENAT[machine], 0, 0, flags)


@pytest.mark.parametrize(
    ("machine", "number", "arguments", "expected"),
    [
        ("x86_64", 0, (), ALLOW),  # read
        ("aarch64", 63, (), ALLOW),
        ("x86_64", 41, (), REFUSE),  # socket
        ("aarch64", 198, (), REFUSE),
        ("x86_64", 87, (), REFUSE),  # unlink
        ("aarch64", 35, (), REFUSE),  # unlinkat
        ("x86_64", 59, (), KILL),  # execve
        ("aarch64", 221, (), KILL),
        ("x86_64", 101, (), KILL),  # ptrace
        ("aarch64", 117, (), KILL),
        ("x86_64", 56, (0x3D0F00,), ALLOW),  # clone: glibc's flags for a thread
        ("aarch64", 220, (0x3D0F00,), ALLOW),
        ("x86_64", 56, (0x1200011,), REFUSE),  # for a child
        ("aarch64", 220, (0x1200011,), REFUSE),
        ("x86_64", 56, (0x10010000 | 0x100,), REFUSE),  # for a thread in a user namespace
        ("x86_64", 57, (), REFUSE),  # fork
        ("x86_64", 58, (), REFUSE),  # vfork
        ("x86_64", 435, (), ABSENT),  # clone3
        ("aarch64", 435, (), ABSENT),
        ("x86_64", 437, (), ABSENT),  # openat2
        ("x86_64", 9, (0, 4096, 3), ALLOW),  # mmap, readable and writable
        ("x86_64", 9, (0, 4096, 5), REFUSE),  # mmap, executable
        ("aarch64", 226, (0, 4096, 7), REFUSE),  # mprotect, executable
        ("x86_64", 62, (PID, 9), REFUSE),  # kill
        ("x86_64", 234, (PID, PID, 6), ALLOW),  # tgkill of its own thread
        ("x86_64", 234, (1, 1, 9), REFUSE),
        ("x86_64", 302, (0, 0), ALLOW),  # prlimit64 of its own
        ("x86_64", 302, (1, 0), REFUSE),
        ("x86_64", 157, (15,), ALLOW),  # prctl, PR_SET_NAME
        ("x86_64", 157, (1, 0), REFUSE),  # PR_SET_PDEATHSIG
        ("x86_64", 16, (0, 0x5412), REFUSE),  # ioctl, TIOCSTI
        ("x86_64", 425, (), REFUSE),  # io_uring_setup
    ],
)
def test_filter_answers(machine, number, arguments, expected):
    """Each kind of rule gives its answer, on both machines."""
    assert expected == answer(machine, number, *arguments)


@pytest.mark.parametrize("number", [9, 10])
def test_filter_may_let_code_be_mapped(number):
    """A process that still loads libraries keeps that, and that alone, beyond what a scan may do."""
    assert ALLOW == answer("x86_64", number, 0, 4096, 5, may_map_code=True)


def test_filter_is_not_made_for_unknown_machines():
    """Without the numbers of a machine there is no filter rather than a wrong one."""
    assert syscall_filter("riscv64", PID, may_map_code=False) is None
