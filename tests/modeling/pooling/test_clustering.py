"""Clustering poolings against independent float64 references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from simpool_viz.modeling.pooling import Pooling, Tokens, create_pooling
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
from tests.oracles import clustering


@pytest.mark.parametrize(("k", "eps", "sinkhorn"), [(4, 0.1, 100), (1, 0.5, 3), (3, 2.0, 7)])
def test_otk_equals_its_definition(k: int, eps: float, sinkhorn: int):
    tokens, pooling = make_tokens(), make_pooling("otk", k=k, eps=eps, sinkhorn=sinkhorn)
    assert_row(pooling, tokens, [clustering.otk(x, state_of(pooling), eps, sinkhorn) for x in each_picture(tokens)])


def test_otk_plans_have_their_marginals_and_solve_the_regularised_problem():
    """A plan with these marginals whose logarithm is S / eps plus something of each row and column is the only
    solution."""
    tokens, pooling = make_tokens(), make_pooling("otk")
    moderate = Tokens(tokens.patches * 0.1, GRID, tokens.prefix)
    with torch.no_grad():
        pooling.references.mul_(0.1)
    pooled = pooling(moderate)
    plan = pooled.weights.detach()
    torch.testing.assert_close(plan.sum(2), torch.ones(3, 4, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(plan.sum(1), torch.full((3, 15), 4 / 15, dtype=torch.float64), rtol=0, atol=1e-6)
    rest = plan.log() - pooled.scores.detach() / 0.1
    centred = rest - rest.mean(1, keepdim=True) - rest.mean(2, keepdim=True) + rest.mean((1, 2), keepdim=True)
    assert float(centred.abs().max()) < 1e-10
    converged = [clustering.otk(x, state_of(pooling), 0.1, 20000)[1] for x in each_picture(moderate)]
    np.testing.assert_allclose(plan.numpy(), np.stack(converged), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [10.0, 1000.0])
def test_otk_references_sum_to_one_and_all_is_finite_at_large_spread(dtype: torch.dtype, spread: float):
    tokens = make_tokens(dtype=dtype)
    x = (tokens.patches * spread).requires_grad_()
    pooling = make_pooling("otk", dtype)
    pooled = pooling(Tokens(x, GRID, tokens.prefix))
    torch.testing.assert_close(pooled.weights.sum(2), torch.ones(3, 4, dtype=dtype), rtol=0, atol=1e-6)
    pooled.vector.sum().backward()
    assert torch.isfinite(pooled.vector).all() and torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in pooling.parameters())


def starts(pooling: Pooling, count: int) -> list[int]:
    return [math.floor(place * count) for place in pooling.places]  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(("k", "steps"), [(4, 10), (3, 1), (1, 2), (7, 4)])
def test_kmeans_equals_its_definition(k: int, steps: int):
    tokens, pooling = make_tokens(), make_pooling("kmeans", k=k, steps=steps)
    assert not list(pooling.parameters())
    assert_row(pooling, tokens, [clustering.kmeans(x, starts(pooling, 15), steps)[:2] for x in each_picture(tokens)])


def test_kmeans_starts_on_one_token_of_every_stretch():
    for seed in range(20):
        pooling = create_pooling("kmeans", CHANNELS, k=4, seed=seed)
        assert [start // 4 for start in starts(pooling, 16)] == [0, 1, 2, 3]


def test_kmeans_objective_never_rises():
    grid = (8, 8)
    for seed in range(5):
        x = torch.randn(3, 64, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        tokens = Tokens(x, grid, x[:, :0])
        pooling = create_pooling("kmeans", 5, k=5, seed=seed)
        raw, u, objective = tokens.patches, pooling.init(tokens), []
        for _ in range(11):
            raw, u, _, scores = pooling.step(raw, u, grid)
            assert scores is not None
            objective.append(-scores.amax(1).sum(1))  # of the centres before the step
        course = torch.stack(objective)
        assert (course[1:] <= course[:-1] + 1e-12).all() and (course[-1] < course[0]).all()
        expected = [clustering.kmeans(picture, starts(pooling, 64), 10)[2] for picture in x.numpy()]
        np.testing.assert_allclose(course.T.numpy(), expected, rtol=1e-12)


def test_an_empty_cluster_of_kmeans_keeps_its_centre():
    """Two centres start on equal tokens: the first takes all of them, the second stays where it is, and the map of none
    is empty."""
    x = torch.tensor([[[0.0], [0.0], [1.0], [0.0], [9.0], [9.0]]], dtype=torch.float64)
    tokens = Tokens(x, (2, 3), x[:, :0])
    pooling = create_pooling("kmeans", 1, k=3, steps=4)
    pooling.places = [0.0, 1 / 6 + 0.01, 4 / 6 + 0.01]
    raw, u = x, pooling.init(tokens)
    assert u[0, :, 0].tolist() == [0.0, 0.0, 9.0]
    raw, u, weights, _ = pooling.step(raw, u, (2, 3))
    assert weights[0, 1].tolist() == [0.0] * 6
    assert u[0, :, 0].tolist() == [0.25, 0.0, 9.0]  # the second is now the nearest of the zeros
    vector, final, _ = clustering.kmeans(x[0].numpy(), [0, 1, 4], 4)
    pooled = pooling(tokens)
    assert_vectors(pooled.vector, [vector], ROW)
    assert_vectors(pooled.weights, [final], ROW)


@pytest.mark.parametrize("name", ["kmeans", "otk", "slot"])
@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (1, 3)])
def test_fewer_tokens_than_clusters_are_pooled(name: str, grid: tuple[int, int]):
    x = make_tokens().patches[:, : grid[1]]
    pooling = make_pooling(name)
    pooled = pooling(Tokens(x, grid, x[:, :0]))
    assert pooled.weights.shape == (3, 4, grid[1]) and torch.isfinite(pooled.vector).all()
    if name == "kmeans":
        results = [clustering.kmeans(picture.numpy(), starts(pooling, grid[1]), 10)[:2] for picture in x]
        assert_row(pooling, Tokens(x, grid, x[:, :0]), results)


@pytest.mark.parametrize(("k", "steps"), [(4, 3), (1, 1), (6, 2)])
def test_slot_attention_equals_its_definition(k: int, steps: int):
    tokens, pooling = make_tokens(), make_pooling("slot", k=k, steps=steps)
    draw = pooling.draw[0].numpy()
    assert_row(pooling, tokens, [clustering.slot(x, state_of(pooling), draw, steps) for x in each_picture(tokens)])


@pytest.mark.parametrize("name", ["slot", "kmeans"])
def test_draws_are_the_same_for_every_picture_and_every_instance_of_a_seed(name: str):
    x = make_tokens(batch=1).patches.expand(3, -1, -1)
    tokens = Tokens(x, GRID, x[:, :0])

    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(int(seed == 5))  # the global generator has no say
        pooling = create_pooling(name, CHANNELS, k=4, seed=seed).double()
        return pooling.draw.clone() if name == "slot" else pooling.init(tokens)

    same = make_pooling(name).init(tokens)
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])
    assert torch.equal(first(5), first(5)) and not torch.equal(first(5), first(6))
    assert not torch.equal(first(0), first(1))
