"""Saves with real Paddle everything its users save; run as a program.

Usage: `python paddle_writers.py DIRECTORY`. Beside the files goes `manifest.json`: for each its role, how
Paddle loads it again, and whether it is a base for mutations.
"""

from __future__ import annotations

import collections
import json
import os
import pickle
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import paddle
from paddle import nn, optimizer
from paddle.framework import io_utils

OPTIMIZERS = {
    "adam": optimizer.Adam,
    "adamw": optimizer.AdamW,
    "adamax": optimizer.Adamax,
    "adagrad": optimizer.Adagrad,
    "adadelta": optimizer.Adadelta,
    "momentum": optimizer.Momentum,
    "rmsprop": optimizer.RMSProp,
    "lamb": optimizer.Lamb,
    "nadam": optimizer.NAdam,
    "radam": optimizer.RAdam,
    "asgd": optimizer.ASGD,
    "rprop": optimizer.Rprop,
    "sgd": optimizer.SGD,
}
DTYPES = (
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "bool",
    "complex64",
    "complex128",
)


class Files:
    """The directory that is filled, and its manifest."""

    def __init__(self, directory):
        self.directory = directory
        self.manifest = []

    def path(self, name):
        """Where a file goes."""
        return str(self.directory / name)

    def note(self, name, role, *, way="load", mutate=True):
        """Put a file that was written into the manifest."""
        self.manifest.append({"name": name, "role": role, "way": way, "mutate": mutate})

    def save(self, name, content, role="params", *, protocol=4, mutate=True):
        """Save with paddle.save."""
        paddle.save(content, self.path(name), protocol=protocol)
        self.note(name, role, mutate=mutate)

    def save_everywhere(self, stem, suffix, content, role="params"):
        """Save with every protocol of paddle.save."""
        for protocol in (2, 3, 4):
            self.save(f"{stem}_{protocol}{suffix}", content, role, protocol=protocol)

    def pickle(self, name, content, role="params", *, protocol=5, mutate=True):
        """Save numpy arrays with pickle alone, as hapi's static adapter and many scripts do."""
        with open(self.path(name), "wb") as file:
            pickle.dump(content, file, protocol=protocol)
        self.note(name, role, mutate=mutate)


def train(network, chosen, steps=2):
    """A few steps, so that the optimizer has state."""

    def closure():
        chosen.clear_grad()
        loss = (network(paddle.ones([2, 3])) ** 2).mean()
        loss.backward()
        return loss

    for _ in range(steps):
        if isinstance(chosen, optimizer.LBFGS):
            chosen.step(closure)
        else:
            closure()
            chosen.step()


class Buffered(nn.Layer):
    """A layer with parameters and buffers, one of them an integer and one not to be saved."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1D(3)
        self.register_buffer("steps", paddle.to_tensor(7, dtype="int64"))
        self.register_buffer("scratch", paddle.zeros([2]), persistable=False)

    def forward(self, data):
        """Normalise."""
        return self.norm(data)


def write_optimizers(files):
    """Every optimizer of Paddle, and every kind of learning-rate schedule that keeps tensors or nests."""
    states = {}
    for name, kind in OPTIMIZERS.items():
        network = nn.Linear(3, 2)
        chosen = kind(parameters=network.parameters(), learning_rate=0.01)
        train(network, chosen)
        states[name] = chosen.state_dict()
        files.save(f"{name}.pdopt", states[name], "opt")
    files.save_everywhere("adam", ".pdopt", states["adam"], "opt")
    network = nn.Linear(3, 1, bias_attr=False)
    lbfgs = optimizer.LBFGS(parameters=network.parameters(), max_iter=2)
    train(network, lbfgs, steps=1)
    files.save("lbfgs.pdopt", lbfgs.state_dict(), "opt")
    files.save_everywhere("list", ".pdopt", [states["momentum"], states["sgd"]], "opt")
    lr = optimizer.lr
    schedules = {
        "warmup": lr.LinearWarmup(lr.StepDecay(0.1, 3), 5, 0.0, 0.1),
        "plateau": lr.ReduceOnPlateau(0.1),
        "cosine": lr.CosineAnnealingDecay(0.1, 10),
        "onecycle": lr.OneCycleLR(0.1, 10),
        "piecewise": lr.PiecewiseDecay([3, 6], [0.1, 0.05, 0.01]),
    }
    schedules["plateau"].step(paddle.to_tensor(0.5))
    for name, schedule in schedules.items():
        network = nn.Linear(3, 2)
        chosen = optimizer.Momentum(schedule, parameters=network.parameters())
        train(network, chosen)
        files.save(f"{name}.pdopt", chosen.state_dict(), "opt")
        files.save(f"{name}.scheduler.pdparams", schedule.state_dict(), "scheduler")
    # What AMP O2 leaves; the CPU cannot train that way.
    network = nn.Linear(3, 2)
    adamw = optimizer.AdamW(parameters=network.parameters(), learning_rate=0.01)
    train(network, adamw)
    masters = {value.name: value.astype("float32") for value in network.parameters()}
    files.save_everywhere("o2", ".pdopt", adamw.state_dict() | {"master_weights": masters}, "opt")
    halves = {name: value.astype("bfloat16") for name, value in network.state_dict().items()}
    files.save_everywhere("o2", ".pdparams", halves)
    files.save_everywhere(
        "nested",
        ".pdparams",
        {"model": network.state_dict(), "opt": adamw.state_dict(), "epoch": 3, "best": np.float32(0.5)},
    )


def write_tensors(files):
    """Every element type, and shapes at the edge."""
    files.save_everywhere("dtypes", ".pdparams", {name: paddle.ones([2]).astype(name) for name in DTYPES})
    edges = {"none": paddle.zeros([0, 4]), "scalar": paddle.to_tensor(3.0), "one": paddle.ones([1])}
    files.save_everywhere("edges", ".pdparams", edges)
    files.save_everywhere("tensor", ".pdparams", paddle.ones([2, 3]))
    files.save("half.pdparams", paddle.ones([2, 3]).astype("bfloat16"))
    files.save("odd.pdparams", paddle.arange(12).reshape([3, 4]).transpose([1, 0])[1:])
    files.save("long.pdparams", {"long": paddle.rand([40, 40]), "half": paddle.rand([90]).astype("bfloat16")})
    files.save("diverged.pdparams", {"a": paddle.to_tensor([1.0, float("nan"), float("inf")])})
    for protocol in (2, 4):
        dense = paddle.base.core.DenseTensor()
        dense.set(np.ones((2, 3), "float32"), paddle.CPUPlace())
        files.save(f"dense_{protocol}.pdparams", {"a": [dense], "b": "x"}, protocol=protocol)
        files.save(f"dense_alone_{protocol}.pdparams", dense, protocol=protocol)
    files.save("big_endian.pdparams", {"a": np.ones(3, ">f4"), "b": np.asfortranarray(np.eye(3, 2))})


def write_dicts(files):
    """What people put around their tensors."""
    layer = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    files.save_everywhere("layer", ".pdparams", layer.state_dict())
    files.save("buffers.pdparams", Buffered().state_dict())
    files.save("plain_dict.pdparams", dict(layer.state_dict()))
    files.save_everywhere("ordered", ".pdparams", collections.OrderedDict(a=np.ones(2), b=3))
    files.save_everywhere("ordered_nested", ".pdparams", {"model": layer.state_dict(), "step": 1})
    files.save("empty.pdparams", {})
    files.save("list.pdparams", [layer.state_dict(), paddle.ones([2]), "x", None, True, (1, 2, 3, 4)])
    keys = {(1, "a"): 1, (1, (2, "b")): 2, 3: 3, True: 4, None: 5, 1.5: 6}
    files.save_everywhere("keys", ".pdstates", {"keys": keys}, "meta")
    files.save("unicode.pdparams", {"слой.вес": paddle.ones([2]), "层": paddle.ones([1]), "💾": 1.0})
    scalars = {
        name: np.dtype(name).type(3) for name in ("float32", "float64", "int32", "int64", "bool", "float16")
    }
    files.save_everywhere("scalars", ".pdstates", scalars | {"text": np.str_("abc"), "huge": 1 << 80}, "meta")
    states = {"epoch": 12, "global_step": 3456, "metrics": {"hmean": 0.5, "best": {"acc": np.float64(0.9)}}}
    files.save_everywhere("best_accuracy", ".states", states, "meta")
    files.save("shared.pdparams", {"a": layer[0].weight, "b": [layer[0].weight, layer[0].weight]})
    files.save("sets.pdstates", {"seen": {1, 2, 3}, "names": {"a"}, "none": set()}, "meta")
    files.save("python_random.pdstates", {"python": random.Random(0).getstate()}, "meta", mutate=False)  # noqa: S311
    scaler = {
        "scale": np.array([32768.0], "float32"),
        "incr_ratio": 2.0,
        "decr_ratio": 0.5,
        "incr_every_n_steps": 2000,
        "decr_every_n_nan_or_inf": 1,
        "incr_count": 7,
        "decr_count": 0,
        "use_dynamic_loss_scaling": True,
    }
    files.save_everywhere("amp", ".pdscaler", scaler, "scaler")
    files.save("rng_state.pth", {"cpu": paddle.get_rng_state()[0]}, "rng")
    many = {f"layers.{index}.weight": np.full(2, index, "float32") for index in range(5000)}
    files.save("many.pdparams", many, mutate=False)
    files.save("many_2.pdparams", many, protocol=2, mutate=False)


def write_pickles(files):
    """What numpy and pickle write without paddle.save: protocol 5, and the static adapter's."""
    arrays = {"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.ones(30), "n": np.int64(3)}
    for protocol in (2, 3, 4, 5):
        files.pickle(f"numpy_{protocol}.pdparams", arrays, protocol=protocol)
    files.pickle("fortran_5.pdparams", {"a": np.asfortranarray(np.ones((3, 2)))})
    files.pickle("ordered_5.pdparams", collections.OrderedDict(arrays))


def write_splits(files):
    """The slices of large tensors, with a limit at which they stay small."""
    true_ceiling = io_utils._unpack_saved_dict.__code__
    constants = tuple((1 << 6) - 1 if value == 2**30 - 1 else value for value in true_ceiling.co_consts)
    io_utils._unpack_saved_dict.__code__ = true_ceiling.replace(co_consts=constants)
    try:
        state = {"wide": paddle.arange(40).astype("float32").reshape([4, 10]), "small": paddle.ones([2])}
        for protocol in (2, 3):
            files.save(f"split_{protocol}.pdparams", state, protocol=protocol)
    finally:
        io_utils._unpack_saved_dict.__code__ = true_ceiling


def write_hapi(files):
    """What `Model.save` writes for training."""
    network = nn.Linear(3, 2)
    model = paddle.Model(network)
    model.prepare(optimizer.Adam(parameters=network.parameters()), nn.MSELoss())
    model.train_batch([np.ones((2, 3), "float32")], [np.ones((2, 2), "float32")])
    model.save(files.path("hapi"))
    files.note("hapi.pdparams", "params")
    files.note("hapi.pdopt", "opt")


def write_static(files):
    """What `static` saves: pickles, programs, combined parameters, and a file for each variable."""
    paddle.enable_static()
    program, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(program, startup):
        data = paddle.static.data("x", [None, 3], "float32")
        loss = paddle.static.nn.fc(data, 2).mean()
        optimizer.Adam().minimize(loss)
        executor = paddle.static.Executor(paddle.CPUPlace())
        executor.run(startup)
        paddle.static.save(program, files.path("static"))
        paddle.static.save_inference_model(files.path("inference"), [data], [loss], executor)
        paddle.static.io.save_vars(
            executor, str(files.directory), program, predicate=lambda one: "fc" in one.name
        )
    paddle.disable_static()
    files.note("static.pdparams", "params")
    files.note("static.pdopt", "opt")
    files.note("inference.pdiparams", "params", way="stream")
    files.note("inference.json", "program", way="program", mutate=False)
    for path in sorted(files.directory.glob("fc_?.?_?")):
        files.note(path.name, "params")


def write_binary(files):
    """Tensors in Paddle's own format, and a network saved for inference."""
    for name in ("float32", "bfloat16", "float64", "int64"):
        paddle.save(paddle.ones([2, 3]).astype(name), files.path(f"{name}.pdtensor"), use_binary_format=True)
        files.note(f"{name}.pdtensor", "params")
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1D(4), nn.Linear(4, 2))
    network.eval()
    spec = [paddle.static.InputSpec([None, 3], "float32")]
    paddle.jit.save(paddle.jit.to_static(network, input_spec=spec), files.path("jit"))
    files.note("jit.pdiparams", "params", way="stream")
    files.note("jit.json", "program", way="program", mutate=False)


def write_safetensors(files):
    """State dicts with `safetensors=True`."""
    state = nn.Linear(3, 2).state_dict()
    for name in ("float32", "bfloat16", "int64"):
        cast = {key: value.astype(name) for key, value in state.items()}
        paddle.save(cast, files.path(f"{name}.safetensors"), safetensors=True)
        files.note(f"{name}.safetensors", "params", way="safetensors")


def write_distributed(files):
    """Both files of `distributed.save_state_dict`."""
    with tempfile.TemporaryDirectory(dir=files.directory) as directory:
        paddle.distributed.save_state_dict({"w": paddle.ones([4, 2]), "b": paddle.zeros([2])}, directory)
        for pattern, role in (("*.distcp", "shard"), ("*.metadata", "index")):
            for path in sorted(Path(directory).glob(pattern)):
                path.rename(files.path(path.name))
                files.note(path.name, role)


def main(directory):
    """Write all files and the manifest."""
    paddle.seed(0)
    files = Files(directory)
    for write in (
        write_optimizers,
        write_tensors,
        write_dicts,
        write_pickles,
        write_splits,
        write_hapi,
        write_binary,
        write_safetensors,
        write_static,
        write_distributed,
    ):
        write(files)
    temporary = directory / "manifest.json.tmp"
    temporary.write_text(json.dumps(files.manifest), encoding="utf-8")
    os.replace(temporary, directory / "manifest.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
