"""Another class for a row of Compare, as Python answers it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from simpool_viz import record
from simpool_viz.app.class_rows import OFFERED, ClassRows
from simpool_viz.app.own_checkpoint import OwnCheckpoints
from simpool_viz.app.reference import photo_key
from simpool_viz.modeling.encoder import Encoder
from tests.app.test_inspect import weights
from tests.helpers import LETTERS, small_vit


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return small_vit("gap")


@pytest.fixture(scope="module")
def rows(encoder: Encoder, resnet: Encoder) -> ClassRows:
    return ClassRows(lambda name, own: resnet if name == "resnet" else encoder)


def answer(rows: ClassRows, photo: Path, map_name: str, **more: Any) -> dict[str, Any]:
    sent = {"id": "board-row-3", "key": photo_key(str(photo)), "checkpoint": "vit", "map": map_name, **more}
    return rows.answer(gr.EventData(None, sent), str(photo), None, OwnCheckpoints())


def test_the_most_probable_classes_and_all_names_are_offered(
    rows: ClassRows, encoder: Encoder, photos: dict[str, Path]
) -> None:
    found = answer(rows, photos["wide"], "contribution")
    probable = [index for index, _, _ in record(encoder, photos["wide"]).top_classes(OFFERED)]
    assert [index for index, _ in found["probable"]] == probable and found["names"] == list(LETTERS)
    assert all(text.startswith(LETTERS[index]) and "%" in text for index, text in found["probable"])
    assert found["id"] == "board-row-3" and "row" not in found


@pytest.mark.parametrize(
    "checkpoint, name", [("vit", "contribution"), ("resnet", "gradcam"), ("vit", "dense_rollout:soft=true")]
)
def test_the_row_of_a_class_is_that_of_the_python_call(
    rows: ClassRows, encoder: Encoder, resnet: Encoder, photos: dict[str, Path], checkpoint: str, name: str
) -> None:
    encoder = resnet if checkpoint == "resnet" else encoder
    index, class_, _ = record(encoder, photos["wide"]).top_classes(2)[1]
    for chosen in (index, class_.upper()):
        row = answer(rows, photos["wide"], name, chosen=chosen, checkpoint=checkpoint)["row"]
        method, _, options = name.partition(":")
        given = {"soft": True} if options else {}
        alone = record(encoder, photos["wide"]).map(method, classes=[index], **given)
        assert np.allclose(weights(row), alone.fused(), atol=1e-6) and row["of_class"]
        assert row["title"].endswith(f"class {class_})")
        again = answer(rows, photos["wide"], row["name"], chosen=index, checkpoint=checkpoint)["row"]
        assert again["weights"] == row["weights"], "a row of a class can be asked again"


@pytest.mark.parametrize(
    "chosen, said",
    [("nothing such", "has no class 'nothing such'"), (99, "has classes 0 to 4"), ([1], "is a number")],
)
def test_what_is_no_class_is_refused(rows: ClassRows, photos: dict[str, Path], chosen: Any, said: str) -> None:
    with pytest.raises(gr.Error, match=said):
        answer(rows, photos["wide"], "contribution", chosen=chosen)
    with pytest.raises(gr.Error, match="no longer chosen"):
        answer(rows, photos["wide"], "contribution", key="another")


def test_map_of_a_class_that_a_checkpoint_lacks_is_refused_with_the_reason(
    rows: ClassRows, photos: dict[str, Path]
) -> None:
    with pytest.raises(gr.Error, match=r"has no Gradient relevance map: .* CNN"):
        answer(rows, photos["wide"], "relevance", chosen=1, checkpoint="resnet")
