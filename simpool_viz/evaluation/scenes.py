"""Dense checkpoints on scenes with label maps: mean IoU, and how much of each class's map lies on the class.

Labels that are no class of the head are void and count nowhere. Intervals are 95 % percentile bootstraps over scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simpool_viz.board.segmentation import segment
from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.classification import minutes_of, parameters_of
from simpool_viz.evaluation.datasets import pair_files
from simpool_viz.images import open_picture
from simpool_viz.masks import upsample
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.recording import Recording, record
from simpool_viz.scores.confusion import class_ious, count_pixels, mean_ious
from simpool_viz.scores.results import DRAWS, Column, Table, measured, rounded

MAPS: dict[str, tuple[str, dict[str, object]]] = {
    "dense_rollout": ("dense_rollout", {}),
    "dense_rollout, soft": ("dense_rollout", {"soft": True}),
    "rollout": ("rollout", {}),
}


@dataclass(frozen=True)
class SceneScores:
    """The results of a dense checkpoint on n scenes with K classes.

    Attributes:
        encoder: the checkpoint.
        pixels: (n, K, K) int64, the confusion table of each scene: true class (rows) and predicted class (columns).
        area: (n, K), the share of a scene's labelled pixels that each class has, in [0, 1].
        mass: by map, (n, K), the share of the map's mass that lies on the class's true pixels, in [0, 1]; NaN where
            the class is not both present and predicted.
        residual: weight of the skip connection in the roll-outs.
    """

    encoder: Encoder
    pixels: np.ndarray
    area: np.ndarray
    mass: dict[str, np.ndarray]
    residual: float | str


def open_scenes(folder: Path) -> list[tuple[Path, Path]]:
    """Pair the photos of `images/` with the label maps of `labels/` whose names have the same stem.

    Args:
        folder: of the scenes.

    Returns:
        Paths of (photo, label map).

    Raises:
        DataError: a folder is missing, or a photo has no labels.
    """
    images, labels = folder / "images", folder / "labels"
    if not images.is_dir() or not labels.is_dir():
        raise DataError(f"{folder} must hold the folders images/ and labels/, with files of the same names")
    return pair_files(images, labels)


def evaluate_scenes(
    encoders: Sequence[Encoder],
    folder: Path,
    size: int | None = None,
    residual: float | str = 0.5,
    progress: bool = False,
) -> list[SceneScores]:
    """Segment the scenes of a folder with several checkpoints.

    Args:
        encoders: dense checkpoints of the same classes.
        folder: as in `open_scenes`.
        size: shorter side in pixels; each checkpoint's own by default.
        residual: weight of the skip connection in roll-outs, in [0, 1], or "measured", as in `RolloutOptions`.
        progress: whether to show a progress bar.

    Returns:
        The scores of each checkpoint, for `scene_tables`.

    Raises:
        DataError: the folder, or a label map, is not what is needed.
        OptionError: a checkpoint without a dense head, or one of other classes.
        PictureError: a photo or a label map that cannot be read.
    """
    scenes = open_scenes(folder)
    others = [e.facts.name for e in encoders if not e.dense or e.facts.classes != encoders[0].facts.classes]
    if others:
        raise OptionError(
            f"{', '.join(others)} has no dense head, or one of other classes; choose dense checkpoints of these scenes"
        )
    return [score_scenes(encoder, scenes, size, residual, progress) for encoder in encoders]


def score_scenes(
    encoder: Encoder,
    scenes: Sequence[tuple[Path, Path]],
    size: int | None = None,
    residual: float | str = 0.5,
    progress: bool = False,
) -> SceneScores:
    """Segment scenes and measure the maps of the classes that are present and predicted.

    Args:
        encoder: a dense checkpoint.
        scenes: paths of (photo, label map), as from `open_scenes`. A label is the index of a class; others are void.
        size: shorter side in pixels; the checkpoint's own by default.
        residual: weight of the skip connection in roll-outs, in [0, 1], or "measured", as in `RolloutOptions`.
        progress: whether to show a progress bar.

    Raises:
        MapError: a checkpoint without a dense head.
        PictureError: a photo or a label map that cannot be read.
        DataError: a label map of another size than its photo.
    """
    from tqdm import tqdm

    pixels, area = [], []
    mass: dict[str, list[np.ndarray]] = {name: [] for name in MAPS}
    for image, path in tqdm(scenes, desc=encoder.facts.name, unit="scene", disable=not progress):
        recording = record(encoder, image, size)
        labels = _read_labels(path, recording)
        found = segment(recording)
        count = len(found.names)
        counted = labels < count
        known = torch.from_numpy(np.where(counted, labels, count))
        pixels.append(count_pixels(found.scores[None], known[None], count).numpy())
        area.append(np.bincount(labels[counted], minlength=count) / max(1, counted.sum()))
        shares = _mass_on_classes(recording, [c for c in found.found() if area[-1][c] > 0], labels, count, residual)
        for name, values in shares.items():
            mass[name].append(values)
    return SceneScores(
        encoder, np.stack(pixels), np.stack(area), {name: np.stack(values) for name, values in mass.items()}, residual
    )


def _read_labels(path: Path, recording: Recording) -> np.ndarray:
    with open_picture(path, f"the label map {path}") as picture:
        labels = np.asarray(picture).astype(np.int64)
    width, height = recording.picture.size
    if labels.shape != (height, width):
        raise DataError(f"{path} is a label map of {labels.shape[::-1]} pixels, and its photo has {(width, height)}")
    return labels


def _mass_on_classes(
    recording: Recording, classes: list[int], labels: np.ndarray, count: int, residual: float | str
) -> dict[str, np.ndarray]:
    """For each map of `MAPS`, (K,) shares of its mass on each class's pixels; NaN for classes not in `classes`."""
    shares = {name: np.full(count, np.nan) for name in MAPS}
    if not classes:
        return shares
    which = {"dense_rollout": {"classes": classes}, "rollout": {}}
    asked = [(method, {**options, **which[method], "residual": residual}) for method, options in MAPS.values()]
    for name, attention in zip(MAPS, recording.maps(asked), strict=True):
        for i, index in enumerate(classes):
            weights = upsample(attention.weights[i % len(attention.weights)], recording.picture.size)
            shares[name][index] = weights[labels == index].sum() / weights[labels < count].sum()
    return shares


# --- tables -----------------------------------------------------------------------------------------------------------


def scene_tables(rows: Sequence[SceneScores], scenes: str) -> dict[str, Table]:
    """The `iou_table` of all checkpoints, named "iou", and the `mass_table` of each, by the name of the checkpoint.

    Args:
        rows: results on the same scenes.
        scenes: name of the set of scenes, for the heading.
    """
    return {"iou": iou_table(rows, scenes)} | {row.encoder.facts.name: mass_table(row) for row in rows}


def iou_table(rows: Sequence[SceneScores], scenes: str) -> Table:
    """The mean IoU of each checkpoint, its difference to the first one, and the IoU of each class.

    Args:
        rows: results on the same scenes; the first is the one that the others are compared with.
        scenes: name of the set of scenes, for the heading.

    Returns:
        Intervals are over scenes, and differences are paired by scene.
    """
    first, draws = rows[0], {id(row): _drawn_ious(row.pixels) for row in rows}
    columns = (
        Column("checkpoint", "checkpoint"),
        Column("parameters", "parameters"),
        Column("training", "training"),
        Column("mean_iou", "mean IoU (%)", "percent"),
        Column("above_first", f"against {first.encoder.facts.name} (points)", "points"),
        *(Column(name, name, "whole percent") for name in first.encoder.facts.classes),
    )
    lines = []
    for row in rows:
        own, drawn = mean_ious(row.pixels.sum(0)), draws[id(row)]
        above = None if row is first else _figure(own - mean_ious(first.pixels.sum(0)), drawn - draws[id(first)])
        each = (round(float(value), 5) for value in class_ious(row.pixels.sum(0)))
        lines.append(
            {
                "checkpoint": row.encoder.facts.name,
                "parameters": parameters_of(row.encoder),
                "training": minutes_of(row.encoder),
                "mean_iou": _figure(own, drawn),
                "above_first": above,
                **dict(zip(row.encoder.facts.classes, each, strict=True)),
            }
        )
    return Table(f"**{scenes}**, {len(first.pixels):,} scenes", columns, tuple(lines))


def mass_table(row: SceneScores) -> Table:
    """For each class, the share of each map's mass on the class's true pixels.

    Its columns compare Dense Attention Roll-Out, hard and soft, with plain roll-out and the class's share of the area.
    """
    columns = (
        Column("class", "class"),
        Column("scenes", "scenes"),
        Column("area", "share of area", "percent"),
        Column("rollout", "roll-out", "percent"),
        Column("hard", "dense roll-out, hard", "percent"),
        Column("soft", "dense roll-out, soft", "percent"),
        Column("hard_minus_rollout", "hard minus roll-out", "points"),
    )
    caption = (
        f"residual weight {row.residual}; mass of the map on the class's true pixels (%), where the class is "
        "there and found"
    )
    tables = {
        "area": row.area,
        "rollout": row.mass["rollout"],
        "hard": row.mass["dense_rollout"],
        "soft": row.mass["dense_rollout, soft"],
    }
    lines: list[dict[str, Any]] = []
    for index, name in enumerate(row.encoder.facts.classes):
        there = ~np.isnan(tables["hard"][:, index])  # (n,)
        line: dict[str, Any] = {"class": name, "scenes": str(int(there.sum()))}
        if there.any():
            shares = {key: table[there, index] for key, table in tables.items()}
            line |= {key: measured(values) for key, values in shares.items()}
            line["hard_minus_rollout"] = measured(shares["hard"] - shares["rollout"])
        lines.append(line)
    return Table(f"**{row.encoder.facts.name}**, {caption}", columns, tuple(lines))


def _drawn_ious(pixels: np.ndarray) -> np.ndarray:
    """The mean IoU of `DRAWS` bootstrap samples of the scenes, the same samples for every checkpoint."""
    n, k, _ = pixels.shape
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return mean_ious((times @ pixels.reshape(n, -1)).reshape(DRAWS, k, k))


def _figure(value: np.ndarray, drawn: np.ndarray) -> list[float]:
    """The cell of a value and its bootstrap samples."""
    return rounded([float(value), *np.percentile(drawn, [2.5, 97.5])])
