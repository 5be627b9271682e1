"""Probes against independent float64 references."""

from __future__ import annotations

import pytest
import torch

from simpool_viz.modeling.pooling import create_pooling
from tests.helpers import CHANNELS, assert_row, each_picture, make_pooling, make_tokens, state_of
from tests.oracles import pooling as oracle


@pytest.mark.parametrize(("queries", "d_out"), [(4, 1), (3, 2), (1, 1), (12, 1)])
def test_efficient_probing_equals_its_definition(queries: int, d_out: int):
    tokens, pooling = make_tokens(), make_pooling("ep", num_queries=queries, d_out=d_out)
    assert pooling.out_dim == CHANNELS // d_out
    assert_row(pooling, tokens, [oracle.ep(x, state_of(pooling)) for x in each_picture(tokens)])


@pytest.mark.parametrize("heads", [3, 1, 12])
def test_aim_equals_its_definition(heads: int):
    tokens, pooling = make_tokens(), make_pooling("aim", num_heads=heads)
    assert float(pooling.bn.running_mean.abs().min()) > 0
    assert_row(pooling, tokens, [oracle.aim(x, state_of(pooling), heads) for x in each_picture(tokens)])


def test_aim_learns_the_statistics_of_its_tokens():
    tokens, pooling = make_tokens(), create_pooling("aim", CHANNELS).double().train()
    for _ in range(200):
        pooling(tokens)
    torch.testing.assert_close(pooling.bn.running_mean, tokens.patches.mean((0, 1)))
    torch.testing.assert_close(pooling.bn.running_var, tokens.patches.var((0, 1)))


@pytest.mark.parametrize(("depth", "activation"), [(2, "tanh"), (2, "relu"), (1, "tanh"), (3, "relu")])
def test_abmilp_equals_its_definition(depth: int, activation: str):
    tokens, pooling = make_tokens(), make_pooling("abmilp", depth=depth, activation=activation)
    assert_row(
        pooling,
        tokens,
        [oracle.abmilp(x, state_of(pooling), depth, activation == "relu") for x in each_picture(tokens)],
    )
