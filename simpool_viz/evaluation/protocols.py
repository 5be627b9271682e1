"""The table of the field's own protocols: figures of a whole set, with the baselines and bootstrap intervals.

MaxBoxAccV2, MaxBoxAcc, CorLoc, PxAP and the maximal F-beta choose their threshold on the set, so they are no means over
photos: an interval comes from drawing the photos again and choosing anew, with the same draws for every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simpool_viz.batch.preparing import Fault
from simpool_viz.board.board import Row, Settings
from simpool_viz.evaluation.datasets import MaskSet
from simpool_viz.evaluation.table import rows_of_photos, set_title
from simpool_viz.maps.request import MapRequest
from simpool_viz.masks import DINO_CUT, Box, upsample
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.boxes import (
    V2_IOUS,
    box_curves,
    iou_of_box,
    largest_box,
    max_box_accuracy,
    object_boxes,
    reached,
    resized_boxes,
)
from simpool_viz.scores.localization import baselines, centre_prior, energy, iou_at_best_threshold
from simpool_viz.scores.references import Reference
from simpool_viz.scores.results import DRAWS, Cell, Column, Table, rounded
from simpool_viz.scores.threshold_curves import (
    SIDE,
    count_steps,
    maximal_f_beta,
    pixel_average_precision,
    precision_recall_curves,
    scaled_map,
)

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
DISCOVERY = ("lost", "tokencut")  # their maps are 0 outside the one object that they draw


@dataclass
class ProtocolCounts:
    """What the protocols count of one row, a value for each of n photos.

    Attributes:
        label: checkpoint and map, or the baseline.
        boxes: (4, 255) bool each: whether a component's box reaches each IoU of `V2_IOUS`, and the largest one's 0.5.
        steps: (2, 1001) each, of `count_steps`.
        values: by name, CorLoc's hits, and the figures that are means over photos.
    """

    label: str
    boxes: list[np.ndarray] = field(default_factory=list)
    steps: list[np.ndarray] = field(default_factory=list)
    values: dict[str, list[float]] = field(
        default_factory=lambda: {"corloc": [], "iou_at_best_threshold": [], "energy": []}
    )

    def add(self, weights: np.ndarray, box: Box | None, full: np.ndarray, reference: Reference) -> None:
        """Count one photo.

        Args:
            weights: (h, w), the map on its grid, or at any size.
            box: of CorLoc, in pixels of the reference.
            full: (H, W), the map at the size of the reference.
            reference: the reference mask.
        """
        truth = object_boxes(reference)
        scaled = scaled_map(weights)
        every, largest = box_curves(scaled, resized_boxes(truth, reference.size, (SIDE, SIDE)))
        self.boxes.append(np.concatenate([reached(every, V2_IOUS), reached(largest, (0.5,))]))
        self.steps.append(count_steps(scaled, reference))
        self.values["corloc"].append(float(iou_of_box(box, truth) >= 0.5))
        self.values["iou_at_best_threshold"].append(iou_at_best_threshold(full, reference)[0])
        self.values["energy"].append(energy(full, reference))

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

        shares, steps = mean(np.stack(self.boxes)), np.stack(self.steps)
        own = {"max_box_acc_v2": max_box_accuracy(shares[:, :3])}
        for i, iou in enumerate(V2_IOUS):
            own[f"max_box_acc_{100 * iou:.0f}"] = max_box_accuracy(shares[:, i : i + 1])
        own["max_box_acc"] = max_box_accuracy(shares[:, 3:])
        own["pxap"] = pixel_average_precision(mean(steps).astype(np.float64))
        own["f_beta"] = maximal_f_beta(mean(precision_recall_curves(steps)))
        return own | {name: mean(np.array(values)) for name, values in self.values.items()}


def evaluate_protocols(
    data: MaskSet,
    encoders: Sequence[Encoder],
    requests: Sequence[MapRequest],
    settings: Settings,
    progress: bool = False,
    object_ids: Sequence[int] = (),
    faults: list[Fault] | None = None,
) -> list[ProtocolCounts]:
    """Count what the protocols need on a data set.

    Args and errors are those of `evaluate`.

    Returns:
        One for each checkpoint and map it has, then the baselines.
    """
    methods: dict[tuple[int, str], ProtocolCounts] = {}
    plain = {name: ProtocolCounts(name) for name in ("centre prior", "whole picture")}
    for reference, rows in rows_of_photos(data, encoders, requests, settings, progress, object_ids, faults):
        for number, row in rows:
            label = f"{row.checkpoint}: {row.map_label}"
            counts = methods.setdefault((number, row.request.label), ProtocolCounts(label))
            weights = row.mask.weights
            counts.add(weights, _box(row, settings, reference), upsample(weights, reference.size), reference)
        prior, disc = baselines(reference)["centre prior"]
        plain["centre prior"].add(centre_prior((SIDE, SIDE)), largest_box(disc), prior, reference)
        plain["whole picture"].add(np.ones((1, 1)), (0, 0, *reference.size), np.ones_like(prior), reference)
    return [*methods.values(), *plain.values()]


def _box(row: Row, settings: Settings, reference: Reference) -> Box | None:
    """The one box of CorLoc in pixels of the reference: DINO-seg's, and of LOST and TokenCut that of their object."""
    amount = 1.0 if row.attention.method in DISCOVERY else DINO_CUT.amount
    (box,) = row.attention.mask(DINO_CUT.rule, amount, largest=True, fusion=settings.fusion).boxes
    x0, y0, x1, y1 = (
        resized_boxes(np.array([box]), row.attention.geometry.original, reference.size)[0].round().astype(int)
    )
    return int(x0), int(y0), int(x1), int(y1)


def protocols_table(data: MaskSet, methods: Sequence[ProtocolCounts]) -> Table:
    """The table of the protocols, in per cent.

    Args:
        data: the set that was evaluated.
        methods: from `evaluate_protocols`, the baselines included.
    """
    count = len(methods[0].steps)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    times = np.concatenate([np.ones((1, count), drawn.dtype), drawn])
    prior = next(method for method in methods if method.label == "centre prior").figures(times)
    above = {"max_box_acc_v2": "MaxBoxAccV2 above the centre prior", "pxap": "PxAP above the centre prior"}
    columns = [Column("map", "map"), *(Column(name, title, "percent") for name, title in PROTOCOLS.items())]
    columns += [Column(f"{name}_above_prior", title, "points") for name, title in above.items()]
    rows: list[dict[str, Cell]] = []
    for method in methods:
        own = method.figures(times)
        row: dict[str, Any] = {"map": method.label} | {name: _cell(own[name]) for name in PROTOCOLS}
        for name in above:
            row[f"{name}_above_prior"] = None if method.label == "centre prior" else _cell(own[name] - prior[name])
        rows.append(row)
    return Table(f"{set_title(data, count)}: protocols of localization (%)", tuple(columns), tuple(rows))


def _cell(values: np.ndarray) -> list[float]:
    """The value of the set, which comes first, and the interval of its draws."""
    return rounded([float(values[0]), *np.percentile(values[1:], [2.5, 97.5])])
