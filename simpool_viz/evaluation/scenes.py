"""Dense checkpoints on scenes with label maps: mean IoU, and how much of each class's map lies on the class.

Labels that are no class of the head are void and count nowhere. Intervals are 95 % percentile bootstraps over scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from simpool_viz.board.segmentation import segment
from simpool_viz.errors import DataError, OptionError, PictureError
from simpool_viz.evaluation.classification import points
from simpool_viz.evaluation.datasets import pair_files
from simpool_viz.evaluation.table import DRAWS
from simpool_viz.images import DAMAGE
from simpool_viz.masks import upsample
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.outputs import markdown_table
from simpool_viz.recording import Recording, record
from simpool_viz.scores.confusion import class_ious, count_pixels, mean_ious

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
    residual: float


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
    residual: float = 0.5,
    progress: bool = False,
) -> list[SceneScores]:
    """Segment the scenes of a folder with several checkpoints.

    Args:
        encoders: dense checkpoints of the same classes.
        folder: as in `open_scenes`.
        size: shorter side in pixels; each checkpoint's own by default.
        residual: weight of the skip connection in roll-outs, in [0, 1].
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
    residual: float = 0.5,
    progress: bool = False,
) -> SceneScores:
    """Segment scenes and measure the maps of the classes that are present and predicted.

    Args:
        encoder: a dense checkpoint.
        scenes: paths of (photo, label map), as from `open_scenes`. A label is the index of a class; others are void.
        size: shorter side in pixels; the checkpoint's own by default.
        residual: weight of the skip connection in roll-outs, in [0, 1].
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
    try:
        with Image.open(path) as picture:
            labels = np.asarray(picture).astype(np.int64)
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise PictureError(f"the label map {path} cannot be read: {error}") from error
    width, height = recording.picture.size
    if labels.shape != (height, width):
        raise DataError(f"{path} is a label map of {labels.shape[::-1]} pixels, and its photo has {(width, height)}")
    return labels


def _mass_on_classes(
    recording: Recording, classes: list[int], labels: np.ndarray, count: int, residual: float
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


def scene_tables(rows: Sequence[SceneScores], scenes: str) -> str:
    """The `iou_table` of all checkpoints and the `mass_table` of each, as Markdown.

    Args:
        rows: results on the same scenes.
        scenes: name of the set of scenes, for the heading.
    """
    return "\n\n".join([iou_table(rows, scenes), *map(mass_table, rows)])


def iou_table(rows: Sequence[SceneScores], scenes: str) -> str:
    """The mean IoU of each checkpoint, its difference to the first one, and the IoU of each class, as Markdown.

    Args:
        rows: results on the same scenes; the first is the one that the others are compared with.
        scenes: name of the set of scenes, for the heading.

    Returns:
        Markdown; IoU in per cent, with 95 % bootstrap intervals over scenes. Differences are paired by scene.
    """
    first = rows[0]
    names = first.encoder.facts.classes
    head = [
        "checkpoint",
        "parameters",
        "training",
        "mean IoU (%)",
        f"against {first.encoder.facts.name} (points)",
        *names,
    ]
    lines = []
    draws = {id(row): _drawn_ious(row.pixels) for row in rows}
    for row in rows:
        facts, parameters = row.encoder.facts, sum(p.numel() for p in row.encoder.parameters())
        own, drawn = mean_ious(row.pixels.sum(0)), draws[id(row)]
        cells = [
            facts.name,
            f"{parameters / 1e6:.2f} M",
            f"{facts.minutes:.0f} min" if facts.minutes else "",
            _percent(own, drawn),
        ]
        against = "" if row is first else _percent(own - mean_ious(first.pixels.sum(0)), drawn - draws[id(first)], "+")
        each = [f"{100 * value:.0f}" for value in class_ious(row.pixels.sum(0))]
        lines.append([*cells, against, *each])
    return f"**{scenes}**, {len(first.pixels):,} scenes\n\n{markdown_table(head, lines)}"


def mass_table(row: SceneScores) -> str:
    """For each class, the share of each map's mass on the class's true pixels in per cent, as Markdown.

    Its columns compare Dense Attention Roll-Out, hard and soft, with plain roll-out and the class's share of the area.
    """
    head = [
        "class",
        "scenes",
        "share of area",
        "roll-out",
        "dense roll-out, hard",
        "dense roll-out, soft",
        "hard minus roll-out",
    ]
    caption = (
        f"residual weight {row.residual:g}; mass of the map on the class's true pixels (%), where the class is "
        "there and found"
    )
    lines = []
    hard, soft, plain = row.mass["dense_rollout"], row.mass["dense_rollout, soft"], row.mass["rollout"]
    for index, name in enumerate(row.encoder.facts.classes):
        measured = ~np.isnan(hard[:, index])  # (n,)
        if not measured.any():
            lines.append([name, "0", *[""] * (len(head) - 2)])
            continue
        columns = [table[measured, index] for table in (row.area, plain, hard, soft)]
        cells = [
            name,
            str(int(measured.sum())),
            *(points(c) for c in columns),
            points(columns[2] - columns[1], signed=True),
        ]
        lines.append(cells)
    return f"**{row.encoder.facts.name}**, {caption}\n\n{markdown_table(head, lines)}"


def _drawn_ious(pixels: np.ndarray) -> np.ndarray:
    """The mean IoU of `DRAWS` bootstrap samples of the scenes, the same samples for every checkpoint."""
    n, k, _ = pixels.shape
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return mean_ious((times @ pixels.reshape(n, -1)).reshape(DRAWS, k, k))


def _percent(value: np.ndarray, drawn: np.ndarray, sign: str = "") -> str:
    low, high = np.percentile(100 * drawn, [2.5, 97.5])
    return f"{100 * value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
