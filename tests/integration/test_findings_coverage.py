"""Every finding code, brought about by what is crafted on disk, scanned, judged and seen in its series.

A new code needs a row in `ROWS`: what writes a run that has it.
"""

from __future__ import annotations

import json
import os
import pickle
import tarfile
import threading
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

import intruding
from checkpoints import (
    NAMES,
    dump,
    dump_huge,
    dump_safetensors,
    optimizer,
    save,
    save_unified,
    scaler,
    unified,
    weights,
)
from ckptd.core.assessment import Rules, RunFacts, assess, is_read
from ckptd.core.findings import FINDINGS
from ckptd.core.layouts import find_runs, lone_directory, recognise
from ckptd.core.model import MetricRule, Order, ProgressKeys, Role, Verdict
from ckptd.core.scrubbing import compared
from ckptd.shell import inventory
from ckptd.shell.prober import Prober
from ckptd.shell.scanner import ScanRequest
from ckptd.shell.scanning import scan_file
from forking import run_forked
from pickling import group, mapping, name, number, pickled, text
from waiting import wait_until

NOW = datetime.now(UTC)
RULES = Rules(MetricRule("metric", Order.MAX), ProgressKeys(), policy=None)
NOBODY = 65534


def judged(root):
    """The judgements of all sets below a directory, by name."""
    tree = inventory.walk(str(root))
    runs = [recognise(tree, run) for run in find_runs(tree)]
    runs = runs or [(one,) for path in tree if (one := lone_directory(tree, path)) is not None]
    judgements = {}
    for sets in runs:
        members = [member for one in sets for member in one.members if is_read(member)]
        scans = {one.entry.fingerprint: scan_file(str(root), one.entry.path, one.role) for one in members}
        facts = RunFacts(sets, frozenset(one.key for one in sets), scans)
        judgements |= {one.name: judgement for one, judgement in assess(facts, RULES, NOW).judged}
    return judgements


def found(root):
    """The codes of all findings below a directory."""
    return {finding.code for judgement in judged(root).values() for finding in judgement.findings}


def weights_file(content):
    """A row that writes a whole set and then other bytes in the place of its weights."""

    def write(root):
        save(root, "epoch_1", metric=0.5)
        (root / "epoch_1.pdparams").write_bytes(content)
        return found(root)

    return write


def whole_set(without=(), **contents):
    """A row that writes a set with these contents by suffix."""

    def write(root):
        save(root, "epoch_1", metric=0.5, without=without, **contents)
        return found(root)

    return write


def two_sets(first, second):
    """A row that writes a set after another one; contents by suffix, as for `save`."""

    def write(root):
        save(root, "epoch_1", step=1, metric=0.5, **first)
        save(root, "epoch_2", step=2, metric=0.5, **second)
        for order, stem in enumerate(("epoch_1", "epoch_2"), 1):
            for path in root.glob(f"{stem}.*"):
                os.utime(path, (order, order))
        return found(root)

    return write


def shards(change):
    """A row that writes a unified checkpoint and changes something in its directory."""

    def write(root):
        change(save_unified(root, 5))
        return found(root)

    return write


def flex(told, *files):
    """A row that writes a flex checkpoint of one vector: its type, and files with offset and array."""

    def write(root):
        tensors, places = b"", b""
        for file, (offset, array) in files:
            dump(root / file, {"w": array})
            place = {"global_offset": group(number(offset))}
            shape = {"local_shape": group(number(array.size))}
            tensors += record("LocalTensorMetadata", **place, **shape, dtype=text(told))
            places += record("LocalTensorIndex", tensor_key=text("w"), **place) + text(file)
        metadata = record(
            "Metadata",
            state_dict_metadata=mapping(w=pickle.EMPTY_LIST + pickle.MARK + tensors + pickle.APPENDS),
            storage_metadata=pickle.EMPTY_DICT + pickle.MARK + places + pickle.SETITEMS,
            flat_mapping=mapping(w=group(text("w"))),
        )
        (root / "0.metadata").write_bytes(pickled(metadata))
        return found(root)

    return write


def wrong_container(root):
    """The metadata of a flex checkpoint in the place of optimizer state."""
    save(root, "epoch_1")
    flex("int64", ("0_0.distcp", (0, np.arange(4))))(root)
    (root / "0.metadata").rename(root / "epoch_1.pdopt")
    return found(root)


def record(cls, **fields):
    """An instance of one of the classes of a flex checkpoint."""
    made = name("paddle.distributed.flex_checkpoint.dcp.metadata", cls) + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    return made + mapping(**fields) + pickle.BUILD


def tarred_link():
    """An archive that would put a link where it is unpacked."""
    link = tarfile.TarInfo("model.pdparams")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return link.tobuf() + bytes(1024)


def missing_file(root):
    """A file that is gone when it is to be read."""
    return codes(scan_file(str(root), "gone.pdparams", Role.PARAMS))


def permission_denied(root):
    """A file of another user."""
    save(root, "epoch_1")
    (root / "epoch_1.pdparams").chmod(0)
    root.chmod(0o755)

    def work():
        os.chdir(root)  # the directories above belong to whoever runs the tests
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        assert codes(scan_file(".", "epoch_1.pdparams", Role.PARAMS)) == {"permission_denied"}

    assert run_forked(work) == 0
    return {"permission_denied"}


def read_error(root):
    """A name that the file system does not take."""
    return codes(scan_file(str(root), "n" * 300, Role.PARAMS))


def changed_while_reading(root):
    """A file that grows behind the reader."""
    [path, *_] = save(root, "epoch_1")

    def append(_):
        with path.open("ab") as file:
            file.write(b"x")

    return codes(scan_file(str(root), path.name, Role.PARAMS, on_progress=append))


def scanner_failed(root):
    """A file whose scan ends the process it runs in."""
    dump(root / "abort.pdparams", weights())
    prober = Prober(1, threading.Event().set, scan=intruding.obey)
    try:
        entry = inventory.entry(str(root), "abort.pdparams")
        prober.submit(ScanRequest(str(root), Role.PARAMS, entry.fingerprint))
        results = []
        wait_until(lambda: results.extend(prober.take_results()) or results, "the answer")
    finally:
        prober.stop()
    return codes(results[0].scan)


def sparse_file(root):
    """A terabyte of nothing."""
    dump_huge(root / "epoch_1.pdparams", 1 << 40)
    return found(root)


def not_a_regular_file(root):
    """A FIFO in the place of weights."""
    save(root, "epoch_1", without=(".pdparams",))
    os.mkfifo(root / "epoch_1.pdparams")
    return found(root)


def symbolic_link(root):
    """A link in the place of weights."""
    save(root, "epoch_1")
    (root / "epoch_1.pdparams").rename(root / "elsewhere")
    (root / "epoch_1.pdparams").symlink_to("elsewhere")
    return found(root)


def opaque(root):
    """Pickled arguments that are cut off."""
    (save_unified(root, 5) / "training_args.bin").symlink_to("elsewhere")
    return found(root)


def random_state(root):
    """A cut-off random state beside a whole set."""
    (save_unified(root, 5) / "rng_state.pth").write_bytes(pickle.dumps({"cpu": [1]}, 4)[:-1])
    return found(root)


def not_covered(place):
    """Leave the first tensor out of a shard's header: its bytes belong to none."""
    path = place / "model-00001-of-00001.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    del header[min(header, key=lambda name: header[name]["data_offsets"])]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def codes(scan):
    """The codes of a scan's findings."""
    return {finding.code for finding in scan.findings}


def changed(**arrays):
    """The usual weights, some of them otherwise; None takes one away."""
    names = {key.replace("__", "."): value for key, value in arrays.items()}
    state = {key: value for key, value in (weights() | names).items() if value is not None}
    return state | {NAMES: {key: value for key, value in state[NAMES].items() if key in state}}


MODEL, _, _ = unified()
BARE = (np.zeros((4, 8), "float32"), np.zeros((8, 8), "float32"))
WHOLE = pickle.dumps(weights(), 4)


def rotted(root):
    """Weights that read otherwise than the first time, while size, time and inode stayed the same."""
    save(root, "epoch_1")
    tree = inventory.walk(str(root))
    [checkpoint] = recognise(tree, ".")
    members = {one.entry.fingerprint: one for one in checkpoint.members}
    scans = {key: scan_file(str(root), key.path, one.role) for key, one in members.items()}
    for key, scan in scans.items():
        _, reading = compared(key, None, scan, NOW)
        scans[key], _ = compared(key, reading, replace(scan, digest="0" * 32), NOW)
    facts = RunFacts((checkpoint,), frozenset({checkpoint.key}), scans)
    return {one.code for _, judgement in assess(facts, RULES, NOW).judged for one in judgement.findings}


ROWS = {
    "missing_file": missing_file,
    "permission_denied": permission_denied,
    "read_error": read_error,
    "not_a_regular_file": not_a_regular_file,
    "symbolic_link": symbolic_link,
    "changed_while_reading": changed_while_reading,
    "scanner_failed": scanner_failed,
    "sparse_file": sparse_file,
    "empty_file": weights_file(b""),
    "git_lfs_pointer": weights_file(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    "html_page": weights_file(b"<!DOCTYPE html><html></html>"),
    "all_zero": weights_file(bytes(5000)),
    "unknown_container": weights_file(b"PK\x03\x04"),
    "truncated": weights_file(WHOLE[:-9]),
    "malformed": weights_file(b"\x80\x04}}."),
    "size_mismatch": weights_file(
        pickle.dumps({"w": BARE[0]}, 4).replace(b"K\x04K\x08\x86", b"K\x04K\x09\x86")
    ),
    "limit_exceeded": weights_file(b"\x80\x04" + b"(" * 2000 + b"."),
    "trailing_bytes": weights_file(WHOLE + b"tail"),
    "invalid_json": shards(lambda place: (place / "trainer_state.json").write_text("{")),
    "unsafe_global": weights_file(pickled(name("os", "system") + text("id") + b"\x85R")),
    "unsafe_opcode": weights_file(pickled(b"Pid\n")),
    "unsafe_archive": weights_file(tarred_link()),
    "nonfinite_values": whole_set(pdparams=changed(head__bias=np.full(2, np.nan, "float32"))),
    "unverified_tensor": whole_set(pdparams=changed(head__bias=np.ones(2, np.longdouble))),
    "unloadable_value": weights_file(pickle.dumps((1, 2, 3, 4, b"x" * 100), 4)),
    "content_rotted": rotted,
    "missing_role": whole_set(without=(".pdopt",)),
    "missing_scaler": two_sets({"pdscaler": scaler()}, {}),
    "no_tensors": whole_set(pdparams={"epoch": 3}),
    "foreign_optimizer": whole_set(pdopt={"conv2d_0.w_0_moment1_0": BARE[0]}),
    "wrong_container": wrong_container,
    "invalid_index": shards(
        lambda place: (place / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../w"}}')
    ),
    "not_covered": shards(not_covered),
    "bad_scaler_state": whole_set(pdscaler={"scale": 1.0}),
    "empty_scaler_state": two_sets({"pdscaler": scaler()}, {"pdscaler": {}}),
    "bad_rng_state": random_state,
    "progress_disagrees": whole_set(
        pdparams={"model": weights(), "opt": optimizer(), "epoch": 7}, pdmeta={"epoch": 3}
    ),
    "tensors_lost": two_sets({}, {"pdparams": changed(head__bias=None)}),
    "tensors_added": two_sets({"pdparams": changed(head__bias=None)}, {}),
    "shapes_changed": two_sets({}, {"pdparams": changed(hidden__weight=BARE[1])}),
    "dtypes_changed": two_sets({}, {"pdparams": changed(head__bias=np.arange(2, dtype="float64"))}),
    "constant_tensors": shards(
        lambda place: dump_safetensors(
            place / "model-00001-of-00001.safetensors", MODEL | {"head.bias": np.ones(2, "float32")}
        )
    ),
    "missing_shard": shards(lambda place: (place / "model-00001-of-00001.safetensors").unlink()),
    "missing_index": shards(lambda place: (place / "model.safetensors.index.json").unlink()),
    "missing_shard_tensor": shards(
        lambda place: dump_safetensors(
            place / "model-00001-of-00001.safetensors", {"head.bias": MODEL["head.bias"]}
        )
    ),
    "unindexed_tensor": shards(
        lambda place: dump_safetensors(place / "model-00001-of-00001.safetensors", MODEL | {"new": BARE[0]})
    ),
    "shard_mismatch": flex("float32", ("0_0.distcp", (0, np.arange(8.0)))),
    "uncovered_tensor": flex("int64", ("0_0.distcp", (0, np.arange(4))), ("1_0.distcp", (5, np.arange(4)))),
    "metric_missing": lambda root: save(root, "epoch_1") and found(root),
    "metric_not_a_number": lambda root: save(root, "epoch_1", metric="good") and found(root),
    "metric_not_finite": lambda root: save(root, "epoch_1", metric=float("nan")) and found(root),
    "member_not_read": opaque,
}


# Only `ckptd check` says these: test_cli_check_loose.py, test_cli_check_load.py.
OF_CHECK = {"foreign_parameters", "load_failed", "load_differs", "load_unfinished"}


def test_every_code_has_a_row():
    """A code that nothing crafted brings about is a code that nobody has seen work."""
    assert FINDINGS.keys() == ROWS.keys() | OF_CHECK


@pytest.mark.parametrize("code", sorted(ROWS))
def test_code_is_found_in_what_was_crafted_for_it(tmp_path, code):
    """What is on disk leads to the finding, through the scan, the judgement and the series."""
    assert code in ROWS[code](tmp_path)


def test_judged_whole_sets_have_no_finding(tmp_path):
    """What the rows damage is valid before: a stem's set, its successor, and a unified checkpoint."""
    save(tmp_path / "stem", "epoch_1", step=1, metric=0.5, pdscaler=scaler())
    save(tmp_path / "stem", "epoch_2", step=2, metric=0.6, pdscaler=scaler())
    save_unified(tmp_path / "unified", 5)
    verdicts = {name: judgement.verdict for name, judgement in judged(tmp_path).items()}

    assert dict.fromkeys(("checkpoint-5", "epoch_1", "epoch_2"), Verdict.VALID) == verdicts
    assert {"metric_missing"} == found(tmp_path)  # the unified one tells none
