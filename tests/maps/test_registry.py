"""The registry of maps: what is offered, explained, refused, added."""

from __future__ import annotations

import numpy as np
import pytest

from simpool_viz import map_methods, record
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.registry import maps_of
from simpool_viz.recording import Recording
from tests.helpers import PHOTO, random_cnn, random_vit


def test_every_absence_is_explained_and_every_map_that_is_offered_works():
    encoders = [
        random_vit(),
        random_vit("avg"),
        random_vit("simpool"),
        random_cnn("gap"),
        random_cnn("simpool"),
        random_vit(classes=0),
    ]
    for encoder in encoders:
        recording = record(encoder, PHOTO, 64)
        for name, reason in maps_of(encoder).items():
            if reason is None:
                attention = recording.map(name)
                assert np.isfinite(attention.weights).all() and attention.weights.shape[1:] == recording.geometry.grid
                mask = attention.mask()
                assert 0 < mask.coverage <= 1 and np.isfinite(attention.entropy()[0])
            else:
                with pytest.raises(ValueError, match="has no"):
                    recording.map(name)
    assert maps_of(random_cnn("gap"))["cls"] == "its backbone is a CNN, which has no attention blocks"
    assert "contribution" in (maps_of(random_cnn("gap"))["pooling"] or "")


def test_maps_work_on_a_single_token():
    for encoder in (random_vit(), random_vit("simpool"), random_cnn("simpool")):
        recording = record(encoder, np.zeros((9, 9, 3), np.uint8), encoder.stride)
        assert recording.geometry.grid == (1, 1)
        for name, reason in maps_of(encoder).items():
            if reason is None:
                assert recording.map(name).mask().constant


def test_unknown_maps_blocks_and_options_are_refused_in_a_sentence():
    recording = record(random_vit(), PHOTO, 96)
    with pytest.raises(ValueError, match="has no map 'atention'; its maps are cls"):
        recording.map("atention")
    with pytest.raises(ValueError, match="blocks 0 to 2"):
        recording.map("cls", block=3)
    with pytest.raises(ValueError, match="unexpected keyword argument 'blok'"):
        recording.map("cls", blok=1)


def test_a_new_map_is_one_function_and_one_line():
    from simpool_viz.maps import registry

    @registry.register_map("toy_uniform", "Uniform", "Nothing.", why_not=lambda encoder: None)
    def uniform(recording: Recording) -> AttentionMap:
        h, w = recording.geometry.grid
        return AttentionMap(np.full((1, h, w), 1 / (h * w), np.float32), ("all",), recording.geometry, "toy_uniform")

    try:
        assert "toy_uniform" in map_methods()
        assert record(random_cnn("gap"), PHOTO, 64).map("toy_uniform").mask().constant
    finally:
        registry._METHODS.pop("toy_uniform")


def test_a_maps_unit_is_one_of_three_and_its_own_fusion_stands_where_none_is_asked() -> None:
    from dataclasses import replace

    attention = record(random_vit(), PHOTO, 96).map("cls")
    largest = replace(attention, fusion="max")
    assert np.array_equal(largest.fused(), attention.weights.max(0)) and not attention.signed
    assert np.array_equal(largest.mask("area", 0.2).grid, attention.mask("area", 0.2, fusion="max").grid)
    with pytest.raises(ValueError, match="uniform, mean or logit, not 'volt'"):
        replace(attention, unit="volt")
