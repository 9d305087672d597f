from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import xxhash

from ckptd.shell import durable
from ckptd.shell.deploy_directory import live
from ckptd.shell.durable import held
from ckptd.shell.exporting import Refusal
from ckptd.shell.publishing import Published, clean_up, find_unpointed
from releasing import better_job, job, proven, publish, staged
from waiting import wait_until

TESTS = Path(__file__).parent.parent
OLD, LIVE, NEW, AGAIN = (f"2026010{day}T000000Z-set" for day in (1, 2, 3, 4))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A deploy directory with an old and a live release, and a better model proven."""
    place = tmp_path_factory.mktemp("prepared") / "deploy"
    for number, version in enumerate((OLD, LIVE)):
        assert isinstance(publish(job(place, ".", number / 10, digest=f"{number:032x}"), version), Published)
    staged(better_job(place), NEW, b"new weights")
    return place


def assert_whole(deploy_dir):
    """The live release, and every other one, is there to the last byte."""
    current = json.loads((deploy_dir / "current" / "manifest.json").read_bytes())
    assert current["version"] in {LIVE, NEW, AGAIN}
    for release in (deploy_dir / "releases").iterdir():
        manifest = json.loads((release / "manifest.json").read_bytes())
        found = {path.name: path.read_bytes() for path in release.iterdir() if path.name != "manifest.json"}
        assert {name: facts["xxh3_128"] for name, facts in manifest["files"].items()} == {
            name: xxhash.xxh3_128(data).hexdigest() for name, data in found.items()
        }


def start_again(deploy_dir):
    """What the next start does: clean up, then release the set again unless it is live."""
    clean_up(deploy_dir)
    one = better_job(deploy_dir)
    if live(deploy_dir).source != one.source:
        with held(os.open(deploy_dir, os.O_RDONLY)) as deploy_fd:
            left = find_unpointed(deploy_fd, one.source, one.export_key)
        assert isinstance(publish(one, AGAIN, left), Published)


@pytest.mark.parametrize("what", ["publish", "clean_up"])
def test_death_at_any_change_leaves_a_whole_release_live(prepared, tmp_path, what):
    """Whatever the last change of the disk was, readers have a whole release, and the next start finishes."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    died = 0
    while True:
        deploy_dir = tmp_path / str(died)
        shutil.copytree(prepared, deploy_dir, symlinks=True)
        script = [
            sys.executable,
            TESTS / "crash" / "interrupted_release.py",
            deploy_dir,
            NEW,
            what,
            str(died + 1),
        ]
        ended = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)

        assert_whole(deploy_dir)
        start_again(deploy_dir)
        assert_whole(deploy_dir)
        assert live(deploy_dir).source == better_job(deploy_dir).source
        assert [] == os.listdir(deploy_dir / ".staging")
        assert [name for name in os.listdir(deploy_dir) if name.startswith(".current")] == []
        if ended.returncode != 99:
            break
        died += 1

    assert 0 == ended.returncode, ended.stderr
    assert died >= {"publish": 20, "clean_up": 5}[what]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["disk full", "I/O error"])
def test_failure_of_any_change_keeps_the_old_release_or_has_the_new_one(
    prepared, tmp_path, monkeypatch, code
):
    """An error of the disk at any step gives a refusal with the old release live, or the new one whole."""
    failed = 0
    while True:
        deploy_dir = tmp_path / str(failed)
        shutil.copytree(prepared, deploy_dir, symlinks=True)
        one = better_job(deploy_dir)
        exported = proven(one, NEW)
        left = [failed + 1]

        def failing(call, left=left):
            def counted(*args, **kwargs):
                left[0] -= 1
                if left[0] == 0:
                    raise OSError(code, os.strerror(code))
                return call(*args, **kwargs)

            return counted

        with monkeypatch.context() as patch:
            for name in ("fchmod", "fsync", "mkdir", "rename", "rmdir", "symlink", "unlink", "write"):
                patch.setattr(os, name, failing(getattr(os, name)))
            patch.setattr(durable, "_renameat2", failing(durable._renameat2))
            outcome = publish(one, NEW, exported)

        assert_whole(deploy_dir)
        is_new = live(deploy_dir).version == NEW
        assert is_new == isinstance(outcome, Published)
        if isinstance(outcome, Refusal):
            assert outcome.reason.startswith(f"refusing to release ./plain: {os.strerror(code)}")
            assert not outcome.is_lasting
        start_again(deploy_dir)
        assert_whole(deploy_dir)
        if left[0] > 0:
            break
        failed += 1

    assert failed >= 20


def test_worker_dies_with_a_killed_daemon(tmp_path):
    """After SIGKILL of the daemon no export goes on; what it left is gone at the next start."""
    (tmp_path / "source").mkdir()
    (tmp_path / "plain.pdparams").write_bytes(b"weights")
    code = (
        "import sys, threading\n"
        "from releasing import NOW, job\n"
        "from ckptd.shell.releaser import Releaser\n"
        "place, tests = sys.argv[1:]\n"
        "one = job(place + '/deploy', place, 1.0, entrypoint='network_for_release:hang',"
        " pythonpath=(tests, place + '/source'))\n"
        "Releaser(lambda: None).start(one, NOW)\n"
        "threading.Event().wait()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    daemon = subprocess.Popen([sys.executable, "-c", code, tmp_path, TESTS], env=environment)
    pids = []
    try:
        wait_until((tmp_path / "source" / "pids").exists, "the entrypoint to hang")
        pids = [int(pid) for pid in (tmp_path / "source" / "pids").read_text().split()]
        daemon.kill()
        daemon.wait(10)

        wait_until(lambda: not psutil.pid_exists(pids[0]), "the worker to be gone")
        clean_up(tmp_path / "deploy")
        assert [] == os.listdir(tmp_path / "deploy" / ".staging")
    finally:
        daemon.kill()
        daemon.wait(10)
        for pid in pids[1:]:
            os.kill(pid, signal.SIGKILL)
