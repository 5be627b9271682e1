"""Simple poolings against independent float64 references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simpool_viz.modeling.pooling import Tokens, create_pooling
from simpool_viz.modeling.pooling.means import PowerMean
from tests.helpers import CHANNELS, GRID, assert_row, assert_vectors, each_picture, make_pooling, make_tokens, state_of
from tests.oracles import pooling as oracle


def test_gap_is_the_mean():
    tokens = make_tokens()
    assert_vectors(make_pooling("gap")(tokens).vector, [oracle.gap(x) for x in each_picture(tokens)])


def test_max_is_the_maximum():
    tokens = make_tokens()
    assert_vectors(make_pooling("max")(tokens).vector, [oracle.maximum(x) for x in each_picture(tokens)])


def test_gem_is_the_power_mean_of_the_clamped_values():
    tokens, pooling = make_tokens(), make_pooling("gem")
    p = np.full(CHANNELS, float(pooling.mean.p.detach()))
    assert_vectors(pooling(tokens).vector, [oracle.gem(x, p) for x in each_picture(tokens)])


def test_ggem_has_one_exponent_per_contiguous_group():
    tokens, pooling = make_tokens(), make_pooling("ggem", groups=3)
    p = np.repeat(pooling.mean.p.detach().numpy(), CHANNELS // 3)
    assert len(set(p)) == 3
    assert_vectors(pooling(tokens).vector, [oracle.gem(x, p) for x in each_picture(tokens)])


def test_ggem_of_one_group_is_gem():
    tokens = make_tokens()
    assert torch.equal(make_pooling("ggem", groups=1)(tokens).vector, make_pooling("gem")(tokens).vector)


def test_ggem_refuses_groups_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match="do not split into 5 groups"):
        create_pooling("ggem", CHANNELS, groups=5)


def test_gem_at_one_is_gap_of_the_clamped_input_and_at_large_p_tends_to_the_maximum():
    tokens = make_tokens()
    clamped = Tokens(tokens.patches.clamp(min=1e-6), tokens.grid, tokens.prefix)
    one, large = create_pooling("gem", CHANNELS, p=1.0).double(), create_pooling("gem", CHANNELS, p=50.0).double()
    torch.testing.assert_close(one(tokens).vector, create_pooling("gap", CHANNELS)(clamped).vector)
    torch.testing.assert_close(large(tokens).vector, clamped.patches.amax(1), rtol=0.06, atol=0)
    assert (large(tokens).vector < clamped.patches.amax(1)).all()


def test_gem_clamps_its_exponent_to_1_and_50():
    low, high = PowerMean(1, -3.0), PowerMean(1, 400.0)
    assert low.exponents(4).tolist() == [1.0] * 4
    assert high.exponents(4).tolist() == [50.0] * 4


def test_gem_is_stable_in_float32_where_powers_overflow():
    tokens = make_tokens()
    huge = Tokens(tokens.patches * 1e4, tokens.grid, tokens.prefix)
    pooling = create_pooling("gem", CHANNELS, p=30.0)
    expected = [
        oracle.gem(x / 1e4, np.full(CHANNELS, 30.0)) * 1e4 for x in each_picture(huge)
    ]  # 1e4^30 itself overflows float32
    found = pooling(Tokens(huge.patches.float(), huge.grid, huge.prefix.float())).vector
    np.testing.assert_allclose(found.detach().numpy(), np.stack(expected), rtol=1e-4)


def test_lse_is_the_log_mean_exp():
    tokens, pooling = make_tokens(), make_pooling("lse")
    assert_vectors(
        pooling(tokens).vector, [oracle.lse(x, float(pooling.mean.r.detach())) for x in each_picture(tokens)]
    )


def test_lse_tends_to_gap_and_is_gap_below_a_millionth():
    tokens = make_tokens()
    gap = create_pooling("gap", CHANNELS)(tokens).vector
    torch.testing.assert_close(create_pooling("lse", CHANNELS, r=1e-5).double()(tokens).vector, gap, rtol=0, atol=1e-4)
    torch.testing.assert_close(create_pooling("lse", CHANNELS, r=1e-7).double()(tokens).vector, gap)


def test_contributions_of_max_are_shared_by_ties():
    x = torch.tensor([[[1.0], [3.0], [3.0], [2.0]]])
    pooling = create_pooling("max", 1)
    tokens = Tokens(x, (2, 2), x[:, :0])
    assert pooling.contribution(tokens, pooling(tokens))[0, :, 0].tolist() == [0.0, 1.5, 1.5, 0.0]


def test_contributions_of_generalised_means_follow_their_formulas():
    tokens = make_tokens(batch=1)
    x = tokens.patches[0].numpy()
    gem, lse = create_pooling("gem", CHANNELS, p=3.0).double(), create_pooling("lse", CHANNELS, r=2.0).double()
    y = np.maximum(x, 1e-6) ** 3
    f = oracle.gem(x, np.full(CHANNELS, 3.0))
    np.testing.assert_allclose(
        gem.contribution(tokens, gem(tokens))[0].detach().numpy(), f * y / y.sum(0), rtol=1e-6, atol=1e-12
    )
    e = np.exp(2 * x)
    np.testing.assert_allclose(
        lse.contribution(tokens, lse(tokens))[0].detach().numpy(), oracle.lse(x, 2.0) * e / e.sum(0), rtol=1e-6
    )


@pytest.mark.parametrize("r", [1e-5, -1e-5, 1e-4, 1e-3, 0.03, 0.2, 5.0])
def test_lse_is_exact_in_float32_at_any_sharpness(r: float):
    tokens = make_tokens()
    expected = np.stack([oracle.lse(x, r) for x in each_picture(tokens)])
    found = create_pooling("lse", CHANNELS, r=r)(Tokens(tokens.patches.float(), GRID, tokens.prefix.float())).vector
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("weight", ["squared", "norm"])
def test_how_equals_its_definition(weight: str):
    tokens, pooling = make_tokens(), make_pooling("how", weight=weight, out_dim=5)
    assert pooling.out_dim == 5
    assert_row(
        pooling, tokens, [oracle.how(x, GRID, state_of(pooling), weight == "squared") for x in each_picture(tokens)]
    )


def test_how_does_not_overflow_in_half_precision():
    tokens, pooling = make_tokens(), make_pooling("how")
    large = Tokens(tokens.patches.half() * 100, GRID, tokens.prefix.half())
    expected = pooling(Tokens(large.patches.double(), GRID, large.prefix.double())).vector
    torch.testing.assert_close(pooling.half()(large).vector.double(), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("weight", ["squared", "norm"])
def test_how_gives_zeros_and_finite_gradients_where_there_is_no_feature(weight: str):
    x = torch.zeros(1, 15, CHANNELS, requires_grad=True)
    pooling = create_pooling("how", CHANNELS, weight=weight)
    pooled = pooling(Tokens(x, GRID, x[:, :0]))
    if weight == "squared":
        assert (pooled.vector == 0).all()
    (pooled.vector * torch.arange(CHANNELS)).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in pooling.parameters())
