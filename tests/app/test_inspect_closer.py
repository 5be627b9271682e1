"""Inspect beyond one map: other checkpoints asked the same, every head, the film, and any class."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from simpool_viz import record
from simpool_viz.app import inspect as module
from simpool_viz.app.inspect import ONE_HEAD, InspectPage, Visit, class_choices
from simpool_viz.app.own_checkpoint import OwnCheckpoints
from simpool_viz.app.reference import photo_key
from simpool_viz.board.inspection import classes_found
from simpool_viz.modeling.encoder import Encoder
from tests.app.test_inspect import weights
from tests.helpers import LETTERS, small_resnet, small_vit


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    vits = {"small_cls": small_vit(), "small_clslife": small_vit(inside="life")}
    return {**vits, "small_gap": small_vit("gap"), "small_simpool": small_resnet()}


def begin(
    page: InspectPage, photo: Path, others: list[str] | None = None, question: str = "token", name: str = "small_cls"
) -> tuple[Visit, Any]:
    visit = Visit()
    return visit, page.record(str(photo), name, 0, question, OwnCheckpoints(), visit, others)[0]


def test_a_click_asks_every_checkpoint_and_marks_the_token(
    page: InspectPage, encoders: dict[str, Encoder], photos: dict[str, Path]
) -> None:
    visit, first = begin(page, photos["wide"], ["small_clslife", "small_cls"])
    assert [row.checkpoint for row in first.board.rows] == ["small_cls"] * 2 + ["small_clslife"] * 2
    shown, _ = page.point(gr.EventData(None, {"x": 80.0, "y": 12.0}), visit)
    sent = page.view.postprocess(shown)
    assert sent is not None and sent["photos"][0]["key"] == photo_key(str(photos["wide"]))
    for row, name in zip(sent["rows"][::2], ("small_cls", "small_clslife"), strict=True):
        alone = record(encoders[name], photos["wide"]).map("token", at=(80.0, 12.0)).fused()
        assert np.allclose(weights(row), alone, atol=1e-6) and row["checkpoint"] == name
    assert all(row["asked"] == pytest.approx((80 / 91, 12 / 60)) for row in sent["rows"])
    answer, _ = page.ask("cls", 2, "mean", 0, 0, 0.5, 0.0, None, -1, visit)
    assert all(row["asked"] is None for row in page.view.postprocess(answer)["rows"])  # type: ignore[index]


def test_others_are_recorded_once_kept_with_the_visit_and_taken_away(
    page: InspectPage, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    visit, _ = begin(page, photos["wide"])
    made: list[str] = []

    def counted(encoder: Encoder, *given: Any, **named: Any) -> Any:
        made.append(encoder.facts.name)
        return record(encoder, *given, **named)

    monkeypatch.setattr(module, "record", counted)
    page.choose_others(["small_clslife"], OwnCheckpoints(), visit)
    shown = page.choose_others(["small_clslife", "small_simpool"], OwnCheckpoints(), visit)
    assert made == ["small_clslife", "small_simpool"]
    assert any("small_simpool cannot answer 'token'" in note for note in shown.board.skipped)
    assert len(page.choose_others([], OwnCheckpoints(), visit).board.rows) == 2 and visit.others == {}
    with pytest.raises(gr.Error, match="at most 3 checkpoints"):
        page.choose_others(["a", "b", "c", "d"], OwnCheckpoints(), visit)
    page.choose_others(["small_clslife"], OwnCheckpoints(), visit)
    assert copy.deepcopy(visit).others == {}
    visit.clear()
    assert visit.others == {} and visit.now is None


def test_every_head_is_sent_when_it_is_asked_for_and_one_is_opened(page: InspectPage, photos: dict[str, Path]) -> None:
    visit, first = begin(page, photos["wide"])
    sent = page.view.postprocess(first)
    assert sent is not None and sent["blocks"] == {"depth": 3, "heads": 6, "cells": []}
    sent = page.view.postprocess(page.show_blocks(gr.EventData(None, {"wanted": True}), visit))
    assert sent is not None and len(sent["blocks"]["cells"]) == 18
    opened, block, fusion, head = page.open_cell(gr.EventData(None, {"block": 1, "head": 4}), visit)
    assert (block["value"], fusion["value"], head["value"]) == (1, ONE_HEAD, 4)
    sent = page.view.postprocess(opened)
    assert sent is not None and (sent["blocks"]["block"], sent["blocks"]["fusion"]) == (1, 4)
    assert np.array_equal(weights(sent["rows"][0]), weights(sent["blocks"]["cells"][1 * 6 + 4]))
    for wrong in ({"block": 3, "head": 0}, {"block": 0, "head": 6}, {"block": "x", "head": 0}, {}):
        with pytest.raises(gr.Error):
            page.open_cell(gr.EventData(None, wrong), visit)
    assert (visit.lens.block, visit.lens.fusion) == (1, 4), "what failed changes nothing"
    sent = page.view.postprocess(page.show_blocks(gr.EventData(None, {"wanted": False}), visit))
    assert sent is not None and sent["blocks"]["cells"] == []
    answer, _ = page.ask("class", 2, "mean", 0, 0, 0.5, 0.0, 1, -1, visit)
    assert page.view.postprocess(answer)["blocks"] is None  # type: ignore[index]


def test_the_film_has_a_frame_for_each_block(page: InspectPage, photos: dict[str, Path]) -> None:
    visit, _ = begin(page, photos["wide"])
    file = Path(page.film(gr.EventData(None, {"format": "webp"}), visit))
    assert file.name == "small_cls.token.blocks.webp"
    with Image.open(file) as film:
        assert film.n_frames == 3  # type: ignore[attr-defined]
        film.load()
        assert film.info["duration"] == 500
    with pytest.raises(gr.Error, match="a film is written as"):
        page.film(gr.EventData(None, {"format": "exe"}), visit)
    page.ask("class", 2, "mean", 0, 0, 0.5, 0.0, 1, -1, visit)
    with pytest.raises(gr.Error, match="Only the questions about a token"):
        page.film(gr.EventData(None, {"format": "mp4"}), visit)


def test_any_class_is_offered_the_probable_ones_first(
    page: InspectPage, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    visit, _ = begin(page, photos["wide"], question="class", name="small_gap")
    recording = visit.now.recording  # type: ignore[union-attr]
    found = classes_found(recording, 2)
    offered = class_choices(recording, found)
    assert [index for _, index in offered[: len(found)]] == [one.index for one in found]
    assert sorted(index for _, index in offered) == list(range(5))
    rest = [name for name, _ in offered[len(found) :]]
    assert rest == sorted(rest) and set(rest) <= set(LETTERS)
    answer, _ = page.ask("class", 2, "mean", 0, 0, 0.5, 0.0, LETTERS[3].upper(), -1, visit)
    assert answer.answer.rows[0].attention.names == (LETTERS[3],)
    with pytest.raises(gr.Error, match="has no class 'nothing such'"):
        page.ask("class", 2, "mean", 0, 0, 0.5, 0.0, "nothing such", -1, visit)
    monkeypatch.setattr(module, "LISTED", 4)
    assert len(class_choices(recording, found)) == len(found)
    nameless = dataclasses.replace(recording, encoder=small_resnet())
    assert class_choices(nameless, []) == []
