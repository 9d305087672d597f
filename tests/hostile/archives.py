"""Tar archives that unpack to where they should not, or that hold what nobody should load."""

from __future__ import annotations

import gzip
import io
import tarfile

from hostile.framing import EVIL, HEALTHY, PRINTABLE
from hostile.rows import Hostile

BLOCK = 512


def tarred(*members, form=tarfile.USTAR_FORMAT):
    """A tar of members: a name, bytes, and what else its header says."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data, *changes in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in changes[0].items() if changes else ():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def resealed(archive, start, changed):
    """An archive with other bytes in its first header, which has its checksum again."""
    header = bytearray(archive[:BLOCK])
    header[start : start + len(changed)] = changed
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + archive[BLOCK:]


ONE = tarred(("model.pdparams", HEALTHY))
LINK = {"linkname": "../../etc/passwd"}

ARCHIVES = {
    "a payload in a tar": Hostile(tarred(("model.pdparams", EVIL)), "unsafe_global", works=False),
    "a payload behind a healthy member": Hostile(
        tarred(("a.pdparams", HEALTHY), ("b.pdparams", EVIL)), "unsafe_global", works=False
    ),
    "a payload under a name that is not judged": Hostile(
        tarred(("a.pdparams", HEALTHY), ("README", EVIL)), "unsafe_global", works=False
    ),
    "a printable payload in a tar": Hostile(
        tarred(("model.pdparams", PRINTABLE)), "unsafe_global", works=False
    ),
    "a tar in a tar": Hostile(
        tarred(("model.tar", tarred(("a.pdparams", EVIL)))), "unknown_container", works=False
    ),
    "an absolute name": Hostile(tarred(("/etc/cron.d/x", HEALTHY)), "unsafe_archive", works=False),
    "a name that leads upwards": Hostile(tarred(("../x.pdparams", HEALTHY)), "unsafe_archive", works=False),
    "a name that leads upwards from within": Hostile(
        tarred(("a/../../x.pdparams", HEALTHY)), "unsafe_archive", works=False
    ),
    "a long name that leads upwards": Hostile(
        tarred(("x/" * 100 + "../" * 101 + "x", HEALTHY), form=tarfile.GNU_FORMAT),
        "unsafe_archive",
        works=False,
    ),
    "a pax name that leads upwards": Hostile(
        tarred(("é/" * 100 + "../" * 101 + "x", HEALTHY), form=tarfile.PAX_FORMAT),
        "unsafe_archive",
        works=False,
    ),
    "a symbolic link": Hostile(
        tarred(("model.pdparams", b"", {"type": tarfile.SYMTYPE} | LINK)), "unsafe_archive", works=False
    ),
    "a hard link": Hostile(
        tarred(("model.pdparams", b"", {"type": tarfile.LNKTYPE} | LINK)), "unsafe_archive", works=False
    ),
    "a device": Hostile(
        tarred(("model.pdparams", b"", {"type": tarfile.BLKTYPE, "devmajor": 8})),
        "unsafe_archive",
        works=False,
    ),
    "a FIFO": Hostile(
        tarred(("model.pdparams", b"", {"type": tarfile.FIFOTYPE})), "unsafe_archive", works=False
    ),
    "one name twice": Hostile(
        tarred(("model.pdparams", HEALTHY), ("model.pdparams", EVIL)), "malformed", works=False
    ),
    "a checksum that is wrong": Hostile(ONE[:148] + b"0000000\0" + ONE[156:], "malformed", works=False),
    "a size beyond the file": Hostile(resealed(ONE, 124, b"77777777777\0"), "truncated", works=False),
    "a size of 2**63": Hostile(
        resealed(ONE, 124, b"\x80\0\0\0" + b"\x80" + bytes(7)), "truncated", works=False
    ),
    "a negative size": Hostile(resealed(ONE, 124, b"\xff" * 12), "malformed", works=False),
    "a payload in the name of the first member": Hostile(
        resealed(ONE, 0, b"cposix\nmkdir\n(S'canary'\ntR.".ljust(100, b"\0")), "unsafe_global"
    ),
    "a payload behind the archive": Hostile(
        ONE.rstrip(b"\0") + bytes(2 * BLOCK) + EVIL, "truncated", works=False
    ),
    "a tar, compressed": Hostile(
        gzip.compress(tarred(("a.pdparams", EVIL))), "unknown_container", works=False
    ),
}
