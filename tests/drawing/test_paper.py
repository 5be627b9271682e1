"""The figure for a paper: its width, its cells, its words as text, its pictures those of the board."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from simpool_viz import Board, MapError, OptionError, Settings, make_board
from simpool_viz.drawing.paper import CAPTIONS, FORMATS, WIDTHS, figure_file, paper_figure
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.drawing.render import render_row, row_scales
from simpool_viz.modeling.encoder import Encoder


@pytest.fixture(scope="module")
def board(photos: dict[str, Path], resnet: Encoder, resnet_gap: Encoder) -> Board:
    return make_board([photos["wide"], photos["tall"]], [resnet, resnet_gap], ["own", "contribution"])


def words(figure: object) -> list[str]:
    return [text.get_text() for text in figure.texts]  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_figure_is_as_wide_as_the_column_and_everything_lies_in_it(width: str, board: Board) -> None:
    figure = paper_figure(board, width=width, pictures=["overlay", "mask"], captions=list(CAPTIONS))
    assert figure.get_size_inches()[0] == WIDTHS[width]
    png = Image.open(io.BytesIO(figure_file(figure, "png")))
    assert png.width == int(WIDTHS[width] * 300)
    height = figure.get_size_inches()[1]
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(box.x0 >= -1e-9 and box.x1 <= 1 + 1e-9 and box.y0 >= 0 and box.y1 <= 1 for box in boxes)
    renderer = FigureCanvasAgg(figure).get_renderer()
    drawn = [text.get_window_extent(renderer) for text in figure.texts]
    dots = figure.dpi
    assert all(one.y0 >= -1 and one.y1 <= height * dots + 1 for one in drawn)
    assert not any(one.overlaps(other) for i, one in enumerate(drawn) for other in drawn[i + 1 :]), "words overlap"


def test_words_stay_words_in_svg_and_fonts_are_embedded_in_pdf(board: Board) -> None:
    figure = paper_figure(board, captions=["checkpoint", "map", "photo"])
    svg = figure_file(figure, "svg").decode()
    for text in ("Contribution", "times uniform", "logit per token", "wide.png"):
        assert f">{text}</text>" in svg
    assert svg.count("<image") == len(figure.axes)
    pdf = figure_file(figure, "pdf")
    assert b"/Type0" in pdf and b"/Type3" not in pdf, "letters are outlines of Type 3"
    assert pdf == figure_file(paper_figure(board, captions=["checkpoint", "map", "photo"]), "pdf")


def test_cells_are_the_pictures_of_the_board_with_its_masks_and_colours(board: Board) -> None:
    style = DrawingStyle("viridis", 0.4, smooth=False)
    figure = paper_figure(board, style, pictures=["overlay", "mask"])
    shown = [axes.images[0].get_array() for axes in figure.axes]
    scales = row_scales(board, style)
    for row, scale in zip(board.rows, scales, strict=True):
        sizes = {(p.shape[0], p.shape[1]) for p in shown}
        longest = {max(size) for size in sizes if size[0] > 1}
        drawn = [part for n in longest for part in render_row(board, row, scale, style, n)]
        found = [any(np.array_equal(part, one) for one in shown) for part in drawn]
        assert sum(found) >= 2, row.title


def test_each_map_has_a_bar_with_its_unit_and_a_shared_scale_has_one_for_each_unit(board: Board) -> None:
    units = [scale.label for scale in row_scales(board, DrawingStyle())]
    assert sorted(w for w in words(paper_figure(board)) if w in set(units)) == sorted(units)
    shared = words(paper_figure(board, DrawingStyle(shared_scale=True)))
    assert sorted(w for w in shared if w in set(units)) == sorted(set(units))


def test_captions_are_those_that_were_chosen(board: Board) -> None:
    assert not [w for w in words(paper_figure(board, DrawingStyle(shared_scale=True), captions=())) if "mask" in w]
    found = words(paper_figure(board, captions=["coverage"]))
    assert [w for w in found if w.startswith("mask")].count(f"mask {100 * board.rows[0].mask.coverage:.0f} %") >= 1
    assert "Contribution" not in found


def test_what_no_figure_can_be_is_refused(board: Board) -> None:
    for given, sentence in (
        ({"width": "three"}, "one or two columns wide, not 'three'"),
        ({"pictures": ["map"]}, "shows overlay, mask, not 'map'"),
        ({"pictures": []}, "at least one of overlay, mask"),
        ({"captions": ["title"]}, "captions are checkpoint"),
    ):
        with pytest.raises(OptionError, match=sentence):
            paper_figure(board, **given)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=f"written as {', '.join(FORMATS)}, not 'eps'"):
        figure_file(paper_figure(board), "eps")
    with pytest.raises(MapError, match="no row yet"):
        paper_figure(Board(board.pictures, [], {}, [], Settings()))


def test_a_pdf_read_back_has_its_words_as_text_and_its_maps_as_pictures(board: Board) -> None:
    pdfium = pytest.importorskip("pypdfium2")
    figure = paper_figure(board, width="one", pictures=["overlay", "mask"], captions=list(CAPTIONS))
    document = pdfium.PdfDocument(figure_file(figure, "pdf"))
    (page,) = document
    assert page.get_width() == pytest.approx(72 * WIDTHS["one"])
    text = " ".join(page.get_textpage().get_text_range().split())
    for caption in {line for line in words(figure) if line.strip()}:
        assert " ".join(caption.split()) in text
    kinds = [thing.type for thing in page.get_objects()]
    image, path = pdfium.raw.FPDF_PAGEOBJ_IMAGE, pdfium.raw.FPDF_PAGEOBJ_PATH
    assert kinds.count(image) == len(figure.axes), "each map, mask and colour bar is one embedded picture"
    assert kinds.count(path) <= 2, "nothing but the ground is drawn by lines"
    drawn = np.asarray(page.render(scale=2).to_pil().convert("RGB"))
    assert (drawn[0] == 255).all() and drawn.std() > 20


def test_an_svg_has_its_maps_as_embedded_png_and_fetches_nothing(board: Board) -> None:
    from xml.etree import ElementTree

    svg = ElementTree.fromstring(figure_file(paper_figure(board, captions=list(CAPTIONS)), "svg"))
    name = "{http://www.w3.org/2000/svg}"
    images = list(svg.iter(f"{name}image"))
    links = [one.get("{http://www.w3.org/1999/xlink}href") or "" for one in images]
    assert images and all(link.startswith("data:image/png;base64,") for link in links)
    texts = {"".join(one.itertext()) for one in svg.iter(f"{name}text")}
    assert {"wide.png", "tall.png"} <= texts and not list(svg.iter(f"{name}script"))
