from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import psutil
import pytest

from checkpoints import dump, dump_huge, dump_slow, optimizer, save, scaler
from daemon_runner import (
    enforced,
    run_once,
    running,
    serving,
    watch_table,
    write_config,
)
from waiting import wait_until


@pytest.fixture
def run(tmp_path):
    """A run below the root `output`, which is watched, with nothing swept within a test."""
    write_config(tmp_path)
    directory = tmp_path / "output" / "run"
    directory.mkdir(parents=True)
    return directory


def slow_scan(run, daemon):
    """Have the daemon begin a scan that takes some seconds; returns the file."""
    path = run / "slow_1.pdparams"
    dump_slow(path)
    wait_until(lambda: daemon.reading(path), "the slow scan")
    return path


def test_sets_are_judged_whether_written_before_during_or_between_services(run, tmp_path):
    """Sets are judged that came before the start, into a new directory while it runs, or while it is down."""
    save(run, "step_1")
    with serving(tmp_path) as daemon:
        daemon.wait_for("set.validated", run="run", set="step_1")
        save(run, "step_2")
        daemon.wait_for("set.validated", run="run", set="step_2")
        save(tmp_path / "output" / "new" / "run", "step_3")
        daemon.wait_for("set.validated", run="new/run", set="step_3")
        assert [] == daemon.told("set.incomplete")
    save(run, "step_4")
    with serving(tmp_path) as daemon:
        daemon.wait_for_verdicts({"step_4": "valid"})
        assert {"step_4": "valid"} == daemon.verdicts


def test_lost_events_are_made_up_for_by_the_sweep(run, tmp_path):
    """Where events never come, the sweep finds new sets, new runs and late members all the same."""
    write_config(tmp_path, watch_table(options='observer = "polling"\npoll_interval = "1h"'), sweep="1s")
    save(run, "step_1", without=[".pdopt"])
    with serving(tmp_path) as daemon:
        daemon.wait_for("set.incomplete", set="step_1")
        dump(run / "step_1.pdopt", optimizer())
        save(tmp_path / "output" / "new", "step_2")
        daemon.wait_for_verdicts({"step_1": "valid", "step_2": "valid"})


def test_late_member_rejudges_the_set_without_reading_the_others_again(run, tmp_path):
    """A late `.pdopt` makes the set valid, and the weights, of which nothing changed, are not read again."""
    params, *_ = save(run, "step_1", without=[".pdopt"])
    with serving(tmp_path) as daemon:
        daemon.wait_for("set.incomplete", set="step_1")
        status = params.stat()
        with params.open("r+b") as file:
            file.write(b"no pickle any more")  # whoever reads it will call it corrupt
        os.utime(params, ns=(status.st_atime_ns, status.st_mtime_ns))
        dump(run / "step_1.pdopt", optimizer())
        daemon.wait_for("set.validated", set="step_1")


def test_scaler_once_seen_is_expected_from_then_on(run, tmp_path):
    """A set without scaler after one that had it is incomplete, until its scaler comes."""
    save(run, "step_1", step=1)
    save(run, "step_2", step=2, pdscaler=scaler())
    with serving(tmp_path) as daemon:
        daemon.wait_for_verdicts({"step_1": "valid", "step_2": "valid"})
        save(run, "step_3", step=3)
        line = daemon.wait_for("set.incomplete", set="step_3")
        assert ["missing_scaler"] == [finding["code"] for finding in line["findings"]]
        dump(run / "step_3.pdscaler", scaler())
        daemon.wait_for("set.validated", set="step_3")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_stop_during_a_scan_is_quick_and_leaves_no_process(number, run, tmp_path):
    """Both signals end the service within five seconds in the middle of a scan, with nothing left behind."""
    with serving(tmp_path) as daemon:
        slow_scan(run, daemon)
        assert 0 == daemon.stop(number)
        assert number.name == daemon.told("daemon.stopped")[0]["reason"]


def test_stop_during_an_export_is_quick_and_leaves_no_process(run, tmp_path):
    """SIGTERM ends the service within five seconds while a network is built, with its worker's group."""
    (tmp_path / "slow_network.py").write_text(
        "import subprocess, time\n"
        "def build():\n"
        "    subprocess.Popen(['sleep', '600'])\n"
        "    open('building', 'w')\n"
        "    time.sleep(600)\n"
    )
    release = (
        'deploy_dir = "deploy"\nentrypoint = "slow_network:build"\npythonpath = ["."]\n'
        'input_spec = [{ shape = [-1, 4], dtype = "float32", name = "x" }]'
    )
    write_config(tmp_path, watch_table(best="max", release=release))
    save(run, "step_1", metric=0.5)
    with serving(tmp_path) as daemon:
        daemon.wait_for("release.started", set="step_1")
        wait_until(lambda: [one for one in daemon.children() if one.name() == "sleep"], "the network's child")
        assert 0 == daemon.stop()
    assert not (tmp_path / "deploy" / "current").exists()


def test_reload_takes_up_policy_and_root(run, tmp_path):
    """SIGHUP puts a changed policy into force and adds a root, whose sets are judged."""
    for step in (1, 2):
        save(run, f"step_{step}", step=step)
    save(tmp_path / "more", "step_7", step=7)
    with serving(tmp_path) as daemon:
        daemon.wait_for_verdicts({"step_1": "valid", "step_2": "valid"})
        write_config(tmp_path, watch_table(retention=enforced(keep_last=1)), watch_table("more"))
        daemon.send(signal.SIGHUP)
        daemon.wait_for("config.reloaded")
        daemon.wait_for("set.removed", set="step_1")
        daemon.wait_for("set.validated", root=str(tmp_path / "more"), set="step_7")
        save(tmp_path / "more", "step_8", step=8)
        daemon.wait_for("set.validated", set="step_8")
    assert {"step_2"} == {path.stem for path in run.iterdir()}


def test_reload_of_a_wrong_configuration_keeps_the_one_before(run, tmp_path):
    """A wrong configuration is rejected with all its problems, and the one before stays in force."""
    with serving(tmp_path) as daemon:
        write_config(tmp_path, watch_table(options='color = "red"'), options='workers = "many"')
        daemon.send(signal.SIGHUP)
        problems = daemon.wait_for("config.rejected")["problems"]
        assert 2 == len(problems)
        assert "color" in "".join(problems)
        assert "workers" in "".join(problems)
        save(run, "step_1")
        daemon.wait_for("set.validated", set="step_1")
        write_config(tmp_path)
        daemon.send(signal.SIGHUP)
        daemon.wait_for("config.reloaded")


def test_reload_during_a_scan_loses_nothing(run, tmp_path):
    """A reload with another number of workers while files are scanned leaves no file unjudged."""
    with serving(tmp_path) as daemon:
        slow = slow_scan(run, daemon)
        save(run, "step_1")
        write_config(tmp_path, options="workers = 2")
        daemon.send(signal.SIGHUP)
        daemon.wait_for("set.validated", set="step_1")
        wait_until(lambda: daemon.reading(slow), "the slow file to be scanned anew")


def test_service_manager_is_told_of_each_state(run, tmp_path):
    """READY follows the first pass, a reload is framed, WATCHDOG comes in time and STOPPING at the end."""
    save(run, "step_1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)

        def heard_until(key):
            heard = []
            while not heard or key not in heard[-1]:
                message = manager.recv(4096).decode()
                heard.append(dict(line.split("=", 1) for line in message.splitlines()))
            return heard

        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        with running(tmp_path, environment=environment) as daemon:
            assert ["READY"] == [next(iter(one)) for one in heard_until("READY")]
            assert daemon.told("pass.finished")
            heard_until("WATCHDOG")
            daemon.send(signal.SIGHUP)
            reload = [one for one in heard_until("READY") if "WATCHDOG" not in one]
            assert "1" == reload[0]["RELOADING"]
            assert reload[0]["MONOTONIC_USEC"].isdigit()
            assert "1" == reload[-1]["READY"]
            daemon.send(signal.SIGTERM)
            assert "1" == heard_until("STOPPING")[-1]["STOPPING"]
            assert 0 == daemon.wait()


def test_second_service_on_one_state_directory_is_refused(run, tmp_path):
    """A second service ends with code 3 and names the process that holds the state directory."""
    with serving(tmp_path) as daemon:
        code, second = run_once(tmp_path)
        assert 3 == code
        assert f"process {daemon.pid}" in second.story


def test_missing_root_is_told_and_served_when_it_appears(run, tmp_path):
    """A root that is not there keeps nobody from being served, and is itself served once it is there."""
    write_config(tmp_path, watch_table("missing"), watch_table("output"))
    save(run, "step_1")
    with serving(tmp_path) as daemon:
        missing = str(tmp_path / "missing")
        assert "No such file" in daemon.wait_for("watch.degraded", root=missing)["reason"]
        daemon.wait_for("set.validated", set="step_1")
        save(tmp_path / "missing" / "run", "step_2")
        save(run, "step_3")  # wakes it before it tries again by itself
        daemon.wait_for("watch.recovered", root=missing)
        daemon.wait_for("set.validated", root=missing, set="step_2")
        assert 1 == len(daemon.told("watch.degraded"))


def test_root_removed_and_made_again_is_watched_again(run, tmp_path):
    """After a root was removed and made again, new sets are judged, also under the names of old ones."""
    write_config(tmp_path, watch_table("other"), watch_table("output"))
    root = tmp_path / "output"
    save(run, "step_1", without=[".pdopt"])
    (tmp_path / "other").mkdir()
    with serving(tmp_path) as daemon:
        daemon.wait_for("set.incomplete", set="step_1")
        shutil.rmtree(root)
        daemon.wait_for("watch.degraded", root=str(root))
        save(run, "step_1")
        save(tmp_path / "other", "step_1")  # wakes it before it tries again by itself
        daemon.wait_for("watch.recovered", root=str(root))
        daemon.wait_for("set.validated", run="run", set="step_1")
        save(run, "step_2")
        daemon.wait_for("set.validated", set="step_2")


def test_once_waits_for_scans_and_is_0_when_all_is_well(run, tmp_path):
    """`run --once` judges all there is, waits for a save that has just ended, and exits with 0."""
    save(run, "step_1")
    code, daemon = run_once(tmp_path)
    assert 0 == code
    assert {"step_1": "valid"} == daemon.verdicts
    assert 0 == daemon.told("pass.finished")[-1]["pending"]


def test_once_is_1_when_a_set_is_not_valid(run, tmp_path):
    """`run --once` exits with 1 as long as there is a set that is not valid, told before or not."""
    save(run, "step_1", without=[".pdopt"])
    assert [1, 1] == [run_once(tmp_path)[0] for _ in range(2)]


def test_once_is_3_when_a_root_is_missing(run, tmp_path):
    """`run --once` exits with 3 when a root cannot be looked at, after it has served the others."""
    write_config(tmp_path, watch_table("missing"), watch_table("output"))
    save(run, "step_1")
    code, daemon = run_once(tmp_path)
    assert 3 == code
    assert {"step_1": "valid"} == daemon.verdicts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_once_is_130_when_interrupted(number, run, tmp_path):
    """`run --once` that is stopped before its end says so by its exit code."""
    with running(tmp_path, "--once") as daemon:
        slow_scan(run, daemon)
        assert 130 == daemon.stop(number)


def test_once_is_3_when_the_ledger_cannot_be_written(run, tmp_path):
    """`run --once` gives up when the disk of the ledger is full, instead of waiting for space."""
    path = run / "step_1.pdparams"
    dump_huge(path, 1 << 30)
    with running(tmp_path, "--once") as daemon:
        wait_until(lambda: daemon.reading(path), "the scan")
        psutil.Process(daemon.pid).rlimit(psutil.RLIMIT_FSIZE, (8 << 10, 8 << 10))  # the log needs less
        assert 3 == daemon.wait()
        assert daemon.told("ledger.unavailable")


def contents(root):
    """What each checkpoint file below a root holds, by its name, wherever it is now."""
    return {path.name: path.read_bytes() for path in root.rglob("*.pd*") if path.is_file()}


def test_ledger_lost_between_two_runs_costs_no_checkpoint(run, tmp_path):
    """A ledger that is gone, empty or garbage at the start is made anew, told, and leads to the same end."""
    write_config(tmp_path, watch_table(best="max", retention=enforced(keep_last=1)))
    for step, metric in enumerate((0.5, 0.9, 0.1, 0.2), start=1):
        save(run, f"step_{step}", step=step, metric=metric)
    before = contents(tmp_path)
    assert 0 == run_once(tmp_path)[0]
    ledger = tmp_path / "state" / "ledger.db"
    for damage in (None, b"", b"garbage " * 10_000):
        ledger.unlink()
        if damage is not None:
            ledger.write_bytes(damage)

        code, daemon = run_once(tmp_path)

        assert 0 == code
        assert {"step_2": "valid", "step_4": "valid"} == daemon.verdicts
        assert {"step_2", "step_4"} == {path.stem for path in run.iterdir()}
        assert before == contents(tmp_path)
        set_aside = [line["set_aside"] for line in daemon.told("ledger.damaged")]
        assert ([] if damage is None else [damage]) == [Path(name).read_bytes() for name in set_aside]
        assert len(set_aside) == len(daemon.told("ledger.rebuilt"))


def test_ledger_lost_while_in_use_is_replaced(run, tmp_path):
    """A ledger replaced by garbage or removed under the service is made anew, and the service goes on."""
    ledger = tmp_path / "state" / "ledger.db"
    with serving(tmp_path) as daemon:
        (tmp_path / "garbage").write_bytes(b"garbage " * 10_000)
        (tmp_path / "garbage").rename(ledger)
        save(run, "step_1")
        daemon.wait_for("set.validated", set="step_1")
        daemon.wait_for("ledger.rebuilt")
        ledger.unlink()
        save(run, "step_2")
        daemon.wait_for("set.validated", set="step_2")
        daemon.wait_for("ledger.rebuilt", times=2)
        wait_until(ledger.exists, "the new ledger")
        assert [] == daemon.told("run.failed")


def test_ledger_overwritten_while_in_use_is_noticed_at_the_next_start_at_the_latest(run, tmp_path):
    """Garbage written into the open ledger stops nothing, and the next start sets the file aside."""
    with serving(tmp_path) as daemon:
        save(run, "step_1")
        daemon.wait_for("set.validated", set="step_1")
        with (tmp_path / "state" / "ledger.db").open("r+b") as file:
            file.write(b"garbage " * 10_000)
        save(run, "step_2")
        daemon.wait_for("set.validated", set="step_2")
    code, second = run_once(tmp_path)
    assert 0 == code
    assert daemon.told("ledger.damaged") or second.told("ledger.damaged")
    assert {"step_1", "step_2"} == {path.stem for path in run.iterdir()}


def test_ledger_on_a_full_disk_is_told_and_taken_up_again(run, tmp_path):
    """A ledger that cannot grow is told, and once it can, what was scanned meanwhile is judged at once."""
    path = run / "step_1.pdparams"
    with serving(tmp_path) as daemon:
        dump(run / "step_1.pdopt", {})
        dump_huge(path, 1 << 30)
        wait_until(lambda: daemon.reading(path), "the scan")
        process = psutil.Process(daemon.pid)
        unlimited = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (8 << 10, unlimited[1]))  # the log needs less
        daemon.wait_for("ledger.unavailable")
        process.rlimit(psutil.RLIMIT_FSIZE, unlimited)
        save(tmp_path / "output" / "new", "step_2")  # wakes it before it tries again by itself
        daemon.wait_for_verdicts({"step_1": "valid", "step_2": "valid"})
        assert [] == daemon.told("ledger.damaged")


def test_killed_scan_is_tried_again(run, tmp_path):
    """When a scan process is killed, as by the kernel short of memory, its file is judged all the same."""
    path = run / "step_1.pdparams"
    with serving(tmp_path) as daemon:
        dump(run / "step_1.pdopt", {})
        dump_huge(path, 1 << 30)
        wait_until(lambda: daemon.reading(path), "the scan")
        scanner = daemon.reading(path)[0]
        scanner.suspend()
        assert str(path) in [one.path for one in scanner.open_files()]  # it is in the middle
        scanner.kill()
        daemon.wait_for("set.validated", set="step_1")
        assert [] == daemon.told("scan.failed")


def test_file_that_kills_every_scan_is_the_only_one_given_up(run, tmp_path):
    """A file on which each scan process dies is unreadable, and the others of its run are judged."""
    deadly = run / "step_1.pdparams"
    dump(run / "step_1.pdopt", {})
    dump_slow(deadly)

    def given_up(daemon):
        for scanner in daemon.reading(deadly):
            scanner.kill()
        return daemon.told("scan.failed")

    with running(tmp_path) as daemon:
        for step in (2, 3):
            save(run, f"step_{step}", step=step)
        wait_until(lambda: given_up(daemon), "the file to be given up")
        daemon.wait_for_verdicts({"step_1": "unreadable", "step_2": "valid", "step_3": "valid"})
        assert ["run/step_1.pdparams"] == [line["path"] for line in daemon.told("scan.failed")]
        line = daemon.told("set.unreadable")[0]
        assert ["scanner_failed"] == [finding["code"] for finding in line["findings"]]
