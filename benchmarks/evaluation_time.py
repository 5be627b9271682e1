"""The work of `benchmarks/evaluate.py`, in a module of its own: processes that read and score import the script that
was started, and are to import no more than those of the command line do."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from simpool_viz import load_checkpoints
from simpool_viz.batch.boards import Job
from simpool_viz.batch.preparing import Prepared, prepare_picture
from simpool_viz.board.board import Settings
from simpool_viz.evaluation.datasets import DataSet, open_data_set
from simpool_viz.evaluation.keeping import evaluate_into
from simpool_viz.evaluation.passes import Pace, photo_scores
from simpool_viz.images import normalise
from simpool_viz.maps.request import parse_maps


def prepared_batches(data: DataSet, job: Job, size: int) -> list[list[Prepared]]:
    """The photos of a data set, decoded, in batches of one shape."""
    shapes: dict[object, list[Prepared]] = {}
    for sample in data.samples:
        one = prepare_picture(sample.picture(), job.frames, None)
        shapes.setdefault(one.shape, []).append(one)
    return [same[i : i + size] for same in shapes.values() for i in range(0, len(same), size)]


def forward_seconds(job: Job, batches: Sequence[Sequence[Prepared]]) -> float:
    """Seconds of the plain forwards of every checkpoint on batches that are decoded."""
    started = time.perf_counter()
    with torch.inference_mode():
        for number, members in enumerate(job.groups):
            for batch in batches:
                pixels = np.stack([one.inputs[number] for one in batch])
                for i in members:
                    facts = job.encoders[i].facts
                    job.encoders[i](normalise(pixels, facts.mean, facts.std).to(job.device))
    if job.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def pass_seconds(data: DataSet, job: Job, pace: Pace) -> float:
    """Seconds of one pass: reading, recording, maps and scores, nothing written."""
    started = time.perf_counter()
    photo_scores(data, job, pace)
    return time.perf_counter() - started


def main(about: str) -> None:
    """Print the ratio for a data set; `about` is the help text."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-c", "--checkpoint", action="append", default=[])
    parser.add_argument("-m", "--map", action="append", default=[])
    parser.add_argument("--size", type=int)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    data = open_data_set(given.data)
    names = given.checkpoint or ["resnet_simpool"]
    job = Job(load_checkpoints(names, device=given.device), parse_maps(given.map), Settings(size=given.size))
    pace = Pace(given.batch, given.workers)
    batches = prepared_batches(data, job, given.batch)
    forward_seconds(job, batches[:1])
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            plain, alone = forward_seconds(job, batches), pass_seconds(data, job, pace)
            started = time.perf_counter()
            evaluate_into(Path(folder) / str(number), data, job, pace)
            rounds.append({"forwards": plain, "pass": alone, "whole": time.perf_counter() - started})
            print(json.dumps({name: round(value, 2) for name, value in rounds[-1].items()}))
    for name in ("pass", "whole"):
        ratio = statistics.median(one[name] / one["forwards"] for one in rounds)
        what = f"{len(data)} photos, {len(names)} checkpoints, batches of {given.batch}"
        print(f"{name}: {ratio:.2f} x the forwards, {what}")
