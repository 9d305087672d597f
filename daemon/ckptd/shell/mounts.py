"""Says which filesystem a path lies on, from `/proc/self/mountinfo` (format: proc(5))."""

from __future__ import annotations

import os
import re

_NETWORK_TYPES = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "glusterfs",
        "gpfs",
        "lustre",
        "virtiofs",
    }
)
_OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")


def filesystem_type(path: str) -> str:
    """The type of the filesystem that holds the path, such as `ext4`; empty if it cannot be told."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            mounts = [_mount(line) for line in table]
    except OSError:
        return ""
    real = os.path.realpath(path)
    # The last mount on a point hides the earlier ones, and sorting is stable.
    holding = [mount for mount in mounts if _holds(mount[0], real)]
    return max(enumerate(holding), key=lambda one: (len(one[1][0]), one[0]))[1][1] if holding else ""


def is_remote(path: str) -> bool:
    """Whether other hosts may change the path without this kernel noticing."""
    kind = filesystem_type(path)
    return kind in _NETWORK_TYPES or kind.startswith("fuse.")


def _mount(line: str) -> tuple[str, str]:
    fields = line.split(" ")
    point = _OCTAL_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
    return point, fields[fields.index("-") + 1]


def _holds(point: str, path: str) -> bool:
    return point in {"/", path} or path.startswith(f"{point}/")
