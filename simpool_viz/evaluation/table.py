"""The localization table: scores of maps against reference masks, compared with two baselines.

The baselines are the centre prior and the whole picture. Intervals are 95 % percentile bootstraps over pictures; the
difference to the centre prior is paired by picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simpool_viz.batch.boards import Job
from simpool_viz.batch.preparing import Fault
from simpool_viz.board.board import Settings
from simpool_viz.evaluation.datasets import DataSet
from simpool_viz.evaluation.passes import Pace, photo_scores
from simpool_viz.evaluation.scoring import BASELINES, FIGURES, MapScores
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.results import Cell, Column, Table, measured
from simpool_viz.scores.spatial_entropy import spatial_entropy

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
        figures: for each score of `FIGURES`, (n,) values, one per picture; NaN where there is none.
    """

    label: str
    figures: dict[str, np.ndarray]

    @classmethod
    def of_columns(cls, label: str, columns: dict[str, np.ndarray]) -> Method:
        """A row of columns (n,); a baseline's spatial entropy is that of what it draws, whatever the photo's shape."""
        if label in BASELINES:
            columns = columns | {"spatial_entropy": np.full(len(columns["iou"]), _entropy_of(label))}
        return cls(label, columns)


def evaluate(
    data: DataSet,
    encoders: Sequence[Encoder],
    requests: Sequence[MapRequest],
    settings: Settings,
    pace: Pace | None = None,
    object_ids: Sequence[int] = (),
    faults: list[Fault] | None = None,
) -> list[Method]:
    """Score maps on a data set.

    Args:
        data: photos with masks.
        encoders: checkpoints.
        requests: maps to score; where empty, each checkpoint's own (`own_map`).
        settings: size, mask rule, fusion.
        pace: how the set is gone through.
        object_ids: the labels that count as object, as in `read_reference`.
        faults: to which each photo is added that is left out, since it or its mask cannot be read, with the reason.

    Returns:
        One `Method` per checkpoint and map it has, then the baselines.

    Raises:
        MapError: no checkpoint has any of the maps.
        DataError: none of the photos and masks can be read.
    """
    scores = photo_scores(data, Job(encoders, requests, settings), pace, object_ids, faults)
    return [Method.of_columns(label, figure_columns(own)) for label, own in by_method(scores).values()]


def by_method(scores: Iterable[Sequence[MapScores]]) -> dict[tuple[int, str], tuple[str, list[MapScores]]]:
    """The scores of each photo sorted by map.

    Args:
        scores: of each photo.

    Returns:
        By checkpoint and map, since names of checkpoints need not be unique: its label, and its scores in the order of
        the photos; baselines are the last.
    """
    methods: dict[tuple[int, str], tuple[str, list[MapScores]]] = {}
    for own in scores:
        for one in own:
            methods.setdefault((one.checkpoint, one.request), (one.label, []))[1].append(one)
    return {key: methods[key] for key in sorted(methods, key=lambda key: key[0] < 0)}


def figure_columns(scores: Sequence[MapScores]) -> dict[str, np.ndarray]:
    """The figures of a map as columns (n,), one value per photo; NaN where there is none."""
    return {name: np.array([one.figures.get(name, np.nan) for one in scores]) for name in FIGURES}


def _entropy_of(baseline: str) -> float:
    import torch

    from simpool_viz.scores.localization import centre_prior

    weights = centre_prior((24, 16)) if baseline == "centre prior" else np.ones((16, 24))
    return float(spatial_entropy(torch.from_numpy(weights)[None])[0])


def localization_table(data: DataSet, methods: Sequence[Method], settings: Settings) -> Table:
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


def faithfulness_table(
    data: DataSet, methods: Sequence[tuple[tuple[int, str, str], tuple[np.ndarray, dict[str, np.ndarray]]]], scored: int
) -> Table:
    """The table of insertion and deletion, each with the baselines of the same checkpoint.

    Args:
        data: the set that was evaluated.
        methods: of each map and baseline its (checkpoint, request, label), and the numbers (n,) of its photos with its
            figures (n,) by name.
        scored: number of photos that have scores.
    """
    priors = {key[0]: own for key, own in methods if key[1] == BASELINES[0]}
    columns = [Column("map", "map")]
    for name, title in (("deletion", "deletion area (low is good)"), ("insertion", "insertion area (high is good)")):
        columns += [Column(name, title, "share"), Column(f"{name}_above_prior", "above the centre prior", "shift")]
    rows: list[dict[str, Cell]] = []
    for key, (places, own) in methods:
        row: dict[str, Any] = {"map": key[2]}
        prior_places, prior = priors[key[0]]
        _, one, other = np.intersect1d(places, prior_places, return_indices=True)
        for name in ("deletion", "insertion"):
            above = own[name][one] - prior[name][other]
            row |= {name: _mean(own[name]), f"{name}_above_prior": None if own is prior else _mean(above)}
        rows.append(row)
    return Table(f"{set_title(data, scored)}: insertion and deletion", tuple(columns), tuple(rows))


def set_title(data: DataSet, scored: int) -> str:
    """The title of a table over a data set of which so many photos were scored, in Markdown."""
    left_out = len(data) - scored
    return f"**{data.name}**, {scored} photos" + (f", {left_out} left out" if left_out else "")


def _mean(values: np.ndarray) -> list[float] | None:
    """The cell of values (n,), of the photos that have one: no object of a photo may be left at Jaccard's size."""
    there = values[~np.isnan(values)]
    return measured(there) if len(there) else None


def _above(method: Method, other: Method, figure: str) -> list[float] | None:
    return None if method is other else measured(method.figures[figure] - other.figures[figure])
