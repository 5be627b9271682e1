"""The board component: a Board in Python, canvases in the browser (the .js files beside this one).

Python sends each display picture once, as a cached file, and per row the raw grid with the levels of every mask rule at
every amount. Nothing of it enters a template: gr.HTML compiles templates as JavaScript.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio import processing_utils
from PIL import Image

from simpool_viz.app.events import event_handler
from simpool_viz.board.board import Board, Row, Settings
from simpool_viz.board.comparison import ROW_FIGURES
from simpool_viz.board.explain import explain_row
from simpool_viz.drawing.pixels import (
    AGREEMENT,
    BOX,
    DIMMED,
    DIVERGING,
    LINES,
    OUTLINE,
    SEQUENTIAL,
    SPECK,
    WIDEST,
    DrawingStyle,
    colour_table,
    display_picture,
)
from simpool_viz.export import row_name
from simpool_viz.images import Picture
from simpool_viz.maps.scale import PERCENTILE, scale_of
from simpool_viz.masks import find_levels, mask_rules, parse_rule

LONGEST = 1280  # pixels of the display picture
AMOUNTS = [percent / 100 for percent in range(1, 101)]
HERE = Path(__file__).parent
SCRIPTS = ("base", "masks", "paint", "cursor", "rows", "views", "inspect", "board")  # one scope, in this order


def _first_look() -> dict[str, Any]:
    """How a board is drawn until a visitor changes it: as everywhere else."""
    drawn, computed = DrawingStyle(), Settings()
    rule, amount = parse_rule(computed.mask)
    look = {"rule": rule, "amount": amount, "largest": computed.largest, "boxes": True}
    return look | {
        "opacity": drawn.opacity,
        "colours": drawn.colours,
        "smooth": drawn.smooth,
        "shared": drawn.shared_scale,
    }


LOOK = _first_look()
# What the browser draws by, so that no number stands in two languages. Lengths of longer sides in pixels.
DRAWING: dict[str, Any] = {
    "outline": OUTLINE,
    "box": BOX,
    "lines": LINES,
    "speck": SPECK,
    "dimmed": DIMMED,
    "percentile": PERCENTILE / 100,
    "diverging": DIVERGING,
    "agreement": AGREEMENT,
    "cell": WIDEST,
    "small": WIDEST // 2,
    "large": LONGEST,
}


@dataclass
class Sent:
    """What the states of one run share, so that a growing board is not encoded anew: files of photos, payloads of
    rows."""

    photos: dict[int, str] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class BoardState:
    """A board as shown while it grows; `waiting` says what is still being computed, "" when done."""

    board: Board
    waiting: str = ""
    sent: Sent = field(default_factory=Sent)


def _encode(values: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def level_tables(weights: np.ndarray) -> dict[str, str]:
    """For every mask rule its levels: one per amount 0.01 ... 1.00, or a single one."""
    tables = {}
    for rule in mask_rules().values():
        tables[rule.name] = _encode(find_levels(weights, rule.name, [None] if rule.default is None else AMOUNTS))
    return tables


def grid_payload(weights: np.ndarray, unit: str) -> dict[str, Any]:
    """A map (h, w) with the scale that it is drawn in."""
    scale = scale_of(weights, unit)
    return {
        "grid": list(weights.shape),
        "weights": _encode(weights),
        "signed": unit == "logit",
        "scale": [scale.low, scale.high],
        "factor": scale.factor,
        "unit": scale.label,
    }


def row_payload(board: Board, row: Row, index: int) -> dict[str, Any]:
    """What the browser needs of a row."""
    values = {figure.name: figure.value(row) for figure in ROW_FIGURES.values()}
    return {
        "id": f"board-row-{index}",
        "file": row_name(board, row),
        "picture": row.picture,
        "checkpoint": row.checkpoint,
        "name": row.request.label,
        "title": row.title,
        "map": row.map_title,
        "lines": row.fixed_lines
        + row.score_lines,  # the line about the mask changes with the look, so the browser writes it
        "constant": row.mask_line if row.mask.constant else "",
        "figures": {name: value for name, value in values.items() if value is not None},
        "about": [asdict(explanation) for explanation in explain_row(row)],
        "levels": level_tables(row.mask.weights),
        **grid_payload(row.mask.weights, row.attention.unit),
    }


class BoardView(gr.HTML):
    """Shows a `BoardState`; tells of a row to look into by the event `inspect`: its picture, checkpoint and map."""

    def __init__(self, value: Any = None, kind: str = "compare", **kwargs: Any) -> None:
        super().__init__(
            value=value,
            html_template='<div class="simpool-board"></div>',
            css_template="",
            js_on_load="\n".join((HERE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS),
            apply_default_css=False,
            kind=kind,
            look=LOOK,
            figures={figure.name: figure.title for figure in ROW_FIGURES.values()},
            drawing=DRAWING,
            tables={
                name: base64.b64encode(colour_table(name).tobytes()).decode()
                for name in {*SEQUENTIAL, DIVERGING, AGREEMENT}
            },
            **kwargs,
        )

    def get_block_name(self) -> str:
        return "html"

    def preprocess(self, payload: Any) -> None:
        return None

    @event_handler
    def postprocess(self, value: BoardState | None) -> dict[str, Any] | None:  # type: ignore[override]
        if value is None or not value.board.pictures:
            return None
        board, sent = value.board, value.sent
        for index, row in enumerate(board.rows):
            if index not in sent.rows:
                sent.rows[index] = row_payload(board, row, index)
        return {
            "photos": [self.photo_payload(picture, index, sent) for index, picture in enumerate(board.pictures)],
            "rows": [sent.rows[index] for index in range(len(board.rows))],
            "skipped": board.skipped,
            "waiting": value.waiting,
        }

    def photo_payload(self, picture: Picture, index: int, sent: Sent) -> dict[str, Any]:
        """A photo as a cached file with its original size in pixels."""
        if not Path(sent.photos.get(index, "")).is_file():  # new, or cleaned up since
            shown = Image.fromarray(display_picture(picture.rgb, LONGEST))
            sent.photos[index] = processing_utils.save_pil_to_cache(
                shown, self.GRADIO_CACHE, name="photo", format="jpeg"
            )
        photo = {"path": sent.photos[index], "meta": {"_type": "gradio.FileData"}}
        return {"title": picture.name, "size": list(picture.size), "photo": photo}

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": "photos, rows with base64 float32 grids and mask levels, captions"}


class Photo(gr.Image):
    """A picture input that hands on the uploaded file as it is: reading it, and saying what is wrong with it, is
    ours."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:  # type: ignore[override]
        return None if payload is None else payload.path
