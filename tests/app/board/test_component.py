"""Numbers by which pictures are drawn stand in Python alone and travel to the browser as data."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from simpool_viz import refinement
from simpool_viz.app.board import component
from simpool_viz.app.board.component import (
    AMOUNTS,
    DRAWING,
    FIRST_STYLE,
    SMOOTHINGS,
    BoardView,
    level_places,
    level_table,
)
from simpool_viz.board.board import Settings
from simpool_viz.drawing import pixels
from simpool_viz.drawing.pixels import DrawingStyle, colour_table, cut_out, display_boxes
from simpool_viz.maps.scale import PERCENTILE, scale_of, symmetric_scale
from simpool_viz.masks import DEFAULT_CUT, find_levels, mask_rules, smoothed
from simpool_viz.scores.localization import POINTING_RADIUS, THRESHOLDS

SCRIPTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(component.HERE.glob("*.js"))}


def test_browser_is_given_what_python_draws_by() -> None:
    view = BoardView()
    assert json.loads(json.dumps(view.props["drawing"])) == {
        "outline": list(pixels.OUTLINE),
        "box": list(pixels.BOX),
        "lines": pixels.LINES,
        "speck": pixels.SPECK,
        "dimmed": list(pixels.DIMMED),
        "percentile": PERCENTILE / 100,
        "smoothings": component.SMOOTHINGS,
        "levels": {rule: list(place) for rule, place in level_places().items()},
        "thresholds": THRESHOLDS,
        "pointing": POINTING_RADIUS,
        "diverging": pixels.DIVERGING,
        "agreement": pixels.AGREEMENT,
        "cell": pixels.WIDEST,
        "small": pixels.WIDEST // 2,
        "large": component.LONGEST,
        "refined": refinement.LONGEST,
    }
    assert {*pixels.SEQUENTIAL, pixels.DIVERGING, pixels.AGREEMENT} == set(view.props["tables"])
    assert (
        FIRST_STYLE["opacity"] == DrawingStyle().opacity
        and [FIRST_STYLE[key] for key in ("rule", "smoothing", "largest", "smooth")]
        == [DEFAULT_CUT.rule, DEFAULT_CUT.smoothing, DEFAULT_CUT.largest, DEFAULT_CUT.smooth]
        and Settings().cut == DEFAULT_CUT
    )


@pytest.mark.parametrize("name", DRAWING)
def test_every_number_is_read_from_the_data_in_some_script(name: str) -> None:
    assert re.search(rf"\bdrawing\.{name}\b", "".join(SCRIPTS.values()))


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_script_writes_one_of_them_again(script: str) -> None:
    text = SCRIPTS[script]
    numbers = [pixels.LINES, pixels.SPECK, pixels.DIMMED[0], PERCENTILE / 100, pixels.WIDEST, component.LONGEST]
    written = [str(number) for number in numbers if re.search(rf"(?<![\w.]){re.escape(str(number))}(?![\w.])", text)]
    names = [name for name in (*pixels.SEQUENTIAL, pixels.DIVERGING) if name in text]
    colours = [c for c in (pixels.BOX, pixels.OUTLINE) if re.search(r",\s*".join(map(str, c)), text)]
    assert (written, names, colours) == ([], [], [])


def test_python_draws_by_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, mask = np.full((96, 120, 3), 90, np.uint8), np.zeros((96, 120), bool)
    mask[20:60, 30:80] = True
    for name, value in {"OUTLINE": (1, 2, 3), "BOX": (4, 5, 6), "LINES": 24, "DIMMED": (0.5, 7.0)}.items():
        monkeypatch.setattr(pixels, name, value)
    drawn = cut_out(rgb, mask, display_boxes(mask))
    assert drawn[0, 0].tolist() == [52, 52, 52], "half of the grey and 7"
    assert drawn[21, 55].tolist() == [4, 5, 6] and drawn[40, 55].tolist() == [90, 90, 90], "lines of 4 pixels"
    monkeypatch.setattr(pixels, "LINES", 240)
    assert (cut_out(rgb, mask, [])[20, 30:80] == (1, 2, 3)).all()


def test_levels_are_looked_up_by_their_number_alone() -> None:
    weights = np.random.default_rng(0).random((3, 5)).astype(np.float32)
    table, places = np.frombuffer(base64.b64decode(level_table(weights)), "<f4"), level_places()
    assert [*places] == [*mask_rules()] and [(i + 1) / len(AMOUNTS) for i in range(len(AMOUNTS))] == AMOUNTS
    tables = table.reshape(len(SMOOTHINGS), -1)
    for sigma, levels in zip(SMOOTHINGS, tables, strict=True):
        grid = smoothed(weights, sigma)
        for rule, (start, count) in places.items():
            amounts = [None] if mask_rules()[rule].default is None else [0.6]
            assert count == (1 if amounts == [None] else len(AMOUNTS)), rule
            place = start if count == 1 else start + 59
            assert levels[place] == pytest.approx(find_levels(grid, rule, amounts)[0]), (rule, sigma)


def test_a_row_travels_as_json_that_every_browser_reads() -> None:
    row = {"figures": {"milliseconds": np.float32(1.5), "nothing": float("nan")}, "grid": [np.int64(3), 4]}
    assert json.loads(BoardView().sent_row(row)) == {"figures": {"milliseconds": 1.5, "nothing": None}, "grid": [3, 4]}


def test_scales_end_at_one_percentile() -> None:
    values = np.random.default_rng(1).standard_normal((20, 30)).astype(np.float32)
    high = float(np.percentile(np.abs(values.astype(np.float64)), PERCENTILE))
    assert symmetric_scale(values, "x").high == pytest.approx(high) == pytest.approx(scale_of(values, "logit").high)
    assert scale_of(values, "logit").factor == 1.0 == symmetric_scale(values, "x").factor
    assert colour_table(pixels.AGREEMENT).shape == (256, 3) and Path(component.HERE).is_dir()
