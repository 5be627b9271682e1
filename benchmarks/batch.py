"""Rate and memory of `simpool-viz batch --write parquet` against the plain batched forward on the same batches already
decoded: `python benchmarks/batch.py FOLDER_OR_SHARDS ... --json figures.json`.

  python benchmarks/batch.py                             made-up photos of 500 x 375
  python benchmarks/batch.py val/*.parquet -c resnet_simpool -m simpool --device cuda --batch 64
  python benchmarks/batch.py FOLDER --engine ray --models 2

It prints the share of the plain forward's rate, what a reader does, bytes per picture and the memory of this process
and its children along the way. The file of --json holds the figures that `simpool_viz.batch.cost` takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.folder import make_folder
from simpool_viz import Settings, load_checkpoint
from simpool_viz.batch.boards import Job, batches_of_one_shape
from simpool_viz.batch.cost import Measured, Site, most_devices, readers_needed, run_rate
from simpool_viz.batch.engine import cut_to_parts
from simpool_viz.batch.inputs import find_items
from simpool_viz.batch.part_files import PICTURES, Cluster, part_paths, run_parts
from simpool_viz.batch.places import contents
from simpool_viz.batch.preparing import Fault
from simpool_viz.batch.rows import BoardWork
from simpool_viz.images import normalise
from simpool_viz.maps.request import parse_map

MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", help="as for `simpool-viz batch`; photos are made up where there are none")
    parser.add_argument("-c", "--checkpoint", default="resnet_simpool")
    parser.add_argument("-m", "--map", default="pooling")
    parser.add_argument("--size", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--models", type=int)
    parser.add_argument("--decoded", type=int, default=16, metavar="N", help="batches of the plain forward")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        inputs = arguments.inputs
        if not inputs:
            (Path(name) / "photos").mkdir()
            make_folder(Path(name) / "photos")
            inputs = [str(Path(name) / "photos")]
        figures = measure(arguments, inputs, Path(name) / "out")
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(arguments: argparse.Namespace, inputs: list[str], out: Path) -> dict[str, Any]:
    """All figures: of the plain forward, a reader, and the whole run."""
    encoder = load_checkpoint(arguments.checkpoint, device=arguments.device)
    job = Job([encoder], [parse_map(arguments.map)], Settings(size=arguments.size))
    work, items = BoardWork(job, batch=arguments.batch), find_items(inputs)
    plain, reader, size = _alone(work, items, arguments.decoded)
    cluster = Cluster(arguments.engine, arguments.workers, arguments.models)
    stamps: list[float] = []
    with memory_along() as samples, _stamped(stamps):
        report = run_parts(
            work, items, out, {}, size=PICTURES, cluster=cluster, ahead=3 * arguments.batch, device=arguments.device
        )
    rate = _steady_rate(stamps, len(items), report.seconds)
    written = sum(path.stat().st_size for path in part_paths(out))
    measured = Measured(plain, reader, size, written / len(items), min(1.0, rate / plain))
    site = Site(1, arguments.workers or max(1, (os.cpu_count() or 2) // 2))
    later = samples[len(samples) // 2 :] or [0.0]
    third, fourth = later[: len(later) // 2] or later, later[len(later) // 2 :]
    return {
        "machine": {"device": arguments.device, "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "run": {"pictures": len(items), "faults": len(report.faults), "seconds": round(report.seconds, 2)},
        "pictures_per_second": round(rate, 2),
        "share_of_plain_forward": round(rate / plain, 3),
        "memory_mib": {
            "peak": round(max(samples, default=0.0)),
            "median_of_second_half": round(statistics.median(later)),
            "growth_in_second_half": round(statistics.median(fourth) - statistics.median(third)),
        },
        "cost": asdict(measured),
        "predicted": {
            "pictures_per_second": round(run_rate(measured, site)[0], 2),
            "bound": run_rate(measured, site)[1],
            "devices_beyond_which_nothing_is_gained": most_devices(measured, site),
            "readers_that_keep_a_device_busy": readers_needed(measured, 1),
        },
    }


def _alone(work: BoardWork, items: list[Any], count: int) -> tuple[float, float, float]:
    """Pictures per second of the plain forward on decoded batches and of one reader, and bytes of a picture's file."""
    device, facts = work.job.device, work.job.encoders[0].facts
    read, sizes, seconds = [], [], 0.0
    for key, place in contents((item.key, item.place) for item in items[: count * work.batch]):
        started = time.perf_counter()
        one = work.read(key, place)
        seconds += time.perf_counter() - started
        read.append(one)
        length = len(place) if isinstance(place, bytes) else getattr(place, "length", None)
        sizes.append(length if length is not None else place.stat().st_size if isinstance(place, Path) else 0)
    faults: list[Fault] = []
    batches = list(batches_of_one_shape(iter(read), work.batch, faults))
    if not batches:
        raise SystemExit("none of the first pictures can be read")
    import numpy as np

    inputs = [normalise(np.stack([one.inputs[0] for one in b]), facts.mean, facts.std).to(device) for b in batches]
    with torch.inference_mode():
        work.job.encoders[0](inputs[0])
        _wait(device)
        started = time.perf_counter()
        for batch in inputs:
            work.job.encoders[0](batch)
        _wait(device)
    plain = (len(read) - len(faults)) / (time.perf_counter() - started)
    return plain, len(read) / seconds, max(1.0, statistics.fmean(sizes))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def _stamped(stamps: list[float]) -> Iterator[None]:
    """Notes when each part is written."""
    from simpool_viz.batch import part_files as parts

    original = parts._run

    def run(*given: Any) -> Iterator[Any]:
        for report in original(*given):
            stamps.append(time.perf_counter())
            yield report

    parts._run = run  # type: ignore[assignment]
    try:
        yield
    finally:
        parts._run = original


def _steady_rate(stamps: list[float], pictures: int, seconds: float) -> float:
    """Pictures per second between the first part and the last but one, once processes have started; of the whole run
    where there are too few parts."""
    whole = len(cut_to_parts(range(pictures), PICTURES))  # type: ignore[arg-type]
    if whole < 4 or len(stamps) < 4:
        return pictures / seconds
    return PICTURES * (len(stamps) - 2) / (stamps[-2] - stamps[0])


@contextmanager
def memory_along(every: float = 0.5) -> Iterator[list[float]]:
    """MiB of this process and its children, sampled while the block runs."""
    samples: list[float] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(every):
            samples.append(memory_of_tree(os.getpid()) / MIB)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def memory_of_tree(root: int) -> int:
    """Bytes that a process and its descendants have in memory of their own; 0 where the system does not say."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    total = 0
    for process in family:
        try:
            resident, shared = (int(word) for word in Path(f"/proc/{process}/statm").read_text().split()[1:3])
        except (OSError, ValueError):
            continue
        total += (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    return total


if __name__ == "__main__":
    sys.exit(main())
