"""Measures the live model of the demo: what a server that loads `deploy/current` would answer.

Runs under a Python that has Paddle, as `python demo_measure.py RELEASE_DIRECTORY RESULT_FILE`, and imports
nothing of ckptd. Writes `{"accuracy": …}` over the held-out samples.
"""

from __future__ import annotations

import json
import os
import sys

import demo_network  # type: ignore[import-not-found] # it lies beside this file
from paddle import inference


def main(release_directory: str, result_file: str) -> None:
    """Run the released model over the held-out samples."""
    names = os.listdir(release_directory)
    weights = next(name for name in names if name.endswith(".pdiparams"))
    stem = weights.removesuffix(".pdiparams")
    program = next(name for name in (f"{stem}.json", f"{stem}.pdmodel") if name in names)
    config = inference.Config(f"{release_directory}/{program}", f"{release_directory}/{weights}")
    config.disable_gpu()
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    features, labels = demo_network.held_out_samples()
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(features)
    predictor.run()
    answers = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu().argmax(axis=1)
    with open(result_file, "w", encoding="utf-8") as result:
        json.dump({"accuracy": float((answers == labels).mean())}, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
