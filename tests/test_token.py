"""Token roll-outs against rows of the N x N product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simpool_viz.images import preprocess
from simpool_viz.recording import record
from tests.oracles.attention import eager_attention, rollout
from tests.test_gradient import PHOTO, vit


@pytest.mark.parametrize(
    "options", [{}, {"first": 1}, {"residual": 0.2}, {"fusion": "max"}, {"fusion": "min", "first": 2}]
)
@pytest.mark.parametrize("registers", [0, 3])
def test_a_tokens_roll_out_is_its_row_of_the_product(options: dict[str, Any], registers: int):
    encoder = vit(reg_tokens=registers)
    recording = record(encoder, PHOTO)
    image = preprocess(recording.picture, recording.geometry, encoder.facts.mean, encoder.facts.std)[None]
    r = rollout([a[0].numpy() for a in eager_attention(encoder, image)], **options)
    found = recording.map("token", at=(20, 50), rollout=True, **options)
    row, column = recording.geometry.token_at(20, 50)
    index = encoder.num_prefix_tokens + row * recording.geometry.grid[1] + column
    np.testing.assert_allclose(found.weights.ravel(), r[index, encoder.num_prefix_tokens :], atol=1e-5)
    assert found.weights.argmax() == index - encoder.num_prefix_tokens, (
        "the skip connections keep most of a token in its place"
    )


def test_options_of_a_roll_out_are_refused_without_one():
    with pytest.raises(ValueError, match="ask for rollout=true"):
        record(vit(), PHOTO).map("token", fusion="max")
