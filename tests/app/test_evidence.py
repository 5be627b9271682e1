"""The page of what was measured."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from simpool_viz import load_checkpoint
from simpool_viz.app import evidence
from simpool_viz.app.compare import example_photos
from simpool_viz.app.evidence import EvidencePage
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.evaluation.evidence import MeasuredTable, measured_tables
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.results import Column, Table, bundled_results


def test_page_shows_the_tables_and_plots_of_the_results_file() -> None:
    tables = measured_tables(bundled_results(), catalogue())
    page = EvidencePage(tables, example_photos(), load_checkpoint)
    columns, text, plot = page.show("vit/horses")
    table = bundled_results().table("vit/horses")
    assert text == table.markdown() and min(plot.size) > 200
    assert columns["value"] == "iou_at_true_area" and ("pointing", "pointing") in columns["choices"]
    other = page.draw("vit/horses", "pointing")
    assert np.asarray(other).shape[1] == np.asarray(plot).shape[1] and not np.array_equal(other, plot)


def test_examples_open_as_boards_that_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MOST_BOARDS", 2)
    found: list[str] = []

    def find(name: str) -> Encoder:
        found.append(name)
        return load_checkpoint(name, device="cpu")

    rows = ({"map": "a", "iou": [0.5, 0.4, 0.6]},)
    table = Table("**t**", (Column("map", "map"), Column("iou", "IoU", "share")), rows, "simpool-viz evaluate t")
    page = EvidencePage([MeasuredTable("t", table, ("resnet_simpool", "resnet_gap"))], example_photos(), find)
    event = gr.SelectData(None, {"index": 1, "value": None})
    state, photo = page.open_example(event, "t")
    assert Path(photo) == example_photos()[1] and found == ["resnet_simpool", "resnet_gap"]
    assert [row.checkpoint for row in state.board.rows] == found and state.board.rows[0].scores
    assert page.open_example(event, "t")[0] is state and len(found) == 2
    for index in (2, 3):
        page.board("t", index)
    assert page.board("t", 1) is not state, "no more than two are kept"


def test_tables_figures_and_examples_that_are_not_there_are_refused() -> None:
    page = EvidencePage(measured_tables(bundled_results(), catalogue()), example_photos(), load_checkpoint)
    for call in (lambda: page.show("nowhere"), lambda: page.draw("vit/horses", "map"), lambda: page.draw("x", "iou")):
        with pytest.raises(gr.Error, match="load the page again"):
            call()
    with pytest.raises(gr.Error, match="load it again"):
        page.open_example(gr.SelectData(None, {"index": 99, "value": None}), "vit/horses")
