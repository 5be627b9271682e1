"""The frames of the film over a checkpoint's blocks."""

from __future__ import annotations

import numpy as np
import pytest

from simpool_viz.drawing.layer_film import ASKED, LINE, layer_frames
from simpool_viz.drawing.pixels import DrawingStyle, colour_map, overlay
from simpool_viz.images import Picture, fit
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.scale import Scale, scale_of
from tests.helpers import make_photo

PICTURE = Picture(make_photo(120, 80), "a")


@pytest.fixture
def maps() -> list[AttentionMap]:
    """Three blocks of two heads on a grid of 4 x 6, the later the sharper."""
    rng, geometry = np.random.default_rng(0), fit((120, 80), 64, 16)
    weights = [np.exp(k * rng.standard_normal((2, 4, 6))).astype(np.float32) for k in (1, 2, 3)]
    weights = [w / w.sum((1, 2), keepdims=True) for w in weights]
    return [AttentionMap(w, ("head 0", "head 1"), geometry, "cls") for w in weights]


def drawn(weights: np.ndarray, scale: Scale) -> np.ndarray:
    return overlay(PICTURE.rgb, colour_map(weights, scale, False, DrawingStyle(), (120, 80)), DrawingStyle().opacity)


def test_a_frame_for_each_block_with_its_caption(maps: list[AttentionMap]) -> None:
    frames = list(layer_frames(PICTURE, maps))
    assert [frame.shape for frame in frames] == [(80 + LINE, 120, 3)] * 3
    for frame, one in zip(frames, maps, strict=True):
        mean = one.weights.mean(0)
        assert np.array_equal(frame[:80], drawn(mean, scale_of(mean, "uniform")))
        assert frame[80:].min() < 100 < frame[80:].max()
    assert not np.array_equal(frames[0][80:], frames[1][80:]), "the caption counts the blocks"


def test_one_head_and_one_scale(maps: list[AttentionMap]) -> None:
    frames = list(layer_frames(PICTURE, maps, 1, DrawingStyle(shared_scale=True)))
    scales = [scale_of(one.weights[1], "uniform") for one in maps]
    high = max(scale.high for scale in scales)
    for frame, one, scale in zip(frames, maps, scales, strict=True):
        assert np.array_equal(frame[:80], drawn(one.weights[1], Scale(0.0, high, scale.label, scale.factor)))


def test_the_token_that_was_asked_for_is_marked(maps: list[AttentionMap]) -> None:
    frame, plain = (next(layer_frames(PICTURE, maps, at=at)) for at in ((110.0, 30.0), None))
    changed = np.argwhere((frame[:80] != plain[:80]).any(-1))
    assert (changed.min(0).tolist(), changed.max(0).tolist()) == ([19, 99], [40, 119]), "token (1, 5) of 20 x 20 pixels"
    assert (frame[20, 100] == ASKED).all() and (frame[30, 110] == plain[30, 110]).all()
