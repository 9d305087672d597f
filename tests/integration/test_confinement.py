from __future__ import annotations

import ast
import errno
import multiprocessing
import os
import resource
import socket
import struct
import subprocess
import sys
import traceback

import pytest

import intruding
from ckptd.core.model import Fingerprint, Role
from ckptd.shell import confinement
from ckptd.shell.confinement import Confinement, Profile, available, confine
from ckptd.shell.scanner import Scanner, ScannerGone, ScanRequest
from forking import run_forked

CREATE_RULESET, RESTRICT_SELF = 444, 446  # Landlock's, on every machine
NOBODY = 65534
REFUSED = (errno.EPERM, errno.EACCES)


@pytest.fixture(scope="module")
def in_scanner():
    """Run a function of a module in a scan process."""
    scanners = []

    def run(work, argument):
        if not scanners:
            scanners.append(Scanner(intruding.work, give_cache_back=False))
        request = ScanRequest((work, argument), Role.EXTRA, Fingerprint("", 0, 0, 0))
        try:
            answer = scanners[0].ask(request, cpu_seconds=30, seconds=60.0)
        except ScannerGone:
            scanners.pop().close()
            raise
        how, outcome = ast.literal_eval(answer.values[0][1])
        if how == "raised":
            raise OSError(outcome, "in the scan process")
        return outcome

    yield run
    for scanner in scanners:
        scanner.close()


@pytest.fixture
def place(tmp_path):
    """A directory that holds what an intruder could change."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "directory").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (tmp_path / "port").write_text(str(listener.getsockname()[1]))
        yield tmp_path


def traces(place):
    """What an intrusion would change."""
    return {
        path.name: (path.stat().st_mode, path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in place.iterdir()
    }


def refuses(intrude, place):
    """Whether an intrusion is refused rather than failing for another reason."""
    try:
        intrude(place)
    except OSError as error:
        return error.errno in {None, *REFUSED}
    return False


def real_but(**answers):
    """The C library, but for some calls: by what they are for, the error or the number they give instead."""

    def call(name, *arguments):
        what = name
        if name == "syscall" and arguments[0] == CREATE_RULESET:
            what = "landlock_abi" if arguments[1] is None else "landlock"
        elif name == "syscall" and arguments[0] != RESTRICT_SELF:
            what = "seccomp"
        elif name == "prctl":
            what = {confinement._PR_SET_SECCOMP: "seccomp_by_prctl"}.get(arguments[0], "prctl")
        if (answer := answers.get(what)) is None:
            return confinement._call(name, *arguments)
        if isinstance(answer, OSError):
            raise answer
        return answer

    return call


ABSENT = OSError(errno.ENOSYS, "not there")
FORBIDDEN = OSError(errno.EPERM, "not allowed")
NO_LANDLOCK = {"landlock_abi": ABSENT}
NO_FILTER = {"seccomp": ABSENT, "seccomp_by_prctl": OSError(errno.EINVAL, "no filters")}


def forked(work):
    """Run a function in a child; its failure is told through a pipe, as a confined one writes no file."""
    reading, writing = os.pipe()

    def telling():
        try:
            work()
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
            raise

    with os.fdopen(reading) as story:
        code = run_forked(telling)
        os.close(writing)
        assert 0 == code, story.read()


@pytest.mark.parametrize("intrude", intruding.INTRUSIONS, ids=lambda intrude: intrude.__name__)
def test_scan_process_cannot(in_scanner, place, intrude):
    """A scan process is refused each thing that a hostile file could want of it."""
    before = traces(place)
    try:
        in_scanner(intrude, place)
    except ScannerGone:  # killed for the attempt
        refused = True
    except OSError as error:
        refused = error.errno in {None, *REFUSED}
    else:
        refused = False
    assert (True, before) == (refused, traces(place))


def test_scan_process_can_read_files_of_others(in_scanner, tmp_path):
    """Root's scanner still reads what only its owner may read, and anybody's scanner its own."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    path.chmod(0o400)
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    assert b"content" == in_scanner(intruding.read_a_file, path)


@pytest.mark.parametrize(
    ("work", "argument", "expected"),
    [
        (intruding.answer_from_a_thread, 7, [7]),
        (intruding.import_a_module, "colorsys", ".py"),
        (intruding.answer_at_length, 1 << 20, b"x" * (1 << 20)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_scan_process_can(in_scanner, work, argument, expected):
    """A scan process can do what Python's own machinery does on the way."""
    assert expected == in_scanner(work, argument)


def test_scan_process_says_that_it_is_confined(in_scanner):
    """The kernel's own account: a filter, no new privileges, and no capability but the one for reading."""
    status = in_scanner(intruding.own_status, None)
    reading = {"CAP_DAC_READ_SEARCH": 1 << 2, "CAP_DAC_OVERRIDE": 1 << 1}
    kept = sum(reading[name] for name in available().capabilities)
    expected = {"Seccomp": "2", "NoNewPrivs": "1", "CapInh": 0, "CapAmb": 0, "CapPrm": kept, "CapEff": kept}
    if os.geteuid() == 0:
        expected["CapBnd"] = 0
    found = {name: int(text, 16) if name.startswith("Cap") else text for name, text in status.items()}
    assert expected == {name: found[name] for name in expected}


def test_scan_process_ends_cleanly():
    """A confined process runs to its normal end: nothing on the way out needs what it gave up."""
    others = set(multiprocessing.active_children())
    scanner = Scanner(intruding.work, give_cache_back=False)
    request = ScanRequest((intruding.answer_from_a_thread, 1), Role.EXTRA, Fingerprint("", 0, 0, 0))
    assert "('returned', [1])" == scanner.ask(request, cpu_seconds=30, seconds=60.0).values[0][1]
    (process,) = set(multiprocessing.active_children()) - others
    scanner.close()
    assert 0 == process.exitcode


def test_available_tells_what_confine_reaches():
    """What can be asked without being confined is what holds afterwards."""
    told = available()

    def work():
        assert told == confine(Profile.for_scans())

    forked(work)
    assert told.seccomp
    assert told.no_new_privileges


FILE_CHANGES = (
    intruding.create_a_file,
    intruding.write_into_a_file,
    intruding.rename_a_file,
    intruding.remove_a_file,
    intruding.make_a_directory,
    intruding.make_a_symbolic_link,
)
# What Landlock stops by itself depends on the kernel.
BY_LANDLOCK = (
    *FILE_CHANGES,
    *([intruding.connect] if available().landlock_abi >= 4 else []),
    *([intruding.signal_the_daemon] if available().landlock_abi >= 6 else []),
)
BY_FILTER = (*FILE_CHANGES, intruding.open_a_socket, intruding.fork, intruding.signal_the_daemon)


@pytest.mark.parametrize(
    ("missing", "holds"),
    [
        (NO_FILTER, BY_LANDLOCK),
        ({**NO_FILTER, "landlock_abi": 1}, FILE_CHANGES),
        ({**NO_FILTER, "landlock_abi": 4}, FILE_CHANGES),
        (NO_LANDLOCK, BY_FILTER),
        ({**NO_LANDLOCK, "seccomp": FORBIDDEN}, BY_FILTER),
        ({"landlock": FORBIDDEN}, BY_FILTER),
    ],
    ids=[
        "no filter",
        "no filter, first Landlock",
        "no filter, older Landlock",
        "no Landlock",
        "no Landlock, filter through prctl alone",
        "Landlock known and forbidden",
    ],
)
def test_each_layer_holds_without_the_other(place, missing, holds):
    """Where the kernel or a container lacks one layer, the other one stops what it covers."""
    before = traces(place)

    def work():
        confine(Profile.for_scans(), call=real_but(**missing))
        assert [] == [intrude.__name__ for intrude in holds if not refuses(intrude, place)]

    forked(work)
    assert before == traces(place)


def test_nothing_available_leaves_the_limits(place):
    """On a kernel that offers none of it the process still runs, and can make no file any longer."""
    call = real_but(**NO_FILTER, **NO_LANDLOCK, prctl=ABSENT, capget=ABSENT)

    def work():
        assert Confinement(0, seccomp=False, no_new_privileges=False, capabilities=()) == confine(
            Profile.for_scans(), call=call
        )
        assert Confinement(0, seccomp=False, no_new_privileges=False, capabilities=()) == available(call=call)
        with pytest.raises(OSError, match="File too large"):
            intruding.write_into_a_file(place)
        assert (0, 0) == resource.getrlimit(resource.RLIMIT_CORE)
        with pytest.raises(MemoryError):
            bytearray(2 * Profile.for_scans().memory_bytes)

    forked(work)
    assert b"content" == (place / "file").read_bytes()


@pytest.mark.parametrize(
    ("abi", "expected"),
    [
        (1, (0x1FF3,)),
        (2, (0x3FF3,)),
        (3, (0x7FF3,)),
        (4, (0x7FF3, 3)),
        (5, (0xFFF3, 3)),
        (6, (0xFFF3, 3, 3)),
        (99, (0xFFF3, 3, 3)),
    ],
)
def test_landlock_is_asked_for_what_its_abi_knows(abi, expected):
    """Each kernel is asked to refuse all rights that it knows, and none that it would reject."""
    asked = []

    def call(name, *arguments):
        if name == "syscall" and arguments[0] == CREATE_RULESET and arguments[1] is None:
            return abi
        if name == "syscall" and arguments[0] == CREATE_RULESET:
            asked.append(struct.unpack(f"={arguments[2] // 8}Q", arguments[1].raw[: arguments[2]]))
        raise FORBIDDEN

    assert 0 == confinement._restrict_files(call)
    assert [expected] == asked


def test_capabilities_that_cannot_be_dropped_are_told():
    """A process that has to keep its capabilities says which it still has."""
    mine = confinement._permitted(confinement._call)
    call = real_but(prctl=FORBIDDEN, capset=FORBIDDEN)
    assert mine.bit_count() == len(confinement._drop_capabilities(call))


def test_limits_that_are_lower_already_stay(tmp_path):
    """A limit that the service manager has set is not asked to be raised."""

    def work():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        confine(Profile.for_scans())
        assert (100, 100) == resource.getrlimit(resource.RLIMIT_NOFILE)

    forked(work)


PADDLE_LOAD = """
import os, sys
import numpy, paddle
from ckptd.shell.confinement import Profile, confine
path, place = sys.argv[1:]
expected = {"weight": numpy.arange(1 << 16, dtype="float32").reshape(256, 256)}
paddle.save({"weight": paddle.to_tensor(expected["weight"])}, path)
confine(Profile.for_paddle_load(os.path.getsize(path)))
for as_numpy in (True, False):
    found = paddle.load(path, return_numpy=as_numpy)
    assert expected["weight"].tobytes() == numpy.asarray(found["weight"]).tobytes()
import intruding
from pathlib import Path
for name in ("create_a_file", "fork", "open_a_socket", "signal_the_daemon"):
    try:
        getattr(intruding, name)(Path(place))
    except PermissionError:
        continue
    raise AssertionError(name)
print("done")
"""


def test_paddle_loads_a_file_in_a_confined_process(place):
    """A process that has imported Paddle can still load a file once it is confined, and nothing else."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, "-c", PADDLE_LOAD, str(place / "weights.pdparams"), str(place)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "done") == (ended.returncode, ended.stdout.strip()), ended.stderr
    assert not (place / "created").exists()
