from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import xxhash

from ckptd.core.releases import Damaged
from ckptd.shell.deploy_directory import digested, list_releases, live, read_small
from ckptd.shell.durable import held
from ckptd.shell.exporting import LAST_FAILURE, Refusal
from ckptd.shell.publishing import Published, clean_up
from ckptd.shell.releaser import Releaser
from releasing import NOW, job, publish, staged
from waiting import wait_until

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A root with the weights of two trained networks, one bare and one in a combined dict."""
    root = tmp_path_factory.mktemp("trained")
    subprocess.run(
        [sys.executable, TESTS / "network_for_release.py"], cwd=root, check=True, capture_output=True
    )
    return root


@pytest.fixture
def weights(tmp_path):
    """A root with a file that passes for weights where no worker looks at it."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "plain.pdparams").write_bytes(b"weights")
    return root


def finish(jobs, releaser=None):
    """Run the jobs beside each other to their end; what became of each, by deploy directory."""
    ended = threading.Semaphore(0)
    releaser = releaser or Releaser(ended.release)
    assert all(releaser.start(one, NOW) for one in jobs)
    for _ in jobs:
        assert ended.acquire(timeout=60)
    return {one.job.deploy_dir: one for one in releaser.take_finished()}


def contents(directory):
    """The names in a directory."""
    return sorted(os.listdir(directory))


# With Paddle.


def test_release_of_two_real_networks_puts_the_better_one_live(trained, tmp_path):
    """Bare and combined weights are exported, proven and published, with all their facts."""
    deploy_dir = tmp_path / "deploy"
    deploy_dir.mkdir(mode=0o755)
    first, second = job(deploy_dir, trained, 0.8), job(deploy_dir, trained, 0.9, name="combined.pdparams")
    releaser = Releaser(lambda: None)

    published = [releaser.publish(finish([one])[one.deploy_dir], NOW) for one in (first, second)]

    assert all(isinstance(one, Published) for one in published), published
    assert contents(deploy_dir) == [".staging", "current", "releases"]
    assert contents(deploy_dir / ".staging") == []
    assert published[1].release == live(deploy_dir)
    assert published[0].release.version == live(deploy_dir).previous
    manifest = json.loads((deploy_dir / "current" / "manifest.json").read_bytes())
    digest = xxhash.xxh3_128((trained / "combined.pdparams").read_bytes()).hexdigest()
    assert {"combined.pdparams": digest} == manifest["source"]
    assert {"name": "acc", "value": 0.9, "order": "max"} == manifest["metric"]
    assert manifest["proof"]["max_abs_difference"] <= 1e-5
    assert set(manifest["proof"]["seconds"]) == {"import", "network", "weights", "reference", "save", "run"}
    for file in ("inference.json", "inference.pdiparams"):
        data = (deploy_dir / "current" / file).read_bytes()
        wanted = {"bytes": len(data), "xxh3_128": xxhash.xxh3_128(data).hexdigest()}
        assert wanted == manifest["files"][file]
        assert 0o644 == stat.S_IMODE((deploy_dir / "current" / file).stat().st_mode)
    assert 0o755 == stat.S_IMODE((deploy_dir / "current").stat().st_mode)


FAILURES = {
    "misfit": (
        {"entrypoint": "network_for_release:misfit"},
        (
            "refusing to release ./plain: the weights do not fit the network: "
            "tail.weight is missing from the file, tail.bias is missing from the file, "
            "embedding.weight is unknown to the network, norm.weight is unknown to the network, "
            "norm.bias is unknown to the network, norm._mean is unknown to the network, "
            "norm._variance is unknown to the network, head.weight is unknown to the network and 3 more. "
            "Let `release.entrypoint` build the network that was trained, or set `release.params_key`."
        ),
    ),
    "no such module": (
        {"entrypoint": "no_such_module:build"},
        (
            "refusing to release ./plain: could not build the network: ModuleNotFoundError: "
            "No module named 'no_such_module'; it printed last (more in *): *ModuleNotFoundError*. "
            "Fix `release.entrypoint`, or `release.pythonpath` where it is imported from."
        ),
    ),
    "broken": (
        {"entrypoint": "network_for_release:broken"},
        "*could not build the network: RuntimeError: no such backbone: resnet51; it printed last*raise *",
    ),
    "no layer": (
        {"entrypoint": "network_for_release:not_a_layer"},
        "*: network_for_release:not_a_layer returned dict, not a paddle.nn.Layer. Let the function return *",
    ),
    "leaves": (
        {"entrypoint": "network_for_release:leave"},
        "*: the export worker ended without an answer*. Let the entrypoint return, not exit.",
    ),
    "restless": (
        {"entrypoint": "network_for_release:restless"},
        "*: output 0 of the model differs from the network's by up to * (rtol 0.0001, atol 1e-05). Check *",
    ),
    "late": (
        {"timeout": timedelta(seconds=0.3)},
        "*: the export worker gave no answer: it did not finish within 0.3 s*raise `release.timeout`.",
    ),
    "no python": (
        {"python": "/nowhere/python"},
        "*: No such file or directory (/nowhere/python). *",
    ),
}


@pytest.fixture(scope="module")
def failures(trained, tmp_path_factory):
    """All the exports that fail, run beside each other: what became of each."""
    place = tmp_path_factory.mktemp("failures")
    jobs = {name: job(place / name, trained, 0.9, **how) for name, (how, _) in FAILURES.items()}
    finished = finish(jobs.values())
    return {name: finished[one.deploy_dir] for name, one in jobs.items()}


@pytest.mark.parametrize("name", FAILURES)
def test_export_that_fails_is_refused_with_reason_and_way_out(name, failures):
    """Each way of failing is told apart, nothing becomes live, and nothing but the log stays."""
    finished = failures[name]

    outcome = Releaser(lambda: None).publish(finished, NOW)

    assert isinstance(outcome, Refusal)
    pattern = ".*".join(re.escape(part) for part in FAILURES[name][1].split("*"))
    assert re.fullmatch(pattern, outcome.reason), outcome.reason
    assert outcome.is_lasting == (name != "no python")
    assert live(finished.job.deploy_dir) is None
    assert set(contents(Path(finished.job.deploy_dir, ".staging"))) <= {LAST_FAILURE}


def test_log_of_a_failed_export_stays_for_the_operator(failures):
    """The whole traceback is where the refusal says."""
    log = Path(failures["broken"].job.deploy_dir, ".staging", LAST_FAILURE).read_text()

    assert "Traceback (most recent call last)" in log
    assert "no such backbone: resnet51" in log


def test_stop_kills_worker_and_grandchild_within_a_second(trained, tmp_path):
    """A hanging entrypoint and what it has started do not outlive the service, nor delay its stop."""
    (tmp_path / "source").mkdir()
    hanging = job(
        tmp_path / "deploy",
        trained,
        0.9,
        entrypoint="network_for_release:hang",
        pythonpath=(str(TESTS), str(tmp_path / "source")),
    )
    releaser = Releaser(lambda: None)
    releaser.start(hanging, NOW)
    wait_until((tmp_path / "source" / "pids").exists, "the entrypoint to hang")
    pids = [int(pid) for pid in (tmp_path / "source" / "pids").read_text().split()]
    assert hanging == releaser.running(hanging.deploy_dir)
    assert not releaser.start(hanging, NOW)
    assert 19 == psutil.Process(pids[0]).nice()
    assert "" == psutil.Process(pids[0]).environ()["CUDA_VISIBLE_DEVICES"]

    started = time.monotonic()
    releaser.stop()

    assert time.monotonic() - started < 1.0
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), "the processes to be gone")
    (finished,) = releaser.take_finished()
    assert finished.outcome.reason.startswith("refusing to release ./plain: the service stops.")
    assert releaser.running(hanging.deploy_dir) is None
    assert contents(tmp_path / "source") == ["pids"]  # no byte code in the network's source tree


# Without Paddle: nothing gets as far as the worker.


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda root, deploy: (root / "plain.pdparams").write_bytes(b"others"),
            "has changed since it was judged",
        ),
        (
            lambda root, deploy: (root / "plain.pdparams").unlink(),
            "No such file or directory (plain.pdparams)",
        ),
        (
            lambda root, deploy: ((root / "plain.pdparams").unlink(), os.mkfifo(root / "plain.pdparams")),
            "not a regular file (plain.pdparams)",
        ),
        (
            lambda root, deploy: (
                (root / "plain.pdparams").rename(root / "x"),
                (root / "plain.pdparams").symlink_to("x"),
            ),
            "Too many levels of symbolic links (plain.pdparams)",
        ),
        (lambda root, deploy: deploy.parent.rmdir(), "No such file or directory"),
        (lambda root, deploy: deploy.write_text("a file"), "Not a directory"),
        (
            lambda root, deploy: (deploy.mkdir(), (deploy / ".staging").write_text("a file")),
            "Not a directory",
        ),
    ],
    ids=["rewritten", "gone", "fifo", "symlink", "no parent", "deploy is a file", "staging is a file"],
)
def test_export_of_what_cannot_be_staged_is_refused_for_now(weights, tmp_path, spoil, reason):
    """What stands in the way before the worker starts is named, and may be tried again."""
    deploy_dir = tmp_path / "deploys" / "one"
    deploy_dir.parent.mkdir()
    one = job(deploy_dir, weights, 0.9)
    spoil(weights, deploy_dir)

    outcome = finish([one])[one.deploy_dir].outcome

    assert isinstance(outcome, Refusal)
    assert not outcome.is_lasting
    assert outcome.reason.startswith("refusing to release ./plain: ")
    assert reason in outcome.reason
    if (deploy_dir / ".staging").is_dir():
        assert contents(deploy_dir / ".staging") == []


@pytest.mark.parametrize("value", [0.8, 0.9, float("nan")])
def test_publish_of_no_better_model_keeps_the_old_one_also_after_a_restart(weights, tmp_path, value):
    """A worse, equal or non-finite metric replaces nothing, whoever asks, and its model is dropped."""
    deploy_dir = tmp_path / "deploy"
    old = publish(job(deploy_dir, weights, 0.9, digest="0" * 32), "20260101T000000Z-old")

    refusal = publish(job(deploy_dir, weights, value), "20260101T000001Z-new")

    assert isinstance(refusal, Refusal)
    assert old.release == live(deploy_dir)
    assert contents(deploy_dir / "releases") == ["20260101T000000Z-old"]
    assert contents(deploy_dir / ".staging") == []


def test_publish_again_of_what_a_crash_left_unpointed_needs_no_export(weights, tmp_path):
    """A release that was moved but never pointed at is verified, found again and made live as it is."""
    deploy_dir = tmp_path / "deploy"
    one = job(deploy_dir, weights, 0.9)
    publish(one, "20260101T000000Z-plain")
    (deploy_dir / "current").unlink()

    finished = finish([one])[one.deploy_dir]
    outcome = Releaser(lambda: None).publish(finished, NOW + timedelta(days=1))

    assert isinstance(outcome, Published)
    assert "20260101T000000Z-plain" == outcome.release.version == live(deploy_dir).version
    assert NOW + timedelta(days=1) == live(deploy_dir).published_at
    assert contents(deploy_dir / "releases") == ["20260101T000000Z-plain"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda release: (release / "inference.pdiparams").write_bytes(b"weightZ"),
        lambda release: (release / "inference.pdiparams").unlink(),
        lambda release: (release / "more").write_bytes(b""),
        lambda release: (release / "manifest.json").write_bytes(b"{"),
        lambda release: (release / "manifest.json").unlink(),
    ],
    ids=["flipped", "file gone", "file more", "manifest cut", "manifest gone"],
)
def test_damaged_unpointed_release_is_not_taken_up(weights, tmp_path, spoil):
    """What does not match its manifest is exported anew, or, as here, not released."""
    deploy_dir = tmp_path / "deploy"
    one = job(deploy_dir, weights, 0.9, python="/nowhere/python")
    publish(one, "20260101T000000Z-plain")
    (deploy_dir / "current").unlink()
    spoil(deploy_dir / "releases" / "20260101T000000Z-plain")

    outcome = finish([one])[one.deploy_dir].outcome

    assert isinstance(outcome, Refusal)
    assert "(/nowhere/python)" in outcome.reason


def test_publish_of_a_staged_model_that_was_changed_is_refused(weights, tmp_path):
    """What reads back differently from what was proven is never pointed at, and does not stay."""
    one = job(tmp_path / "deploy", weights, 0.9)
    exported = staged(one, "20260101T000000Z-plain")
    model = tmp_path / "deploy" / ".staging" / exported.version / "model"
    (model / "inference.json").write_bytes(b"[]")

    outcome = publish(one, exported.version, exported)

    assert isinstance(outcome, Refusal)
    assert "the content of inference.json differs" in outcome.reason
    assert live(one.deploy_dir) is None
    assert contents(tmp_path / "deploy" / "releases") == contents(tmp_path / "deploy" / ".staging") == []


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda deploy: (deploy / "current").mkdir(), "`current` is no symbolic link; move it away"),
        (
            lambda deploy: (deploy / "current").write_text("mine"),
            "`current` is no symbolic link; move it away",
        ),
        (
            lambda deploy: (deploy / "current").symlink_to("/srv/model"),
            "`current` points at '/srv/model', which is none of `releases/`; remove `current`",
        ),
        (
            lambda deploy: (deploy / "current").symlink_to("releases/20260101T000000Z-gone"),
            "20260101T000000Z-gone/manifest.json: No such file or directory; repair it, or remove the link",
        ),
    ],
    ids=["directory", "file", "foreign link", "dangling link"],
)
def test_publish_over_a_current_that_is_not_ours_is_refused(weights, tmp_path, make, reason):
    """What ckptd did not put there, or cannot compare with, stays; the refusal says what to do."""
    one = job(tmp_path / "deploy", weights, 0.9)
    exported = staged(one, "20260101T000000Z-plain")
    make(tmp_path / "deploy")
    before = os.lstat(tmp_path / "deploy" / "current")

    outcome = publish(one, exported.version, exported)

    assert isinstance(live(one.deploy_dir), Damaged)
    assert outcome.reason.startswith("refusing to replace a live release that cannot be compared with: ")
    assert reason in outcome.reason
    assert before.st_ino == os.lstat(tmp_path / "deploy" / "current").st_ino


def test_old_releases_go_but_never_live_previous_or_unknown_ones(weights, tmp_path):
    """`keep` counts our releases; what holds no manifest of ours is left alone."""
    deploy_dir = tmp_path / "deploy"
    (deploy_dir / "releases" / "20250101T000000Z-foreign").mkdir(parents=True)
    (deploy_dir / "releases" / "notes").mkdir()

    outcomes = [
        publish(
            job(deploy_dir, weights, number, keep=2, digest=f"{number:032x}"), f"20260101T00000{number}Z-set"
        )
        for number in range(4)
    ]

    assert [(), (), ("20260101T000000Z-set",), ("20260101T000001Z-set",)] == [one.removed for one in outcomes]
    assert contents(deploy_dir / "releases") == [
        "20250101T000000Z-foreign",
        "20260101T000002Z-set",
        "20260101T000003Z-set",
        "notes",
    ]
    assert [
        ("20250101T000000Z-foreign", False),
        ("20260101T000002Z-set", False),
        ("20260101T000003Z-set", True),
    ] == [(one.version, one.is_live) for one in list_releases(deploy_dir)]


def test_deploy_directory_that_does_not_exist_holds_nothing(tmp_path):
    """Asking about a deploy directory does not make it."""
    assert live(tmp_path / "deploy") is None
    assert () == list_releases(tmp_path / "deploy")
    clean_up(tmp_path / "deploy")
    assert contents(tmp_path) == []


def test_deploy_directory_that_is_a_file_is_damage(tmp_path):
    """What cannot be read is not taken for an empty place."""
    (tmp_path / "deploy").write_text("mine")

    assert isinstance(live(tmp_path / "deploy"), Damaged)


def test_clean_up_removes_what_an_export_left_and_nothing_else(weights, tmp_path):
    """Staged versions go; the log of the last failure and foreign files stay."""
    staged(job(tmp_path / "deploy", weights, 0.9), "20260101T000000Z-plain")
    staging = tmp_path / "deploy" / ".staging"
    (staging / LAST_FAILURE).write_text("why")
    (staging / "mine").mkdir()

    clean_up(tmp_path / "deploy")

    assert [LAST_FAILURE, "mine"] == contents(staging)


def test_reader_never_sees_a_missing_or_mixed_release(weights, tmp_path):
    """Through 200 swaps every read through `current` finds one whole release, and none older than before."""
    deploy_dir = tmp_path / "deploy"
    is_over, seen, wrong = threading.Event(), set(), []

    def read_once():
        value_by_path = json.loads((deploy_dir / "current" / "manifest.json").read_bytes())["metric"]["value"]
        with held(os.open(deploy_dir / "current", os.O_RDONLY | os.O_DIRECTORY)) as directory:
            manifest = json.loads(read_small(directory, "manifest.json"))
            digest = digested(directory, "inference.pdiparams").digest
        is_whole = digest == manifest["files"]["inference.pdiparams"]["xxh3_128"]
        return value_by_path, manifest["metric"]["value"], is_whole

    def read():
        newest = -1.0
        while not is_over.is_set() and not wrong:
            try:
                first, second, is_whole = read_once()
            except (OSError, ValueError) as error:
                wrong.append(error)
            else:
                wrong.extend([] if newest <= first <= second and is_whole else [(newest, first, second)])
                newest = second
                seen.add(second)

    publish(job(deploy_dir, weights, 0, digest="0" * 32, keep=30), "20260101T000000Z-set")
    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 201):
        one = job(deploy_dir, weights, number, digest=f"{number:032x}", keep=30)
        outcome = publish(one, f"20260101T000000Z-set-{number}", content=b"%d" % number)
        assert isinstance(outcome, Published), outcome
    is_over.set()
    reader.join(10)

    assert [] == wrong
    assert len(seen) > 20
