"""Saves with real Paddle whatever checkpoints hold; run as a program, once per test session.

Usage: `python paddle_files.py DIRECTORY`. Beside each file goes `<name>.json`: what paddle.load makes of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import paddle
from paddle.distributed.flex_checkpoint.dcp.sharded_weight import ShardedWeight


def save(directory, name, content, *, protocol=4):
    """Save with paddle.save, and note what paddle.load gives back."""
    path = directory / name
    paddle.save(content, str(path), protocol=protocol)
    facts = {}
    note(facts, "", paddle.load(str(path), return_numpy=True))
    (directory / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")


def note(facts, key, value):
    """Shape and dtype of every tensor in what was loaded."""
    if isinstance(value, np.ndarray):
        facts[key] = [list(value.shape), str(value.dtype)]
    elif isinstance(value, dict):
        for name, item in value.items():
            if name != "StructuredToParameterName@@":
                note(facts, f"{key}/{name}", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            note(facts, f"{key}/{index}", item)


def train(network, optimizer, scheduler):
    """A few steps, so that the optimizer has state."""
    for _ in range(2):
        loss = network(paddle.randn([4, 8])).mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        if scheduler is not None:
            scheduler.step()


def main(directory):
    """Write all files."""
    paddle.seed(0)
    network = paddle.nn.Sequential(
        paddle.nn.Linear(8, 16), paddle.nn.BatchNorm1D(16), paddle.nn.Linear(16, 3)
    )
    scheduler = paddle.optimizer.lr.LinearWarmup(paddle.optimizer.lr.StepDecay(0.1, 3), 5, 0.0, 0.1)
    adam = paddle.optimizer.Adam(scheduler, parameters=network.parameters())
    train(network, adam, scheduler)
    for protocol in (2, 3, 4):
        save(directory, f"adam{protocol}.pdparams", network.state_dict(), protocol=protocol)
        save(directory, f"adam{protocol}.pdopt", adam.state_dict(), protocol=protocol)

    # What AMP O2 leaves: bfloat16 parameters, and an optimizer with float32 master weights. The CPU cannot
    # train that way.
    decay = paddle.optimizer.lr.ReduceOnPlateau(0.1)
    adamw = paddle.optimizer.AdamW(decay, parameters=network.parameters(), weight_decay=0.01)
    train(network, adamw, None)
    decay.step(paddle.to_tensor(0.5))
    masters = {value.name: value.astype("float32") for value in network.parameters()}
    halves = {name: value.astype("bfloat16") for name, value in network.state_dict().items()}
    save(directory, "o2.pdparams", halves)
    save(directory, "o2.pdopt", adamw.state_dict() | {"master_weights": masters})
    save(directory, "diverged.pdparams", {name: paddle.log(-value - 9.0) for name, value in halves.items()})

    combined = {
        "epoch": 3,
        "step": np.int64(700),
        "loss": np.float32(0.5),
        "best": paddle.to_tensor(0.25),
        "model_state": network.state_dict(),
        "optimizer_state": adam.state_dict(),
    }
    for protocol in (2, 4):
        save(directory, f"combined{protocol}.pdparams", combined, protocol=protocol)
    save(directory, "list.pdopt", [adam.state_dict(), adamw.state_dict()])
    save(directory, "empty.pdopt", {})
    save(directory, "zero.pdparams", {"none": paddle.zeros([0, 4]), "one": paddle.ones([1])})
    save(directory, "tensor.pdparams", network[0].weight)
    for protocol in (2, 4):
        dense = paddle.base.core.DenseTensor()
        dense.set(np.ones((2, 3), "float32"), paddle.CPUPlace())
        save(directory, f"dense{protocol}.pdparams", {"a": [dense], "b": "x"}, protocol=protocol)
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
    save(directory, "adam.pdscaler", scaler)
    # paddle.load itself fails on this one (it tries to make tensors of the state), so nothing is noted of it.
    paddle.save({"cpu": paddle.get_rng_state()[0]}, str(directory / "rng_state.pth"))
    save_sharded(directory, {"model": halves, "step": {"count": paddle.to_tensor(7)}})


def save_sharded(directory, content):
    """What paddle.distributed and safetensors make of a state dict."""
    flat = paddle.arange(3, 9, dtype="float32")
    flattened = ShardedWeight("flat", flat, (3, 4), (3, 4), (0, 0), True, slice(3, 9))  # noqa: FBT003 - Paddle's order
    paddle.distributed.save_state_dict(content, str(directory / "flex"))
    paddle.distributed.save_state_dict(content, str(directory / "flex_safetensors"), safetensors=True)
    paddle.distributed.save_state_dict({"flat": flattened}, str(directory / "flex_flattened"))
    paddle.distributed.save_state_dict({}, str(directory / "flex_empty"))
    paddle.save(content["model"], str(directory / "o2.safetensors"), safetensors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
