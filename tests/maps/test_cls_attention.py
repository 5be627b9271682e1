"""The class token's rows against eager attention."""

from __future__ import annotations

import numpy as np
import pytest

from simpool_viz import record
from tests.helpers import PHOTO, assert_close, eager_attention_of, random_vit, to_grids


@pytest.mark.parametrize("block", [-1, 0, 1])
def test_cls_is_the_class_tokens_row_per_head(block: int):
    recording = record(random_vit(), PHOTO, 96)
    assert recording.encoder.num_prefix_tokens == 3
    found = recording.map("cls", block=block)
    assert_close(found, to_grids(recording, eager_attention_of(recording)[block][:, 0]))
    assert found.names == ("head 0", "head 1", "head 2")
    assert found.logits is not None and found.logits.shape == found.weights.shape


def test_cls_logits_are_the_scores_before_the_softmax():
    recording = record(random_vit(), PHOTO, 96)
    found = recording.map("cls")
    ratio = np.exp(found.logits - found.logits[:, :1, :1]) * found.weights[:, :1, :1]
    np.testing.assert_allclose(ratio, found.weights, rtol=1e-4)
