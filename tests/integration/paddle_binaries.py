"""Saves with real Paddle what is no pickle: tensors in binary form, programs and their parameters.

Usage: `python paddle_binaries.py DIRECTORY`. With FLAGS_enable_pir_api=0 the programs have the older form.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import paddle

TYPES = [
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
    "complex128",
    "float8_e4m3fn",
    "float8_e5m2",
]


class Network(paddle.nn.Layer):
    """A few parameters and buffers."""

    def __init__(self):
        super().__init__()
        self.first = paddle.nn.Linear(4, 3)
        self.norm = paddle.nn.BatchNorm1D(3)
        self.last = paddle.nn.Linear(3, 2, bias_attr=False)

    def forward(self, inputs):
        """Three layers."""
        return self.last(self.norm(self.first(inputs)))


class Double(paddle.nn.Layer):
    """A network without parameters."""

    def forward(self, inputs):
        """Twice the input."""
        return inputs * 2


def save_tensors(directory):
    """One tensor a file, of each type and of each odd form."""

    def save(tensor, name):
        paddle.save(tensor, str(directory / name), use_binary_format=True)

    for dtype in TYPES:
        save(paddle.ones([2, 3]).astype(dtype), f"{dtype}.tensor")
    save(paddle.to_tensor(3.0), "scalar.tensor")
    save(paddle.zeros([0, 4]), "empty.tensor")
    ragged = paddle.base.core.DenseTensor()
    ragged.set(np.ones((5, 2), "float32"), paddle.CPUPlace())
    ragged.set_recursive_sequence_lengths([[2, 1], [2, 2, 1]])
    save(ragged, "ragged.tensor")
    rows = paddle.base.core.SelectedRows([0, 4, 7], 20)
    rows.get_tensor().set(np.ones((3, 2), "float32"), paddle.CPUPlace())
    save(rows, "rows.tensor")


def save_programs(directory):
    """Programs with their parameters, of jit.save and of the static graph."""
    for name, network in {"jit": Network(), "bare": Double()}.items():
        network.eval()
        spec = paddle.static.InputSpec([None, 4], "float32", "x")
        paddle.jit.save(network, str(directory / name), input_spec=[spec])
    paddle.enable_static()
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup):
        inputs = paddle.static.data("x", [None, 4], "float32")
        outputs = paddle.static.nn.fc(inputs, 3)
        paddle.optimizer.Adam(0.1).minimize(outputs.mean())
    executor = paddle.static.Executor(paddle.CPUPlace())
    executor.run(startup)
    paddle.static.save(main, str(directory / "static"))
    paddle.static.save_inference_model(
        str(directory / "inference"), [inputs], [outputs], executor, program=main
    )
    variables = directory / "variables"
    paddle.static.io.save_vars(executor, str(variables), main, predicate=lambda one: one.persistable)
    paddle.static.io.save_vars(
        executor, str(directory), main, predicate=lambda one: one.persistable, filename="combined.tensor"
    )


if __name__ == "__main__":
    save_tensors(Path(sys.argv[1]))
    save_programs(Path(sys.argv[1]))
