"""Saves with real Paddle what is no checkpoint set; run as a program.

Usage: `python paddle_deployments.py DIRECTORY`.
"""

from __future__ import annotations

import os
import sys

import paddle
from paddle.distributed import save_state_dict


def save_dynamic(network):
    """Deployed models of both forms, single files of many names, and a flex checkpoint."""
    inputs = [paddle.static.InputSpec([None, 8], "float32", "x")]
    paddle.jit.save(network, "pir/inference", input_spec=inputs)
    with paddle.pir_utils.OldIrGuard():
        paddle.jit.save(network, "old/inference", input_spec=inputs)
    for name in ("average.np", "average.pdz", "average.ckpt", "weights"):
        paddle.save(network.state_dict(), f"single/{name}")
    paddle.save({"step": 1}, "single/.saving_info")
    paddle.save({"cpu": paddle.get_rng_state()[0]}, "single/rng_state_0.pth")
    paddle.save(network[0].weight, "single/tensor", use_binary_format=True)
    save_state_dict(network.state_dict(), "flex")


def save_static():
    """Variables one by one, alone and beside their program."""
    program, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(program, startup):
        data = paddle.static.data("x", [None, 8])
        answer = paddle.static.nn.fc(data, 3)
        executor = paddle.static.Executor(paddle.CPUPlace())
        executor.run(startup)
        paddle.static.io.save_vars(
            executor, "variables", program, predicate=lambda one: one.persistable and one.name[:2] == "fc"
        )
        paddle.static.save_inference_model(
            "separate/model", [data], [answer], executor, program=program, separate_parameters=True
        )


def main(directory):
    """Write all files."""
    os.chdir(directory)
    paddle.seed(0)
    save_dynamic(paddle.nn.Sequential(paddle.nn.Linear(8, 4), paddle.nn.ReLU(), paddle.nn.Linear(4, 2)))
    paddle.enable_static()
    with paddle.pir_utils.OldIrGuard():
        save_static()


if __name__ == "__main__":
    main(sys.argv[1])
