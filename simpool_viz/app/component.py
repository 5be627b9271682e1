"""The board component: a Board in Python, canvases in the browser (board.js).

Python sends the display picture once, as a cached file, and per row the raw grid with the levels of every mask rule at
every amount. Nothing of it enters a template: gr.HTML compiles templates as JavaScript.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio import processing_utils
from PIL import Image

from simpool_viz.board import Board, Row
from simpool_viz.drawing import DIVERGING, SEQUENTIAL, colour_table, display_picture, scale_of
from simpool_viz.export import row_name
from simpool_viz.masks import find_levels, mask_rules

LONGEST = 1280  # pixels of the display picture
AMOUNTS = [percent / 100 for percent in range(1, 101)]
HERE = Path(__file__).parent
LOOK: dict[str, Any] = {
    "rule": "mass",
    "amount": 0.6,
    "largest": False,
    "opacity": 0.6,
    "colours": "inferno",
    "smooth": False,
    "shared": False,
    "boxes": True,
}


@dataclass(frozen=True)
class BoardState:
    """A board as shown while it grows; `waiting` says what is still being computed, "" when done."""

    board: Board
    waiting: str = ""


def _encode(values: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def level_tables(weights: np.ndarray) -> dict[str, str]:
    """For every mask rule its levels: one per amount 0.01 ... 1.00, or a single one."""
    tables = {}
    for rule in mask_rules().values():
        tables[rule.name] = _encode(find_levels(weights, rule.name, [None] if rule.default is None else AMOUNTS))
    return tables


def row_payload(board: Board, row: Row, index: int) -> dict[str, Any]:
    """What the browser needs of a row."""
    weights, scale = row.mask.weights, scale_of(row.mask.weights, row.attention.unit)
    return {
        "id": f"board-row-{index}",
        "file": row_name(board, row),
        "title": row.title,
        "map": row.map_title,
        "lines": row.fixed_lines,  # the line about the mask changes with the look, so the browser writes it
        "grid": list(weights.shape),
        "weights": _encode(weights),
        "signed": row.attention.signed,
        "scale": [scale.low, scale.high],
        "factor": scale.factor,
        "unit": scale.label,
        "constant": row.mask.constant,
        "levels": level_tables(weights),
    }


class BoardView(gr.HTML):
    """Shows a `BoardState`; takes nothing back."""

    def __init__(self, value: BoardState | None = None, **kwargs: Any) -> None:
        super().__init__(
            value=value,
            html_template='<div class="simpool-board"></div>',
            css_template="",
            js_on_load="\n".join((HERE / name).read_text(encoding="utf-8") for name in ("board.js", "masks.js")),
            apply_default_css=False,
            look=LOOK,
            diverging=DIVERGING,
            tables={name: base64.b64encode(colour_table(name).tobytes()).decode() for name in (*SEQUENTIAL, DIVERGING)},
            **kwargs,
        )

    def get_block_name(self) -> str:
        return "html"

    def preprocess(self, payload: Any) -> None:
        return None

    def postprocess(self, value: BoardState | None) -> dict[str, Any] | None:  # type: ignore[override]
        if value is None or not value.board.pictures:
            return None
        picture = value.board.pictures[0]
        shown = Image.fromarray(display_picture(picture.rgb, LONGEST))
        path = processing_utils.save_pil_to_cache(shown, self.GRADIO_CACHE, name="photo", format="jpeg")
        return {
            "title": picture.name,
            "photo": {"path": path, "meta": {"_type": "gradio.FileData"}},
            "rows": [row_payload(value.board, row, i) for i, row in enumerate(value.board.rows)],
            "skipped": value.board.skipped,
            "waiting": value.waiting,
        }

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": "photo, rows with base64 float32 grids and mask levels, captions"}


class Photo(gr.Image):
    """A picture input that hands on the uploaded file as it is: reading it, and saying what is wrong with it, is ours."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:  # type: ignore[override]
        return None if payload is None else payload.path
