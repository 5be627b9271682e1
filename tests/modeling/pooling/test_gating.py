"""Gating poolings against independent float64 references."""

from __future__ import annotations

import pytest
import torch

from simpool_viz.modeling.pooling import Tokens, create_pooling
from tests.helpers import (
    CHANNELS,
    GRID,
    ROW,
    assert_row,
    assert_vectors,
    each_picture,
    make_pooling,
    make_tokens,
    state_of,
)
from tests.oracles import pooling as oracle


def test_squeeze_and_excitation_equals_its_definition():
    tokens, pooling = make_tokens(), make_pooling("se", reduction=3)
    state = state_of(pooling)
    assert state["gate.fc1.weight"].shape == (4, CHANNELS)
    assert_vectors(pooling(tokens).vector, [oracle.se(x, state) for x in each_picture(tokens)], ROW)
    assert_vectors(pooling.channel_gate(tokens), [oracle.channel_gate(x, state) for x in each_picture(tokens)], ROW)


@pytest.mark.parametrize("kernel", [7, 3, 1])
def test_cbam_equals_its_definition(kernel: int):
    tokens, pooling = make_tokens(), make_pooling("cbam", reduction=3, kernel=kernel)
    state = state_of(pooling)
    assert_row(pooling, tokens, [oracle.cbam(x, GRID, state) for x in each_picture(tokens)])
    assert_vectors(pooling.channel_gate(tokens), [oracle.channel_gate(x, state) for x in each_picture(tokens)], ROW)


@pytest.mark.parametrize(
    ("extent", "grid"), [(0, (3, 5)), (1, (3, 5)), (2, (3, 5)), (2, (4, 6)), (3, (7, 7)), (4, (3, 5)), (9, (2, 3))]
)
def test_gather_excite_equals_its_definition(extent: int, grid: tuple[int, int]):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, grid[0] * grid[1], CHANNELS, generator=generator, dtype=torch.float64)
    tokens, pooling = Tokens(x, grid, x[:, :0]), create_pooling("ge", CHANNELS, extent=extent)
    assert_vectors(pooling(tokens).vector, [oracle.ge(picture, grid, extent) for picture in x.numpy()], ROW)
    assert (pooling.channel_gate(tokens) is None) == (extent > 0)


def test_gather_excite_gates_channels_by_their_own_means():
    tokens = make_tokens()
    gate = create_pooling("ge", CHANNELS).channel_gate(tokens)
    assert gate is not None
    assert_vectors(gate, [oracle.sigmoid(oracle.gap(x)) for x in each_picture(tokens)], ROW)
