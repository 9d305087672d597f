from __future__ import annotations

import json
import os
import signal
import zlib
from datetime import UTC, datetime

import numpy as np
import pytest

from checkpoints import dump, save, weights
from ckptd.cli.main import main
from ckptd.core.model import SetKey
from ckptd.core.records import ReleaseRecord, ReleaseState
from ckptd.shell.ledger import open_ledger
from daemon_runner import enforced, serving, watch_table, write_config
from waiting import wait_until

NOW = datetime(2026, 11, 24, 10, 55, tzinfo=UTC)
ROUNDS = 'scrub = "1s"'


def rot(path, *, offset=None):
    """Flip a bit of a file, by default one of a weight, and leave its size, time and inode as they were."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    if offset is None:
        values = weights(zlib.crc32(os.fsencode(path.stem)))["hidden.weight"]
        offset = content.index(values.tobytes())
    content[offset] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def has_been_read_again(place, capsys, files):
    """Whether `ckptd status` has seen so many files read in the present round."""
    capsys.readouterr()
    assert 0 == main(["--config", str(place / "config.toml"), "status", "--json"])
    scrub = json.loads(capsys.readouterr().out.splitlines()[0])["daemon"]["scrub"]
    return scrub["files_read"] == files == scrub["files"]


def test_rotted_set_is_told_once_and_replaced_by_an_older_one_until_it_is_written_anew(tmp_path, capsys):
    """What changed behind its time is no longer valid, also after a restart; an older set is kept for it."""
    write_config(tmp_path, watch_table(retention=enforced(keep_last=2), best="max"), options=ROUNDS)
    run = tmp_path / "output" / "run"
    save(run, "step_1", step=1, metric=0.1)
    params, *_ = save(run, "step_2", step=2, metric=0.2)
    sound = params.read_bytes()
    with serving(tmp_path) as daemon:
        daemon.wait_for_verdicts({"step_1": "valid", "step_2": "valid"})
        before = daemon.wait_for("set.validated", set="step_2")["digest"]
        rot(params)
        line = daemon.wait_for("set.rotted", root=str(tmp_path / "output"), run="run", set="step_2")
        assert ("run/step_2.pdparams", before) == (line["path"], line["digest_before"])
        assert line["digest_now"] not in {None, before}
        assert "error" == line["level"]
        assert "it was the best set of its run" in line["reasons"]
        suspected = daemon.wait_for("set.suspected", set="step_2")
        assert ["content_rotted"] == [one["code"] for one in suspected["findings"]]
        daemon.wait_for("best.changed", set="step_1")
        save(run, "step_3", step=3, metric=0.05)
        daemon.wait_for("set.validated", set="step_3")
        daemon.wait_for("pass.finished", valid=2, not_valid=1, pending=0)
        assert set() == daemon.removed
        assert 1 == len(daemon.told("set.rotted"))
    with serving(tmp_path) as daemon:
        assert [] == daemon.told("set.suspected") + daemon.told("set.validated")
        wait_until(lambda: has_been_read_again(tmp_path, capsys, 8), "another round")
        params.write_bytes(sound)
        daemon.wait_for("set.validated", set="step_2")
        daemon.wait_for("set.removed", set="step_1")
        assert [] == daemon.told("set.rotted")


@pytest.mark.parametrize("suffix", [".pdopt", ".pdmeta"])
def test_rot_in_any_member_ends_the_sets_being_valid(suffix, tmp_path):
    """Also a progress file that nobody requires, and state that does not parse any more, count."""
    write_config(tmp_path, options=ROUNDS)
    run = tmp_path / "output" / "run"
    save(run, "step_1")
    with serving(tmp_path) as daemon:
        daemon.wait_for("set.validated", set="step_1")
        path = run / f"step_1{suffix}"
        rot(path, offset=path.stat().st_size // 2)
        assert f"run/step_1{suffix}" == daemon.wait_for("set.rotted", set="step_1")["path"]
        wait_until(lambda: daemon.verdicts["step_1"] in {"suspect", "corrupt", "unsafe"}, "another verdict")


def test_set_that_cannot_be_read_again_is_not_valid_until_it_can(tmp_path):
    """What used to be valid and cannot be read any more is unreadable, and no rot; then it is valid again."""
    write_config(tmp_path, options=ROUNDS, sweep="1s")
    run = tmp_path / "output" / "run"
    params, *_ = save(run, "step_1")
    with serving(tmp_path, unprivileged=True) as daemon:
        daemon.wait_for("set.validated", set="step_1")
        params.chmod(0)
        line = daemon.wait_for("set.unreadable", set="step_1")
        assert ["permission_denied"] == [one["code"] for one in line["findings"]]
        params.chmod(0o644)
        daemon.wait_for("set.validated", set="step_1", times=2)
        assert [] == daemon.told("set.rotted")


def test_new_set_is_proved_while_a_slow_reading_goes_on(tmp_path):
    """A file that is read again for seconds keeps no new set waiting, and one that vanishes is nothing."""
    write_config(tmp_path, options=f'{ROUNDS}\nscrub_rate = "4MiB"')
    run = tmp_path / "output" / "run"
    large, *_ = save(run, "step_1")
    dump(large, weights() | {"table": np.random.default_rng(1).random((4 << 20) // 4, "float32")})
    with serving(tmp_path) as daemon:
        daemon.wait_for("set.validated", set="step_1")
        wait_until(lambda: daemon.reading(large), "the large file to be read again")
        save(run, "step_2")
        daemon.wait_for("set.validated", set="step_2")
        for path in run.glob("step_1.*"):
            path.unlink()
        save(run, "step_3")
        daemon.wait_for("pass.finished", valid=2, pending=0, times=2)
        assert [] == daemon.told("set.rotted") + daemon.told("set.unreadable")


def test_rot_is_told_although_the_service_is_killed_at_once(tmp_path):
    """A kill right after rot was found loses nothing: the set is not valid afterwards, and that is known."""
    write_config(tmp_path, options=ROUNDS)
    params, *_ = save(tmp_path / "output" / "run", "step_1")
    with serving(tmp_path) as daemon:
        daemon.wait_for("set.validated", set="step_1")
        rot(params)
        daemon.wait_for("set.rotted", set="step_1")
        daemon.send(signal.SIGKILL)
        daemon.process.wait()
    with serving(tmp_path) as daemon:
        wait_until(
            lambda: daemon.told("set.suspected") or daemon.told("pass.finished", valid=0, not_valid=1),
            "the verdict",
        )
        assert [] == daemon.told("set.validated")


def test_rounds_are_switched_off_and_on_by_a_reload(tmp_path):
    """With `scrub = "off"` nothing is read again; a reload begins the rounds, and rot is found then."""
    write_config(tmp_path, options='scrub = "off"')
    run = tmp_path / "output" / "run"
    params, *_ = save(run, "step_1")
    with serving(tmp_path) as daemon:
        daemon.wait_for("set.validated", set="step_1")
        rot(params)
        save(run, "step_2")
        daemon.wait_for("set.validated", set="step_2")
        assert [] == daemon.told("set.rotted")
        write_config(tmp_path, options=f'{ROUNDS}\nscrub_rate = "8MiB"')
        daemon.send(signal.SIGHUP)
        daemon.wait_for("set.rotted", set="step_1")
        write_config(tmp_path, options='scrub = "off"')
        daemon.send(signal.SIGHUP)
        daemon.wait_for("config.reloaded", times=2)


def test_rot_in_the_source_of_the_live_release_says_so_and_leaves_the_release_alone(tmp_path):
    """The reasons name the release; nothing is made, moved or removed where it lies."""
    release = (
        'deploy_dir = "deploy"\nentrypoint = "network:build"\n'
        'input_spec = [{ shape = [-1, 4], dtype = "float32", name = "x" }]'
    )
    write_config(tmp_path, watch_table(best="max", release=release), options=ROUNDS)
    params, *_ = save(tmp_path / "output" / "run", "step_1")
    (tmp_path / "state").mkdir()
    with open_ledger(tmp_path / "state", NOW)[0] as ledger:
        deploy_dir, root = str(tmp_path / "deploy"), str(tmp_path / "output")
        key = SetKey("run", "step_1")
        ledger.record_release(ReleaseRecord(deploy_dir, root, key, ReleaseState.PUBLISHED, "key", NOW))
    with serving(tmp_path) as daemon:
        daemon.wait_for("set.validated", set="step_1")
        rot(params)
        reasons = daemon.wait_for("set.rotted", set="step_1")["reasons"]
        assert "the live release was made from it, or is being made: nothing there was touched" in reasons
    assert not (tmp_path / "deploy").exists()


def test_status_tells_people_how_far_the_round_is(tmp_path, capsys):
    """The line names files and bytes of the round, or says that there are none."""
    write_config(tmp_path)
    save(tmp_path / "output" / "run", "step_1")
    command = ["--config", str(tmp_path / "config.toml"), "status"]
    with serving(tmp_path) as daemon:
        daemon.wait_for("set.validated", set="step_1")
        capsys.readouterr()
        assert 0 == main(command)
        assert "read again in this round of 7d: 3 of 3 files" in " ".join(capsys.readouterr().out.split())
    write_config(tmp_path, options='scrub = "off"')
    assert 0 == main(command)
    assert "nothing is read again" in capsys.readouterr().out
