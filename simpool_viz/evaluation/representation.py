"""How good the features of a checkpoint are under several poolings: k-NN, linear probe and retrieval, as a table.

The features of training photos classify those of held-out photos; held-out photos are retrieved among themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from simpool_viz.errors import OptionError
from simpool_viz.evaluation.pooled_features import PooledFeatures
from simpool_viz.maps.registry import OWN
from simpool_viz.scores.results import Cell, Column, Table, measured
from simpool_viz.scores.retrieval import RANKS, classify_by_neighbours, classify_by_probe, retrieve_each


@dataclass(frozen=True)
class FeatureSplits:
    """Features of training photos and of held-out photos.

    Attributes:
        train: (n, D).
        train_classes: (n,).
        val: (m, D).
        val_classes: (m,).
    """

    train: np.ndarray
    train_classes: np.ndarray
    val: np.ndarray
    val_classes: np.ndarray


@dataclass(frozen=True)
class FeatureScores:
    """The scores of one kind of features.

    Attributes:
        label: checkpoint and pooling.
        figures: by name of `FEATURE_FIGURES` (m,), one value per held-out photo, NaN where there is none.
        details: further cells of its row by column, such as the exponents that were chosen.
    """

    label: str
    figures: dict[str, np.ndarray]
    details: dict[str, str]


def _by_neighbours(splits: FeatureSplits) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    found = classify_by_neighbours(splits.train, splits.train_classes, splits.val)
    return {"knn": (found == splits.val_classes).astype(float)}, {}


def _by_probe(splits: FeatureSplits) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    found, strength = classify_by_probe(splits.train, splits.train_classes, splits.val)
    return {"probe": (found == splits.val_classes).astype(float)}, {"strength": f"{strength:g}"}


def _by_retrieval(splits: FeatureSplits) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    found = retrieve_each(splits.val, splits.val_classes)
    return {"map_all": found.average_precision} | {f"recall_{k}": found.recall[k] for k in RANKS}, {}


FEATURE_SCORES: dict[str, Callable[[FeatureSplits], tuple[dict[str, np.ndarray], dict[str, str]]]] = {
    "knn": _by_neighbours,
    "probe": _by_probe,
    "retrieval": _by_retrieval,
}
FEATURE_FIGURES = {
    "knn": "k-NN",
    "probe": "linear probe",
    "map_all": "mAP@all",
    **{f"recall_{k}": f"recall@{k}" for k in RANKS},
}
DETAILS = {"strength": "C of the probe", "exponents": "p of each group"}


def score_splits(label: str, splits: FeatureSplits, scores: Sequence[str] = (), **details: str) -> FeatureScores:
    """Score features.

    Args:
        label: checkpoint and pooling.
        splits: the features.
        scores: names of `FEATURE_SCORES`; all where empty.
        details: further cells of the row.

    Raises:
        OptionError: no such score.
        DataError: too few photos for a score.
        MissingPackageError: scikit-learn is not installed, and the probe is asked for.
    """
    if unknown := [name for name in scores if name not in FEATURE_SCORES]:
        raise OptionError(f"features have no score {', '.join(unknown)}; there are {', '.join(FEATURE_SCORES)}")
    figures: dict[str, np.ndarray] = {}
    for name in scores or FEATURE_SCORES:
        own, more = FEATURE_SCORES[name](splits)
        figures |= own
        details |= more
    return FeatureScores(label, figures, details)


def score_poolings(train: PooledFeatures, val: PooledFeatures, scores: Sequence[str] = ()) -> list[FeatureScores]:
    """Score every pooling of one checkpoint.

    Args:
        train: of training photos.
        val: of held-out photos, from the same checkpoint and poolings.
        scores: as in `score_splits`, and so are the errors.

    Returns:
        In the order of the poolings.
    """
    found = []
    for label in train.vectors:
        splits = FeatureSplits(train.features(label), train.classes, val.features(label), val.classes)
        found.append(score_splits(feature_label(train, label), splits, scores))
    return found


def feature_label(features: PooledFeatures, label: str) -> str:
    """Checkpoint and pooling for readers: "vit_gap: own, GAP" or "vit_gap: ggem:groups=6"."""
    facts, title = features.encoder.facts, features.encoder.pooling.title
    return f"{facts.name}: {f'own, {title}' if label == OWN else label}"


def representation_table(rows: Sequence[FeatureScores], title: str) -> Table:
    """The table of scores, each with its difference to the first row, paired by photo.

    Args:
        rows: of the same held-out photos in the same order, with the same scores.
        title: names the photos.
    """
    first = rows[0]
    shown = [name for name in FEATURE_FIGURES if name in first.figures]
    there = ~np.isnan(np.stack([first.figures[name] for name in shown])).any(0)  # whose class another photo has
    columns = [Column("features", "checkpoint: pooling")]
    for name in shown:
        columns.append(Column(name, f"{FEATURE_FIGURES[name]} (%)", "percent"))
        columns.append(Column(f"{name}_above_first", "against the first (points)", "points"))
    columns += [Column(name, head) for name, head in DETAILS.items() if any(name in row.details for row in rows)]
    lines: list[dict[str, Cell]] = []
    for row in rows:
        line: dict[str, Cell] = {"features": row.label}
        for name in shown:
            own, other = row.figures[name][there], first.figures[name][there]
            line[name] = measured(own)
            line[f"{name}_above_first"] = None if row is first else measured(own - other)
        lines.append(line | {name: row.details.get(name) for name in DETAILS if any(name in r.details for r in rows)})
    left_out = len(there) - int(there.sum())
    more = f", {left_out} left out, whose class no other held-out photo has" if left_out else ""
    return Table(f"{title}{more}", tuple(columns), tuple(lines))
