"""Which mask covers the object best: every rule, amount, smoothing and component, on photos with reference masks.

The default mask of the project is the one that this table favours over all bundled maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simpool_viz.batch.boards import Job
from simpool_viz.batch.preparing import Fault
from simpool_viz.board.board import Settings
from simpool_viz.evaluation.cut_masks import CUTS, cut_ious
from simpool_viz.evaluation.datasets import DataSet
from simpool_viz.evaluation.passes import Pace, scores_in_order
from simpool_viz.evaluation.table import set_title
from simpool_viz.maps.request import MapRequest
from simpool_viz.masks import DEFAULT_CUT, DINO_CUT
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.results import Cell, Column, Table, interval, measured


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
    data: DataSet,
    encoders: Sequence[Encoder],
    requests: Sequence[MapRequest],
    settings: Settings,
    pace: Pace | None = None,
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
        pace: as in `evaluate`.
        object_ids: as in `read_reference`.
        faults: as in `evaluate`.

    Raises:
        MapError: no checkpoint has any of the maps.
        DataError: as in `evaluate`.
    """
    # By checkpoint and map, since names of checkpoints need not be unique; then by label of the cut.
    values: dict[tuple[int, str], dict[str, list[float]]] = {}
    plain: dict[str, float] = {}
    for plain, maps in scores_in_order(data, Job(encoders, requests, settings), cut_ious, pace, object_ids, faults):
        for key, ious in maps.items():
            own = values.setdefault(key, {})
            for label, value in [*ious.items(), *plain.items()]:
                own.setdefault(label, []).append(value)
    names = [label for _, label in values]
    keys = [label if names.count(label) == 1 else f"{label} ({number})" for number, label in values]
    of_maps = {
        key: {label: np.array(each) for label, each in own.items()}
        for key, own in zip(keys, values.values(), strict=True)
    }
    scored = len(next(iter(next(iter(of_maps.values())).values())))
    return CutScores(set_title(data, scored), of_maps, tuple(plain))
