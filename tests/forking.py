"""Work in a forked child: with mounts of its own that vanish with it, or up to the call at which it dies."""

from __future__ import annotations

import ctypes
import os
import traceback

from ckptd.shell import durable

CRASHED = 137
_FAILED = 1
_CHANGES = ("fsync", "mkdir", "rename", "rmdir", "symlink", "unlink", "write")
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000  # linux/sched.h
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18  # linux/mount.h

_libc = ctypes.CDLL(None, use_errno=True)


def run_forked(work):
    """Run a function in a child and return its exit code; its failure is shown."""
    child = os.fork()
    if child == 0:
        code = _FAILED
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the parent must not run twice
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_in_own_mounts(work):
    """Run a function that may mount things; root needs nothing for it, others a user namespace."""

    def isolated():
        user, group = os.getuid(), os.getgid()
        _check(_libc.unshare(_NEW_MOUNTS | (0 if user == 0 else _NEW_USER)))
        if user != 0:
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"0 {user} 1"),
                ("gid_map", f"0 {group} 1"),
            ):
                with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                    file.write(text)
        _mount("none", "/", None, _RECURSIVE | _PRIVATE)
        work()

    assert run_forked(isolated) == 0


def mount_tmpfs(path, options=""):
    """Mount an empty filesystem."""
    _mount("tmpfs", path, "tmpfs", 0, options)


def mount_bind(source, path):
    """Make a file or directory appear at another place."""
    _mount(source, path, None, _BIND)


def make_read_only(path):
    """Let nothing below a mount point be written any more."""
    _mount("none", path, None, _REMOUNT | _READ_ONLY)


def run_until_crash(work, number):
    """Run a function that dies before (number even) or after (odd) one of its changes to the disk.

    Returns:
        Whether it died; else it was done before that many changes.
    """

    def doomed():
        left = [number]
        for name in _CHANGES:
            setattr(os, name, _deadly(getattr(os, name), left))
        durable._renameat2 = _deadly(durable._renameat2, left)
        work()

    code = run_forked(doomed)
    assert code in {0, CRASHED}
    return code == CRASHED


def _deadly(call, left):
    def counted(*args, **kwargs):
        if left[0] == 0:
            os._exit(CRASHED)
        result = call(*args, **kwargs)
        if left[0] == 1:
            os._exit(CRASHED)
        left[0] -= 2
        return result

    return counted


def _mount(source, target, kind, flags, options=""):
    _check(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            None if kind is None else kind.encode(),
            ctypes.c_ulong(flags),
            options.encode(),
        )
    )


def _check(result):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
