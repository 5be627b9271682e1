"""The same question to several checkpoints is to each what its own would be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from simpool_viz import Lens, inspect, record
from simpool_viz.board.side_by_side import ask_each, lens_of_other
from simpool_viz.errors import MapError
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import make_photo, small_resnet, small_vit

PHOTO = Image.fromarray(make_photo(150, 90))


@pytest.fixture(scope="module")
def vits() -> list[Encoder]:
    """Two ViTs with different weights."""
    one, other = small_vit(), small_vit(inside="life")
    other.facts = dataclasses.replace(other.facts, name="other", title="the other")
    return [one, other]


def test_a_token_is_asked_of_each_at_its_own_size(vits: list[Encoder]) -> None:
    recordings = [record(vits[0], PHOTO), record(vits[1], PHOTO, 96)]
    assert recordings[0].geometry.grid != recordings[1].geometry.grid
    lens = Lens(at=(120.0, 30.0), block=1, fusion=0)
    answers = ask_each(recordings, "token", lens)
    expected = [*inspect(recordings[0], "token", lens).rows]
    expected += inspect(recordings[1], "token", Lens(at=(120.0, 30.0), block=1)).rows
    found = [*answers.first.rows, *answers.others]
    assert [row.checkpoint for row in found] == [row.checkpoint for row in expected]
    assert [row.title for row in found] == [row.title for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.mask.weights, other.mask.weights)
    assert not np.array_equal(found[1].mask.weights.shape, found[3].mask.weights.shape)


def test_options_are_translated(vits: list[Encoder]) -> None:
    deep, shallow = record(vits[0], PHOTO), record(vits[1], PHOTO)
    depth = len(deep.blocks)
    assert lens_of_other(Lens(block=depth - 1, fusion=2), deep, shallow) == Lens(block=len(shallow.blocks) - 1)
    cnn = record(small_resnet(), PHOTO)
    assert lens_of_other(Lens(block=1, first=2, fusion="max"), deep, cnn) == Lens(block=0, first=0, fusion="max")


def test_a_class_goes_by_its_name() -> None:
    one, other = small_resnet(), small_resnet("gap", seed=1)
    names = one.facts.classes
    other.facts = dataclasses.replace(other.facts, classes=(*reversed(names[1:]), "something else"))
    recordings = [record(one, PHOTO), record(other, PHOTO)]
    assert lens_of_other(Lens(target=2), *recordings).target == other.facts.classes.index(names[2])
    answers = ask_each(recordings, "class", Lens(target=2))
    assert {row.attention.names for row in [*answers.first.rows, *answers.others]} == {(names[2],)}
    unknown = ask_each(recordings, "class", Lens(target=names[0]))
    predicted = recordings[1].top_classes(1)[0][1]
    assert {row.attention.names for row in unknown.others} == {(predicted,)}
    assert f"small gap does not know the class {names[0]}; its maps are of the class that it predicts." in unknown.notes


def test_one_that_cannot_answer_is_a_note_and_the_first_an_error(vits: list[Encoder]) -> None:
    recordings = [record(vits[0], PHOTO), record(small_resnet(), PHOTO)]
    answers = ask_each(recordings, "token")
    assert answers.others == [] and any("small_simpool cannot answer 'token'" in note for note in answers.notes)
    with pytest.raises(MapError, match="cannot answer 'token'"):
        ask_each(recordings[::-1], "token")
