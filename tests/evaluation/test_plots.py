"""Plots of an evaluation: their values against scikit-learn, and what is on them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc, precision_recall_curve

from simpool_viz.errors import OptionError
from simpool_viz.evaluation.plots import draw_intervals, draw_scatter, draw_threshold_curves, pooled_precision_recall
from simpool_viz.evaluation.protocols import MEANS, ProtocolCounts
from simpool_viz.scores.results import Column, Table

RNG = np.random.default_rng(0)


def counts(label: str, photos: int = 5) -> ProtocolCounts:
    boxes = RNG.random((photos, 4, 255)) < 0.5
    steps = RNG.integers(0, 9, (photos, 2, 1001))
    return ProtocolCounts(label, boxes, steps, {name: RNG.random(photos) for name in MEANS})


def test_precision_and_recall_of_all_pixels_are_those_of_scikit_learn() -> None:
    steps = counts("a").steps
    truth = np.concatenate([np.full(int(n), kind) for kind in (0, 1) for n in steps.sum(0)[kind]])
    values = np.concatenate([np.full(int(n), k) for kind in (0, 1) for k, n in enumerate(steps.sum(0)[kind])])
    precision, recall = pooled_precision_recall(steps)
    theirs = precision_recall_curve(1 - truth, values)
    assert np.allclose(precision[::-1], theirs[0][:-1]) and np.allclose(recall[::-1], theirs[1][:-1])
    assert auc(recall, precision) == pytest.approx(auc(theirs[1], theirs[0]), abs=1e-3)


def test_plots_have_a_line_or_a_point_for_everything() -> None:
    one, two = (np.asarray(draw_threshold_curves([counts(str(i)) for i in range(n)], "set")) for n in (1, 2))
    assert one.shape == two.shape and one.dtype == np.uint8 and (one != two).any()
    values = RNG.random(40)
    flat, mixed = (draw_scatter(("a", "b"), (values, other), "IoU") for other in (values, values[::-1]))
    assert (np.asarray(flat) != np.asarray(mixed)).any()
    with pytest.raises(OptionError, match="a has 40 photos and b 3, so they cannot be paired"):
        draw_scatter(("a", "b"), (values, values[:3]), "IoU")


def test_intervals_are_drawn_of_the_rows_that_have_them() -> None:
    columns = (Column("map", "map"), Column("iou", "IoU", "share"), Column("note", "note"))
    rows = [{"map": f"m{i}", "iou": [0.5, 0.4, 0.6], "note": "x"} for i in range(5)]
    short, long = (draw_intervals(Table("t", columns, tuple(rows[:n])), "iou") for n in (2, 5))
    assert long.height > short.height and long.width == short.width
    with_gap = Table("t", columns, (*rows[:2], {"map": "none", "iou": None, "note": ""}))
    assert draw_intervals(with_gap, "iou").size == short.size
    for name in ("note", "nowhere"):
        with pytest.raises(OptionError, match="no row of the table has the figure"):
            draw_intervals(with_gap, name)
