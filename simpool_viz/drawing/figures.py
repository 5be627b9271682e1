"""Figures that compare the rows of a board: the matrix of papers, the agreement of masks, a difference of two maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from simpool_viz.board.board import Board, Row
from simpool_viz.board.comparison import agreement, difference
from simpool_viz.board.inspection import exponent_groups
from simpool_viz.board.segmentation import percent, segment
from simpool_viz.drawing.board_picture import FAINT, INK, PAPER, font, wrap
from simpool_viz.drawing.pixels import (
    AGREEMENT,
    DIVERGING,
    WIDEST,
    DrawingStyle,
    colour_map,
    colour_table,
    display_picture,
    overlay,
    palette,
)
from simpool_viz.drawing.render import render_row, row_scales
from simpool_viz.errors import MapError
from simpool_viz.images import Picture
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.scale import scale_of, symmetric_scale
from simpool_viz.outputs import csv_text
from simpool_viz.recording import Recording

# In pixels.
CELL = 220  # longer side of a cell
GAP = 10  # between cells
LABEL = 150  # width of a label
LEGEND = 22  # height of a legend's line


def matrix_columns(board: Board) -> list[tuple[str, str]]:
    """(checkpoint, map label) of each column of the matrix, in the order of the rows."""
    return list(dict.fromkeys((row.checkpoint, row.request.label) for row in board.rows))


def draw_matrix(board: Board, style: DrawingStyle | None = None) -> Image.Image:
    """Photos down, checkpoints and maps across, an overlay in every cell.

    Args:
        board: with at least one row; a checkpoint without the map leaves its cell empty.
        style: how maps are drawn; the default style where None.

    Returns:
        An RGB picture.
    """
    style = style or DrawingStyle()
    columns, scales = matrix_columns(board), row_scales(board, style)
    cells = {
        (row.picture, row.checkpoint, row.request.label): render_row(board, row, scale, style, CELL)[0]
        for row, scale in zip(board.rows, scales, strict=True)
    }
    titles = {(row.checkpoint, row.request.label): row.title for row in board.rows}
    heads = [wrap(title, 14, CELL) for title in ("Photo", *(titles[c] for c in columns))]
    top = GAP + 18 * max(map(len, heads)) + 8
    photos = [display_picture(picture.rgb, CELL) for picture in board.pictures]
    height = sum(photo.shape[0] + GAP for photo in photos)
    figure = Image.new("RGB", (GAP + len(heads) * (CELL + GAP), top + height), PAPER)
    draw, y = ImageDraw.Draw(figure), top
    for n, text in enumerate(heads):
        draw.multiline_text((GAP + n * (CELL + GAP), GAP), "\n".join(text), INK, font(14), spacing=2)
    for index, photo in enumerate(photos):
        for n, cell in enumerate([photo, *(cells.get((index, *column)) for column in columns)]):
            if cell is not None:
                figure.paste(Image.fromarray(cell), (GAP + n * (CELL + GAP) + (CELL - cell.shape[1]) // 2, y))
        y += photo.shape[0] + GAP
    return figure


def draw_parts(
    picture: Picture,
    attention: AttentionMap,
    groups: Sequence[tuple[str, list[int]]],
    style: DrawingStyle | None = None,
) -> Image.Image:
    """A gallery of the single maps of an AttentionMap: heads by scale, queries, slots.

    Args:
        picture: under the maps.
        attention: M maps (M, h, w).
        groups: (title, indices of maps), each on lines of its own.
        style: how maps are drawn; the default style where None.

    Returns:
        An RGB picture.
    """
    style, photo, tops = style or DrawingStyle(), display_picture(picture.rgb, CELL), []
    size, line = (photo.shape[1], photo.shape[0]), photo.shape[0] + 24 + GAP
    per_line = min(6, max(len(indices) for _, indices in groups))
    height = GAP
    for title, indices in groups:
        tops.append(height + (26 if title else 0))
        height = tops[-1] + -(-len(indices) // per_line) * line
    figure = Image.new("RGB", (GAP + per_line * (size[0] + GAP), height), PAPER)
    draw = ImageDraw.Draw(figure)
    for (title, indices), top in zip(groups, tops, strict=True):
        if title:
            draw.text((GAP, top - 22), title, INK, font(15))
        for n, i in enumerate(indices):
            scale = scale_of(attention.weights[i], attention.unit)
            x, y = GAP + n % per_line * (size[0] + GAP), top + n // per_line * line
            colours = colour_map(attention.weights[i], scale, attention.signed, style, size)
            figure.paste(Image.fromarray(overlay(photo, colours, style.opacity)), (x, y))
            draw.text(
                (x, y + size[1] + 4), f"{attention.names[i]}: 0 to {scale.high:.2g} {scale.label}", FAINT, font(12)
            )
    return figure


def draw_agreement(values: np.ndarray, titles: Sequence[str], heading: str = "") -> Image.Image:
    """The IoU of all pairs of masks as a table of coloured cells.

    Args:
        values: (n, n) in [0, 1].
        titles: n titles of the masks.
        heading: what stands above the table, such as the picture's name.

    Returns:
        An RGB picture.
    """
    side, text = 64, [wrap(f"{i + 1}  {title}", 13, 2 * LABEL) for i, title in enumerate(titles)]
    left, top = GAP + 2 * LABEL + GAP, 58
    figure = Image.new("RGB", (left + side * len(titles) + GAP, top + side * len(titles) + GAP), PAPER)
    draw, table = ImageDraw.Draw(figure), colour_table(AGREEMENT)
    draw.text((GAP, 12), f"IoU of the object masks{f', {heading}' if heading else ''}", INK, font(16))
    for i, lines in enumerate(text):
        draw.multiline_text((GAP, top + i * side + side // 2), "\n".join(lines), INK, font(13), anchor="lm", spacing=2)
        draw.text((left + i * side + side // 2, top - 8), str(i + 1), FAINT, font(13), anchor="mb")
        for j, value in enumerate(values[i]):
            x, y = left + j * side, top + i * side
            draw.rectangle((x, y, x + side - 2, y + side - 2), tuple(int(c) for c in table[round(255 * value)]))
            ink = INK if value > 0.6 else PAPER
            draw.text((x + side // 2 - 1, y + side // 2), f"{value:.2f}", ink, font(14), anchor="mm")
    return figure


def agreement_figure(board: Board) -> Image.Image:
    """`draw_agreement` of every photo of a board, one below the other, as one RGB picture."""
    parts = []
    for index, picture in enumerate(board.pictures):
        rows = [row for row in board.rows if row.picture == index]
        parts.append(draw_agreement(agreement([row.mask for row in rows]), [row.title for row in rows], picture.name))
    whole = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts)), PAPER)
    for i, part in enumerate(parts):
        whole.paste(part, (0, sum(p.height for p in parts[:i])))
    return whole


def draw_curves(board: Board) -> Image.Image:
    """Insertion and deletion of every row that has them, as one RGB picture: a pair of plots for each photo."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [index for index in range(len(board.pictures)) if any(r.picture == index and r.curves for r in board.rows)]
    if not shown:
        raise MapError("no row has insertion and deletion: they need a classifier, and steps (--faithfulness)")
    figure = Figure(figsize=(10, 3.4 * len(shown)), layout="constrained")
    plots = figure.subplots(len(shown), 2, sharey="row", squeeze=False)
    for line, index in zip(plots, shown, strict=True):
        for row in board.rows:
            if row.picture != index or row.curves is None:
                continue
            for plot, kind in zip(line, ("deletion", "insertion"), strict=True):
                label = f"{row.title}: {row.curves.areas[kind]:.2f}"
                plot.plot(100 * row.curves.shares, getattr(row.curves, kind), label=label)
        for plot, kind, best in zip(line, ("Deletion", "Insertion"), ("lowest", "highest"), strict=True):
            plot.set(title=f"{kind}, {board.pictures[index].name} (area, {best} is best)", xlim=(0, 100), ylim=(0, 1))
            plot.set(xlabel=f"% of the pixels {'deleted' if kind == 'Deletion' else 'inserted'}, heaviest first")
            plot.grid(alpha=0.3)
            plot.legend(fontsize="small", frameon=False)
        line[0].set_ylabel("probability of the class")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())


def draw_exponents(recording: Recording) -> Image.Image:
    """The exponents of GeM or GGeM by channel group, and how many positions each group pools on the picture.

    Args:
        recording: of a checkpoint with such a pooling.

    Returns:
        An RGB picture of two plots with a bar for each group.

    Raises:
        MapError: another pooling, which has no exponents.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups, count = exponent_groups(recording), recording.tokens.patches.shape[1]
    names = [f"{first}-{end - 1}" for first, end in (group.channels for group in groups)]
    figure = Figure(figsize=(8, 1.6 + 0.3 * len(groups)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for plot, values, title in (
        (left, [group.exponent for group in groups], "Exponent p (1 averages)"),
        (right, [group.positions for group in groups], f"Positions pooled, of {count}, {recording.picture.name}"),
    ):
        bars = plot.barh(names, values, color="#c2410c")
        plot.bar_label(bars, [f"{value:.3g}" for value in values], padding=3)
        plot.set(title=title, xlim=(0, 1.15 * max(values)))
        plot.title.set_fontsize("medium")
        plot.grid(axis="x", alpha=0.3)
    left.invert_yaxis()
    left.set_ylabel("channels")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())


def agreement_table(board: Board) -> str:
    """The agreement of a board's masks as CSV: photo, checkpoint and map of either row, IoU; each pair once."""
    records, columns = [], ("picture", "checkpoint", "map", "other_checkpoint", "other_map", "iou")
    for index, picture in enumerate(board.pictures):
        rows = [row for row in board.rows if row.picture == index]
        values = agreement([row.mask for row in rows])
        for i, one in enumerate(rows):
            for j, other in enumerate(rows[i + 1 :], i + 1):
                pair = [one.checkpoint, one.request.label, other.checkpoint, other.request.label]
                line = [picture.name, *pair, f"{values[i, j]:.4f}"]
                records.append(dict(zip(columns, line, strict=True)))
    return csv_text(records, columns)


def draw_difference(
    board: Board, first: Row, second: Row, style: DrawingStyle | None = None, longest: int = WIDEST
) -> Image.Image:
    """The first map minus the second over the photo: red where the first is stronger, blue where the second is.

    Args:
        board: the board of both rows.
        first: a row.
        second: another row of the same picture.
        style: opacity and smoothing; the default style where None.
        longest: pixels of the longer side of the photo as drawn.

    Returns:
        An RGB picture.

    Raises:
        OptionError: maps of different pictures.
        MapError: maps that have no difference, as in `comparison.difference`.
    """
    style = style or DrawingStyle()
    rgb = display_picture(board.pictures[first.picture].rgb, longest)
    values = difference(first, second, style.smooth, (rgb.shape[1], rgb.shape[0]))
    scale = symmetric_scale(values, scale_of(first.mask.weights, first.attention.unit).label)
    table = colour_table(DIVERGING)
    share = ((values - scale.low) / (scale.high - scale.low) * 255).clip(0, 255).round().astype(np.uint8)
    height, width = rgb.shape[:2]
    lines = [*wrap(f"{first.title}, minus", 14, width), *wrap(second.title, 14, width)]
    top = GAP + 19 * len(lines) + 6
    figure = Image.new("RGB", (width + 2 * GAP, top + height + 48), PAPER)
    draw = ImageDraw.Draw(figure)
    draw.multiline_text((GAP, GAP), "\n".join(lines), INK, font(14), spacing=3)
    figure.paste(Image.fromarray(overlay(rgb, table[share], style.opacity)), (GAP, top))
    bar = table[np.linspace(0, 255, width).astype(int)][None].repeat(10, 0)
    figure.paste(Image.fromarray(bar), (GAP, top + height + 8))
    for x, value, anchor in ((GAP, scale.low, "la"), (GAP + width // 2, 0.0, "ma"), (GAP + width, scale.high, "ra")):
        draw.text(
            (x, top + height + 22),
            f"{value:.3g}" + (f" {scale.label}" if value == 0 else ""),
            FAINT,
            font(12),
            anchor=anchor,
        )
    return figure


def draw_segmentation(recording: Recording, longest: int = WIDEST, opacity: float = 0.6) -> Image.Image:
    """The segmentation over the photo, and a legend of the classes found with their shares.

    Args:
        recording: of a dense checkpoint.
        longest: pixels of the longer side of the photo as drawn.
        opacity: of the classes' colours, in [0, 1].

    Returns:
        An RGB picture.

    Raises:
        MapError: the checkpoint's head does not classify tokens.
    """
    found, photo = segment(recording), display_picture(recording.picture.rgb, longest)
    height, width = photo.shape[:2]
    colours, shares = palette(len(found.names)), found.shares()
    painted = overlay(photo, colours[found.pixels((width, height))], opacity)
    side = 200
    figure = Image.new("RGB", (width + side + 3 * GAP, max(height, LEGEND * len(found.found())) + 2 * GAP), PAPER)
    figure.paste(Image.fromarray(painted), (GAP, GAP))
    draw, x = ImageDraw.Draw(figure), width + 2 * GAP
    for n, index in enumerate(found.found()):
        y = GAP + n * LEGEND
        draw.rectangle((x, y + 2, x + 14, y + 16), tuple(int(v) for v in colours[index]))
        draw.text((x + 22, y), found.names[index], INK, font(14))
        draw.text((x + side - GAP, y), percent(shares[index]), FAINT, font(14), anchor="ra")
    return figure
