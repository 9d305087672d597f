from __future__ import annotations

import shutil
from datetime import UTC, datetime

import numpy as np
import pytest

from checkpoints import SUFFIXES, dump, save, weights
from ckptd.cli.main import main
from ckptd.core.model import SetKey
from ckptd.core.records import ReleaseRecord, ReleaseState
from ckptd.shell.ledger import open_ledger
from daemon_runner import enforced, run_once, serving, watch_table, write_config
from waiting import wait_until

NOW = datetime(2026, 11, 24, 10, 55, tzinfo=UTC)


def stems(directory):
    """The names of the sets that have a file in the directory."""
    return {path.name.partition(".")[0] for path in directory.iterdir()}


def contents(directory):
    """What each checkpoint file below the directory holds, by its name."""
    return {path.name: path.read_bytes() for path in directory.rglob("*.pd*") if path.is_file()}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A run of which an enforced policy has removed what it does not keep: place, log, and files before."""
    place = tmp_path_factory.mktemp("pruned")
    write_config(place, watch_table(best="max", retention=enforced(keep_last=1)))
    root = place / "output"
    for step, metric in enumerate((0.1, 0.7, float("nan"), 0.5, 0.2, 0.3), start=1):
        save(root / "run", f"step_{step}", step=step, metric=metric)
    save(root / "run", "step_7", step=7, metric=0.99)
    dump(root / "run" / "step_7.pdparams", weights() | {"head.bias": np.full(2, np.inf, "float32")})
    save(root / "other", "step_1", metric=0.1)
    before = contents(root)
    assert 0 == main(["--config", str(place / "config.toml"), "pin", "run/step_4"])
    code, daemon = run_once(place)
    assert 1 == code  # one set is not valid
    return place, daemon, before


def test_enforced_policy_removes_exactly_what_no_rule_keeps(pruned):
    """The newest valid set, the best, the pinned and what is not valid stay; all others go, with reasons."""
    place, daemon, _ = pruned
    root = place / "output"
    assert {"step_2", "step_4", "step_6", "step_7"} == stems(root / "run")
    assert {"step_1"} == stems(root / "other")
    assert {"step_1", "step_3", "step_5"} == daemon.removed
    assert all("keep_last=1" in line["reasons"][0] for line in daemon.told("set.removed"))


def test_removed_sets_lie_whole_in_the_trash(pruned):
    """Nothing is lost by a removal: each file is in the run or in the trash, byte for byte."""
    place, _, before = pruned
    root = place / "output"
    assert before == contents(root)
    in_trash = contents(root / ".ckptd" / "trash")
    assert {f"step_{step}{suffix}" for step in (1, 3, 5) for suffix in SUFFIXES} == in_trash.keys()


def test_nan_and_unproved_sets_are_never_best(pruned):
    """Neither a NaN metric nor the best metric of a set with infinite weights makes a set the best one."""
    _, daemon, _ = pruned
    assert ["step_2"] == [line["set"] for line in daemon.told("best.changed", run="run")]
    assert "suspect" == daemon.verdicts["step_7"]


def test_plan_mode_removes_nothing_and_says_what_it_would(tmp_path):
    """In plan mode a policy that wants sets gone is told, and nothing is touched, sweep after sweep."""
    rules = enforced(keep_last=1).replace("enforce", "plan")
    write_config(tmp_path, watch_table(retention=rules), sweep="1s")
    root = tmp_path / "output"
    for step in (1, 2, 3):
        save(root / "run", f"step_{step}", step=step)
    before = sorted(path.relative_to(root) for path in root.rglob("*"))
    with serving(tmp_path) as daemon:
        line = daemon.wait_for("plan.changed", mode="plan")
        assert (1, 2, 0) == (line["keep"], line["remove"], line["leave"])
        daemon.wait_for("pass.finished", valid=3, times=2)
        assert [] == daemon.told("set.removed")
    assert before == sorted(path.relative_to(root) for path in root.rglob("*"))


def test_restored_set_is_the_same_and_stays(tmp_path):
    """A set that is restored while the service runs comes back byte for byte and is not removed again."""
    write_config(tmp_path, watch_table(retention=enforced(keep_last=1)))
    run = tmp_path / "output" / "run"
    for step in (1, 2):
        save(run, f"step_{step}", step=step)
    before = contents(run)
    with serving(tmp_path) as daemon:
        entry = daemon.wait_for("set.removed", set="step_1")["entry"]
        daemon.wait_for("pass.finished", valid=1)
        assert 0 == main(["--config", str(tmp_path / "config.toml"), "trash", "restore", entry])
        wait_until(lambda: before == contents(run), "the files")
        save(run, "step_3", step=3)
        daemon.wait_for("set.removed", set="step_2")
        daemon.wait_for("pass.finished", valid=2, pending=0)
        assert {"step_1", "step_3"} == stems(run)


def test_trash_that_cannot_be_used_keeps_all_sets_and_is_told(tmp_path):
    """Where something is in the trash's way, sets are judged, none is removed, and each refusal is told."""
    write_config(tmp_path, watch_table(retention=enforced(keep_last=1)))
    root = tmp_path / "output"
    for step in (1, 2):
        save(root / "run", f"step_{step}", step=step)
    (root / ".ckptd").mkdir()
    (root / ".ckptd" / "trash").write_bytes(b"in the way")
    code, daemon = run_once(tmp_path)
    assert 3 == code
    assert {"step_1": "valid", "step_2": "valid"} == daemon.verdicts
    assert "the trash cannot be used" in daemon.told("watch.degraded")[0]["reason"]
    assert "Not a directory" in daemon.told("set.skipped", set="step_1")[0]["reason"]
    assert [] == daemon.told("trash.recovered")
    assert {"step_1", "step_2"} == stems(root / "run")


RELEASE = (
    'deploy_dir = "deploy"\nentrypoint = "network:build"\n'
    'input_spec = [{ shape = [-1, 4], dtype = "float32", name = "x" }]'
)


def test_no_set_is_removed_while_any_may_be_the_live_one(tmp_path, capsys):
    """While it cannot be read which set is live, all stay, and that is told by the service and the plan."""
    write_config(tmp_path, watch_table(best="max", retention=enforced(keep_last=1), release=RELEASE))
    run = tmp_path / "output" / "run"
    for step in (1, 2):
        save(run, f"step_{step}", step=step)
    (tmp_path / "deploy" / "current").mkdir(parents=True)
    code, daemon = run_once(tmp_path)
    assert 1 == code
    reason = daemon.told("set.skipped", set="step_1")[0]["reason"]
    assert "refusing to remove a set that may be live" in reason
    assert f"{tmp_path}/deploy: `current` is no symbolic link; move it away" in reason
    assert {"step_1", "step_2"} == stems(run)
    assert 0 == main(["--config", str(tmp_path / "config.toml"), "plan"])
    assert "nothing is removed while any set may be the live one" in capsys.readouterr().err


def test_set_that_was_released_stays_while_the_deploy_directory_is_away(tmp_path):
    """What was published last is not removed when its deploy directory is gone, as an unmounted one is."""
    write_config(tmp_path, watch_table(best="max", retention=enforced(keep_last=1), release=RELEASE))
    root = tmp_path / "output"
    for step in (1, 2, 3):
        save(root / "run", f"step_{step}", step=step)
    (tmp_path / "state").mkdir()
    ledger, _ = open_ledger(tmp_path / "state", NOW)
    with ledger:
        deploy_dir, key = str(tmp_path / "deploy"), SetKey("run", "step_1")
        ledger.record_release(ReleaseRecord(deploy_dir, str(root), key, ReleaseState.PUBLISHED, "key", NOW))
    code, daemon = run_once(tmp_path)
    assert 0 == code
    assert {"step_2"} == daemon.removed
    assert {"step_1", "step_3"} == stems(root / "run")


def test_run_that_is_removed_by_hand_is_forgotten(tmp_path):
    """When a run is deleted by its owner, its sets are no longer counted and nothing fails."""
    write_config(tmp_path)
    root = tmp_path / "output"
    save(root / "old", "step_1")
    save(root / "new", "step_2")
    with serving(tmp_path) as daemon:
        daemon.wait_for("pass.finished", valid=2)
        shutil.rmtree(root / "old")
        save(root / "new", "step_3")
        daemon.wait_for("pass.finished", sets=2, valid=2, pending=0, times=2)
        assert [] == daemon.told("run.failed")
