"""Token roll-outs against rows of the N x N product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simpool_viz import record
from simpool_viz.images import preprocess
from tests.helpers import PHOTO, SMALL_PHOTO, assert_close, bare_vit, eager_attention_of, random_vit, to_grids
from tests.oracles import attention as oracle
from tests.oracles.attention import eager_attention, rollout


@pytest.mark.parametrize(
    "options", [{}, {"first": 1}, {"residual": 0.2}, {"fusion": "max"}, {"fusion": "min", "first": 2}]
)
@pytest.mark.parametrize("registers", [0, 3])
def test_a_tokens_roll_out_is_its_row_of_the_product(options: dict[str, Any], registers: int):
    encoder = bare_vit(reg_tokens=registers)
    recording = record(encoder, SMALL_PHOTO)
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
        record(bare_vit(), SMALL_PHOTO).map("token", fusion="max")


def test_token_query_is_the_row_of_the_token_under_the_point():
    recording = record(random_vit(), PHOTO, 96)
    h, w = recording.geometry.grid
    matrices, prefix = eager_attention_of(recording), recording.encoder.num_prefix_tokens
    for at, (row, column) in {(149, 0): (0, w - 1), (0, 99): (h - 1, 0), (76, 51): (h // 2, w // 2)}.items():
        index = prefix + row * w + column
        assert_close(recording.map("token", at=at), to_grids(recording, matrices[-1][:, index]))
        assert_close(recording.map("token", at=at, block=0), to_grids(recording, matrices[0][:, index]))
        assert_close(
            recording.map("token", at=at, rollout=True), to_grids(recording, oracle.rollout(matrices)[index][None])
        )
    with pytest.raises(ValueError, match="outside the picture"):
        recording.map("token", at=(151, 10))
