from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckptd.core.model import Role
from ckptd.shell.scanning import scan_file
from pickling import codes

PROGRAM = Path(__file__).with_name("paddle_files.py")


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A directory of files that one Paddle process saved."""
    directory = tmp_path_factory.mktemp("paddle")
    subprocess.run([sys.executable, str(PROGRAM), str(directory)], check=True, capture_output=True)
    return directory


def scanned(directory, name):
    """The scan of one of the files."""
    return scan_file(str(directory), name, Role.PARAMS)


def loaded(directory, name):
    """What paddle.load found in it: shape and dtype by path."""
    return json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))


def parameters(found):
    """Key to Paddle's internal name."""
    return {tensor.key: tensor.parameter for tensor in found.tensors}


def test_files_of_paddle_are_clean_and_hold_what_paddle_load_finds(saved):
    """Every form that paddle.save writes is understood: names, shapes and dtypes are those of paddle.load."""
    names = sorted(path.name.removesuffix(".json") for path in saved.glob("*.json"))
    assert len(names) == 18
    for name in names:
        found = scanned(saved, name)
        assert {
            "".join(f"/{part}" for part in tensor.key): [list(tensor.shape), tensor.dtype]
            for tensor in found.tensors
        } == loaded(saved, name)
        assert codes(found) == (["nonfinite_values"] if name == "diverged.pdparams" else [])
        assert found.digest


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_parameters_keep_their_internal_names(saved, protocol):
    """Weights know under which name the optimizer keeps their state."""
    names = parameters(scanned(saved, f"adam{protocol}.pdparams"))
    assert names["0.weight",] == "linear_0.w_0"
    assert names["1._mean",] == "batch_norm1d_0.w_1"

    optimizer = dict(scanned(saved, f"adam{protocol}.pdopt").values)
    assert optimizer["LR_Scheduler", "last_epoch"] == 2


@pytest.mark.parametrize("protocol", [2, 4])
def test_combined_dict_gives_tensors_and_progress(saved, protocol):
    """Progress beside the weights is read as numbers, also where it is numpy's or a tensor."""
    found = scanned(saved, f"combined{protocol}.pdparams")
    values = dict(found.values)

    assert [values[key,] for key in ("epoch", "step", "loss", "best")] == [3, 700, 0.5, 0.25]
    names = parameters(found)
    assert names["model_state", "0.weight"] == "linear_0.w_0"
    assert names["optimizer_state", "linear_0.w_0_moment1_0"] == "linear_0.w_0_moment1_0"


def test_grad_scaler_state_gives_its_scale(saved):
    """The loss scale is an array of one element, and a value."""
    assert (("scale",), 32768.0) in scanned(saved, "adam.pdscaler").values


def test_nan_in_bfloat16_is_counted(saved):
    """Every element of a diverged bfloat16 model is found, though it is stored as uint16."""
    found = scanned(saved, "diverged.pdparams")

    assert {"uint16"} == {tensor.dtype for tensor in found.tensors}
    assert found.nonfinite == sum(tensor.bytes for tensor in found.tensors) // 2


def test_generator_state_is_not_unsafe(saved):
    """The state of a random generator is an object of Paddle's, and harmless."""
    assert scanned(saved, "rng_state.pth").findings == ()


def test_prefix_of_a_file_of_paddle_is_never_clean(saved, tmp_path):
    """A save that was cut off anywhere is noticed."""
    whole = (saved / "adam4.pdparams").read_bytes()
    path = tmp_path / "cut.pdparams"
    path.write_bytes(whole)
    for length in range(len(whole) - 1, 0, -7):
        os.truncate(path, length)
        assert codes(scanned(tmp_path, "cut.pdparams")) == ["truncated"]


@pytest.mark.parametrize(
    ("directory", "file"), [("flex", "0_0.distcp"), ("flex_safetensors", "0_0.safetensors")]
)
def test_flex_metadata_expect_what_their_shard_holds(saved, directory, file):
    """Names, shapes and types that the metadata tell are those of the shard, bfloat16 apart from its name."""
    metadata = scan_file(str(saved), f"{directory}/0.metadata", Role.INDEX)
    shard = scan_file(str(saved), f"{directory}/{file}", Role.SHARD)

    assert (metadata.findings, shard.findings) == ((), ())
    assert {(one.name,): (one.file, one.shape, one.dtype) for one in metadata.expected} == {
        one.key: (file, one.shape, one.dtype.replace("uint16", "bfloat16")) for one in shard.tensors
    }
    assert ("step.count",) in {one.key for one in shard.tensors}
    assert all(one.offset == (0,) * len(one.shape or ()) for one in metadata.expected)


def test_flattened_part_is_expected_as_it_is_stored(saved):
    """Of a flattened part the shard has one dimension, and the metadata are read so."""
    (expected,) = scan_file(str(saved), "flex_flattened/0.metadata", Role.INDEX).expected
    (found,) = scan_file(str(saved), "flex_flattened/0_0.distcp", Role.SHARD).tensors

    assert ((expected.name,), expected.shape) == (found.key, found.shape)


def test_flex_checkpoint_of_nothing_is_clean(saved):
    """Paddle saves the metadata of an empty state dict, and they expect nothing."""
    metadata = scan_file(str(saved), "flex_empty/0.metadata", Role.INDEX)

    assert (metadata.expected, metadata.findings) == ((), ())


def test_safetensors_of_paddle_hold_the_same_as_its_pickle(saved):
    """The same state dict has the same tensors in both containers."""
    found = scanned(saved, "o2.safetensors")

    assert found.container == "safetensors"
    assert found.findings == ()
    assert {(one.key, one.shape, one.bytes) for one in scanned(saved, "o2.pdparams").tensors} == {
        (one.key, one.shape, one.bytes) for one in found.tensors
    }
