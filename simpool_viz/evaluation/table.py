"""The localization table: scores of maps against reference masks, compared with two baselines.

The baselines are the centre prior and the whole picture. Intervals are 95 % percentile bootstraps over pictures; the
difference to the centre prior is paired by picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simpool_viz.batch.preparing import Fault
from simpool_viz.board.board import Row, Settings, record_each, record_rows, require_rows
from simpool_viz.errors import DataError, SimpoolError
from simpool_viz.evaluation.datasets import MaskSet
from simpool_viz.images import read_picture
from simpool_viz.maps.request import MapRequest
from simpool_viz.masks import DINO_CUT
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.localization import baselines, jaccard, score_baselines, score_map
from simpool_viz.scores.references import Reference, bounded, read_reference
from simpool_viz.scores.results import Column, Table, measured

TABLE_FIGURES = ("iou_at_true_area", "iou", "jaccard", "jaccard_best", "pointing", "spatial_entropy")
FURTHER = {
    "jaccard": "Jaccard at mass 0.6",
    "jaccard_best": "Jaccard, best map",
    "pointing": "pointing",
    "spatial_entropy": "spatial entropy",
}


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
    object_ids: Sequence[int] = (),
    faults: list[Fault] | None = None,
) -> list[Method]:
    """Score maps on a data set.

    Args:
        data: photos with masks.
        encoders: checkpoints.
        requests: maps to score; where empty, each checkpoint's own (`own_map`).
        settings: size, mask rule, fusion.
        progress: whether to show a progress bar.
        object_ids: the labels that count as object, as in `read_reference`.
        faults: to which each photo is added that is left out, since it or its mask cannot be read, with the reason.

    Returns:
        One `Method` per checkpoint and map it has, then the baselines.

    Raises:
        MapError: no checkpoint has any of the maps.
        DataError: none of the photos and masks can be read.
    """
    # By checkpoint and map, since names of checkpoints need not be unique: (label, scores of each picture).
    methods: dict[tuple[int, str], tuple[str, list[dict[str, float]]]] = {}
    plain: dict[str, list[dict[str, float]]] = {}  # the baselines, by name
    for reference, rows in rows_of_photos(data, encoders, requests, settings, progress, object_ids, faults):
        for number, row in rows:
            label = f"{row.checkpoint}: {row.map_label}"
            figures = methods.setdefault((number, row.request.label), (label, []))[1]
            own = score_map(row.mask, reference)
            figures.append(own | _jaccard(_masks(row, settings), reference) | {"spatial_entropy": row.entropy})
        scores = score_baselines(reference)
        for name, (_, disc) in baselines(reference).items():
            plain.setdefault(name, []).append(scores[name] | _jaccard([disc], reference))
    return [Method(label, _columns(rows)) for label, rows in [*methods.values(), *plain.items()]]


def _masks(row: Row, settings: Settings) -> list[np.ndarray]:
    """Masks at 60 % of the mass: of the fused map, then of each of its maps."""
    each = [settings.fusion, *range(len(row.attention.names))]
    return [row.attention.mask(DINO_CUT.rule, DINO_CUT.amount, fusion=fusion).grid for fusion in each]


def _jaccard(masks: Sequence[np.ndarray], reference: Reference) -> dict[str, float]:
    own, best = jaccard(np.stack(masks), reference)
    return {"jaccard": own, "jaccard_best": best}


def _columns(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in TABLE_FIGURES}


def rows_of_photos(
    data: MaskSet,
    encoders: Sequence[Encoder],
    requests: Sequence[MapRequest],
    settings: Settings,
    progress: bool = False,
    object_ids: Sequence[int] = (),
    faults: list[Fault] | None = None,
) -> Iterator[tuple[Reference, list[tuple[int, Row]]]]:
    """The reference of each photo of a data set, and the rows of its maps, each with its checkpoint's number.

    A photo that cannot be read, or whose mask cannot, is left out.

    Args and errors are those of `evaluate`.
    """
    from tqdm import tqdm

    faults = [] if faults is None else faults
    before = len(faults)
    found = False
    skipped: list[str] = []
    for image, mask in tqdm(data.pairs, desc=data.name, unit="photo", disable=not progress):
        try:
            picture = read_picture(image)
            reference = bounded(read_reference(mask, picture.size, object_ids))
        except (SimpoolError, OSError) as error:
            faults.append(Fault(image.name, f"{image.name}: {error}"))
            continue
        rows: list[tuple[int, Row]] = []
        for number, recording in enumerate(record_each(encoders, picture, settings.size)):
            own, skipped = record_rows(recording, requests, settings)
            rows += [(number, row) for row in own]
        found = found or bool(rows)
        yield reference, rows
    if len(faults) - before == len(data.pairs):
        raise DataError(f"none of the photos of {data.name} can be scored. {faults[before].sentence}")
    if not found:
        require_rows([], skipped)


def localization_table(data: MaskSet, methods: Sequence[Method], settings: Settings) -> Table:
    """The table of an evaluation. Differences are paired by photo, and of IoU at true area where nothing else is said.

    Args:
        data: the set that was evaluated.
        methods: from `evaluate`, the baselines included.
        settings: with which they were evaluated.
    """
    prior = next(m for m in methods if m.label == "centre prior")
    columns = [
        Column("map", "map"),
        Column("iou_at_true_area", "IoU at true area", "share"),
        Column("above_prior", "above the centre prior", "shift"),
        Column("above_first", "above the first row", "shift"),
        Column("iou", f"IoU of mask ({settings.cut.label})", "share"),
        Column("iou_above_prior", "mask above that of the centre prior", "shift"),
        *(Column(name, title, "share") for name, title in FURTHER.items()),
    ]
    rows = []
    for method in methods:
        figures = method.figures
        own: dict[str, Any] = {name: _mean(figures[name]) for name in TABLE_FIGURES}
        own["above_prior"] = _above(method, prior, "iou_at_true_area")
        own["above_first"] = _above(method, methods[0], "iou_at_true_area")
        own["iou_above_prior"] = _above(method, prior, "iou")
        rows.append({"map": method.label} | {c.name: own[c.name] for c in columns[1:]})
    return Table(set_title(data, len(prior.figures["iou"])), tuple(columns), tuple(rows))


def set_title(data: MaskSet, scored: int) -> str:
    """The title of a table over a data set of which so many photos were scored, in Markdown."""
    left_out = len(data.pairs) - scored
    return f"**{data.name}**, {scored} photos" + (f", {left_out} left out" if left_out else "")


def _mean(values: np.ndarray) -> list[float] | None:
    """The cell of values (n,), of the photos that have one: no object of a photo may be left at Jaccard's size."""
    there = values[~np.isnan(values)]
    return measured(there) if len(there) else None


def _above(method: Method, other: Method, figure: str) -> list[float] | None:
    return None if method is other else measured(method.figures[figure] - other.figures[figure])
