"""The localization table: scores of maps against reference masks, compared with two baselines.

The baselines are the centre prior and the whole picture. Intervals are 95 % percentile bootstraps over pictures; the
difference to the centre prior is paired by picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from simpool_viz.board.board import Row, Settings, record_each, record_rows, require_rows
from simpool_viz.evaluation.datasets import MaskSet
from simpool_viz.images import read_picture
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.outputs import markdown_table
from simpool_viz.scores.localization import Reference, baselines, jaccard, read_reference, score_baselines

DRAWS = 2000
TABLE_FIGURES = ("iou_at_true_area", "iou", "jaccard", "jaccard_best", "pointing", "spatial_entropy")


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        label: checkpoint and map, or the baseline.
        figures: for each score of `TABLE_FIGURES`, (n,) values, one per picture; NaN where there is none.
    """

    label: str
    figures: dict[str, np.ndarray]


def evaluate(
    data: MaskSet,
    encoders: Sequence[Encoder],
    requests: Sequence[MapRequest],
    settings: Settings,
    progress: bool = False,
) -> list[Method]:
    """Score maps on a data set.

    Args:
        data: photos with masks.
        encoders: checkpoints.
        requests: maps to score; where empty, each checkpoint's own (`default_map`).
        settings: size, mask rule, fusion.
        progress: whether to show a progress bar.

    Returns:
        One `Method` per checkpoint and map it has, then the baselines.

    Raises:
        MapError: no checkpoint has any of the maps.
        PictureError: a photo or a mask cannot be read.
    """
    # By checkpoint and map, since names of checkpoints need not be unique: (label, scores of each picture).
    methods: dict[tuple[int, str], tuple[str, list[dict[str, float]]]] = {}
    plain: dict[str, list[dict[str, float]]] = {}  # the baselines, by name
    skipped: list[str] = []
    for image, mask in _progress(data, progress):
        reference = read_reference(mask)
        for number, recording in enumerate(record_each(encoders, read_picture(image), settings.size)):
            rows, skipped = record_rows(recording, requests, settings, reference)
            for row in rows:
                label = f"{row.checkpoint}: {row.map_label}"
                figures = methods.setdefault((number, row.request.label), (label, []))[1]
                figures.append(
                    row.scores | _jaccard(_masks(row, settings), reference) | {"spatial_entropy": row.entropy}
                )
        scores = score_baselines(reference)
        for name, (_, disc) in baselines(reference).items():
            plain.setdefault(name, []).append(scores[name] | _jaccard([disc], reference))
    require_rows(list(methods), skipped)
    return [Method(label, _columns(rows)) for label, rows in [*methods.values(), *plain.items()]]


def _masks(row: Row, settings: Settings) -> list[np.ndarray]:
    """Masks at 60 % of the mass: of the fused map, then of each of its maps."""
    each = [settings.fusion, *range(len(row.attention.names))]
    return [row.attention.mask("mass", 0.6, fusion=fusion).grid for fusion in each]


def _jaccard(masks: Sequence[np.ndarray], reference: Reference) -> dict[str, float]:
    own, best = jaccard(np.stack(masks), reference)
    return {"jaccard": own, "jaccard_best": best}


def _columns(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in TABLE_FIGURES}


def _progress(data: MaskSet, progress: bool) -> Iterator:
    from tqdm import tqdm

    return iter(tqdm(data.pairs, desc=data.name, unit="photo", disable=not progress))


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """The mean of values and its 95 % percentile bootstrap interval.

    Args:
        values: (n,).
        seed: of the draws, so that the same values give the same interval.

    Returns:
        (mean, low, high).
    """
    draws = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def to_markdown(data: MaskSet, methods: Iterable[Method], settings: Settings) -> str:
    """The localization table as Markdown.

    Args:
        data: the set that was evaluated.
        methods: from `evaluate`, the baselines included.
        settings: with which they were evaluated.

    Returns:
        Markdown. Differences are of IoU at true area, paired by photo.
    """
    methods = list(methods)
    prior = next(m for m in methods if m.label == "centre prior")
    head = ["map", "IoU at true area", "above the centre prior", "above the first row", f"IoU of mask {settings.mask}"]
    head += ["Jaccard at mass 0.6", "Jaccard, best map", "pointing", "spatial entropy"]
    rows = []
    for method in methods:
        figures = method.figures
        above = [_above(method, prior), _above(method, methods[0])]
        others = [_cell(figures[name]) for name in TABLE_FIGURES[1:]]
        rows.append([method.label, _cell(figures["iou_at_true_area"]), *above, *others])
    return f"**{data.name}**, {len(data.pairs)} photos\n\n{markdown_table(head, rows)}"


def _above(method: Method, other: Method) -> str:
    if method is other:
        return ""
    return _cell(method.figures["iou_at_true_area"] - other.figures["iou_at_true_area"], signed=True)


def _cell(values: np.ndarray, signed: bool = False) -> str:
    if np.isnan(values).any():
        return ""
    sign = "+" if signed else ""
    mean, low, high = interval(values)
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
