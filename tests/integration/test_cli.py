from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from checkpoints import dump_slow, save
from ckptd.cli.main import main
from daemon_runner import enforced, is_alive, readers, run_once, serving, watch_table, write_config
from waiting import wait_until


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A place where the service has removed `step_1` and `step_3` of a run, and ended."""
    place = tmp_path_factory.mktemp("cli")
    write_config(place, watch_table(best="max", retention=enforced(keep_last=1)))
    for step, metric in enumerate((0.1, 0.9, 0.2, 0.3), start=1):
        save(place / "output" / "run", f"step_{step}", step=step, metric=metric)
    save(place / "output" / "run", "step_5", step=5, without=[".pdopt"])
    save(place / "output" / "other", "step_1", metric=0.5)
    assert 1 == run_once(place)[0]
    return place


@pytest.fixture
def ckptd(capfd):
    """Run a command on a place's configuration: its exit code, output and errors."""

    def run(place, *arguments):
        code = main(["--config", str(place / "config.toml"), *arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def parsed(out):
    """The objects of JSON lines, each of which must tell its version."""
    found = [json.loads(line) for line in out.splitlines()]
    assert all(1 == one["schema"] for one in found)
    return found


def test_plan_json_gives_one_object_per_set_and_a_summary(place, ckptd):
    """Each set is an object with exactly the promised keys, and the last line sums up."""
    code, out, _ = ckptd(place, "plan", "--json")
    *sets, last = parsed(out)
    assert 0 == code
    keys = {"schema", "run", "set", "verdict", "action", "reasons", "bytes"}
    assert all(one.keys() == keys for one in sets)
    assert {"step_2": "keep", "step_4": "keep", "step_5": "leave"} == {
        one["set"]: one["action"] for one in sets if one["run"] == "output/run"
    }
    assert all(one["reasons"] for one in sets)
    assert {"schema", "summary"} == last.keys()
    assert {"keep": 3, "remove": 0, "leave": 1, "bytes_freed": 0} == last["summary"]


@pytest.mark.parametrize("name", ["run", "output/run", "output/run/", "{place}/output/run"])
def test_plan_of_one_run_shows_only_that(name, place, ckptd):
    """A run is meant by its path below the root, by its full name, or by its path."""
    code, out, _ = ckptd(place, "plan", "--json", name.format(place=place))
    assert 0 == code
    assert {"output/run"} == {one["run"] for one in parsed(out)[:-1]}


def test_plan_of_a_watch_shows_all_its_runs(place, ckptd):
    """The name of a watch means all runs in it."""
    _, out, _ = ckptd(place, "plan", "--json", "output")
    assert {"output/run", "output/other"} == {one["run"] for one in parsed(out)[:-1]}


def test_plan_of_an_unknown_run_does_nothing(place, ckptd):
    """One unknown name among others is a usage error that names it."""
    code, out, err = ckptd(place, "plan", "run", "nope")
    assert (2, "") == (code, out)
    assert "nope: no run of that name" in err
    assert "run, nope" not in err


def test_plan_judges_what_no_service_has_seen(tmp_path, ckptd):
    """Without any ledger the plan is the one that a service would make; nothing is removed or created."""
    write_config(tmp_path, watch_table(retention=enforced(keep_last=1)))
    for step in (1, 2):
        save(tmp_path / "output" / "run", f"step_{step}", step=step)
        for path in (tmp_path / "output" / "run").iterdir():
            os.utime(path, (1_700_000_000 + step, 1_700_000_000 + step))
    code, out, _ = ckptd(tmp_path, "plan")
    assert 0 == code
    assert "step_1  valid" in out
    assert "remove" in out
    assert "keep 1, remove 1 (2.3 KiB), leave 0" in out
    assert {"config.toml", "output"} == {path.name for path in tmp_path.iterdir()}
    assert 6 == len(list((tmp_path / "output").rglob("*.pd*")))


def test_commands_say_which_root_cannot_be_read(tmp_path, ckptd):
    """A root that is not there is named, and the plan, which lacks it, could not be made in full."""
    write_config(tmp_path, watch_table("missing"), watch_table())
    save(tmp_path / "output" / "run", "step_1")
    for command, expected in (("status", 0), ("plan", 3), ("trash list", 3)):
        code, _, err = ckptd(tmp_path, *command.split())
        assert expected == code
        assert "missing: No such file or directory" in err


def test_status_counts_the_sets_of_each_run(place, ckptd):
    """What the service knew last is shown, for programs and for people, and that it does not run now."""
    code, out, _ = ckptd(place, "status", "--json")
    daemon, *runs = parsed(out)
    assert 0 == code
    assert not daemon["daemon"]["running"]
    by_name = {one["run"]: one for one in runs}
    assert {"valid": 2, "incomplete": 1} == by_name["output/run"]["sets"]
    assert "step_4" == by_name["output/run"]["newest_valid"]
    _, out, _ = ckptd(place, "status")
    assert "not running" in out
    assert "output/run" in out


def test_commands_work_beside_the_running_service(tmp_path, ckptd):
    """While the service runs, it is found by its process id, and pins take effect at its next look."""
    write_config(tmp_path, watch_table(retention=enforced(keep_last=1)))
    run = tmp_path / "output" / "run"
    save(run, "step_1", step=1)
    with serving(tmp_path) as daemon:
        daemon.wait_for("pass.finished", valid=1)
        _, out, _ = ckptd(tmp_path, "status", "--json")
        status = parsed(out)[0]["daemon"]
        assert (True, daemon.pid) == (status["running"], status["pid"])
        assert 0 == ckptd(tmp_path, "pin", "run/step_1", "--why", "the paper")[0]
        save(run, "step_2", step=2)
        daemon.wait_for("pass.finished", valid=2)
        save(run, "step_3", step=3)
        daemon.wait_for("set.removed", set="step_2")
        assert {"step_2"} == daemon.removed
        code, out, _ = ckptd(tmp_path, "plan", "--json", "run")
        assert 0 == code
        assert "pinned: until it is unpinned" in parsed(out)[0]["reasons"]


def test_explain_tells_the_findings_of_a_set_and_what_to_do(place, ckptd):
    """The history of a set has its verdict, each finding with advice, and the decision."""
    _, out, _ = ckptd(place, "explain", "run/step_5")
    assert "judged incomplete" in out
    assert "no opt is there" in out
    assert "leave: incomplete: only valid sets are ever removed" in out
    _, out, _ = ckptd(place, "explain", "--json", str(place / "output" / "run" / "step_5"))
    assert {"judged", "decided"} == {one["what"] for one in parsed(out)}


def test_explain_of_a_removed_set_tells_why_it_went(place, ckptd):
    """The history of a set outlives the set, and leads to its entry in the trash."""
    code, out, _ = ckptd(place, "explain", "--json", "run/step_1")
    assert 0 == code
    history = parsed(out)
    assert ["judged", "decided", "begun", "removed"] == [one["what"] for one in history]
    assert "keep_last=1" in history[1]["reasons"][0]
    _, out, _ = ckptd(place, "explain", "output/run/step_1")
    assert f"moved into the trash as {history[3]['entry']}" in out


@pytest.mark.parametrize("command", ["explain", "pin", "unpin"])
def test_unknown_set_is_a_usage_error(command, place, ckptd):
    """A name that means no set is told with the commands that list the names."""
    code, out, err = ckptd(place, command, "run/step_99")
    assert (2, "") == (code, out)
    assert "run/step_99: no set of that name" in err
    assert "ckptd plan" in err


def test_ambiguous_set_is_a_usage_error_with_the_choices(tmp_path, ckptd):
    """A name that two roots have in common is refused, with the names that tell them apart."""
    write_config(tmp_path, watch_table("a"), watch_table("b"))
    for root in ("a", "b"):
        save(tmp_path / root / "run", "step_1")
    code, _, err = ckptd(tmp_path, "pin", "run/step_1")
    assert 2 == code
    assert "a/run/step_1, b/run/step_1" in err
    assert 0 == ckptd(tmp_path, "pin", "b/run/step_1")[0]


def test_pin_and_unpin_say_what_they_did(tmp_path, ckptd):
    """A set can be pinned twice and unpinned once; the second time there is nothing to take away."""
    write_config(tmp_path)
    save(tmp_path / "output", "step_1")
    path = str(tmp_path / "output" / "step_1.pdparams")
    results = [ckptd(tmp_path, command, path) for command in ("pin", "pin", "unpin", "unpin")]
    assert [0, 0, 0, 1] == [code for code, _, _ in results]
    assert ["pinned", "pinned", "unpinned", "was not pinned"] == [
        out.strip().partition(": ")[2] for _, out, _ in results
    ]


def test_trash_lists_restores_and_purges(tmp_path, ckptd):
    """A removed set is listed with its reasons, comes back byte for byte, and is gone once purged."""
    write_config(tmp_path, watch_table(retention=enforced(keep_last=1)))
    run = tmp_path / "output" / "run"
    for step in (1, 2, 3):
        save(run, f"step_{step}", step=step)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert 0 == run_once(tmp_path)[0]

    _, out, _ = ckptd(tmp_path, "trash", "list", "--json")
    entries = {one["set"]: one for one in parsed(out)}
    assert {"step_1", "step_2"} == entries.keys()
    assert "keep_last=1" in entries["step_1"]["reasons"][0]
    code, out, _ = ckptd(tmp_path, "trash", "restore", entries["step_1"]["entry"])
    assert 0 == code
    assert "output/run/step_1: restored and pinned" in out
    assert {name: data for name, data in before.items() if "step_2" not in name} == {
        path.name: path.read_bytes() for path in run.iterdir()
    }
    assert (0, "nothing is due\n", "") == ckptd(tmp_path, "trash", "purge")
    code, out, _ = ckptd(tmp_path, "trash", "purge", entries["step_2"]["entry"])
    assert 0 == code
    assert "deleted, 2.3 KiB freed" in out
    assert (0, "the trash is empty\n", "") == ckptd(tmp_path, "trash", "list")
    assert "deleted for good" in ckptd(tmp_path, "explain", "run/step_2")[1]
    code, _, err = ckptd(tmp_path, "trash", "restore", entries["step_2"]["entry"])
    assert 1 == code
    assert "refusing to restore" in err


def test_trash_restore_without_a_usable_ledger_is_done_all_the_same(tmp_path, ckptd):
    """What is on disk counts: with a damaged ledger the set comes back, and only the note is missing."""
    write_config(tmp_path, watch_table(retention=enforced(keep_last=1)))
    for step in (1, 2):
        save(tmp_path / "output" / "run", f"step_{step}", step=step)
    entry = run_once(tmp_path)[1].told("set.removed")[0]["entry"]
    (tmp_path / "state" / "ledger.db").write_bytes(b"garbage " * 1000)
    code, out, err = ckptd(tmp_path, "trash", "restore", entry)
    assert 0 == code
    assert "restored" in out
    assert "without a note" in err
    assert (tmp_path / "output" / "run" / "step_1.pdparams").exists()


def test_damaged_ledger_is_a_clear_error(tmp_path, ckptd):
    """Commands that need the ledger say that it is damaged and what to do, and leave it as it is."""
    write_config(tmp_path)
    save(tmp_path / "output" / "run", "step_1")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ledger.db").write_bytes(b"garbage " * 1000)
    for command in ("status", "plan", "explain run/step_1"):
        code, out, err = ckptd(tmp_path, *command.split())
        assert (3, "") == (code, out)
        assert "is damaged" in err
        assert "restart the service" in err


def test_release_list_says_that_there_is_nothing(tmp_path, ckptd):
    """Without releases, or without the wish for them, that is said to people and nothing to programs."""
    release = (
        'deploy_dir = "deploy"\nentrypoint = "network:build"\n'
        'input_spec = [{ shape = [-1, 4], dtype = "float32", name = "x" }]'
    )
    for watch, words in (
        (watch_table(), "nothing is ever released"),
        (watch_table(best="max", release=release), "nothing was released yet"),
    ):
        write_config(tmp_path, watch)
        code, out, _ = ckptd(tmp_path, "release", "list")
        assert 0 == code
        assert words in out
        assert (0, "", "") == ckptd(tmp_path, "release", "list", "--json")


def test_config_commands_print_what_they_should(place, ckptd):
    """The configuration is checked, shown as valid TOML with defaults, and described as a schema."""
    assert 0 == ckptd(place, "config", "check")[0]
    code, out, _ = ckptd(place, "config", "show")
    assert 0 == code
    assert "trash_for" in out
    code, out, _ = ckptd(place, "config", "schema")
    assert 0 == code
    assert "properties" in json.loads(out)


@pytest.mark.parametrize("command", ["run --once", "plan", "status", "explain x", "pin x", "trash list"])
def test_wrong_configuration_is_told_in_full_and_nothing_is_done(command, tmp_path, ckptd):
    """Every problem is told, with its place, and the exit code is that of a configuration error."""
    write_config(tmp_path, watch_table(options='color = "red"'), options='workers = "many"')
    code, out, err = ckptd(tmp_path, *command.split())
    assert (2, "") == (code, out)
    assert "daemon.workers" in err
    assert "watch[1].color" in err
    assert ["config.toml"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize("arguments", [[], ["nope"], ["plan", "--nope"], ["trash"], ["check"]])
def test_usage_errors_exit_with_2(arguments, capsys):
    """A command line that means nothing is answered with the usage."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert 2 == ended.value.code
    assert "usage: ckptd" in capsys.readouterr().err


def test_output_that_nobody_reads_ends_quietly(place):
    """When the reader of a pipe is gone, a command ends without a word, for programs and for people."""
    for arguments in (["plan"], ["plan", "--json"]):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "ckptd", "--config", place / "config.toml", *arguments]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)
        assert (0, b"") == (done.returncode, done.stderr)


def test_output_that_cannot_be_written_is_told(place):
    """On a full disk a command says so in one line, and exits with the code of an I/O error."""
    command = [sys.executable, "-m", "ckptd", "--config", place / "config.toml", "status"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert 3 == done.returncode
    assert b"ckptd: [Errno 28] No space left on device\n" == done.stderr


def test_interrupted_check_ends_with_130(tmp_path):
    """Ctrl-C in a terminal ends a check at once, with all its processes and without a word too many."""
    huge = tmp_path / "step_1.pdparams"
    dump_slow(huge)
    command = [sys.executable, "-m", "ckptd", "check", huge]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        wait_until(lambda: readers(process.pid, huge), "the scan")
        scanner = readers(process.pid, huge)[0]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert (b"", b"") == process.communicate(timeout=5)
        assert 130 == process.returncode
        wait_until(lambda: not is_alive(scanner), "the end of the scan")
