"""Comparisons of a board's rows: their order by a figure, how far their masks agree, and where two maps differ.

The board in the browser does the same, with the same rules, for the masks as they are drawn at the moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from simpool_viz.board.board import Board, Row
from simpool_viz.errors import MapError, OptionError
from simpool_viz.images import cells_of_pixels
from simpool_viz.maps.scale import scale_of
from simpool_viz.masks import ObjectMask, upsample

GROUPINGS = ("none", "checkpoint", "map")


@dataclass(frozen=True)
class RowFigure:
    """A number by which rows are sorted.

    Attributes:
        name: in options, as of `parse_sort`.
        title: in the page.
        value: of a row, None where it has none.
    """

    name: str
    title: str
    value: Callable[[Row], float | None]


def _peak(row: Row) -> float:
    """The largest value as drawn: how many times uniform, or how many times its mean; of a signed map its logit."""
    return float(row.mask.weights.max()) * scale_of(row.mask.weights, row.attention.unit).factor


def _score(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.scores.get(name)


ROW_FIGURES: dict[str, RowFigure] = {
    figure.name: figure
    for figure in (
        RowFigure(
            "probability",
            "probability of the predicted class",
            lambda row: row.prediction[1] if row.prediction else None,
        ),
        RowFigure("entropy", "spatial entropy", lambda row: row.entropy),
        RowFigure("peak", "strongest weight", _peak),
        RowFigure("coverage", "share of the picture in the mask", lambda row: row.mask.coverage),
        RowFigure("components", "components of the mask", lambda row: row.mask.components),
        RowFigure("milliseconds", "milliseconds", lambda row: sum(row.milliseconds)),
        RowFigure("iou", "IoU with the reference", _score("iou")),
        RowFigure("iou_at_true_area", "IoU at true area", _score("iou_at_true_area")),
        RowFigure("iou_at_best_threshold", "IoU at the best threshold", _score("iou_at_best_threshold")),
        RowFigure("energy", "share of the mass on the object", _score("energy")),
    )
}


def parse_sort(text: str) -> tuple[str, bool]:
    """Read a figure to sort by: ("entropy", True) from "entropy:lowest".

    Args:
        text: a name of `ROW_FIGURES`, then nothing, ":highest" or ":lowest".

    Returns:
        The figure's name, and whether the lowest value comes first.

    Raises:
        OptionError: an unknown figure or direction.
    """
    name, _, direction = text.partition(":")
    if name not in ROW_FIGURES:
        raise OptionError(f"rows are sorted by {', '.join(ROW_FIGURES)}, not by {name!r}")
    if direction not in ("", "highest", "lowest"):
        raise OptionError(f"sort {text!r}: the direction is highest or lowest, as in {name}:lowest")
    return name, direction == "lowest"


def arrange(board: Board, group: str = "none", sort: str = "") -> Board:
    """The same board with its rows in another order. Photos keep theirs.

    Args:
        board: the board; it is not changed.
        group: "checkpoint" or "map" keeps the rows of each together, groups in the order of their first rows; "none"
            does not.
        sort: a figure, with its direction as in `parse_sort`; within each group. Rows without the figure come last.

    Raises:
        OptionError: an unknown grouping, figure or direction.

    Examples:
        >>> from simpool_viz import arrange, load_checkpoints, make_board
        >>> encoders = load_checkpoints(["resnet_simpool", "resnet_gap"])
        >>> board = make_board(["cat.jpg"], encoders, ["contribution", "gradcam"])
        >>> for row in arrange(board, group="map").rows:
        ...     print(row.request.label, row.checkpoint)
        contribution resnet_simpool
        contribution resnet_gap
        gradcam resnet_simpool
        gradcam resnet_gap
    """
    if group not in GROUPINGS:
        raise OptionError(f"rows are grouped by {', '.join(GROUPINGS)}, not by {group!r}")
    keys = [{"none": "", "checkpoint": row.checkpoint, "map": row.request.label}[group] for row in board.rows]
    place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    figures = [_rank(row, *parse_sort(sort)) if sort else (False, 0.0) for row in board.rows]
    order = sorted(range(len(keys)), key=lambda i: (board.rows[i].picture, place[keys[i]], figures[i]))
    return replace(board, rows=[board.rows[i] for i in order])


def _rank(row: Row, figure: str, lowest: bool) -> tuple[bool, float]:
    value = ROW_FIGURES[figure].value(row)
    return value is None, 0.0 if value is None else value if lowest else -value


def agreement(
    masks: Sequence[ObjectMask], smooth: bool | None = None, size: tuple[int, int] | None = None
) -> np.ndarray:
    """IoU between the masks of all pairs.

    Args:
        masks: n masks of one picture, on any grids.
        smooth: compare smooth masks instead of patches, as `ObjectMask.pixels` makes them; as they are by default.
        size: (W, H) at which they are compared; the picture's own by default.

    Returns:
        (n, n) float64 in [0, 1], symmetric, 1 on the diagonal.

    Raises:
        OptionError: masks of pictures of different sizes.

    Examples:
        >>> from simpool_viz import agreement, load_checkpoints, make_board
        >>> board = make_board(["cat.jpg"], load_checkpoints(["resnet_simpool", "resnet_gap"]))
        >>> ious = agreement([row.mask for row in board.rows])
        >>> ious.shape, bool(ious[0, 1] == ious[1, 0] < ious[0, 0])
        ((2, 2), True)
    """
    if len({mask.geometry.original for mask in masks}) > 1:
        raise OptionError("masks agree or differ on one picture; these are of pictures of different sizes")
    pixels = [mask.pixels(smooth, size) for mask in masks]
    areas = [int(p.sum()) for p in pixels]
    result = np.eye(len(masks))
    for i, one in enumerate(pixels):
        for j in range(i):
            shared = int((one & pixels[j]).sum())
            result[i, j] = result[j, i] = shared / (areas[i] + areas[j] - shared)
    return result


def difference(first: Row, second: Row, smooth: bool = False, size: tuple[int, int] | None = None) -> np.ndarray:
    """The first map minus the second, in the unit in which both are drawn ("times uniform").

    Args:
        first: a row.
        second: another row of the same picture.
        smooth: bilinear maps instead of patches.
        size: (W, H) of the result; the picture's own by default.

    Returns:
        (H, W) float64.

    Raises:
        OptionError: maps of different pictures.
        MapError: maps of different units, or class contributions on different grids, whose logits per token are not
            comparable.

    Examples:
        >>> from simpool_viz import difference, load_checkpoints, make_board
        >>> encoders = load_checkpoints(["resnet_simpool", "resnet_gap"])
        >>> board = make_board(["cat.jpg"], encoders, ["gradcam"])
        >>> difference(board.rows[0], board.rows[1]).shape  # positive where the first map is stronger
        (300, 451)
    """
    one, other = first.attention, second.attention
    if first.picture != second.picture or one.geometry.original != other.geometry.original:
        raise OptionError("a difference is of two maps of one picture")
    if one.unit != other.unit:
        units = [scale_of(row.mask.weights, row.attention.unit).label for row in (first, second)]
        raise MapError(
            f"{first.title} is drawn in {units[0]} and {second.title} in {units[1]}, so they have no difference"
        )
    if one.unit == "logit" and one.geometry.grid != other.geometry.grid:
        raise MapError("logits per token of different grids are not comparable, so they have no difference")
    values, others = (_as_drawn(row, smooth, size or one.geometry.original) for row in (first, second))
    result: np.ndarray = values - others
    return result


def _as_drawn(row: Row, smooth: bool, size: tuple[int, int]) -> np.ndarray:
    """A map (H, W) in the unit in which it is drawn."""
    weights = row.mask.weights
    factor = scale_of(weights, row.attention.unit).factor
    if smooth:
        return upsample(weights, size) * factor
    rows, columns = cells_of_pixels((weights.shape[0], weights.shape[1]), size)
    values: np.ndarray = weights.astype(np.float64)[rows[:, None], columns[None, :]] * factor
    return values
