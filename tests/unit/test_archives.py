from __future__ import annotations

import io
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core import archives, containers
from ckptd.core.findings import FINDINGS
from ckptd.core.model import Verdict
from pickling import codes, name, pickled, reduce, scan_bytes, text

PARAMS = pickle.dumps({"w": np.ones((3, 4), "f4"), "epoch": 3}, 4)
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar(*files, form=tarfile.USTAR_FORMAT, **attributes):
    """An archive of (name, content) pairs; attributes are for each of its headers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for path, data in files:
            info = tarfile.TarInfo(path)
            info.size = len(data)
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def resealed(data, start, changed):
    """An archive whose first header is changed and has the right checksum for it."""
    header = bytearray(data[:512])
    header[start : start + len(changed)] = changed
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_members_are_judged_like_files(form):
    """Tensors and values of every member come back, with the member's name in front of their keys."""
    long = "a" * 90 + "/" + "b" * 90 + "/c.pdopt"
    data = tar(("best.pdparams", PARAMS), (long, PARAMS), form=form)
    found = scan_bytes(data, path="best.tar")

    assert (found.container, found.findings) == ("tar", ())
    assert [one.key for one in found.tensors] == [("best.pdparams", "w"), (long, "w")]
    assert found.values == ((("best.pdparams", "epoch"), 3), ((long, "epoch"), 3))
    assert found.digest


@given(st.integers(0, len(tar(("best.pdparams", PARAMS)).rstrip(b"\0")) + 1000))
def test_archive_that_is_cut_off_is_never_clean(length):
    """Without its two blocks of zeros an archive is not whole."""
    data = tar(("best.pdparams", PARAMS))
    end = -(-len(data.rstrip(b"\0")) // 512) * 512 + 1024
    assert bool(scan_bytes(data[: min(length, end - 1)]).findings)


@given(st.integers(0, 3000), st.binary(min_size=1, max_size=20).filter(any))
def test_bytes_behind_the_archive_are_found(padding, tail):
    """Only zeros may fill the last record."""
    assert codes(scan_bytes(tar(("a", PARAMS)) + bytes(padding) + tail)) == ["trailing_bytes"]


def test_endless_padding_is_found(monkeypatch):
    """More zeros than any record has are foreign bytes too."""
    monkeypatch.setattr(archives, "MAX_PADDING_BYTES", 512)
    assert codes(scan_bytes(tar(("a", PARAMS)))) == ["trailing_bytes"]


@given(st.binary(max_size=1500), st.integers(0, 2000))
def test_damaged_archive_is_judged(damage, place):
    """No content makes the reader fail."""
    data = tar(("a.pdparams", PARAMS), ("b" * 120, b"x"), form=tarfile.PAX_FORMAT)
    scan_bytes(data[:place] + damage + data[place + len(damage) :])


def test_finding_says_in_which_member():
    """What is wrong in a member is told with its name, and nothing behind it is read."""
    found = scan_bytes(tar(("a\n", PARAMS[:-9]), ("b", b"no")), path="x.tar")

    assert codes(found) == ["truncated"]
    assert found.findings[0].detail.startswith(r"x.tar!a\x0a: ")


def test_numbers_in_members_are_counted_once():
    """NaN in several members is one finding."""
    bad = pickle.dumps({"w": np.full(2, np.nan)}, 4)
    found = scan_bytes(tar(("a", bad), ("b", bad)))

    assert codes(found) == ["nonfinite_values"]
    assert found.nonfinite == 4


def test_code_in_a_member_is_unsafe():
    """An archive does not hide what a pickle would call."""
    assert codes(scan_bytes(tar(("a", pickled(reduce(name("os", "system"), text("x"))))))) == [
        "unsafe_global"
    ]


PAX = tar(("n" * 120, PARAMS), form=tarfile.PAX_FORMAT)
USTAR = tar(("a", PARAMS))

WRONG = {
    "a symbolic link": (tar(("a", b""), type=tarfile.SYMTYPE, linkname="/etc"), "unsafe_archive"),
    "a hard link": (tar(("a", b""), type=tarfile.LNKTYPE, linkname="b"), "unsafe_archive"),
    "a device": (tar(("a", b""), type=tarfile.CHRTYPE), "unsafe_archive"),
    "a FIFO": (tar(("a", b""), type=tarfile.FIFOTYPE), "unsafe_archive"),
    "an absolute name": (tar(("/a", PARAMS)), "unsafe_archive"),
    "a name that leads out": (tar(("a/../../b", PARAMS)), "unsafe_archive"),
    "an absolute name of a directory": (tar(("/a", b""), type=tarfile.DIRTYPE), "unsafe_archive"),
    "a pickle in a member's name": (tar(("cos\nsystem\n(S'x'\ntR.", PARAMS)), "unsafe_global"),
    "an archive in an archive": (tar(("a", tar(("b", PARAMS)))), "unknown_container"),
    "a member that is nothing known": (tar(("a", b"hello")), "unknown_container"),
    "an empty member": (tar(("a", b"")), "empty_file"),
    "the same name twice": (tar(("a", PARAMS), ("a", PARAMS)), "malformed"),
    "a member of an unknown kind": (resealed(USTAR, 156, b"V"), "unknown_container"),
    "a directory with content": (resealed(USTAR, 156, b"5"), "unknown_container"),
    "a wrong checksum": (USTAR[:10] + b"x" + USTAR[11:], "malformed"),
    "no name": (resealed(USTAR, 0, bytes(1)), "malformed"),
    "a size that is no number": (resealed(USTAR, 124, b"x"), "malformed"),
    "a size in binary beyond the end": (resealed(USTAR, 124, b"\x80" + b"\1" * 11), "truncated"),
    "a negative size": (resealed(USTAR, 124, b"\xff" * 12), "malformed"),
    "something in the padding": (USTAR[: 512 + len(PARAMS)] + b"x" + USTAR[513 + len(PARAMS) :], "malformed"),
    "half of an end": (USTAR[:1536] + b"x" + USTAR[1537:], "malformed"),
    "a pax header that is none": (PAX[:512] + b"x" + PAX[513:], "malformed"),
    "a pax header in front of the end": (PAX[:1024] + bytes(10240), "malformed"),
    "a pax header of a foreign size": (
        tar(("a", PARAMS), form=tarfile.PAX_FORMAT, pax_headers={"size": "x"}),
        "malformed",
    ),
    "a sparse file": (
        tar(("a", PARAMS), form=tarfile.PAX_FORMAT, pax_headers={"GNU.sparse.major": "1"}),
        "unknown_container",
    ),
    "a long pax header": (resealed(PAX, 124, b"77777777777"), "limit_exceeded"),
    "a long name": (tar(("n" * 5000, PARAMS), form=tarfile.GNU_FORMAT), "limit_exceeded"),
}


@pytest.mark.parametrize(("data", "code"), WRONG.values(), ids=WRONG)
def test_archive_that_is_not_as_it_should_be_is_named(data, code):
    """Each way of being wrong ends the walk with its code, and never leaves the archive valid."""
    assert codes(scan_bytes(data)) == [code]
    assert FINDINGS[code].verdict not in {None, Verdict.VALID}


def test_directories_are_passed_over():
    """Directories of an archive hold nothing."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo("best")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    found = scan_bytes(buffer.getvalue())

    assert (found.container, found.findings, found.tensors) == ("tar", (), ())


def test_archive_of_a_very_old_tar_is_known_by_its_checksum():
    """Before ustar a header had no mark."""
    assert scan_bytes(resealed(USTAR, 257, bytes(8))).container == "tar"


@pytest.mark.parametrize(("module", "limit"), [(containers, "MAX_TENSORS"), (archives, "MAX_MEMBERS")])
def test_limits_of_an_archive_hold(monkeypatch, module, limit):
    """Many members, and many tensors in them, are refused."""
    monkeypatch.setattr(module, limit, 1)
    assert codes(scan_bytes(tar(("a", PARAMS), ("b", PARAMS)))) == ["limit_exceeded"]


def test_size_of_a_large_member_may_be_told_by_pax():
    """What does not fit into the header stands in front of it."""
    data = tar(("a", PARAMS), form=tarfile.PAX_FORMAT, pax_headers={"size": str(len(PARAMS))})
    assert scan_bytes(data).findings == ()


@pytest.mark.parametrize(("limit", "most"), [("MAX_EFFORT", 150), ("MAX_TENSORS", 3), ("MAX_BYTES", 30)])
def test_members_may_take_as_much_together_as_one_file(monkeypatch, limit, most):
    """Many members, each within the limits, are no way around them."""
    monkeypatch.setattr(containers, limit, most)
    data = tar(("a.pdparams", PARAMS), ("b.pdparams", PARAMS))

    assert codes(scan_bytes(data, path="best.tar")) == ["limit_exceeded"]
