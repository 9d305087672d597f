"""What a hostile file would have its scanner do, and what a scanner must be able to do; run in its process.

An intrusion raises OSError where it is refused, and leaves a trace or returns where it is not.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import socket
import subprocess
import threading
from importlib import import_module
from pathlib import Path

from ckptd.core.model import FileScan
from ckptd.shell.scanner import scan_request

_libc = ctypes.CDLL(None, use_errno=True)
_PTRACE_ATTACH = 16
_NEW_USER = 0x10000000
_IO_URING_SETUP = 425  # on every machine
_NOBODY = 65534


def _check(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def open_a_socket(place):
    """For the network."""
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()


def connect(place):
    """To the test's listener, whose port is in the file."""
    with socket.socket() as one:
        one.connect(("127.0.0.1", int((place / "port").read_text())))


def open_a_local_socket(place):
    """For the services of this machine."""
    socket.socket(socket.AF_UNIX).close()


def create_a_file(place):
    """Leave a trace."""
    (place / "created").write_bytes(b"")


def write_into_a_file(place):
    """Change what is there, in place."""
    descriptor = os.open(place / "file", os.O_WRONLY)
    os.write(descriptor, b"changed")


def append_to_a_file(place):
    """Change what is there, at its end."""
    with (place / "file").open("ab") as file:
        file.write(b"changed")


def empty_a_file(place):
    """Cut it off by name."""
    os.truncate(place / "file", 0)


def rename_a_file(place):
    """Move it away."""
    (place / "file").rename(place / "renamed")


def remove_a_file(place):
    """Unlink it."""
    (place / "file").unlink()


def remove_a_directory(place):
    """Which is empty."""
    (place / "directory").rmdir()


def make_a_directory(place):
    """Leave a trace."""
    (place / "made").mkdir()


def link_a_file(place):
    """Give it a second name."""
    (place / "linked").hardlink_to(place / "file")


def make_a_symbolic_link(place):
    """Point elsewhere."""
    (place / "pointing").symlink_to("/")


def make_a_fifo(place):
    """For somebody to wait at."""
    os.mkfifo(place / "fifo")


def change_a_mode(place):
    """Let everybody in."""
    (place / "file").chmod(0o777)


def change_a_time(place):
    """Make it look untouched."""
    os.utime(place / "file", (0, 0))


def execute(place):
    """Become another program."""
    os.execv("/bin/true", ["/bin/true"])  # noqa: S606 - refused, or the test fails


def fork(place):
    """Have a child, which ends at once."""
    if os.fork() == 0:
        os._exit(0)


def start_a_program(place):
    """As subprocess does: by vfork, or by fork."""
    subprocess.run(["/bin/true"], check=True)


def trace_the_daemon(place):
    """Attach to it as a debugger."""
    _check(_libc.ptrace(_PTRACE_ATTACH, os.getppid(), None, None))


def write_the_daemons_memory(place):
    """Through /proc."""
    os.open(f"/proc/{os.getppid()}/mem", os.O_RDWR)


def signal_the_daemon(place):
    """With a signal that would do nothing."""
    os.kill(os.getppid(), signal.SIGCONT)


def become_another_user(place):
    """And do as that one may."""
    os.setuid(_NOBODY)
    os.setuid(0)


def make_a_namespace(place):
    """In which one is root."""
    _check(_libc.unshare(_NEW_USER))


def mount(place):
    """Put another file system in place."""
    _check(_libc.mount(b"none", os.fsencode(place / "directory"), b"tmpfs", 0, None))


def make_a_memory_file(place):
    """From which code can be run."""
    os.close(os.memfd_create("payload"))


def run_generated_code(place):
    """From memory that was made executable."""
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def make_an_io_ring(place):
    """Which makes system calls that no filter sees."""
    _check(_libc.syscall(_IO_URING_SETUP, 4, ctypes.create_string_buffer(256)))


def raise_a_limit(place):
    """Of the size of files."""
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError as error:  # what Python makes of EPERM
        raise PermissionError(str(error)) from error


def limit_the_daemon(place):
    """Take its CPU time away."""
    limit = resource.getrlimit(resource.RLIMIT_CPU)
    resource.prlimit(os.getppid(), resource.RLIMIT_CPU, limit)


INTRUSIONS = (
    open_a_socket,
    connect,
    open_a_local_socket,
    create_a_file,
    write_into_a_file,
    append_to_a_file,
    empty_a_file,
    rename_a_file,
    remove_a_file,
    remove_a_directory,
    make_a_directory,
    link_a_file,
    make_a_symbolic_link,
    make_a_fifo,
    change_a_mode,
    change_a_time,
    execute,
    fork,
    start_a_program,
    trace_the_daemon,
    write_the_daemons_memory,
    signal_the_daemon,
    become_another_user,
    make_a_namespace,
    mount,
    make_a_memory_file,
    run_generated_code,
    make_an_io_ring,
    raise_a_limit,
    limit_the_daemon,
)


def read_a_file(path):
    """Its bytes."""
    return path.read_bytes()


def answer_from_a_thread(answer):
    """What a thread of its own computed."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(answer))
    thread.start()
    thread.join()
    return answers


def import_a_module(name):
    """Load a module that nothing has needed yet; the suffix of its file."""
    return Path(import_module(name).__file__).suffix


def answer_at_length(count):
    """More than a pipe holds."""
    return b"x" * count


def own_status(_):
    """What the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def work(request, on_progress, give_cache_back):
    """Do what stands in the place of the root, a function and its argument; tells the outcome as a scan."""
    function, argument = request.root
    try:
        outcome = ("returned", function(argument))
    except OSError as error:
        outcome = ("raised", error.errno)
    return FileScan("work", 0, None, values=((("outcome",), repr(outcome)),))


def obey(request, on_progress, give_cache_back):
    """Scan as the prober does, except for files whose name says how they would bring the scanner down."""
    name = request.expected.path
    if name.startswith("spin"):
        while True:
            pass
    if name.startswith("bomb"):
        return [bytearray(64 << 20) for _ in range(1 << 10)]
    if name.startswith("abort"):
        os.abort()
    return scan_request(request, on_progress, give_cache_back)
