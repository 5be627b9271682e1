"""A folder of photos through `simpool_viz.batch`, against the plain batched forward on the same batches already
decoded."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Samples
from simpool_viz import load_checkpoint
from simpool_viz.batch.boards import Job
from simpool_viz.batch.local import run
from simpool_viz.batch.preparing import Prepared, find_pictures, prepare
from simpool_viz.board.board import Settings
from simpool_viz.bundled import bundled_folder
from simpool_viz.drawing.render import LONGEST
from simpool_viz.images import normalise
from simpool_viz.maps.request import parse_map
from simpool_viz.modeling.encoder import Encoder

PICTURES, BATCH = 192, 16  # whole batches of either shape


def make_folder(folder: Path, count: int = PICTURES) -> None:
    """Photos of 500 x 375 and 375 x 500 pixels, as those of ImageNet: crops of the example photos, as JPEG."""
    rng = np.random.default_rng(0)
    names = ("astronaut", "chelsea", "coffee", "motorcycle")
    photos = [Image.open(bundled_folder("assets") / f"{name}.jpg").convert("RGB") for name in names]
    for i in range(count):
        photo = photos[i % len(photos)]
        side = min(photo.size) * rng.uniform(0.7, 1)
        width, height = (side, side * 0.75) if i % 4 else (side * 0.75, side)
        left, top = (rng.uniform(0, whole - part) for whole, part in zip(photo.size, (width, height), strict=True))
        size = (500, 375) if i % 4 else (375, 500)
        photo.resize(size, box=(left, top, left + width, top + height)).save(folder / f"{i:04}.jpg", quality=92)


def _batches(folder: Path, job: Job) -> list[torch.Tensor]:
    """The batches that the folder makes, decoded and normalised."""
    facts = job.encoders[0].facts
    shapes: dict[Any, list[np.ndarray]] = {}
    for key, path in find_pictures([folder]).items():
        one = prepare(key, path, job.frames, LONGEST)
        assert isinstance(one, Prepared)
        shapes.setdefault(one.shape, []).append(one.inputs[0])
    parts = [same[i : i + BATCH] for same in shapes.values() for i in range(0, len(same), BATCH)]
    return [normalise(np.stack(part), facts.mean, facts.std) for part in parts]


def _plain(encoder: Encoder, batches: list[torch.Tensor]) -> float:
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            encoder(batch)
    return time.perf_counter() - started


def _steady(job: Job, folder: Path, out: Path, pictures: str) -> float:
    """Seconds of a run once its processes have started, for all pictures.

    A batch is written while the next is looked at, so from the end of the first to the end of the last but one as many
    are looked at as are written.
    """
    stamps: list[float] = []
    from simpool_viz.batch import writing

    original = writing.Journal.add

    def add(self: writing.Journal, line: dict) -> None:
        original(self, line)
        stamps.append(time.perf_counter())

    writing.Journal.add = add  # type: ignore[method-assign]
    try:
        run(job, [folder], out, pictures=pictures, batch=BATCH, workers=1)
    finally:
        writing.Journal.add = original  # type: ignore[method-assign]
    return (stamps[-BATCH - 1] - stamps[BATCH - 1]) * PICTURES / (PICTURES - 2 * BATCH)


def report(rounds: int, samples: Samples) -> list[str]:
    """Throughput as a share of the plain forward's, per checkpoint and format."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        folder.mkdir()
        make_folder(folder)
        for checkpoint, size, maps in (("timm:vit_small_patch16_224", 224, "cls"), ("resnet_simpool", None, "pooling")):
            options: dict[str, Any] = {"pretrained": False} if checkpoint.startswith("timm:") else {}
            job = Job([load_checkpoint(checkpoint, device="cpu", **options)], [parse_map(maps)], Settings(size=size))
            batches = _batches(folder, job)
            _plain(job.encoders[0], batches[:1])
            shares: dict[str, list[float]] = {"none": [], "jpeg": []}
            for number in range(min(rounds, 3)):
                plain = _plain(job.encoders[0], batches)
                for pictures, found in shares.items():
                    found.append(plain / _steady(job, folder, Path(name) / f"{maps}-{pictures}-{number}", pictures))
            each = 1000 * plain / PICTURES
            for pictures, found in shares.items():
                what = "maps, masks and scores" if pictures == "none" else "the same and two JPEGs a picture"
                samples.add(f"folder, {checkpoint}, {what}", "x", [1 / share for share in found])
                lines.append(
                    f"- {checkpoint}, {maps}, {what}: {statistics.median(found):.2f} ({min(found):.2f} to "
                    f"{max(found):.2f}) of the plain "
                    f"forward's ({each:.0f} ms a picture)"
                )
    return [
        f"{PICTURES} JPEG photos of 500 x 375, batches of {BATCH}, once the worker has started:\n\n" + "\n".join(lines)
    ]
