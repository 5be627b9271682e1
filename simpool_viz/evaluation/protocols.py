"""The table of the field's own protocols: figures of a whole set, with the baselines and bootstrap intervals.

MaxBoxAccV2, MaxBoxAcc, CorLoc, PxAP and the maximal F-beta choose their threshold on the set, so they are no means over
photos: an interval comes from drawing the photos again and choosing anew, with the same draws for every row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simpool_viz.batch.boards import Job
from simpool_viz.batch.preparing import Fault
from simpool_viz.board.board import Settings
from simpool_viz.evaluation.datasets import DataSet
from simpool_viz.evaluation.passes import Pace, photo_scores
from simpool_viz.evaluation.scoring import BASELINES, MapScores
from simpool_viz.evaluation.table import by_method, set_title
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.boxes import V2_IOUS, max_box_accuracy
from simpool_viz.scores.results import DRAWS, Cell, Column, Table, rounded
from simpool_viz.scores.threshold_curves import maximal_f_beta, pixel_average_precision, precision_recall_curves

PROTOCOLS = {
    "max_box_acc_v2": "MaxBoxAccV2",
    **{f"max_box_acc_{100 * iou:.0f}": f"at IoU {iou:g}" for iou in V2_IOUS},
    "max_box_acc": "MaxBoxAcc",
    "corloc": "CorLoc",
    "pxap": "PxAP",
    "f_beta": "maximal F-beta",
    "iou_at_best_threshold": "IoU at the best threshold",
    "energy": "energy",
}
MEANS = ("corloc", "iou_at_best_threshold", "energy")  # those that are means over photos


@dataclass(frozen=True)
class ProtocolCounts:
    """What the protocols count of one row, a value for each of n photos.

    Attributes:
        label: checkpoint and map, or the baseline.
        boxes: (n, 4, 255) bool: whether a component's box reaches each IoU of `V2_IOUS`, and the largest one's 0.5.
        steps: (n, 2, 1001) of `count_steps`.
        values: by name of `MEANS` (n,).
    """

    label: str
    boxes: np.ndarray
    steps: np.ndarray
    values: dict[str, np.ndarray]

    @classmethod
    def of_scores(cls, label: str, scores: Sequence[MapScores]) -> ProtocolCounts:
        """The counts of the scores of a map, those without counts left out."""
        counted = [(one.figures, one.counts) for one in scores if one.counts is not None]
        boxes, steps = (np.stack([getattr(counts, name) for _, counts in counted]) for name in ("boxes", "steps"))
        return cls(label, boxes, steps, {name: np.array([own[name] for own, _ in counted]) for name in MEANS})

    def figures(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """Every figure of `PROTOCOLS` for each draw of the photos.

        Args:
            times: (R, n), how often each photo is drawn.

        Returns:
            By name (R,), in [0, 1].
        """
        draws, count = times.astype(np.float32), len(self.steps)

        def mean(values: np.ndarray) -> np.ndarray:
            flat: np.ndarray = draws @ values.reshape(count, -1).astype(np.float32) / count
            return flat.reshape(len(times), *values.shape[1:])

        shares, steps = mean(self.boxes), self.steps
        own = {"max_box_acc_v2": max_box_accuracy(shares[:, :3])}
        for i, iou in enumerate(V2_IOUS):
            own[f"max_box_acc_{100 * iou:.0f}"] = max_box_accuracy(shares[:, i : i + 1])
        own["max_box_acc"] = max_box_accuracy(shares[:, 3:])
        own["pxap"] = pixel_average_precision(mean(steps).astype(np.float64))
        own["f_beta"] = maximal_f_beta(mean(precision_recall_curves(steps)))
        return own | {name: mean(values) for name, values in self.values.items()}


def evaluate_protocols(
    data: DataSet,
    encoders: Sequence[Encoder],
    requests: Sequence[MapRequest],
    settings: Settings,
    pace: Pace | None = None,
    object_ids: Sequence[int] = (),
    faults: list[Fault] | None = None,
) -> list[ProtocolCounts]:
    """Count what the protocols need on a data set.

    Args and errors are those of `evaluate`.

    Returns:
        One for each checkpoint and map it has, then the baselines.
    """
    return list(counts_of(photo_scores(data, Job(encoders, requests, settings), pace, object_ids, faults)))


def counts_of(scores: Iterable[Sequence[MapScores]]) -> Iterator[ProtocolCounts]:
    """The counts of each map and baseline, of the scores of each photo."""
    for label, own in by_method(scores).values():
        if own[0].counts is not None:
            yield ProtocolCounts.of_scores(label, own)


def photo_draws(count: int) -> np.ndarray:
    """How often each photo is drawn: (1 + DRAWS, n), once in the first row, then by the bootstrap."""
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    return np.concatenate([np.ones((1, count), drawn.dtype), drawn])


def protocols_table(data: DataSet, methods: Iterable[ProtocolCounts]) -> Table:
    """The table of the protocols, in per cent.

    Args:
        data: the set that was evaluated.
        methods: from `evaluate_protocols`, the baselines included; each is let go when its figures are made.
    """
    figures: dict[int, dict[str, np.ndarray]] = {}
    labels, count, times = [], 0, np.ones((1, 1))
    for number, method in enumerate(methods):
        if len(method.steps) != count:
            count = len(method.steps)
            times = photo_draws(count)
        labels.append(method.label)
        figures[number] = method.figures(times)
    prior = figures[labels.index(BASELINES[0])]
    above = {"max_box_acc_v2": "MaxBoxAccV2 above the centre prior", "pxap": "PxAP above the centre prior"}
    columns = [Column("map", "map"), *(Column(name, title, "percent") for name, title in PROTOCOLS.items())]
    columns += [Column(f"{name}_above_prior", title, "points") for name, title in above.items()]
    rows: list[dict[str, Cell]] = []
    for label, own in zip(labels, figures.values(), strict=True):
        row: dict[str, Any] = {"map": label} | {name: _cell(own[name]) for name in PROTOCOLS}
        for name in above:
            row[f"{name}_above_prior"] = None if own is prior else _cell(own[name] - prior[name])
        rows.append(row)
    return Table(f"{set_title(data, count)}: protocols of localization (%)", tuple(columns), tuple(rows))


def _cell(values: np.ndarray) -> list[float]:
    """The value of the set, which comes first, and the interval of its draws."""
    return rounded([float(values[0]), *np.percentile(values[1:], [2.5, 97.5])])
