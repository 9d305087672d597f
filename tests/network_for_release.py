"""The networks of the release tests: imported by the export worker and by the process that trains them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import paddle
from paddle import nn
from paddle.nn import functional


class Network(nn.Layer):
    """Small, with what exporters trip over: buffers, dropout, an integer input, outputs in a dict."""

    def __init__(self, width=8):
        super().__init__()
        self.embedding = nn.Embedding(2, 4)
        self.hidden = nn.Linear(4, width)
        self.norm = nn.BatchNorm1D(width)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(width, 3)

    def forward(self, features, kinds):
        """Answer for a batch of features, each of one of two kinds."""
        hidden = self.norm(self.hidden(features + self.embedding(kinds)))
        logits = self.head(self.dropout(hidden))
        return {"probabilities": [functional.softmax(logits), None], "logits": logits}


class Restless(Network):
    """Never computes the same twice."""

    def forward(self, features, kinds):
        """Answer at random."""
        return functional.dropout(super().forward(features, kinds)["logits"], 0.5, training=True)


class Misfit(nn.Layer):
    """Another network that shares two names with the trained one."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(4, 9)
        self.tail = nn.Linear(9, 3)


def build():
    """The trained network; talks a lot, and wanders off."""
    sys.stdout.write("building\n" * 100_000)
    os.chdir("/")
    return Network()


def restless():
    """A network that no export can agree with."""
    return Restless()


def misfit():
    """A network that the weights do not fit."""
    return Misfit()


def not_a_layer():
    """No network at all."""
    return {"hidden": 4}


def broken():
    """Code that fails."""
    raise RuntimeError("no such backbone: resnet51")


def leave():
    """Code that ends the process as if all were well."""
    os._exit(0)


def hang():
    """Starts a child, tells both process ids, and never returns."""
    child = subprocess.Popen(["sleep", "600"])
    place = Path(os.environ["PYTHONPATH"].rpartition(":")[2])
    (place / "pids.part").write_text(f"{os.getpid()} {child.pid}")
    (place / "pids.part").rename(place / "pids")
    while True:
        time.sleep(600)


if __name__ == "__main__":  # train: write what a trainer would write
    paddle.seed(1)
    plain, combined = Network(), Network()
    paddle.save(plain.state_dict(), "plain.pdparams")
    paddle.save(
        {
            "epoch": 2,
            "model_state": combined.state_dict(),
            "optimizer_state": paddle.optimizer.AdamW(parameters=combined.parameters()).state_dict(),
        },
        "combined.pdparams",
    )
