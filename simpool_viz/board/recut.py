"""A board whose masks are cut anew, without a forward: what the sliders of the page do, in Python."""

from __future__ import annotations

from dataclasses import replace

from simpool_viz.board.board import Board, Row, Settings, refined_iou
from simpool_viz.masks import make_mask
from simpool_viz.scores.localization import score_map


def recut(board: Board, settings: Settings) -> Board:
    """The same maps with other masks, and with the scores of those masks.

    Args:
        board: the board; it is not changed.
        settings: of which mask, largest, smoothing, smooth and refine are taken. Size, fusion and faithfulness belong
            to the maps and stay those of the board.

    Raises:
        OptionError: an unknown rule, an amount that does not fit it, or a smoothing out of range.
    """
    kept = {"size": board.settings.size, "fusion": board.settings.fusion, "faithfulness": board.settings.faithfulness}
    settings = replace(settings, **kept)  # type: ignore[arg-type]
    return replace(board, rows=[_recut_row(board, row, settings) for row in board.rows], settings=settings)


def _recut_row(board: Board, row: Row, settings: Settings) -> Row:
    mask, reference = (
        make_mask(row.mask.weights, row.attention.geometry, settings.cut),
        board.references.get(row.picture),
    )
    scores = {} if reference is None else score_map(mask, reference)
    if reference is not None and settings.refine:
        scores["iou_refined"] = refined_iou(board.pictures[row.picture], mask, settings.refine, reference)
    return replace(row, mask=mask, scores=scores, refine=settings.refine)
