"""The attention of poolings, and poolings that need no training."""

from __future__ import annotations

import numpy as np
import pytest

from simpool_viz import record
from simpool_viz.modeling.pooling import create_pooling
from tests.helpers import PHOTO, SMALL_PHOTO, assert_close, bare_cnn, bare_vit, random_cnn


@pytest.mark.parametrize("gamma", [None, 2.0])
def test_pooling_attention_of_simpool_on_a_cnn(gamma: float | None):
    recording = record(random_cnn("simpool", gamma=gamma), PHOTO, 64)
    x, pooling = recording.tokens.patches[0].double().numpy(), recording.encoder.pooling
    xn = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    s = (xn @ pooling.wk.weight.double().numpy().T) @ (pooling.wq.weight.double().numpy() @ x.mean(0)) / 4.0
    a = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
    found = recording.map("simpool")
    assert_close(found, a.reshape(1, 8, 12))
    np.testing.assert_allclose(found.logits.ravel(), s, atol=1e-5)
    assert found.method == "pooling" and found.names == ("SimPool",) and abs(found.weights.sum() - 1) < 1e-5


def test_a_poolings_name_is_explained_where_the_checkpoint_pools_otherwise():
    recording = record(random_cnn("gap"), PHOTO, 64)
    with pytest.raises(ValueError, match="it pools by GAP, not by SimPool"):
        recording.map("simpool")
    with pytest.raises(ValueError, match="does not weigh positions"):
        recording.map("gap")


def test_kmeans_and_how_are_maps_of_any_checkpoint():
    for encoder in (bare_cnn(), bare_vit()):
        recording = record(encoder, SMALL_PHOTO)
        clusters = recording.map("kmeans", k=3)
        assert clusters.names == ("centre 0", "centre 1", "centre 2") and clusters.method == "kmeans"
        own = create_pooling("kmeans", 24, k=3)(recording.tokens).weights[0]  # type: ignore[index]
        np.testing.assert_array_equal(clusters.weights.reshape(3, -1), own.numpy())
        assert np.array_equal(clusters.fused(), clusters.weights.max(0))
        squared = recording.tokens.patches[0].square().sum(1)
        np.testing.assert_allclose(recording.map("how").weights.ravel(), squared.numpy(), rtol=1e-5)
