"""The trainer of the demo: real training, real `paddle.save`, and the accidents that trainings have.

Runs under a Python that has Paddle, imports nothing of ckptd, and is started by its path. It saves without a
care: `epoch_N.pdparams`, `.pdopt`, `.pdscaler`, `.pdmeta`, one after the other, in place. Started again, it
resumes from the newest set that loads, and numbers on from the highest file name.

Before each save it appends a line to the truth file: `set`, `epoch`, `step`, `accuracy` (on held-out samples,
as the set records it) and `accident`: "none", "killed", "no_optimizer" or "diverged".
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import resource
import signal
import time
from typing import Any
from unittest import mock

import demo_network  # type: ignore[import-not-found] # it lies beside this file
import numpy as np

paddle: Any = importlib.import_module("paddle")  # its type stubs lack half of what it exports

_BATCH = 80
_LEARNING_RATE = 7e-5
_SCALE_GROWS_AFTER_STEPS = 200


class Training:
    """The state of a training: network, optimizer, schedule, loss scaling, and how far it is."""

    def __init__(self) -> None:
        paddle.seed(0)
        self.network = demo_network.build()
        self.schedule = paddle.optimizer.lr.LinearWarmup(
            _LEARNING_RATE, warmup_steps=100, start_lr=_LEARNING_RATE / 10, end_lr=_LEARNING_RATE
        )
        self.optimizer = paddle.optimizer.AdamW(self.schedule, parameters=self.network.parameters())
        self.scaler = _enabled_scaler()
        self.step = 0

    def learn(self, features: Any, labels: Any) -> None:
        """Take one step on one batch."""
        loss = paddle.nn.functional.cross_entropy(self.network(features), labels)
        # What scaler.scale(loss) does under float16, which the CPU does not compute in.
        (loss * float(self.scaler.state_dict()["scale"][0])).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.clear_grad()
        self.schedule.step()
        self.step += 1

    def diverge(self) -> None:
        """Take one step on a broken sample, whose gradients nobody checks; all weights become NaN."""
        features = paddle.full([2, demo_network.FEATURES], float("inf"))
        paddle.nn.functional.cross_entropy(self.network(features), paddle.zeros([2], "int64")).backward()
        self.optimizer.step()
        self.optimizer.clear_grad()

    def accuracy(self, features: Any, labels: Any) -> float:
        """The share of right answers."""
        self.network.eval()
        with paddle.no_grad():
            answers = self.network(features).argmax(axis=1).numpy()
        self.network.train()
        return float(np.mean(answers == labels))

    def state(self) -> tuple[Any, Any]:
        """A copy of weights and optimizer state."""
        weights = {key: value.clone() for key, value in self.network.state_dict().items()}
        optimizer = {
            key: value.clone() if isinstance(value, paddle.Tensor) else value
            for key, value in self.optimizer.state_dict().items()
        }
        return weights, optimizer

    def restore(self, weights: Any, optimizer: Any) -> None:
        """Take over what `state` copied or a set holds."""
        self.network.set_state_dict(weights)
        self.optimizer.set_state_dict(optimizer)


def _enabled_scaler() -> Any:
    """A GradScaler that is enabled although there is no GPU.

    On the CPU its constructor disables it, and its state is `{}`: nothing like what trainings on GPUs save.
    The constructor looks for a GPU in dynamic mode only; past that check the object is whole, and it works.
    """
    with mock.patch("paddle.amp.grad_scaler.in_dynamic_mode", return_value=False):
        return paddle.amp.GradScaler(
            init_loss_scaling=1024.0,
            incr_every_n_steps=_SCALE_GROWS_AFTER_STEPS,
            use_dynamic_loss_scaling=True,
        )


def main() -> None:
    """Train until the last epoch or the accident that ends the process."""
    options = _options()
    paddle.set_device("cpu")  # the same story everywhere, and no GPU is disturbed
    os.makedirs(options.run_directory, exist_ok=True)
    training = Training()
    first = _resume(training, options.run_directory)
    features, labels = demo_network.training_samples()
    held_out = demo_network.held_out_samples()
    held_out_features = paddle.to_tensor(held_out[0])
    for epoch in range(first, options.epochs + 1):
        started = time.monotonic()
        is_broken = options.mixed_up_from is not None and epoch >= options.mixed_up_from
        _train_epoch(training, epoch, features, _mixed_up(labels, epoch) if is_broken else labels)
        accuracy = training.accuracy(held_out_features, held_out[1])
        time.sleep(max(0.0, options.pace - (time.monotonic() - started)))
        _save(training, epoch, accuracy, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_directory")
    parser.add_argument("truth_file")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--mixed-up-from", type=int, help="epoch from which the labels are mixed up")
    parser.add_argument("--killed", type=int, help="epoch in whose save the process is killed")
    parser.add_argument("--no-optimizer", type=int, help="epoch whose optimizer state is not saved")
    parser.add_argument("--diverged", type=int, help="epoch whose weights become NaN after the evaluation")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds that an epoch takes at least")
    return parser.parse_args()


def _train_epoch(training: Training, epoch: int, features: Any, labels: Any) -> None:
    order = np.random.default_rng(epoch).permutation(len(features))
    for batch in np.split(order, len(order) // _BATCH):
        training.learn(paddle.to_tensor(features[batch]), paddle.to_tensor(labels[batch]))


def _mixed_up(labels: Any, epoch: int) -> Any:
    """What a broken data pipeline delivers: each label belongs to some other sample."""
    return np.random.default_rng(1000 + epoch).permutation(labels)


def _save(training: Training, epoch: int, accuracy: float, options: argparse.Namespace) -> None:
    accidents = {options.killed: "killed", options.no_optimizer: "no_optimizer", options.diverged: "diverged"}
    accident = accidents.get(epoch, "none")
    stem = f"{options.run_directory}/epoch_{epoch}"
    told = {"set": f"epoch_{epoch}", "epoch": epoch, "step": training.step, "accuracy": accuracy}
    with open(options.truth_file, "a", encoding="utf-8") as truth:
        truth.write(json.dumps({**told, "accident": accident}) + "\n")
    before = training.state() if accident == "diverged" else None
    if accident == "diverged":
        training.diverge()
    paddle.save(training.network.state_dict(), f"{stem}.pdparams")
    if accident == "killed":
        _be_killed_after(os.path.getsize(f"{options.run_directory}/epoch_{epoch - 1}.pdopt") // 2)
    if accident != "no_optimizer":
        paddle.save(training.optimizer.state_dict(), f"{stem}.pdopt")
    paddle.save(training.scaler.state_dict(), f"{stem}.pdscaler")
    paddle.save({"epoch": epoch, "step": training.step, "accuracy": accuracy}, f"{stem}.pdmeta")
    if before is not None:
        training.restore(*before)


def _be_killed_after(size: int) -> None:
    """Have this process killed by SIGKILL as soon as a file that it writes reaches the size, in bytes."""
    signal.signal(signal.SIGXFSZ, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _resume(training: Training, run_directory: str) -> int:
    """Load the newest set that loads, and return the number of the next epoch: one above all file names."""
    names = (re.fullmatch(r"epoch_(\d+)\.pdparams", name) for name in os.listdir(run_directory))
    numbers = sorted((int(name[1]) for name in names if name), reverse=True)
    for number in numbers:
        with contextlib.suppress(Exception):  # whatever a broken file makes paddle.load raise
            stem = f"{run_directory}/epoch_{number}"
            weights, optimizer, scaler, progress = (
                paddle.load(f"{stem}{suffix}") for suffix in (".pdparams", ".pdopt", ".pdscaler", ".pdmeta")
            )
            training.restore(weights, optimizer)
            training.scaler.load_state_dict(scaler)
            training.step = progress["step"]
            break
    return max(numbers, default=0) + 1


if __name__ == "__main__":
    main()
