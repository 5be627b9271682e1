"""Plots of an evaluation: curves over thresholds, two maps photo by photo, and figures with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from simpool_viz.errors import OptionError
from simpool_viz.evaluation.protocols import ProtocolCounts
from simpool_viz.scores.boxes import LEVELS
from simpool_viz.scores.results import FORMS, Table

HIGHEST = 0.34  # inches of a row of `draw_intervals`


def _new_figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _image(figure: Any) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())


def pooled_precision_recall(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of the pixels of all photos together, under which PxAP is the area.

    Args:
        steps: (n, 2, 1001), of `count_steps`.

    Returns:
        Precision and recall, (1001,) each, from the highest threshold to 0; a precision of no pixels is 1.
    """
    hits, others = steps.sum(0, dtype=np.int64)[:, ::-1].cumsum(-1)
    taken = hits + others
    return np.where(taken > 0, hits / np.maximum(taken, 1), 1.0), hits / max(int(hits[-1]), 1)


def draw_threshold_curves(methods: Sequence[ProtocolCounts], title: str) -> Image.Image:
    """Precision over recall, and the share of photos with a box of IoU 0.5 over the threshold, as one RGB picture.

    Args:
        methods: a line each.
        title: of the data set.
    """
    figure = _new_figure(11, 4.6)
    pixels, boxes = figure.subplots(1, 2)
    for method in methods:
        precision, recall = pooled_precision_recall(method.steps)
        pixels.plot(recall, precision, label=method.label)
        boxes.plot(np.arange(LEVELS) / LEVELS, method.boxes[:, 1].mean(0), label=method.label)
    pixels.set(title="Pixels: the area is PxAP", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    boxes.set(title="Boxes at IoU 0.5: the maximum counts", xlabel="threshold", ylabel="share of photos")
    boxes.set(xlim=(0, 1), ylim=(0, 1.02))
    for plot in (pixels, boxes):
        plot.grid(alpha=0.3)
    pixels.legend(fontsize="small", frameon=False)
    figure.suptitle(title)
    return _image(figure)


def draw_scatter(labels: tuple[str, str], values: tuple[np.ndarray, np.ndarray], figure_name: str) -> Image.Image:
    """A figure of two maps photo by photo, as an RGB picture: a point above the line is a photo where the second is
    better.

    Args:
        labels: of the two maps.
        values: (n,) of each, of the same photos.
        figure_name: what is compared.

    Raises:
        OptionError: different numbers of photos.
    """
    one, other = values
    if len(one) != len(other):
        raise OptionError(f"{labels[0]} has {len(one)} photos and {labels[1]} {len(other)}, so they cannot be paired")
    figure = _new_figure(5.4, 5.6)
    plot = figure.subplots()
    plot.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    plot.scatter(one, other, s=12, alpha=0.6, linewidths=0)
    better = int((other > one).sum())
    plot.set(title=f"{figure_name}, {len(one)} photos: the upper one is better on {better}", xlim=(0, 1), ylim=(0, 1))
    plot.set(xlabel=labels[0], ylabel=labels[1], aspect="equal")
    plot.grid(alpha=0.3)
    return _image(figure)


def draw_intervals(table: Table, column: str) -> Image.Image:
    """A figure of every row of a table with its interval, as an RGB picture.

    Args:
        table: of results.
        column: the name of one whose cells have intervals.

    Raises:
        OptionError: no row has such a figure with an interval.
    """
    head = next((one for one in table.columns if one.name == column), None)
    cells = [(str(row[table.columns[0].name]), row.get(column)) for row in table.rows]
    rows = [(label, cell) for label, cell in cells if isinstance(cell, (list, tuple))]
    if head is None or not rows:
        raise OptionError(f"no row of the table has the figure {column!r} with an interval")
    factor = FORMS[head.form].factor if head.form in FORMS else 1.0
    mean, low, high = factor * np.array([cell for _, cell in rows], np.float64).T
    places = np.arange(len(rows))[::-1]
    figure = _new_figure(9, 1.1 + HIGHEST * len(rows))
    plot = figure.subplots()
    plot.errorbar(mean, places, xerr=[mean - low, high - mean], fmt="o", markersize=5, capsize=3, linewidth=1.2)
    plot.set_yticks(places, [label for label, _ in rows])
    plot.set(xlabel=head.title, ylim=(-0.6, len(rows) - 0.4))
    plot.grid(axis="x", alpha=0.3)
    return _image(figure)
