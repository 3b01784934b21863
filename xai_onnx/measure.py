"""Latency, measured so that two sessions don't disturb each other.

Sides run in blocks that take turns in one process: the idle session's threads would otherwise spin
on the cores of the busy one. A *twin*, a second session of the same plain model, stands in the same
rotation; its ratio to the plain one is the noise floor of every other ratio.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata

import numpy as np

Side = Callable[[], object]


@dataclass(frozen=True)
class Latency:
    """Latencies of one side, in milliseconds.

    Attributes:
        samples: every timed call, in order.
        blocks: the median of each block, in order; ratios compare blocks of the same round.
    """

    samples: tuple[float, ...]
    blocks: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of all samples, in milliseconds."""
        return statistics.median(self.samples)

    def percentile(self, q: float) -> float:
        """Percentile `q` (0..100) of all samples, in milliseconds."""
        return float(np.percentile(self.samples, q))

    def ratio(self, other: Latency) -> tuple[float, float, float]:
        """This side over `other`, round by round: median, and the quartiles as its spread."""
        ratios = [a / b for a, b in zip(self.blocks, other.blocks, strict=True)]
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        return float(middle), float(low), float(high)


def rotate(
    sides: Mapping[str, Side],
    *,
    rounds: int,
    calls: int,
    warmup: int = 1,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Latency]:
    """Time every side in blocks that take turns; the order is reversed every other round.

    Args:
        sides: what to call, by name.
        rounds: how many blocks each side gets.
        calls: timed calls in a block.
        warmup: calls at the start of a block that don't count.
        progress: called after each block.
    """
    samples: dict[str, list[float]] = {name: [] for name in sides}
    blocks: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            run = sides[name]
            for _ in range(warmup):
                run()
            block = []
            for _ in range(calls):
                start = time.perf_counter()
                run()
                block.append((time.perf_counter() - start) * 1000)
            samples[name] += block
            blocks[name].append(statistics.median(block))
            progress()
    return {name: Latency(tuple(samples[name]), tuple(blocks[name])) for name in names}


def environment() -> dict[str, str]:
    """What a figure depends on: processor, cores, system, versions."""
    versions = {}
    for package in ("xai-onnx", "onnxruntime", "onnxruntime-gpu", "onnx", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": str(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        **versions,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
