"""The properties that the framework promises for every pooling."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from simpool_viz.modeling.pooling import Pooled, Tokens, poolings
from tests.helpers import CHANNELS, GRID, make_pooling, make_tokens

OPTIONS = {"simpool": {"gamma": 1.25, "beta": True}, "ggem": {"groups": 3}, "latent": {"num_heads": 3}}


NAMES = list(poolings())


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_its_pictures_alone(name: str):
    tokens, pooling = make_tokens(batch=4), make_pooling(name, **OPTIONS.get(name, {}))
    together = pooling(tokens)
    for i in range(4):
        alone = pooling(Tokens(tokens.patches[i : i + 1], GRID, tokens.prefix[i : i + 1]))
        torch.testing.assert_close(alone.vector[0], together.vector[i], rtol=1e-12, atol=1e-12)
        if together.weights is not None:
            torch.testing.assert_close(alone.weights[0], together.weights[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_close(name: str):
    tokens, pooling = make_tokens(), make_pooling(name, **OPTIONS.get(name, {}))
    half = Tokens(tokens.patches.half(), GRID, tokens.prefix.half())
    wide = Tokens(half.patches.double(), GRID, half.prefix.double())
    expected = pooling(wide).vector
    found = pooling.half()(half).vector
    assert found.dtype == torch.float16
    scale = float(expected.detach().abs().max())
    assert float((found.double() - expected).abs().max()) < 0.01 * scale


@pytest.mark.parametrize("name", NAMES)
def test_torch_compile_follows_the_whole_of_it(name: str):
    """In one graph, with its gradients; `aot_eager` runs the graph without generating code, which would take
    minutes."""
    short = {"otk": {"sinkhorn": 2}, "kmeans": {"steps": 2}, "slot": {"steps": 1}, "cait": {"layers": 1}}
    tokens, pooling = make_tokens(), make_pooling(name, **{**OPTIONS, **short}.get(name, {}))
    wanted, wanted_gradient = vector_and_gradient(pooling, tokens)
    torch.compiler.reset()
    found, gradient = vector_and_gradient(torch.compile(pooling, backend="aot_eager", fullgraph=True), tokens)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient, wanted_gradient)


def vector_and_gradient(pooling: Callable[[Tokens], Pooled], tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    sequence = torch.cat([tokens.prefix, tokens.patches], dim=1).requires_grad_()
    vector = pooling(Tokens.from_sequence(sequence, GRID, tokens.prefix.shape[1])).vector
    (vector * torch.arange(vector.shape[1])).sum().backward()
    return vector.detach(), sequence.grad


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_right(name: str):
    pooling = make_pooling(name, **OPTIONS.get(name, {}))
    base = make_tokens(batch=2)

    def run(patches: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
        return pooling(Tokens(patches, GRID, prefix)).vector

    inputs = base.patches.clone().requires_grad_(), base.prefix.clone().requires_grad_()
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_weights_sum_to_one_over_positions(name: str):
    weights = make_pooling(name, **OPTIONS.get(name, {}))(make_tokens()).weights
    if weights is None:
        assert name in ("cls", "latent"), "only poolings whose weights a recording holds return none"
    elif poolings()[name].unit == "mean":
        assert name in ("how", "cbam") and (weights > 0).all()
    else:
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, weights.shape[1], dtype=torch.float64))


@pytest.mark.parametrize("name", [n for n in NAMES if poolings()[n].additive])
def test_contributions_sum_to_the_vector(name: str):
    tokens, pooling = make_tokens(), make_pooling(name, **OPTIONS.get(name, {}))
    pooled = pooling(tokens)
    given = pooling.contribution(tokens, pooled)
    assert given.shape == (3, 15, CHANNELS)
    torch.testing.assert_close(given.sum(1) + pooling.offset(), pooled.vector, rtol=1e-10, atol=1e-10)


def test_the_named_poolings_are_additive():
    additive = {n for n in NAMES if poolings()[n].additive}
    assert additive == {"gap", "max", "gem", "ggem", "lse", "se", "cbam", "ge", "simpool", "ep", "aim", "abmilp"}


@pytest.mark.parametrize("name", [n for n in NAMES if not poolings()[n].additive])
def test_contributions_are_refused_where_the_vector_is_no_sum(name: str):
    tokens, pooling = make_tokens(), make_pooling(name, **OPTIONS.get(name, {}))
    with pytest.raises(ValueError, match="no contribution"):
        pooling.contribution(tokens, pooling(tokens))


def test_feature_maps_are_flattened_by_rows_and_keep_a_batch_of_one():
    features = torch.arange(2 * 6, dtype=torch.float32).reshape(1, 2, 2, 3)
    tokens = Tokens.from_feature_map(features)
    assert tokens.grid == (2, 3) and tokens.patches.shape == (1, 6, 2) and tokens.prefix.shape == (1, 0, 2)
    assert tokens.patches[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_sequences_that_do_not_fit_their_grid_are_refused():
    with pytest.raises(ValueError, match="2 prefix tokens and a grid of 3 x 5 make 17"):
        Tokens.from_sequence(torch.zeros(1, 16, CHANNELS), GRID, 2)
