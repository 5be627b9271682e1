"""The reference panel without a browser: what it reads, keeps and refuses."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from simpool_viz.app.board.component import Given, reference_payload
from simpool_viz.app.reference import KEPT, ReferencePanel, References, painted_reference, photo_key
from simpool_viz.errors import OptionError, PictureError
from simpool_viz.images import read_picture
from simpool_viz.scores.localization import score_baselines
from simpool_viz.scores.references import MOST_SCORED, Reference
from tests.helpers import make_photo


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.fromarray(make_photo()).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def panel() -> ReferencePanel:
    return ReferencePanel(lambda photo: None)


def decoded(payload: dict[str, Any]) -> np.ndarray:
    lengths = np.frombuffer(base64.b64decode(payload["lengths"]), "<u4")
    values = np.frombuffer(base64.b64decode(payload["values"]), np.uint8)
    width, height = payload["size"]
    return np.repeat(values, lengths).reshape(height, width)


def test_payload_holds_objects_void_and_the_baselines_figures() -> None:
    kinds = np.random.default_rng(0).integers(0, 3, (13, 21))
    reference = Reference(kinds == 1, kinds == 2)
    payload = reference_payload(Given(reference, "the test"))
    assert np.array_equal(decoded(payload), kinds) and payload["origin"] == "the test"
    scores = {name: one["scores"] for name, one in payload["baselines"].items()}
    assert scores == score_baselines(reference)


def test_a_file_a_painting_and_a_box_become_the_reference_of_the_photo(
    panel: ReferencePanel, photo: str, tmp_path: Path
) -> None:
    height, width = make_photo().shape[:2]
    references, key = References(), photo_key(photo)
    mask = np.zeros((height, width), np.uint8)
    mask[5:30, 10:40] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    _, payload, status = panel.take_file(photo, str(tmp_path / "mask.png"), "", references)
    assert np.array_equal(decoded(payload[key]), mask > 0) and "the mask mask.png" in status
    layer = np.zeros((2 * height, 2 * width, 4), np.uint8)
    layer[20:60, 40:100] = [255, 122, 0, 255]
    _, payload, status = panel.take_painting(photo, {"layers": [layer]}, references)
    assert decoded(payload[key])[10:30, 20:50].all() and decoded(payload[key]).sum() == 20 * 30
    _, payload, status = panel.take_box_text(photo, "1, 2, 11, 12; 20,20,30,25", references)
    assert decoded(payload[key]).sum() == 100 + 50 and "the boxes" in status
    assert payload[key]["boxes"] == [[1, 2, 11, 12], [20, 20, 30, 25]]
    event: Any = SimpleNamespace(key=key, boxes=[[0, 0, 10, 5]], picture=0)
    _, payload, _ = panel.take_box(event, photo, None, references)
    assert decoded(payload[key]).sum() == 50 and references.kept[key].origin == "the box"
    assert payload[key]["boxes"] == [[0, 0, 10, 5]] and payload[key]["own"]
    _, payload, status = panel.forget(photo, references)
    assert payload == {key: None} and "No reference yet" in status and not references.kept


def test_what_is_no_reference_is_refused_in_a_sentence_without_a_path(
    panel: ReferencePanel, photo: str, tmp_path: Path
) -> None:
    references = References()
    Image.fromarray(np.zeros((7, 50), np.uint8) + 9).save(tmp_path / "flat.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for name in ("flat.png", "broken.png"):
        with pytest.raises(gr.Error) as refused:
            panel.take_file(photo, str(tmp_path / name), "", references)
        assert name in str(refused.value) and str(tmp_path) not in str(refused.value)
    for arguments, sentence in (
        ((None, "x.png", "", references), "Choose a photo first"),
        ((photo, None, "", references), "Choose a mask file first"),
        ((photo, str(tmp_path / "flat.png"), "one", references), "whole numbers with commas"),
    ):
        with pytest.raises(gr.Error, match=sentence):
            panel.take_file(*arguments)
    for text in ("", "1,2,3", "a,b,c,d", "5,5,5,9", "0,0,9999,9999"):
        with pytest.raises(gr.Error):
            panel.take_box_text(photo, text, references)
    key, nan = photo_key(photo), float("nan")
    sent: list[Any] = [{"key": "other", "boxes": [[0, 0, 5, 5]]}, {}, {"key": key, "boxes": [0, 0, 5, 5]}]
    sent += [{"key": key, "boxes": boxes} for boxes in ("all", [], [[0, 0, "x", 5]], [[0, 0, nan, 5]], [[0, 0, 5]])]
    for data in sent:
        with pytest.raises(gr.Error):
            panel.take_box(SimpleNamespace(**data), photo, None, references)  # type: ignore[arg-type]
    with pytest.raises(gr.Error, match="nothing is painted yet"):
        panel.take_painting(photo, None, references)
    assert not references.kept


def test_a_painting_of_nothing_all_or_another_photo_is_refused(photo: str) -> None:
    picture = read_picture(photo)
    width, height = picture.size
    empty = np.zeros((height, width, 4), np.uint8)
    with pytest.raises(OptionError, match="nothing is painted"):
        painted_reference([empty], picture)
    with pytest.raises(OptionError, match="leaves no background"):
        painted_reference([empty + 255], picture)
    other = np.zeros((height, 2 * width, 4), np.uint8)
    other[3:9, 3:9] = 255
    with pytest.raises(PictureError, match="belongs to another picture or is turned"):
        painted_reference([other], picture)


def test_references_belong_to_one_visit_follow_the_photo_and_are_bounded(panel: ReferencePanel, photo: str) -> None:
    references = References()
    given = Given(Reference(np.eye(5, dtype=bool), np.zeros((5, 5), bool)), "x")
    references.keep(photo_key(photo), given)
    assert panel.of(photo, references) is given and panel.of(photo, None) is None
    assert not copy.deepcopy(references).kept, "each visit begins with nothing"
    for number in range(KEPT):
        references.keep(str(number), given)
    assert len(references.kept) == KEPT and panel.of(photo, references) is None


def test_a_large_photo_is_scored_at_a_bounded_size(panel: ReferencePanel, tmp_path: Path) -> None:
    Image.fromarray(make_photo(2600, 1800)).save(tmp_path / "large.png")
    references = References()
    _, payload, _ = panel.take_box_text(str(tmp_path / "large.png"), "100,100,1300,900", references)
    assert max(payload[photo_key(str(tmp_path / "large.png"))]["size"]) == MOST_SCORED
    canvas = panel.canvas(str(tmp_path / "large.png"))
    assert canvas and canvas["background"].shape == (709, 1024, 3) and panel.canvas(None) is None
