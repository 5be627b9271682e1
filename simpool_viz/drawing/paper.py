"""A board as a figure for a paper: photos, maps and masks in a grid as wide as a column, with vector text and bars."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simpool_viz.board.board import Board, Row
from simpool_viz.drawing.board_picture import wrap
from simpool_viz.drawing.figures import matrix_columns
from simpool_viz.drawing.pixels import DIVERGING, DrawingStyle, colour_table, display_picture
from simpool_viz.drawing.render import render_row, row_scales
from simpool_viz.errors import MapError, OptionError
from simpool_viz.maps.scale import Scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In inches, of the two-column templates of CVPR, ICCV and IEEE: a column, and the text.
WIDTHS = {"one": 3.25, "two": 6.875}
FORMATS = ("pdf", "svg", "png")
PICTURES = ("overlay", "mask")
CAPTIONS = {
    "checkpoint": "the checkpoint's title",
    "map": "the map's title",
    "photo": "the photo's name",
    "prediction": "what the head finds",
    "coverage": "what the mask covers",
    "iou": "IoU with the reference",
    "entropy": "spatial entropy",
}
_OVER = ("checkpoint", "map")  # of these captions a matrix has one for each column
TEXT, SMALL = 7.0, 6.0  # points
LEAST = 1.0  # inches of a cell's width, under which cells move to a further line
GAP, BAR, HEAD = 0.05, 0.05, 0.03  # inches between cells, of a colour bar's height, and above all
DPI = 300  # of the pictures in the figure, and of a PNG


@dataclass(frozen=True)
class _Cell:
    """A column of the figure on one photo: captions above, pictures, captions below, and the bar of its colours."""

    above: list[str]
    pictures: list[np.ndarray]
    below: list[str]
    bar: tuple[Scale, str] | None


def paper_figure(
    board: Board,
    style: DrawingStyle | None = None,
    *,
    width: str = "two",
    pictures: Sequence[str] = ("overlay",),
    captions: Sequence[str] = ("checkpoint", "map"),
) -> Figure:
    """Photos down, checkpoints and maps across; what does not fit beside each other goes on below.

    Each map has its colour bar with its unit; a shared scale has a single one below all.

    Args:
        board: with at least one row.
        style: how maps are drawn; the default style where None.
        width: a name of `WIDTHS`.
        pictures: what is shown of each row, of "overlay" and "mask".
        captions: names of `CAPTIONS`, in any order; none for bare pictures.

    Returns:
        A matplotlib figure on white, exactly as wide as asked for, which `figure_file` writes.

    Raises:
        OptionError: an unknown width, picture or caption.
        MapError: the board has no rows.

    Examples:
        >>> from pathlib import Path
        >>> from simpool_viz import load_checkpoint, make_board
        >>> from simpool_viz.drawing.paper import figure_file, paper_figure
        >>> board = make_board(["cat.jpg"], [load_checkpoint("resnet_simpool")], ["simpool"])
        >>> figure = paper_figure(board, width="one", pictures=["overlay", "mask"])
        >>> count = Path("cat.pdf").write_bytes(figure_file(figure, "pdf"))
    """
    check_figure(width, pictures, captions)
    if not board.rows:
        raise MapError("the board has no row yet, so there is no figure of it")
    style, columns = style or DrawingStyle(), matrix_columns(board)
    count = len(columns) + 1
    per_line = min(count, max(2, int((WIDTHS[width] + GAP) / (LEAST + GAP))))
    lines = -(-count // per_line)
    per_line = -(-count // lines)
    cell_width = (WIDTHS[width] - GAP * (per_line - 1)) / per_line
    pixels = round(DPI * cell_width)
    scales = row_scales(board, style)
    cells = {
        (row.picture, row.checkpoint, row.request.label): (row, scale)
        for row, scale in zip(board.rows, scales, strict=True)
    }
    shared = style.shared_scale
    blocks: list[list[_Cell | None]] = []
    for index, picture in enumerate(board.pictures):
        photo = display_picture(picture.rgb, _longest(picture.size, pixels))
        name = [picture.name] if "photo" in captions else []
        line: list[_Cell | None] = [_Cell([], [photo], name, None)]
        for column in columns:
            found = cells.get((index, *column))
            line.append(None if found is None else _cell(board, *found, style, pictures, captions, pixels, shared))
        for start in range(0, count, per_line):
            part = line[start : start + per_line]
            if any(part):
                blocks.append(part)
    heads_once = lines == 1
    if heads_once:  # a matrix: the heads of its columns stand once
        blocks = [_titled(block, blocks, i == 0) for i, block in enumerate(blocks)]
    bars = _shared_bars(board, scales, style) if shared else []
    return _draw(blocks, cell_width, WIDTHS[width], bars)


def check_figure(width: str, pictures: Sequence[str], captions: Sequence[str]) -> None:
    """Check what a figure is asked for, before anything is computed.

    Raises:
        OptionError: an unknown width, picture or caption.
    """
    if width not in WIDTHS:
        raise OptionError(f"a figure is {' or '.join(WIDTHS)} columns wide, not {width!r}")
    for given, known, what in ((pictures, PICTURES, "a figure shows"), (captions, CAPTIONS, "captions are")):
        for name in given:
            if name not in known:
                raise OptionError(f"{what} {', '.join(known)}, not {name!r}")
    if not pictures:
        raise OptionError(f"a figure shows at least one of {', '.join(PICTURES)}")


def figure_file(figure: Figure, form: str) -> bytes:
    """A figure as a file: text stays text in SVG and PDF, and the same figure gives the same bytes.

    Args:
        figure: from `paper_figure`.
        form: one of `FORMATS`.

    Raises:
        OptionError: another format.
    """
    import matplotlib

    if form not in FORMATS:
        raise OptionError(f"a figure is written as {', '.join(FORMATS)}, not {form!r}")
    out, dates = io.BytesIO(), {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    with matplotlib.rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "simpool_viz"}):
        figure.savefig(out, format=form, dpi=DPI, metadata=dates[form])  # type: ignore[arg-type]
    return out.getvalue()


def _longest(size: tuple[int, int], width: int) -> int:
    """Pixels of the longer side of a picture that fills a cell of a width, and is no higher than half as much again."""
    wide, high = size
    return round(min(width * max(1.0, high / wide), 1.5 * width))


def _cell(
    board: Board,
    row: Row,
    scale: Scale,
    style: DrawingStyle,
    pictures: Sequence[str],
    captions: Sequence[str],
    pixels: int,
    shared: bool,
) -> _Cell:
    longest = _longest(board.pictures[row.picture].size, pixels)
    drawn = dict(zip(PICTURES, render_row(board, row, scale, style, longest), strict=True))
    above = [{"checkpoint": row.checkpoint_title, "map": row.map_label}[name] for name in _OVER if name in captions]
    below = {
        "prediction": row.finding or "no probable class",
        "coverage": f"mask {100 * row.mask.coverage:.0f} %",
        "iou": f"IoU {row.scores['iou']:.2f}" if "iou" in row.scores else "",
        "entropy": f"entropy {row.entropy:.2f} nats",
    }
    texts = [text for name, text in below.items() if name in captions and text]
    bar = None if shared or "overlay" not in pictures else (scale, _colours(row, style))
    return _Cell(above, [drawn[name] for name in PICTURES if name in pictures], texts, bar)


def _colours(row: Row, style: DrawingStyle) -> str:
    return DIVERGING if row.attention.signed else style.colours


def _titled(block: list[_Cell | None], blocks: list[list[_Cell | None]], first: bool) -> list[_Cell | None]:
    """A line of a matrix: the first has the heads of all columns, also of those that have no cell in it."""
    heads = [next((other[n].above for other in blocks if other[n]), []) for n in range(len(block))]  # type: ignore[union-attr]
    empty = _Cell([], [], [], None)
    return [_replaced(cell or empty, heads[n] if first else []) for n, cell in enumerate(block)]


def _replaced(cell: _Cell, above: list[str]) -> _Cell:
    return _Cell(above, cell.pictures, cell.below, cell.bar)


def _shared_bars(board: Board, scales: list[Scale], style: DrawingStyle) -> list[tuple[Scale, str]]:
    """The scales of the whole board, each once."""
    bars: dict[str, tuple[Scale, str]] = {}
    for row, scale in zip(board.rows, scales, strict=True):
        bars.setdefault(scale.label, (scale, _colours(row, style)))
    return list(bars.values())


def _lines(texts: Sequence[str], size: float, width: float) -> list[str]:
    """Texts in lines that are no wider than some inches."""
    return [line for text in texts for line in wrap(text, round(10 * size), round(720 * width))]


def _draw(blocks: list[list[_Cell | None]], cell_width: float, width: float, shared: list[tuple[Scale, str]]) -> Figure:
    from matplotlib.figure import Figure

    heights = [_block_heights(block, cell_width) for block in blocks]
    foot = 0.36 if shared else 0.0
    total = sum(sum(parts) for parts in heights) + GAP * (len(blocks) - 1) + foot + HEAD
    figure = Figure(figsize=(width, total), facecolor="white")
    page = _Page(figure, width, total)
    top = HEAD
    for block, (above, pictures, bars, below) in zip(blocks, heights, strict=True):
        for n, cell in enumerate(block):
            if cell is None:
                continue
            x, y, title = n * (cell_width + GAP), top + above, _lines(cell.above, TEXT, cell_width)
            page.text(x, y - _height(title, TEXT), title, TEXT, cell_width)
            for picture in cell.pictures:
                y += page.picture(x, y, picture, cell_width) + GAP
            if cell.bar:
                page.bar(x, top + above + pictures, *cell.bar, cell_width)
                y = top + above + pictures + bars
            page.text(x, y, _lines(cell.below, SMALL, cell_width), SMALL, cell_width)
        top += above + pictures + bars + below + GAP
    for n, (scale, colours) in enumerate(shared):
        part = (width - GAP * (len(shared) - 1)) / len(shared)
        page.bar(n * (part + GAP), total - foot + 0.04, scale, colours, part)
    return figure


_BAR_HEIGHT = BAR + 2 * SMALL * 1.25 / 72 + 0.03


def _height(lines: Sequence[str], size: float) -> float:
    """Inches that lines of text take."""
    return len(lines) * size * 1.25 / 72 + (0.03 if lines else 0.0)


def _shown_height(picture: np.ndarray, cell_width: float) -> float:
    return min(cell_width * picture.shape[0] / picture.shape[1], 1.5 * cell_width)


def _block_heights(block: list[_Cell | None], cell_width: float) -> tuple[float, float, float, float]:
    """Inches of the captions above, of the pictures, of the bars, and of the captions below a line of cells."""
    cells = [cell for cell in block if cell is not None]
    above = max(_height(_lines(c.above, TEXT, cell_width), TEXT) for c in cells)
    pictures = max(sum(_shown_height(p, cell_width) + GAP for p in c.pictures) for c in cells)
    bars = _BAR_HEIGHT if any(c.bar for c in cells) else 0.0
    below = max(_height(_lines(c.below, SMALL, cell_width), SMALL) for c in cells)
    return above, pictures, bars, below


@dataclass(frozen=True)
class _Page:
    """Draws on a figure in inches from its upper left corner."""

    figure: Any
    width: float
    height: float

    def _axes(self, x: float, y: float, width: float, height: float) -> Any:
        place = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(place)
        axes.set_axis_off()
        return axes

    def picture(self, x: float, y: float, picture: np.ndarray, cell_width: float) -> float:
        """Draw a picture in the middle of its cell; returns its height."""
        high = _shown_height(picture, cell_width)
        wide = high * picture.shape[1] / picture.shape[0]
        axes = self._axes(x + (cell_width - wide) / 2, y, wide, high)
        axes.imshow(picture, interpolation="none", aspect="auto")
        return high

    def text(self, x: float, y: float, lines: Sequence[str], size: float, cell_width: float) -> None:
        for n, line in enumerate(lines):
            middle, top = (x + cell_width / 2) / self.width, 1 - (y + n * size * 1.25 / 72) / self.height
            self.figure.text(middle, top, line, size=size, ha="center", va="top", color="black")

    def bar(self, x: float, y: float, scale: Scale, colours: str, width: float) -> None:
        axes = self._axes(x, y, width, BAR)
        axes.imshow(colour_table(colours)[None], interpolation="none", aspect="auto")
        below = 1 - (y + BAR + 0.02) / self.height
        for share, value, side in ((0.0, scale.low, "left"), (1.0, scale.high, "right")):
            at = (x + share * width) / self.width
            self.figure.text(at, below, f"{value:.3g}".replace("-", "−"), size=SMALL, ha=side, va="top", color="black")
        middle = (x + width / 2) / self.width
        under = below - (SMALL * 1.25 / 72 if width < 2 else 0) / self.height
        self.figure.text(middle, under, scale.label, size=SMALL, ha="center", va="top", color="black")
