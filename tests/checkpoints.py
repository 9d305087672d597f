"""Checkpoint files as trainers leave them, made without Paddle.

`paddle.save` writes a pickle of protocol 4 (`paddle/framework/io.py`): tensors are numpy arrays, and a table
under `StructuredToParameterName@@` leads from the layers' names to the parameters' own, by which the
optimizer (`paddle/optimizer/optimizer.py`) calls its state.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np

from pickling import array, dtype, mapping, name, pickled, text

NAMES = "StructuredToParameterName@@"
SUFFIXES = (".pdparams", ".pdopt", ".pdmeta")
"""What `save` writes, in the order in which it does."""

_LAYERS = {
    "hidden.weight": ("linear_0.w_0", (4, 8)),
    "hidden.bias": ("linear_0.b_0", (8,)),
    "head.weight": ("linear_1.w_0", (8, 2)),
    "head.bias": ("linear_1.b_0", (2,)),
}


def weights(seed=0):
    """A small network's state dict."""
    values = np.random.default_rng(seed)
    arrays = {name: values.normal(size=shape).astype("float32") for name, (_, shape) in _LAYERS.items()}
    return {**arrays, NAMES: {name: parameter for name, (parameter, _) in _LAYERS.items()}}


def optimizer(seed=0, step=1):
    """The state dict of that network's Adam."""
    values = np.random.default_rng(seed)
    state = {"LR_Scheduler": {"last_epoch": step, "last_lr": 0.001}}
    for parameter, shape in _LAYERS.values():
        for moment in ("moment1", "moment2"):
            state[f"{parameter}_{moment}_0"] = values.random(size=shape).astype("float32")
        for power, beta in (("beta1_pow_acc", 0.9), ("beta2_pow_acc", 0.999)):
            state[f"{parameter}_{power}_0"] = np.full(1, beta, "float32")
    return {**state, NAMES: {name: name for name in state}}


def scaler():
    """The state dict of an enabled GradScaler."""
    return {
        "scale": np.array([1024.0], "float32"),
        "incr_ratio": 2.0,
        "decr_ratio": 0.5,
        "incr_every_n_steps": 2000,
        "decr_every_n_nan_or_inf": 1,
        "incr_count": 3,
        "decr_count": 0,
        "use_dynamic_loss_scaling": True,
    }


def dump(path, value):
    """Write one value as `paddle.save` does: in place, under its final name."""
    Path(path).write_bytes(pickle.dumps(value, protocol=4))


def save(run, stem, *, step=1, metric=None, without=(), **more):
    """Write a set of weights, optimizer and progress, no two with the same bytes; returns its paths.

    Args:
        run: The directory, made if need be.
        stem: What the files are called.
        step: The step that the progress file tells.
        metric: The `metric` in the progress file, if there is one.
        without: Suffixes of members that are not written.
        more: Further contents by suffix without its dot, such as `pdscaler=scaler()`.
    """
    run = Path(run)
    run.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(os.fsencode(stem))
    contents = {
        ".pdparams": weights(seed),
        ".pdopt": optimizer(seed, step),
        **{f".{suffix}": value for suffix, value in more.items()},
        ".pdmeta": {"step": step, "epoch": 0} | ({} if metric is None else {"metric": metric}),
    }
    paths = {suffix: run / f"{stem}{suffix}" for suffix in contents if suffix not in without}
    for suffix, path in paths.items():
        dump(path, contents[suffix])
    return tuple(paths.values())


SLOW_BYTES = 0xFFF00000  # as many as a scan reads of holes, and a number of 32 bits can tell


def dump_huge(path, size):
    """Write weights of one tensor of `size` bytes, which are a hole: long to read, nothing on disk.

    Args:
        path: The file.
        size: A multiple of 4096.
    """
    payload = pickle.BINBYTES8 + struct.pack("<Q", size)
    tensor = array((size // 4096, 1024), dtype("f4"), payload)
    head, tail = pickled(mapping(weight=tensor), protocol=4).split(payload)
    with Path(path).open("wb") as file:
        file.write(head + payload)
        file.seek(size, os.SEEK_CUR)
        file.write(tail)


def dump_slow(path):
    """Write weights that take seconds to read: 4 GiB of a hole, as text, which protocol 2 has for bytes."""
    size = SLOW_BYTES
    content = pickle.BINUNICODE + struct.pack("<I", size)
    payload = name("_codecs", "encode") + content + text("latin1") + pickle.TUPLE2 + pickle.REDUCE
    tensor = array((size // 4096, 1024), dtype("f4"), payload)
    head, tail = pickled(mapping(weight=tensor)).split(content)
    with Path(path).open("wb") as file:
        file.write(head + content)
        file.seek(size, os.SEEK_CUR)
        file.write(tail)


def dump_safetensors(path, arrays):
    """Write arrays by name as a safetensors file: the header's length, the header, the bytes."""
    header, data = {}, b""
    for key, one in arrays.items():
        begin, data = len(data), data + one.tobytes()
        kind = {"float32": "F32", "uint16": "BF16"}[str(one.dtype)]
        header[key] = {"dtype": kind, "shape": list(one.shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def save_shards(directory, whole, *parts):
    """Write numbered safetensors shards and their index; each part is a dict of arrays by name."""
    places = {}
    for number, arrays in enumerate(parts, 1):
        file = f"{whole}-{number:05}-of-{len(parts):05}.safetensors"
        dump_safetensors(Path(directory) / file, arrays)
        places |= dict.fromkeys(arrays, file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (Path(directory) / f"{whole}.safetensors.index.json").write_text(json.dumps(index))


def unified(seed=0):
    """The weights, the optimizer's state and the master weights of a unified checkpoint, by their keys."""
    model = {name: one for name, one in weights(seed).items() if name != NAMES}
    state = {f"{name}/moment1_0": one for name, one in model.items()}
    state |= {f"{name}/beta1_pow_acc_0": np.full(1, 0.9, "float32") for name in model}
    return model, state, dict(model)


def save_unified(run, step, seed=0):
    """Write a unified checkpoint of PaddleNLP's trainer, as one card does; returns its directory."""
    directory = Path(run) / f"checkpoint-{step}"
    directory.mkdir(parents=True)
    for whole, arrays in zip(("model", "optimizer", "master_weights"), unified(seed), strict=True):
        save_shards(directory, whole, arrays)
    (directory / "trainer_state.json").write_text(json.dumps({"global_step": step, "epoch": 1.5}))
    return directory
