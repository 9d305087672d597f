"""One export, from judged weights to a proven model in `.staging`; takes as long as it takes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptd.core.names import shown
from ckptd.core.releases import Objection, Proof, Source, export_key, parse_answer, version_name
from ckptd.shell import durable
from ckptd.shell.deploy_directory import (
    STAGING,
    digested,
    open_file,
    open_in,
    read_small,
    versions_in,
)
from ckptd.shell.durable import held
from ckptd.shell.export_process import SCRIPT, Ended, ExportProcess, worker_environment
from ckptd.shell.publishing import MODEL, Exported, find_unpointed, make_ready, readers_mode

if TYPE_CHECKING:
    from datetime import datetime

    from ckptd.core.model import MetricRule
    from ckptd.core.settings import ReleaseSettings

LAST_FAILURE = "last_failure.log"
"""In `.staging`: what the export that failed last has printed."""

_WEIGHTS, _REQUEST, _RESULT, _LOG = "weights.pdparams", "request.json", "result.json", "worker.log"
_COPY_BYTES = 16 << 20
_NO_COPY_FILE_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True)
class ReleaseJob:
    """One set to be exported."""

    source: Source
    root_path: str
    params_path: str  # the member with the weights, relative to the root; one of the source's
    rule: MetricRule
    settings: ReleaseSettings

    @property
    def deploy_dir(self) -> str:
        """Where it is to go."""
        return self.settings.deploy_dir

    @property
    def export_key(self) -> str:
        """Equal keys, equal outcome."""
        return export_key(self.source.digests, self.settings)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing was released; the old release is still live."""

    reason: str
    is_lasting: bool  # the same export would end the same way; otherwise it may be tried again


class StoppedError(Exception):
    """The export was stopped from outside."""


@dataclass(slots=True)
class Brake:
    """How another thread stops an export."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_pulled: bool = False
    _process: ExportProcess | None = None

    def pull(self) -> None:
        """Kill the worker if there is one, and let no other begin."""
        with self._lock:
            self._is_pulled = True
            if self._process is not None:
                self._process.kill()

    def check(self) -> None:
        """Raise `StoppedError` once the brake was pulled."""
        if self._is_pulled:
            raise StoppedError

    def start(self, command: list[str], environment: dict[str, str], directory: str) -> ExportProcess:
        """Start the worker as one that `pull` kills."""
        with self._lock:
            self.check()
            self._process = ExportProcess(command, environment, directory)
            return self._process


def export(job: ReleaseJob, now: datetime, brake: Brake) -> Exported | Refusal:
    """Export one set; what is left in `.staging` afterwards is a proven model or nothing."""
    try:
        with held(make_ready(job.deploy_dir)) as deploy_fd:
            found = find_unpointed(deploy_fd, job.source, job.export_key)
            return found if found is not None else _export_anew(job, now, brake, deploy_fd)
    except StoppedError:
        return refused(job, "the service stops", "It is exported again after the next start.")
    except OSError as error:
        return trouble(job, error)


def refused(job: ReleaseJob, reason: str, way_out: str, *, is_lasting: bool = False) -> Refusal:
    """Put a refusal in words; `way_out` is a sentence."""
    name = shown(f"{job.source.run}/{job.source.set_name}")
    return Refusal(f"refusing to release {name}: {reason.rstrip('.')}. {way_out}", is_lasting)


def trouble(job: ReleaseJob, error: OSError) -> Refusal:
    """The refusal for a system call that failed."""
    place = f" ({shown(os.fsdecode(error.filename))})" if isinstance(error.filename, str | bytes) else ""
    return refused(
        job,
        f"{error.strerror or error}{place}",
        f"Give the service write access to {job.deploy_dir} and room for two models there.",
    )


def _export_anew(job: ReleaseJob, now: datetime, brake: Brake, deploy_fd: int) -> Exported | Refusal:
    with held(open_in(deploy_fd, STAGING)) as staging_fd:
        existing = {*versions_in(deploy_fd), *os.listdir(staging_fd)}
        version = version_name(now, job.source.set_name, existing)
        durable.make_directory(staging_fd, version, 0o700)
        is_kept = False
        try:
            with held(open_in(staging_fd, version)) as staged_fd:
                outcome = _prove(job, version, brake, staged_fd)
                if isinstance(outcome, Exported):
                    _make_readable(staged_fd, readers_mode(deploy_fd))
                    is_kept = True
                elif _LOG in os.listdir(staged_fd):
                    durable.write_file(staging_fd, LAST_FAILURE, read_small(staged_fd, _LOG), 0o600)
                return outcome
        finally:
            if not is_kept:
                with contextlib.suppress(OSError):  # the outcome counts; the next start removes it
                    durable.remove_tree(staging_fd, version)


def _prove(job: ReleaseJob, version: str, brake: Brake, staged_fd: int) -> Exported | Refusal:
    """Let the worker export a private copy of the weights, so that what it loads is what was judged."""
    _copy_weights(job, staged_fd, brake)
    if digested(staged_fd, _WEIGHTS, brake.check).digest != dict(job.source.digests)[job.params_path]:
        return refused(
            job, f"{shown(job.params_path)} has changed since it was judged", "It is judged again first."
        )
    durable.make_directory(staged_fd, MODEL, 0o700)
    durable.write_file(staged_fd, _REQUEST, _request(job), 0o600)
    ended = _run_worker(job, os.path.join(job.deploy_dir, STAGING, version), staged_fd, brake)
    brake.check()
    if ended.failure is not None:
        return _died(job, ended)
    answer = _answer(staged_fd)
    if isinstance(answer, Objection):
        lines = ended.last_lines if answer.show_output else ()
        return refused(job, answer.reason + _quoted(job, lines), answer.way_out, is_lasting=True)
    with held(open_in(staged_fd, MODEL)) as model_fd:
        files = tuple(digested(model_fd, name, brake.check) for name in sorted(os.listdir(model_fd)))
    return Exported(version, job.source, job.export_key, files, answer)


def _copy_weights(job: ReleaseJob, staged_fd: int, brake: Brake) -> None:
    directory, name = os.path.split(job.params_path)
    with contextlib.ExitStack() as stack:
        root_fd = stack.enter_context(held(durable.open_directory(job.root_path)))
        parent_fd = stack.enter_context(held(durable.open_beneath(root_fd, directory or ".")))
        source_fd = stack.enter_context(open_file(parent_fd, name))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target_fd = stack.enter_context(held(os.open(_WEIGHTS, flags, 0o600, dir_fd=staged_fd)))
        try:
            while os.copy_file_range(source_fd, target_fd, _COPY_BYTES):  # a reflink where that is possible
                brake.check()
        except OSError as error:
            if error.errno not in _NO_COPY_FILE_RANGE:
                raise
            _copy_by_reading(source_fd, target_fd, brake)


def _copy_by_reading(source_fd: int, target_fd: int, brake: Brake) -> None:
    """Go on from where both files stand."""
    with open(target_fd, "wb", closefd=False) as target:
        while chunk := os.read(source_fd, _COPY_BYTES):
            brake.check()
            target.write(chunk)


def _request(job: ReleaseJob) -> bytes:
    settings = job.settings
    request = {
        "entrypoint": settings.entrypoint,
        "params": _WEIGHTS,
        "params_key": settings.params_key,
        "inputs": [
            {"shape": list(spec.shape), "dtype": spec.dtype, "name": spec.name}
            for spec in settings.input_spec
        ],
        "rtol": settings.rtol,
        "atol": settings.atol,
        "output": f"{MODEL}/inference",
        "daemon_pid": os.getpid(),
    }
    return json.dumps(request).encode()


def _run_worker(job: ReleaseJob, directory: str, staged_fd: int, brake: Brake) -> Ended:
    settings = job.settings
    command = [settings.python or sys.executable, os.fspath(SCRIPT), _REQUEST, _RESULT]
    environment = worker_environment(settings.pythonpath, directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with held(os.open(_LOG, flags, 0o600, dir_fd=staged_fd)) as log_fd:
        return brake.start(command, environment, directory).wait(log_fd, settings.timeout)


def _died(job: ReleaseJob, ended: Ended) -> Refusal:
    return refused(
        job,
        f"the export worker gave no answer: {ended.failure}" + _quoted(job, ended.last_lines),
        "Try `release.entrypoint` by hand under `release.python`; if it is slow, raise `release.timeout`.",
        is_lasting=not ended.was_killed,  # the kernel kills where memory is short; there may be enough later
    )


def _answer(staged_fd: int) -> Proof | Objection:
    try:
        return parse_answer(read_small(staged_fd, _RESULT))
    except FileNotFoundError:
        return Objection("the export worker ended without an answer", "Let the entrypoint return, not exit.")


def _quoted(job: ReleaseJob, lines: tuple[str, ...]) -> str:
    if not lines:
        return ""
    log = os.path.join(job.deploy_dir, STAGING, LAST_FAILURE)
    return f"; it printed last (more in {log}): " + " | ".join(lines)


def _make_readable(staged_fd: int, mode: int) -> None:
    """Give the model the deploy directory's mode, and put it on disk: the slow part of the publication."""
    with held(open_in(staged_fd, MODEL)) as model_fd:
        os.fchmod(model_fd, mode)
        for name in os.listdir(model_fd):
            with open_file(model_fd, name) as file_fd:
                os.fchmod(file_fd, mode & 0o666)
        durable.sync_tree(model_fd)
