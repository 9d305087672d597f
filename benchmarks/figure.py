"""Draws speed and memory over file size as an image that is the same for the same numbers."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib as mpl

mpl.use("svg")
from typing import TYPE_CHECKING

from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Curve:
    """One reader: bytes of the file, bytes per second, and MiB of memory, by size."""

    name: str
    points: tuple[tuple[int, float, float], ...]


def draw(curves: tuple[Curve, ...], path: Path) -> None:
    """Write the image, both axes logarithmic."""
    plt.rcParams.update({"svg.hashsalt": "ckptd", "svg.fonttype": "none", "font.size": 10})
    figure, (speed, memory) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for curve in curves:
        sizes = [size / 2**20 for size, _, _ in curve.points]
        speed.plot(sizes, [rate / 1e9 for _, rate, _ in curve.points], marker="o", label=curve.name)
        memory.plot(sizes, [mib for _, _, mib in curve.points], marker="o", label=curve.name)
    speed.set(title="Speed", ylabel="GB/s")
    memory.set(title="Peak memory above a bare interpreter", ylabel="MiB")
    for axes in (speed, memory):
        axes.set(xscale="log", yscale="log", xlabel="file size, MiB")
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
