"""Which mask covers the object best: every rule, amount, smoothing and component, on photos with reference masks.

The default mask of the project is the one that this table favours over all bundled maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from simpool_viz.batch.preparing import Fault
from simpool_viz.board.board import Settings
from simpool_viz.evaluation.datasets import MaskSet
from simpool_viz.evaluation.table import rows_of_photos, set_title
from simpool_viz.images import expand_cells
from simpool_viz.maps.request import MapRequest
from simpool_viz.masks import DEFAULT_CUT, DINO_CUT, Cut, find_level, largest_component, smoothed, upsample
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.localization import baselines, iou
from simpool_viz.scores.results import Cell, Column, Table, interval, measured

AMOUNTS: dict[str, tuple[float | None, ...]] = {
    "mass": (0.5, 0.6, 0.7, 0.75, 0.8, 0.9),
    "area": (0.15, 0.25, 0.35),
    "mean": (None,),
    "otsu": (None,),
}
SMOOTHINGS = (0.0, 0.5, 1.0)


CUTS = [
    Cut(rule, amount, smoothing, largest, smooth)
    for rule, amounts in AMOUNTS.items()
    for amount, smoothing, largest, smooth in product(amounts, SMOOTHINGS, (False, True), (False, True))
]


def cut_masks(weights: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[Cut, np.ndarray]]:
    """Each of `CUTS` with its mask (H, W) bool, as `ObjectMask.pixels` makes it; what cuts share is computed once.

    Args:
        weights: (h, w).
        size: (W, H) in pixels.
    """
    blurred = {sigma: smoothed(weights, sigma) for sigma in SMOOTHINGS}
    enlarged = {sigma: upsample(map_, size) for sigma, map_ in blurred.items()}
    for cut in CUTS:
        level = find_level(blurred[cut.smoothing], cut.rule, cut.amount)
        if cut.smooth:
            mask = enlarged[cut.smoothing] >= level
            yield cut, largest_component(mask) if cut.largest else mask
        else:
            mask = blurred[cut.smoothing] >= np.float32(level)
            yield cut, expand_cells(largest_component(mask) if cut.largest else mask, size)


@dataclass(frozen=True)
class CutScores:
    """The IoU of every kind of mask of every map on one data set.

    Attributes:
        title: of the data set, in Markdown.
        of_maps: by "checkpoint: map", (n,) values of each label of `CUTS` and of each baseline, one per photo.
        baselines: their names.
    """

    title: str
    of_maps: Mapping[str, Mapping[str, np.ndarray]]
    baselines: Sequence[str]

    def by_cut(self, best: int | None = 12) -> Table:
        """A row for each cut, best first by the mean over maps, and the baselines at the end.

        Args:
            best: how many of `CUTS` have a row, beside the default and DINO's; None for all.
        """
        means = {
            label: float(np.mean([own[label].mean() for own in self.of_maps.values()]))
            for label in next(iter(self.of_maps.values()))
        }
        ranked = sorted((label for label in means if label not in self.baselines), key=lambda label: -means[label])
        always = {DEFAULT_CUT.label, DINO_CUT.label}
        shown = [label for place, label in enumerate(ranked) if best is None or place < best or label in always]
        shown += sorted(self.baselines, key=lambda label: -means[label])
        columns = [Column("mask", "mask"), Column("mean", "mean of the maps", "share")]
        columns += [Column(key, key, "share") for key in self.of_maps]
        table: list[dict[str, Cell]] = []
        for label in shown:
            cells: dict[str, Cell] = {"mask": label, "mean": round(means[label], 5)}
            table.append(cells | {key: measured(own[label]) for key, own in self.of_maps.items()})
        return Table(
            f"{self.title}: IoU of the mask, by the best of {len(CUTS)} cuts",
            tuple(columns),
            tuple(table),
        )

    def by_map(self) -> Table:
        """A row for each map: its default mask, what that is above each baseline, paired by photo, whether it beats
        both outside the interval, and its own best cut."""
        rows: list[dict[str, Cell]] = []
        for key, own in self.of_maps.items():
            default = own[DEFAULT_CUT.label]
            above = {name: default - own[name] for name in self.baselines}
            best = max((cut.label for cut in CUTS), key=lambda label: float(own[label].mean()))
            cells: dict[str, Cell] = {"map": key, "iou": measured(default)}
            cells |= {name: measured(values) for name, values in above.items()}
            cells["beats"] = "yes" if all(interval(values)[1] > 0 for values in above.values()) else "no"
            cells |= {"best": best, "best_iou": measured(own[best])}
            rows.append(cells)
        columns = [
            Column("map", "map"),
            Column("iou", f"IoU of the default mask ({DEFAULT_CUT.label})", "share"),
            *(Column(name, f"above the {name}", "shift") for name in self.baselines),
            Column("beats", "beats both outside the interval"),
            Column("best", "its own best cut"),
            Column("best_iou", "IoU by that cut", "share"),
        ]
        return Table(f"{self.title}: the default mask of each map", tuple(columns), tuple(rows))


def compare_cuts(
    data: MaskSet,
    encoders: Sequence[Encoder],
    requests: Sequence[MapRequest],
    settings: Settings,
    progress: bool = False,
    object_ids: Sequence[int] = (),
    faults: list[Fault] | None = None,
) -> CutScores:
    """The IoU of every kind of mask for every map, and of the whole picture and the centre prior's mask at 60 % of the
    mass.

    Args:
        data: photos with masks.
        encoders: checkpoints.
        requests: maps; where empty, each checkpoint's own.
        settings: size and fusion; its mask does not count.
        progress: whether to show a progress bar.
        object_ids: as in `read_reference`.
        faults: as in `evaluate`.

    Raises:
        MapError: no checkpoint has any of the maps.
        DataError: as in `evaluate`.
    """
    # By checkpoint and map, since names of checkpoints need not be unique; then by label of the cut.
    values: dict[tuple[int, str], dict[str, list[float]]] = {}
    plain: dict[str, float] = {}
    for reference, rows in rows_of_photos(data, encoders, requests, settings, progress, object_ids, faults):
        plain = {name: iou(disc, reference) for name, (_, disc) in baselines(reference).items()}
        for number, row in rows:
            own = values.setdefault((number, f"{row.checkpoint}: {row.map_label}"), {})
            for cut, pixels in cut_masks(row.mask.weights, reference.size):
                own.setdefault(cut.label, []).append(iou(pixels, reference))
            for name, value in plain.items():
                own.setdefault(name, []).append(value)
    names = [label for _, label in values]
    keys = [label if names.count(label) == 1 else f"{label} ({number})" for number, label in values]
    of_maps = {
        key: {label: np.array(each) for label, each in own.items()}
        for key, own in zip(keys, values.values(), strict=True)
    }
    scored = len(next(iter(next(iter(of_maps.values())).values())))
    return CutScores(set_title(data, scored), of_maps, tuple(plain))
