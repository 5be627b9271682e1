"""The board component: a Board in Python, canvases in the browser (the .js files beside this one).

Python sends each display picture once, as a cached file, and per row the raw grid with the levels of every mask rule at
every amount. Nothing of it enters a template: gr.HTML compiles templates as JavaScript.
"""

from __future__ import annotations

import base64
import inspect
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr
import numpy as np
from gradio import processing_utils
from gradio.routes import ORJSONResponse
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
from simpool_viz.images import MOST_LARGE_PIXELS, Picture, open_picture
from simpool_viz.maps.registry import map_methods
from simpool_viz.maps.scale import PERCENTILE, scale_of
from simpool_viz.masks import DINO_CUT, MOST_SMOOTHING, find_level, find_levels, mask_rules, smoothed
from simpool_viz.refinement import LONGEST as REFINED
from simpool_viz.refinement import available_refinements
from simpool_viz.scores.localization import POINTING_RADIUS, THRESHOLDS, centre_prior, score_baselines
from simpool_viz.scores.references import Box, Reference

LONGEST = 1280  # pixels of the display picture
AMOUNTS = [percent / 100 for percent in range(1, 101)]
SMOOTHINGS = [step / 4 for step in range(int(4 * MOST_SMOOTHING) + 1)]  # tokens
HERE = Path(__file__).parent
# One scope, in this order.
SCRIPTS = (
    "dom",
    "base",
    "masks",
    "mask_files",
    "scores",
    "paint",
    "frames",
    "cursor",
    "rows",
    "pins",
    "classes",
    "links",
    "views",
    "blocks",
    "inspect",
    "board",
)


def _first_style() -> dict[str, Any]:
    """How a board is drawn until a visitor changes it, by the defaults of Python: style, and rule of the mask."""
    style, cut = DrawingStyle(), Settings().cut
    return {
        "rule": cut.rule,
        "amount": mask_rules()["mass"].default if cut.amount is None else cut.amount,
        "largest": cut.largest,
        "smoothing": cut.smoothing,
        "boxes": style.boxes,
        "opacity": style.opacity,
        "colours": style.colours,
        "smooth": style.smooth,
        "shared": style.shared_scale,
        "baselines": False,
    }


def _amounts(rule: str) -> list[float | None]:
    """The amounts at which a rule cuts, one None where it takes none."""
    return [None] if mask_rules()[rule].default is None else [*AMOUNTS]


def level_places() -> dict[str, tuple[int, int]]:
    """Where the levels of each mask rule stand within one smoothing's part of `level_table`: first and number."""
    counts = {rule: len(_amounts(rule)) for rule in mask_rules()}
    starts = np.cumsum([0, *counts.values()]).tolist()
    return {rule: (start, count) for (rule, count), start in zip(counts.items(), starts, strict=False)}


FIRST_STYLE = _first_style()
# What the browser draws by, so that no number stands in two languages. Lengths of longer sides in pixels.
DRAWING: dict[str, Any] = {
    "outline": OUTLINE,
    "box": BOX,
    "lines": LINES,
    "speck": SPECK,
    "dimmed": DIMMED,
    "percentile": PERCENTILE / 100,
    "smoothings": SMOOTHINGS,
    "levels": level_places(),
    "thresholds": THRESHOLDS,
    "pointing": POINTING_RADIUS,
    "diverging": DIVERGING,
    "agreement": AGREEMENT,
    "cell": WIDEST,
    "small": WIDEST // 2,
    "large": LONGEST,
    "refined": REFINED,
}


@dataclass
class Sent:
    """What the states of one run share, so that a growing board is not encoded anew.

    Attributes:
        photos: cached file of each photo, by its index.
        rows: each row as the browser gets it, by its index; a board that travels as data has them and no others.
        run: tells the states of this run from all others, so that the browser adds what is new to what it shows.
        begun: when the run began, in seconds, so that it does not replace the board of a later one, whichever ends
            last; 0 for a board that is always shown.
    """

    photos: dict[int, str] = field(default_factory=dict)
    rows: dict[int, Any] = field(default_factory=dict)
    run: str = field(default_factory=lambda: uuid4().hex)
    begun: float = 0


@dataclass(frozen=True)
class Ran:
    """What a board was made of, by which the page makes it again when something is taken away.

    Attributes:
        photos: files.
        checkpoints: names.
        maps: names.
        steps: recordings that are on the board, each photo's one after the other: all of them unless it grows, or its
            run failed or was stopped.
    """

    photos: tuple[str, ...]
    checkpoints: tuple[str, ...]
    maps: tuple[str, ...]
    steps: int = 0

    def payload(self) -> dict[str, Any]:
        """As data for the browser, its photos as files of the app."""
        photos = [{"path": photo, "meta": {"_type": "gradio.FileData"}} for photo in self.photos]
        named = {"checkpoints": list(self.checkpoints), "maps": list(self.maps)}
        return {"photos": photos, **named, "steps": self.steps}


@dataclass(frozen=True)
class BoardState:
    """A board as shown while it grows.

    Attributes:
        board: so far.
        waiting: what is being computed, "" when nothing more is.
        sent: what the states of one run share.
        keys: of each photo, what tells it from others.
        references: payload of the reference of a photo, by that key.
        said: what is announced to screen readers once the board is complete.
        ran: what it was made of; None where nothing of it can be taken away.
    """

    board: Board
    waiting: str = ""
    sent: Sent = field(default_factory=Sent)
    keys: tuple[str, ...] = ()
    references: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: str = ""
    ran: Ran | None = None


def _encode(values: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def level_table(weights: np.ndarray) -> str:
    """The levels of every mask rule, at each of its amounts 0.01 ... 1.00 or the only one, for each of `SMOOTHINGS`.

    One text of all, since Gradio and the browser take time for every object of a state.

    Args:
        weights: (h, w) float.

    Returns:
        Base64 of little-endian float32, in the order of `level_places` for one smoothing after the other.
    """
    grids = [smoothed(weights, sigma) for sigma in SMOOTHINGS]
    return _encode(np.concatenate([find_levels(g, rule, _amounts(rule)) for g in grids for rule in DRAWING["levels"]]))


def grid_payload(weights: np.ndarray, unit: str) -> dict[str, Any]:
    """A map with the scale that it is drawn in, as data for JavaScript.

    Args:
        weights: (h, w) float.
        unit: of the map, as of `scale_of`.
    """
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
    """What the browser needs of a row: grid, levels, caption, figures.

    Args:
        board: the row's.
        row: the row.
        index: its place on the board.
    """
    values = {figure.name: figure.value(row) for figure in ROW_FIGURES.values()}
    return {
        "id": f"board-row-{index}",
        "file": row_name(board, row),
        "picture": row.picture,
        "checkpoint": row.checkpoint,
        "name": row.request.label,
        "title": row.title,
        "map": row.map_title,
        # Without the lines about the mask and its scores: they change with the style, so the browser writes them.
        "lines": row.fixed_lines,
        "finds": row.finding,
        "classifies": row.prediction is not None,
        "of_class": "classes" in inspect.signature(map_methods()[row.attention.method].make).parameters,
        "constant": row.mask_line if row.mask.constant else "",
        "figures": {name: value for name, value in values.items() if value is not None},
        "about": [asdict(explanation) for explanation in explain_row(row)],
        "levels": level_table(row.mask.weights),
        **grid_payload(row.mask.weights, row.attention.unit),
    }


@dataclass(frozen=True)
class Given:
    """A reference, at the size at which it is scored.

    Attributes:
        reference: itself.
        origin: where it is from, as the page says it.
        boxes: (x0, y0, x1, y1) in pixels of the photo, where it is made of boxes.
        own: whether a visitor gave it.
    """

    reference: Reference
    origin: str
    boxes: tuple[Box, ...] = ()
    own: bool = True


def reference_payload(given: Given) -> dict[str, Any]:
    """A reference as the board's JavaScript reads it: runs of pixels that are 0 outside, 1 object, 2 void, row by row;
    and the baselines, whose figures do not depend on any map."""
    reference = given.reference
    kinds = np.where(reference.void, 2, reference.objects).astype(np.uint8).ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(kinds)) + 1])
    lengths = np.diff(np.concatenate([starts, [kinds.size]])).astype("<u4")
    scores = score_baselines(reference)
    prior = find_level(centre_prior(reference.size), DINO_CUT.rule, DINO_CUT.amount)
    levels = {"centre prior": prior, "whole picture": 1.0}
    return {
        "size": list(reference.size),
        "lengths": base64.b64encode(lengths.tobytes()).decode(),
        "values": base64.b64encode(kinds[starts].tobytes()).decode(),
        "origin": given.origin,
        "boxes": [list(box) for box in given.boxes],
        "own": given.own,
        "baselines": {name: {"level": levels[name], "scores": scores[name]} for name in scores},
    }


class BoardView(gr.HTML):
    """Shows a `BoardState`.

    Events, each with what it carries: `inspect`, the row to open in Inspect (picture, checkpoint, map); `curves`, the
    row whose insertion and deletion are asked for (the same, and the photo's key); `classes`, the row for which another
    class is asked for (id, key, checkpoint, map, and the class once it is chosen); `reference`, boxes drawn on a photo
    (picture, key, boxes); `refine`, a mask to be moved to the edges of its photo (key, method, size and counts as in
    `run_lengths`).
    """

    def __init__(self, value: Any = None, kind: str = "compare", **kwargs: Any) -> None:
        super().__init__(
            value=value,
            html_template='<div class="simpool-board"></div>',
            css_template="",
            js_on_load="\n".join((HERE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS),
            apply_default_css=False,
            kind=kind,
            style=FIRST_STYLE,
            figures={figure.name: figure.title for figure in ROW_FIGURES.values()},
            drawing=DRAWING,
            refinements={method.name: method.title for method in available_refinements().values()},
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
                sent.rows[index] = self.sent_row(row_payload(board, row, index))
        keys = value.keys or [f"photo {index}" for index in range(len(board.pictures))]
        own = {
            keys[i]: reference_payload(Given(one, "the reference mask", own=False))
            for i, one in board.references.items()
            if keys[i] not in value.references
        }
        photos = [self.photo_payload(picture, index, sent) for index, picture in enumerate(board.pictures)]
        return {
            "photos": [{**photo, "key": key} for photo, key in zip(photos, keys, strict=True)],
            "references": own | value.references,
            "rows": [sent.rows[index] for index in sorted(sent.rows)],
            "skipped": board.skipped,
            "waiting": value.waiting,
            "said": value.said,
            "run": sent.run,
            "begun": sent.begun,
            "ran": value.ran and value.ran.payload(),
        }

    def sent_row(self, payload: dict[str, Any]) -> Any:
        """A row as text: Gradio compares, copies and watches every object of every state of a growing board."""
        return bytes(ORJSONResponse(payload).body).decode()  # as Gradio itself writes it: what is not finite is null

    def photo_payload(self, picture: Picture, index: int, sent: Sent) -> dict[str, Any]:
        """A photo as a cached file with its original size in pixels."""
        if not Path(sent.photos.get(index, "")).is_file():  # not yet written, or deleted since
            shown = Image.fromarray(display_picture(picture.rgb, LONGEST))
            sent.photos[index] = processing_utils.save_pil_to_cache(
                shown, self.GRADIO_CACHE, name="photo", format="jpeg"
            )
        photo = {"path": sent.photos[index], "meta": {"_type": "gradio.FileData"}}
        return {"title": picture.name, "size": list(picture.size), "photo": photo}

    def api_info(self) -> dict[str, Any]:
        return {
            "type": "object",
            "description": "photos, rows as JSON with base64 float32 grids and mask levels, captions",
        }


class Photo(gr.Image):
    """A picture input whose value is the path of the uploaded file, which `read_picture` reads and checks."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:  # type: ignore[override]
        return None if payload is None else payload.path


class Painting(gr.ImageEditor):
    """A canvas to paint on. Its layers reach no other decoder than those of `open_picture`; Gradio's own opens any."""

    is_template = True

    @event_handler
    def preprocess(self, payload: Any) -> Any:
        return super().preprocess(payload)

    def convert_and_format_image(self, file: Any, flatten_on_white: bool = False) -> np.ndarray | None:
        """A layer (H, W, 4) uint8; the transparency of all of them is kept."""
        if file is None:
            return None
        source = BytesIO(file) if isinstance(file, (bytes, bytearray, memoryview)) else Path(file.path)
        with open_picture(source, "what is painted", MOST_LARGE_PIXELS) as image:
            return np.asarray(image.convert("RGBA"))
