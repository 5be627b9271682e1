"""What a notebook shows of each value: a small picture, a caption in which names are escaped, and nothing of a board
without rows."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simpool_viz import Board, Recording, Settings, make_board, record
from simpool_viz.drawing.notebook import SMALL, WIDE, caption_of, picture_of
from simpool_viz.drawing.pixels import colour_table
from simpool_viz.modeling.encoder import Encoder


@pytest.fixture(scope="module")
def recording(resnet: Encoder, photos: dict[str, Path]) -> Recording:
    return record(resnet, photos["wide"])


def opened(png: bytes | None) -> Image.Image:
    assert png is not None
    return Image.open(io.BytesIO(png))


def test_each_value_is_a_small_picture_of_the_photos_proportions(recording: Recording, photos: dict[str, Path]) -> None:
    attention = recording.map("simpool")
    for value in (recording, attention, attention.mask()):
        assert opened(value._repr_png_()).size == (91, 60)
        found = re.search(r'src="data:image/png;base64,([^"]+)"', value._repr_html_() or "")
        assert found and base64.b64decode(found[1]) == value._repr_png_()
    large = record(recording.encoder, np.zeros((500, 1000, 3), np.uint8))
    assert opened(large._repr_png_()).size == (SMALL, SMALL // 2)
    assert opened(large.map("simpool")._repr_png_()).size == (SMALL, SMALL // 2)
    board = make_board([photos["wide"], photos["tall"]], [recording.encoder], ["simpool", "contribution"])
    assert 300 < opened(board._repr_png_()).width <= WIDE and "simpool" in (board._repr_html_() or "").lower()


def test_the_picture_of_a_map_has_its_highest_weight_brightest_and_a_mask_is_white_where_it_holds(
    recording: Recording,
) -> None:
    attention = recording.map("simpool")
    drawn = np.asarray(picture_of(attention))
    h, w = attention.geometry.grid
    y, x = np.unravel_index(attention.fused().argmax(), (h, w))
    at = drawn[round((y + 0.5) * 60 / h), round((x + 0.5) * 91 / w)]
    assert np.array_equal(at, colour_table("inferno")[255])
    mask = attention.mask()
    assert np.array_equal(np.asarray(picture_of(mask)) > 0, mask.pixels(size=(91, 60)))


def test_names_are_escaped_and_nothing_runs_or_is_fetched(recording: Recording) -> None:
    hostile = "<script>alert(1)</script>\"' onerror=x"
    named = replace(recording, picture=replace(recording.picture, name=hostile))
    attention = replace(recording.map("simpool"), names=(hostile,), note=hostile, method=hostile)
    board = replace(make_board([named.picture], [recording.encoder], ["simpool"]), skipped=[hostile])

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: set[str] = set()

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            self.tags.add(tag)
            assert {name for name, _ in attributes} <= {"style", "alt", "src"}
            assert all((v or "").startswith("data:image/png;base64,") for name, v in attributes if name == "src")

    for value in (named, attention, board):
        parser = Tags()
        parser.feed(value._repr_html_() or "")
        assert parser.tags <= {"figure", "img", "figcaption", "strong", "br"} and "img" in parser.tags
        assert any(hostile in line for line in caption_of(value))


def test_a_board_without_rows_shows_nothing_and_other_things_are_none_of_ours(recording: Recording) -> None:
    empty = Board([recording.picture], [], {}, [], Settings())
    assert empty._repr_png_() is None and empty._repr_html_() is None
    for of in (picture_of, caption_of):
        with pytest.raises(TypeError, match="of a int"):
            of(3)
