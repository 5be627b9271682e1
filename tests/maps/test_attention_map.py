"""The value of a map: fusions, names, precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simpool_viz import record
from tests.helpers import PHOTO, random_vit


def test_fusions_names_and_indices():
    attention = record(random_vit(), PHOTO, 96).map("cls")
    np.testing.assert_allclose(attention.fused(), attention.weights.mean(0), atol=1e-7)
    assert np.array_equal(attention.fused("max"), attention.weights.max(0))
    assert np.array_equal(attention.fused(1), attention.weights[1]) and np.array_equal(
        attention.fused("head 2"), attention.weights[2]
    )
    with pytest.raises(ValueError, match="is no fusion"):
        attention.fused("head 9")


def test_half_precision_recordings_give_float32_maps():
    encoder = random_vit().bfloat16()
    recording = record(encoder, PHOTO, 96)
    assert recording.blocks[0].query.dtype == torch.bfloat16
    full = record(random_vit(), PHOTO, 96)
    for name in ("cls", "rollout", "token"):
        found = recording.map(name)
        assert found.weights.dtype == np.float32
        np.testing.assert_allclose(found.weights, full.map(name).weights, atol=0.05)
