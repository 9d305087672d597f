"""Turns proven weights into a deployable model and proves that the model is the same network.

A stand-alone script: it runs under the training's own Python, which has Paddle but not ckptd, and is started
by its path as `python export.py REQUEST RESULT`, both JSON files. It answers in RESULT alone, so whatever the
network's code prints cannot disturb. Needs Python 3.8 and Paddle 2.6 or newer.

REQUEST: `entrypoint` ("package.module:function"), `params` (file), `params_key` ("" to find it), `inputs`
(list of `shape`, `dtype`, `name`), `rtol`, `atol`, `output` (path prefix, relative to the working directory),
`daemon_pid`.

RESULT: `ok`, `reason` and `way_out` (where refused), `show_output` (the printed lines tell more),
`paddle_version`, `max_abs_difference`, `seconds` (by stage).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_PR_SET_PDEATHSIG = 1
_FREE_DIMENSION = 64  # what an unfixed dimension other than the batch is tried with
_NAMES_SHOWN = 8
_SEED = 20_240_229
_DEEPEST_NESTING = 4  # {"trainer": {"state": {"model": {...}}}} is as deep as anybody nests weights


class ExportRefusedError(Exception):
    """The export would not be the proven checkpoint; says why, and what to do about it."""

    def __init__(self, reason: str, way_out: str, *, show_output: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.way_out = way_out
        self.show_output = show_output


# Each stage: what is being done, and what to do where that fails.
_STAGES = {
    "import": ("import paddle", "Point `release.python` at an interpreter that has paddlepaddle."),
    "network": (
        "build the network",
        "Fix `release.entrypoint`, or `release.pythonpath` where it is imported from.",
    ),
    "weights": ("load the weights", "Check that `release.entrypoint` builds the network that was trained."),
    "reference": ("run the network", "Make `release.input_spec` fit the network's forward()."),
    "save": ("save the network", "Make the network fit for paddle.jit.save with `release.input_spec`."),
    "run": ("run the saved model", "Export the network with paddle.jit.save by hand and run that."),
}


class Stages:
    """Which stage runs, and how long each took in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.doing, self.way_out = "read the request", "Report it: the request is ckptd's own."

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; what escapes from it is reported as what could not be done, with the way out."""
        self.doing, self.way_out = _STAGES[name]
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 3)


def main(request_path: str, result_path: str) -> int:
    """Export as the request says and write the result; 0 unless the result could not be written."""
    stages = Stages()
    result_file = Path(result_path).absolute()  # the network's code may move elsewhere
    result: dict[str, Any] = {"ok": False, "seconds": stages.seconds}
    try:
        request = json.loads(Path(request_path).read_text(encoding="utf-8"))
        _become_background_worker(request["daemon_pid"])
        result.update(_export(request, stages), ok=True)
    except ExportRefusedError as refusal:
        result.update(reason=refusal.reason, way_out=refusal.way_out, show_output=refusal.show_output)
    except BaseException as error:  # noqa: BLE001 - the network's code may raise anything, SystemExit too
        traceback.print_exc()
        detail = f"{type(error).__name__}: {error}".strip().splitlines()
        reason = f"could not {stages.doing}: {detail[0][:400]}"
        result.update(reason=reason, way_out=stages.way_out, show_output=True)
    result_file.write_text(json.dumps(result), encoding="utf-8")
    return 0


def _become_background_worker(daemon_pid: int) -> None:
    """Give way to everything else on the machine, and die with the daemon."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.kill(daemon_pid, 0)  # raises if it died before the line above took effect
    os.nice(19)
    with contextlib.suppress(OSError):  # no such file in some containers
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _export(request: Mapping[str, Any], stages: Stages) -> dict[str, Any]:
    home = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    with stages.stage("import"):
        paddle: Any = importlib.import_module("paddle")
        paddle.set_device("cpu")
        paddle.seed(_SEED)
    with stages.stage("network"):
        network = _called(request["entrypoint"])
        if not isinstance(network, paddle.nn.Layer):
            raise ExportRefusedError(
                f"{request['entrypoint']} returned {type(network).__name__}, not a paddle.nn.Layer",
                "Let the function return the network itself.",
            )
    os.fchdir(home)  # the network's code may have moved elsewhere
    with stages.stage("weights"):
        _load_weights(network, request, paddle)
    network.eval()
    with stages.stage("reference"):
        samples = _samples(request["inputs"])
        with paddle.no_grad():
            expected = [_outputs(network, sample, paddle) for sample in samples]
    with stages.stage("save"):
        specs = [
            paddle.static.InputSpec(entry["shape"], entry["dtype"], _input_name(index, entry))
            for index, entry in enumerate(request["inputs"])
        ]
        paddle.jit.save(network, request["output"], input_spec=specs)
    with stages.stage("run"):
        run = _predictor(request["output"], paddle)
        differences = [
            _largest_difference(run(sample), wanted, request)
            for sample, wanted in zip(samples, expected)  # noqa: B905 - strict= is younger than Python 3.8
        ]
    return {"paddle_version": paddle.__version__, "max_abs_difference": max(differences)}


def _called(entrypoint: str) -> Any:
    module_name, _, function_name = entrypoint.partition(":")
    target: Any = importlib.import_module(module_name)
    for part in function_name.split("."):
        target = getattr(target, part)
    return target()


def _load_weights(network: Any, request: Mapping[str, Any], paddle: Any) -> None:
    """Give the network exactly the weights of the file: the same names, shapes and types, none left over."""
    state = network.state_dict()
    if not state:
        raise ExportRefusedError(
            "the network has no weights", "Let the entrypoint return the trained network."
        )
    tree = paddle.load(request["params"])
    where, weights = _weights_in(tree, request["params_key"], state)
    of_file = f"the file's {where!r}" if where else "the file"
    wrong = [f"{name} is missing from {of_file}" for name in state if name not in weights]
    wrong += [f"{name} is unknown to the network" for name in weights if name not in state]
    tensors = {name: _as_tensor(weights[name], paddle) for name in state if name in weights}
    for name, tensor in tensors.items():
        wanted, found = _kind(state[name]), _kind(tensor)
        if wanted != found:
            wrong.append(f"{name} is {found} in {of_file}, {wanted} in the network")
    if wrong:
        raise ExportRefusedError(
            "the weights do not fit the network: " + _some(wrong),
            "Let `release.entrypoint` build the network that was trained, or set `release.params_key`.",
        )
    network.set_state_dict(tensors)
    left = [name for name, value in network.state_dict().items() if not _same_bytes(value, tensors[name])]
    if left:
        raise ExportRefusedError(
            "the network did not take over the weights of " + _some(left),
            "Check the network's own set_state_dict().",
        )


def _as_tensor(value: Any, paddle: Any) -> Any:
    is_array = type(value).__module__ == "numpy" and hasattr(value, "dtype")
    return paddle.to_tensor(value) if is_array else value


def _kind(value: Any) -> str:
    """Type and shape of a tensor in words."""
    if not hasattr(value, "shape"):
        return f"no tensor ({type(value).__name__})"
    return f"{str(value.dtype).rpartition('.')[2]} {list(value.shape)}"


def _same_bytes(one: Any, other: Any) -> bool:
    return bool(one.numpy().tobytes() == other.numpy().tobytes())  # bytes: NaN equals itself


def _weights_in(tree: Any, params_key: str, state: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The mapping of the file that holds the network's weights, and the key path that leads to it.

    Without `params_key` it must be the only one that covers the network. Where none does, the one that comes
    nearest is returned, for a report of what is missing.
    """
    mappings = dict(_mappings(tree, "", 0))
    if params_key:
        if params_key not in mappings:
            raise ExportRefusedError(
                f"the file has no mapping {params_key!r}; it has "
                + _some([repr(key) for key in mappings if key]),
                "Set `release.params_key` to one of them.",
            )
        return params_key, mappings[params_key]
    shared = {where: sum(name in mapping for name in state) for where, mapping in mappings.items()}
    covering = [where for where, count in shared.items() if count == len(state)]
    if len(covering) > 1:
        raise ExportRefusedError(
            "several parts of the file fit the network: " + _some([repr(where) for where in covering]),
            "Set `release.params_key` to the right one.",
        )
    nearest = max(shared, key=shared.__getitem__, default=None)
    if nearest is None or not shared[nearest]:
        keys = list(tree) if isinstance(tree, dict) else [type(tree).__name__]
        raise ExportRefusedError(
            "the file holds no weight of this network, but " + _some([str(key) for key in keys]),
            "Let `release.entrypoint` build the network that was trained.",
        )
    return nearest, mappings[nearest]


def _mappings(tree: Any, where: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(tree, dict) or depth > _DEEPEST_NESTING:
        return
    yield where, tree
    for key, value in tree.items():
        yield from _mappings(value, f"{where}.{key}" if where else str(key), depth + 1)


def _input_name(index: int, entry: Mapping[str, Any]) -> str:
    return entry["name"] or f"input_{index}"


def _samples(inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same inputs at every run, by input name; of batch size 1 and 3 where the batch is free."""
    import numpy as np  # noqa: PLC0415 - paddle brings it; without paddle the refusal comes first

    random = np.random.default_rng(_SEED)

    def array(entry: Mapping[str, Any], batch: int) -> Any:
        free = [batch] + [_FREE_DIMENSION] * (len(entry["shape"]) - 1)
        shape = [free[axis] if size == -1 else size for axis, size in enumerate(entry["shape"])]
        dtype = np.dtype(entry["dtype"])
        if dtype.kind == "f":
            return random.random(shape).astype(dtype)
        return random.integers(0, 2, shape).astype(
            dtype
        )  # 0 and 1: inside any vocabulary, and good as a mask

    batches = (1, 3) if any(entry["shape"][:1] == [-1] for entry in inputs) else (1,)
    return [
        {_input_name(index, entry): array(entry, batch) for index, entry in enumerate(inputs)}
        for batch in batches
    ]


def _outputs(network: Any, sample: Mapping[str, Any], paddle: Any) -> list[Any]:
    """The network's own answer, in the order in which paddle.jit.save puts it."""
    answer = network(*(paddle.to_tensor(value) for value in sample.values()))
    return [part.numpy() for part in paddle.utils.flatten(answer) if isinstance(part, paddle.Tensor)]


def _predictor(prefix: str, paddle: Any) -> Callable[[Mapping[str, Any]], list[Any]]:
    program = next(path for path in (f"{prefix}.json", f"{prefix}.pdmodel") if Path(path).exists())
    config = paddle.inference.Config(program, f"{prefix}.pdiparams")
    config.disable_gpu()
    config.disable_glog_info()
    predictor = paddle.inference.create_predictor(config)

    def run(sample: Mapping[str, Any]) -> list[Any]:
        for name in predictor.get_input_names():
            predictor.get_input_handle(name).copy_from_cpu(sample[name])
        predictor.run()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]

    return run


def _largest_difference(found: list[Any], wanted: list[Any], request: Mapping[str, Any]) -> float:
    """How far the model is from the network; refused where that is beyond the tolerance."""
    import numpy as np  # noqa: PLC0415 - see _samples

    way_out = "Check that eval() makes the network repeatable, or widen `release.rtol` and `release.atol`."
    shapes = [list(output.shape) for output in found], [list(output.shape) for output in wanted]
    if shapes[0] != shapes[1]:
        raise ExportRefusedError(f"the model's outputs are {shapes[0]}, the network's {shapes[1]}", way_out)
    if not wanted:
        raise ExportRefusedError(
            "the network returns no tensor", "Let forward() return what is to be served."
        )
    largest = 0.0
    for index, (model, network) in enumerate(zip(found, wanted)):  # noqa: B905 - as above
        model_values, network_values = model.astype("float64"), network.astype("float64")
        if not (np.isfinite(model_values).all() and np.isfinite(network_values).all()):
            raise ExportRefusedError(
                f"output {index} is not finite", "Train with finite weights; NaN or infinity is never served."
            )
        differences = np.abs(model_values - network_values)
        difference = float(differences.max(initial=0.0))
        if (differences > request["atol"] + request["rtol"] * np.abs(network_values)).any():
            raise ExportRefusedError(
                f"output {index} of the model differs from the network's by up to {difference:.3g}"
                f" (rtol {request['rtol']:g}, atol {request['atol']:g})",
                way_out,
            )
        largest = max(largest, difference)
    return largest


def _some(names: list[str]) -> str:
    """The first names of a list that may be long."""
    left = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {left} more" if left > 0 else "")


if __name__ == "__main__":
    sys.path.pop(0)  # this directory: the network's code shall not find this file as `export`
    code = main(sys.argv[1], sys.argv[2])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads that the network's code left behind do not hold up the answer
