"""What leaves the page, without a browser: the masks and colours that the browser says, and nothing else from it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from simpool_viz import OptionError, Settings, load_checkpoint, load_checkpoints, make_board, read_picture
from simpool_viz.app.board.component import FIRST_STYLE, BoardState, Ran
from simpool_viz.app.compare import ComparePage
from simpool_viz.app.store import EncoderStore
from simpool_viz.app.take_away import TakeAway, drawn_by
from simpool_viz.board.board import iterate_board
from simpool_viz.board.comparison import arrange
from simpool_viz.bundled import bundled_folder
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.export import row_names
from simpool_viz.maps.request import MapRequest

EXAMPLE = bundled_folder("assets") / "chelsea.jpg"
STYLE = FIRST_STYLE | {"rule": "mass", "amount": 0.35, "largest": True, "smoothing": 0.5, "opacity": 0.3}
SHOWN = {"style": STYLE | {"boxes": False}, "group": "map", "sort": "entropy", "lowest": True, "steps": 2}


def test_what_the_browser_says_becomes_settings_and_style() -> None:
    cut = Settings(mask="mass:0.35", largest=True, smoothing=0.5, smooth=True)
    assert drawn_by(SHOWN) == (cut, DrawingStyle(opacity=0.3, boxes=False), "map", "entropy:lowest")
    settings, style, group, sort = drawn_by({"style": FIRST_STYLE, "group": "none", "sort": "", "lowest": False})
    assert settings.cut == Settings().cut and style == DrawingStyle() and (group, sort) == ("none", "")


@pytest.mark.parametrize(
    "changed",
    [
        {"rule": "most"},
        {"amount": "much"},
        {"amount": float("nan")},
        {"smoothing": 0.3},
        {"opacity": 7},
        {"colours": "../red"},
    ],
    ids=str,
)
def test_what_no_page_of_ours_sends_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        drawn_by({"style": FIRST_STYLE | changed})
    with pytest.raises(OptionError, match="did not say how it is drawn"):
        drawn_by(None)


def test_the_zip_holds_the_board_as_python_makes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    page = ComparePage(EncoderStore("cpu"))
    names, maps = ["resnet_gap?size=96", "resnet_simpool?size=96"], ["own"]
    given = (str(EXAMPLE), names, maps, None, None, None)
    taker = TakeAway(page.run, page.find, page.names)
    answer = taker.take_everything(SHOWN, "one", ["overlay", "mask"], ["checkpoint"], *given)
    (path,) = answer["value"]
    settings, _, group, sort = drawn_by(SHOWN)
    settings = Settings(None, settings.mask, True, None, 0.5, True)
    made = make_board([EXAMPLE], load_checkpoints(names, device="cpu"), maps, settings)
    wanted = arrange(made, group, sort)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / "board_chelsea"
    about = json.loads((folder / "manifest.json").read_text())
    assert [row["name"] for row in about["rows"]] == row_names(wanted)
    assert about["look"]["opacity"] == 0.3 and about["settings"]["mask"] == "mass:0.35"
    assert [one["name"] for one in about["checkpoints"]] == names
    with np.load(folder / "maps.npz") as maps_file:
        for name, row in zip(row_names(wanted), wanted.rows, strict=True):
            assert np.array_equal(maps_file[name], row.attention.weights)
            assert np.array_equal(maps_file[f"{name}.mask"], row.mask.grid)
    there = {p.name for p in folder.iterdir()}
    assert {"figure.pdf", "figure.svg", "figure.png", "again.py", "again.sh", "photos", "scores.csv"} <= there
    assert "mass:0.35" in (folder / "again.sh").read_text() and str(tmp_path) not in (folder / "again.py").read_text()
    with pytest.raises(gr.Error, match="captions are"):
        taker.take_everything(SHOWN, "one", ["overlay"], ["colour"], *given)


def test_of_a_run_that_ended_half_way_the_rows_are_taken_that_are_shown(tmp_path: Path) -> None:
    """Two photos with two checkpoints: after one recording, after three, after all, and before any."""
    encoders = {name: load_checkpoint(f"{name}?size=96", device="cpu") for name in ("resnet_gap", "resnet_simpool")}
    photos = [EXAMPLE, EXAMPLE.with_name("coffee.jpg")]

    def run(*_: Any) -> Iterator[BoardState]:
        ran = Ran(tuple(map(str, photos)), tuple(encoders), ("own",))
        pictures = [read_picture(photo) for photo in photos]
        for n, board in enumerate(iterate_board(pictures, list(encoders.values()), [MapRequest("own")], Settings()), 1):
            yield BoardState(board, "", ran=replace(ran, steps=n))
            if n == 3:  # the browser was told of three recordings
                yield BoardState(board, "still waiting", ran=replace(ran, steps=n))

    taker = TakeAway(run, lambda name, own: encoders[name], lambda *_: (list(encoders), ["own"], None))
    for steps, places, names in (
        (1, [(0, "resnet_gap")], ["resnet_gap"]),
        (3, [(0, "resnet_gap"), (0, "resnet_simpool"), (1, "resnet_gap")], list(encoders)),
        (4, [(i, name) for i in range(2) for name in encoders], list(encoders)),
    ):
        shown = {"style": FIRST_STYLE, "steps": steps}
        board, _, asked, found = taker._shown(shown, ())
        assert [(row.picture, row.checkpoint) for row in board.rows] == [(i, f"{n}?size=96") for i, n in places]
        assert len(board.pictures) == len({i for i, _ in places}) and asked.checkpoints == names
        assert found == [encoders[name] for name in names]
    with pytest.raises(gr.Error, match="The board is empty"):
        taker.take_lines({"style": FIRST_STYLE}, "one", [], [])
