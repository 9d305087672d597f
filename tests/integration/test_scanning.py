from __future__ import annotations

import errno
import os
import pickle
import socket
import struct
from itertools import pairwise

import numpy as np
import pytest
import xxhash

from ckptd.core.model import Entry, EntryKind, Role
from ckptd.shell import holes, reading
from ckptd.shell.scanning import scan_file
from forking import run_forked
from pickling import codes, dtype, empty_array, group, long_integer, number, text

WHOLE = pickle.dumps({"w": np.ones((3, 4), "f4")}, 4)
NOBODY = 65534


@pytest.fixture
def root(tmp_path):
    """A watch root with one good checkpoint in a run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.pdparams").write_bytes(WHOLE)
    return tmp_path


def scanned(root, path, **options):
    """The scan of one file."""
    return scan_file(str(root), path, Role.PARAMS, **options)


def fingerprint(root, path):
    """What the inventory would know of a file."""
    status = (root / path).stat()
    return Entry(path, EntryKind.FILE, status.st_size, status.st_mtime_ns, status.st_ino).fingerprint


def test_scan_of_a_good_file_finds_its_tensors(root):
    """A file below the root is read to its end."""
    found = scanned(root, "run/a.pdparams", expected=fingerprint(root, "run/a.pdparams"))

    assert (found.container, found.findings) == ("pickle", ())
    assert found.digest == xxhash.xxh3_128_hexdigest(WHOLE)
    assert [(3, 4)] == [tensor.shape for tensor in found.tensors]


def make_socket(path):
    """A socket under a file's name."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_link_in_the_way(path):
    """A symbolic link where a directory should be."""
    (path.parent / "real").mkdir()
    (path.parent / "real" / "b.pdparams").write_bytes(WHOLE)
    path.parent.joinpath("link").symlink_to("real")


ODD_FILES = {
    "nothing": ("x", lambda path: None, "missing_file"),
    "a directory": ("x", lambda path: path.mkdir(), "not_a_regular_file"),
    "a FIFO": ("x", os.mkfifo, "not_a_regular_file"),
    "a socket": ("x", make_socket, "not_a_regular_file"),
    "a link to a good file": ("x", lambda path: path.symlink_to("a.pdparams"), "symbolic_link"),
    "a link to nothing": ("x", lambda path: path.symlink_to("gone"), "symbolic_link"),
    "a link to itself": ("x", lambda path: path.symlink_to("x"), "symbolic_link"),
    "a link to a FIFO": ("x", lambda path: path.symlink_to("/dev/stdin"), "symbolic_link"),
    "a link on the way": ("link/b.pdparams", make_link_in_the_way, "symbolic_link"),
    "a file on the way": ("a.pdparams/x", lambda path: None, "missing_file"),
    "a directory that is gone": ("gone/x", lambda path: None, "missing_file"),
    "a name that is too long": ("n" * 300, lambda path: None, "read_error"),
    "nothing in it": ("x", lambda path: path.touch(), "empty_file"),
}


@pytest.mark.parametrize(("name", "make", "code"), ODD_FILES.values(), ids=ODD_FILES)
def test_what_is_no_readable_file_has_its_finding(root, name, make, code):
    """Whatever lies under a file's name is answered at once, without following or waiting."""
    make(root / "run" / name.split("/")[0] if "link" not in name else root / "run" / "link")

    found = scanned(root, f"run/{name}")
    assert codes(found) == [code]
    assert found.findings[0].path == f"run/{name}"
    assert found.tensors == ()


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "run/../../x", "./x", "run//a.pdparams", "run/"])
def test_path_that_leads_elsewhere_is_refused(root, path):
    """A path that is not plainly below the root is a mistake of the caller."""
    with pytest.raises(ValueError, match="relative to its root"):
        scanned(root, path)


@pytest.mark.parametrize(
    "name", ["with space", "new\nline", os.fsdecode(b"\xff\xfe.pdparams"), "权重", "back\\slash"]
)
def test_file_with_any_name_is_scanned(root, name):
    """Names are bytes; findings show them printably."""
    (root / name).write_bytes(WHOLE + b"tail")

    found = scanned(root, name)
    assert codes(found) == ["trailing_bytes"]
    assert found.findings[0].path.isprintable()


def test_root_may_be_reached_by_a_link(root, tmp_path_factory):
    """Only below the root nothing is followed: /data is often a link."""
    link = tmp_path_factory.mktemp("elsewhere") / "root"
    link.symlink_to(root)

    assert scanned(link, "run/a.pdparams").findings == ()


def test_another_file_than_expected_is_not_read(root):
    """What changed since it was chosen is looked at again later."""
    expected = fingerprint(root, "run/a.pdparams")
    (root / "run" / "a.pdparams").write_bytes(WHOLE * 2)
    seen = []

    found = scanned(root, "run/a.pdparams", expected=expected, on_progress=seen.append)
    assert codes(found) == ["changed_while_reading"]
    assert seen == []


def put(path, mode):
    """Write one byte, of which the file has the same."""
    with path.open(mode) as file:
        file.write(WHOLE[:1])


CHANGES = {
    "written in place": lambda path: put(path, "r+b"),
    "appended to": lambda path: put(path, "ab"),
    "cut off": lambda path: os.truncate(path, 10),
    "replaced": lambda path: (
        path.with_suffix(".new").write_bytes(WHOLE),
        path.with_suffix(".new").rename(path),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_file_that_changes_during_the_scan_is_not_judged(root, change):
    """Half of one file and half of another prove nothing, whatever the scan made of them."""
    path = root / "run" / "a.pdparams"
    os.utime(path, (1, 1))

    found = scanned(root, "run/a.pdparams", on_progress=lambda _: change(path))
    assert (found.container, codes(found), found.digest) == ("none", ["changed_while_reading"], None)


def test_file_that_vanishes_during_the_scan_is_missing(root):
    """A file that was removed while it was read is gone."""
    found = scanned(root, "run/a.pdparams", on_progress=lambda _: (root / "run" / "a.pdparams").unlink())

    assert codes(found) == ["missing_file"]


@pytest.mark.parametrize("locked", ["run/a.pdparams", "run"])
def test_file_of_another_user_is_permission_denied(root, locked):
    """A file that the service may not read, or in a directory that it may not enter, is said to be so."""
    root.chmod(0o755)
    mode = (root / locked).stat().st_mode
    (root / locked).chmod(0)

    def work():
        os.chdir(root)  # the directories above belong to whoever runs the tests
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        assert codes(scanned(".", "run/a.pdparams")) == ["permission_denied"]

    assert run_forked(work) == 0
    (root / locked).chmod(mode)


def test_progress_tells_the_bytes_read_so_far(root, monkeypatch):
    """Whoever waits sees the scan move on, from the first read to the last byte."""
    data = pickle.dumps({"w": np.ones(3_000_000, "f4"), "v": np.ones(10, "f8")}, 4)
    (root / "b.pdparams").write_bytes(data)
    seen = []
    monkeypatch.setattr(reading, "GIVE_BACK_BYTES", 1 << 20)

    found = scanned(root, "b.pdparams", on_progress=seen.append)
    assert found.digest == xxhash.xxh3_128_hexdigest(data)
    assert sorted(set(seen)) == seen
    assert seen[-1] == len(data)


@pytest.mark.parametrize("protocol", [2, 4])
def test_large_file_is_checked_beside_the_reading(root, protocol):
    """In a file that is worth a thread, every last NaN is still found, and the digest is right."""
    numbers = np.ones(2_500_001, "f4")
    numbers[[0, 600_000, 2_500_000]] = np.nan
    data = pickle.dumps({"a": numbers, "b": numbers[::-1].astype("f8"), "c": np.float64(1)}, protocol)
    (root / "b.pdparams").write_bytes(data)

    found = scanned(root, "b.pdparams")
    assert [3, 3] == [tensor.nonfinite for tensor in found.tensors]
    assert found.digest == xxhash.xxh3_128_hexdigest(data)


@pytest.mark.parametrize("give_back", [True, False])
def test_page_cache_behind_the_reader_is_given_back(root, monkeypatch, give_back):
    """All pages of a large file are dropped, step by step, unless the cache is to be left alone."""
    data = pickle.dumps({"w": np.ones(3_000_000, "f4")}, 4)
    (root / "b.pdparams").write_bytes(data)
    advise, dropped = os.posix_fadvise, []

    def spy(descriptor, start, length, advice):
        advise(descriptor, start, length, advice)
        if advice == os.POSIX_FADV_DONTNEED:
            dropped.append((start, start + length))

    monkeypatch.setattr(os, "posix_fadvise", spy)
    monkeypatch.setattr(reading, "GIVE_BACK_BYTES", 1 << 20)
    assert scanned(root, "b.pdparams", give_cache_back=give_back).findings == ()

    edges = [0, *(stop for _, stop in dropped)]
    assert dropped == list(pairwise(edges))
    assert edges[-1] == (len(data) if give_back else 0)
    assert (len(dropped) > 2) == give_back


def zeros_of(count):
    """A checkpoint of one float32 tensor, up to its bytes."""
    state = text("w") + empty_array() + pickle.MARK + number(1) + group(long_integer(count // 4))
    begun = pickle.EMPTY_DICT + state + dtype("f4") + pickle.NEWFALSE
    return pickle.PROTO + b"\4" + begun + pickle.BINBYTES8 + struct.pack("<Q", count)


def write_with_holes(path, count, *, written=()):
    """The same with zeros for its bytes, of which only some were written."""
    head, tail = zeros_of(count), pickle.TUPLE + pickle.BUILD + pickle.SETITEM + pickle.STOP
    with path.open("wb") as file:
        file.write(head)
        for place in written:
            file.seek(place)
            file.write(bytes(4096))
        file.seek(len(head) + count)
        file.write(tail)


@pytest.mark.parametrize("written", [(), range(0, 5 << 30, 1 << 29)])
def test_content_that_was_never_written_is_not_read_through(root, monkeypatch, written):
    """Terabytes of holes end a scan as soon as it is clear how much they are, in one piece or in many."""
    write_with_holes(root / "run" / "b.pdparams", 1 << 40, written=[place for place in written if place])
    monkeypatch.setattr(holes, "MAX_BYTES", 1 << 30 if written else holes.MAX_BYTES)
    seen = []

    found = scanned(root, "run/b.pdparams", on_progress=seen.append)
    assert ["sparse_file"] == codes(found)
    assert found.digest is None
    assert seen[-1] <= (2 << 30 if written else 64 << 20)


def test_zeros_that_are_holes_are_zeros(root):
    """A copy with holes in place of long runs of zeros is as good as the file itself."""
    write_with_holes(root / "run" / "b.pdparams", 256 << 20, written=[128 << 20])

    found = scanned(root, "run/b.pdparams")
    assert found.findings == ()
    assert (256 << 20, xxhash.xxh3_128_hexdigest((root / "run" / "b.pdparams").read_bytes())) == (
        found.tensors[0].bytes,
        found.digest,
    )


def test_filesystem_without_holes_has_none(root, monkeypatch):
    """Where nobody knows of holes, all of a file is read."""
    write_with_holes(root / "run" / "b.pdparams", 64 << 20)
    monkeypatch.setattr(holes, "MAX_BYTES", 1 << 20)

    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "lseek", refuse)
    assert scanned(root, "run/b.pdparams").findings == ()


@pytest.mark.parametrize(("head", "code"), [(b"", "all_zero"), (WHOLE, "trailing_bytes")])
def test_sparse_terabyte_is_judged_by_its_beginning(root, head, code):
    """A file that claims to be a terabyte is judged as soon as its fault is known, not read to its end."""
    with (root / "run" / "b.pdparams").open("wb") as file:
        file.write(head)
        file.truncate(1 << 40)

    assert [code] == codes(scanned(root, "run/b.pdparams"))
