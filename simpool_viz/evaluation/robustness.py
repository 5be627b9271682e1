"""How much of a map's score remains on changed backgrounds: each photo's score beside that of its composites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simpool_viz.batch.boards import Job
from simpool_viz.batch.preparing import Fault
from simpool_viz.errors import OptionError
from simpool_viz.evaluation.datasets import DataSet
from simpool_viz.evaluation.datasets.backgrounds import BACKGROUNDS, with_backgrounds
from simpool_viz.evaluation.passes import Pace, photo_scores, require_scores
from simpool_viz.evaluation.table import by_method, figure_columns, set_title
from simpool_viz.scores.results import Cell, Column, Table, measured

COMPARED_FIGURE, COMPARED_TITLE = "iou_at_true_area", "IoU at true area"
_ORIGINAL = "original"


@dataclass(frozen=True)
class BackgroundScores:
    """The scores of a map on photos and their composites.

    Attributes:
        label: checkpoint and map, or the baseline.
        values: by background, "original" first, (n,) IoU at true area in [0, 1] of the same photos in the same order.
    """

    label: str
    values: dict[str, np.ndarray]


def evaluate_backgrounds(
    data: DataSet,
    job: Job,
    kinds: Sequence[str],
    pace: Pace | None = None,
    object_ids: Sequence[int] = (),
    faults: list[Fault] | None = None,
) -> list[BackgroundScores]:
    """Score maps on photos as they are and on changed backgrounds.

    Args:
        data: photos with masks.
        job: checkpoints, maps and settings.
        kinds: names of `BACKGROUNDS`.
        pace: how each set is gone through.
        object_ids: the labels that count as object, and are cut out.
        faults: to which each photo is added that is left out, with the reason: one that cannot be scored on every
            background.

    Returns:
        One for each checkpoint and map it has, then the baselines.

    Raises:
        OptionError: no such background, or one that is named twice.
        MapError: no checkpoint has any of the maps.
        DataError: no photo can be scored on every background.
    """
    if len(set(kinds)) < len(kinds):
        raise OptionError(f"--backgrounds names one of {', '.join(kinds)} twice; each is scored once")
    sets = {_ORIGINAL: data} | {kind: with_backgrounds(data, kind, object_ids) for kind in kinds}
    keys = [key for key, _ in data.places()]
    scored, left_out = {}, dict[str, Fault]()
    for kind, one in sets.items():
        own: list[Fault] = []
        scores = photo_scores(one, job, pace, object_ids, own)
        missing = {fault.key for fault in own}
        scored[kind] = dict(zip([key for key in keys if key not in missing], scores, strict=True))
        for fault in own:
            left_out.setdefault(fault.key, fault)
    common = [key for key in keys if key not in left_out]
    if faults is not None:
        faults += left_out.values()
    require_scores(data, len(common), list(left_out.values()))
    methods = {kind: by_method(own[key] for key in common) for kind, own in scored.items()}
    return [
        BackgroundScores(
            label, {kind: figure_columns(own[method][1])[COMPARED_FIGURE] for kind, own in methods.items()}
        )
        for method, (label, _) in methods[_ORIGINAL].items()
    ]


def backgrounds_table(data: DataSet, methods: Sequence[BackgroundScores]) -> Table:
    """The table of scores on each background, with the change from the original, paired by photo.

    Args:
        data: the set that was evaluated.
        methods: from `evaluate_backgrounds`.
    """
    kinds = [kind for kind in methods[0].values if kind != _ORIGINAL]
    columns = [Column("map", "map"), Column(_ORIGINAL, COMPARED_TITLE, "share")]
    for kind in kinds:
        columns += [Column(kind, BACKGROUNDS[kind].title, "share"), Column(f"{kind}_change", "change", "shift")]
    rows: list[dict[str, Cell]] = []
    for method in methods:
        original = method.values[_ORIGINAL]
        row: dict[str, Cell] = {"map": method.label, _ORIGINAL: measured(original)}
        for kind in kinds:
            row |= {kind: measured(method.values[kind]), f"{kind}_change": measured(method.values[kind] - original)}
        rows.append(row)
    title = set_title(data, len(methods[0].values[_ORIGINAL]))
    return Table(f"{title}: changed backgrounds", tuple(columns), tuple(rows))
