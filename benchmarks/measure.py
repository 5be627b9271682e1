"""Seconds and bytes: medians of rounds taken in turns in one process, and peak memory in a process of its own per
subject."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from simpool_viz.scores.results import Table, keep_tables


def seconds(work: Callable[[], Any], device: str = "cpu") -> float:
    """How long the work takes: by the clock on a CPU, by CUDA events on a GPU."""
    if not device.startswith("cuda"):
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def in_turns(
    works: dict[str, Callable[[], Any]], rounds: int, device: str = "cpu", slow: frozenset[str] = frozenset()
) -> dict[str, list[float]]:
    """Seconds of each work per round; all take their turn in each, so that what disturbs the machine disturbs all
    alike.

    Args:
        slow: works that take a turn in every third round only, and none to warm up.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-1, rounds):  # the first round warms up
        for name, work in works.items():
            if name in slow and number % 3:
                continue
            took = seconds(work, device)
            gc.collect()
            if number >= 0:
                taken[name].append(took)
    return taken


@dataclass
class Samples:
    """What a run measured, one list of values per figure, of which less is better.

    Attributes:
        values: by the figure's name, one value per round.
        units: by the figure's name, that of its values; "x" for a ratio.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    def add(self, figure: str, unit: str, values: list[float]) -> float:
        """Keep the values of a figure and return their median.

        Raises:
            ValueError: the figure has values already.
        """
        if figure in self.values:
            raise ValueError(f"{figure} was measured twice in one run")
        self.values[figure], self.units[figure] = list(values), unit
        return statistics.median(values)

    def save(self, path: Path, machine: str) -> None:
        """Write them as JSON, which `benchmarks/changes.py` compares with another run's.

        Args:
            path: of the file.
            machine: processor, threads and versions, as `run.machine` tells them.
        """
        figures = {name: {"unit": self.units[name], "values": values} for name, values in self.values.items()}
        text = json.dumps({"machine": machine, "figures": figures}, indent=1)
        path.write_text(text + "\n", encoding="utf-8")


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """(median, first quartile, third quartile)."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def keep_table(name: str, table: Table, results: Path | None) -> None:
    """Print a table and, where a results file is named, put it into that.

    Args:
        name: of the table in the file.
        table: what was measured.
        results: the file, or None.
    """
    print(table.markdown())
    if results:
        keep_tables(results, {name: table})


def peak_of(work: Callable[[], Any], device: str = "cpu") -> int:
    """Bytes by which memory grows at most while the work runs; on a CPU, Linux counts them."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def in_child(*arguments: object, script: str = "run.py") -> str:
    """What `run.py`, or a script beside it, prints in a process of its own; "" where it fails, as when memory does
    not suffice.

    There glibc gives back at once what was freed of 64 KiB and more, so that the peak is what stood in memory together.
    As it is set otherwise, it keeps some for later, other amounts in each process.
    """
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
    result = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    )
    return result.stdout.strip() if result.returncode == 0 else ""
