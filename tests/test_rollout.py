"""The roll-out chain against N x N products in float64, and the properties of a product of stochastic matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simpool_viz import rollout as module
from simpool_viz.attention import Attention
from simpool_viz.rollout import roll_out
from tests.oracles import attention as oracle


def blocks_and_matrices(depth: int, heads: int, tokens: int, spread: float = 4.0) -> tuple[list[Attention], list[np.ndarray]]:
    blocks = [Attention(q, k, bias, 1.0) for q, k, bias in oracle.random_blocks(depth, heads, tokens, spread)]
    matrices = []
    for block in blocks:
        scores = block.query.double() @ block.key.double().transpose(1, 2)
        if block.bias is not None:
            scores = scores + block.bias.double()
        matrices.append(scores.softmax(-1).numpy())
    return blocks, matrices


def rows(count: int, tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, tokens, generator=torch.Generator().manual_seed(seed)).softmax(-1)


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("first, residual", [(0, 0.5), (2, 0.5), (0, 0.0), (1, 0.9), (0, 1.0)])
@pytest.mark.parametrize("tokens", [1, 2, 37])
def test_the_chain_equals_the_product_of_matrices(fusion: str, first: int, residual: float, tokens: int):
    blocks, matrices = blocks_and_matrices(3, 2, tokens)
    w = rows(4, tokens)
    expected = w.double().numpy() @ oracle.rollout(matrices, first, residual, fusion)
    found = roll_out(w, blocks, first=first, residual=residual, fusion=fusion)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_the_chain_is_exact_at_logits_of_200():
    blocks, matrices = blocks_and_matrices(4, 3, 29, spread=200.0)
    w = rows(5, 29)
    np.testing.assert_allclose(roll_out(w, blocks).numpy(), w.double().numpy() @ oracle.rollout(matrices), atol=1e-5)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch):
    blocks, _ = blocks_and_matrices(2, 2, 23)
    whole = roll_out(rows(3, 23), blocks)
    monkeypatch.setattr(module, "TILE", 2 * 23 * 5)  # five rows at a time, the last tile of three
    torch.testing.assert_close(roll_out(rows(3, 23), blocks), whole, rtol=0, atol=1e-6)


def test_rows_that_sum_to_one_stay_so_and_nothing_is_negative():
    blocks, _ = blocks_and_matrices(5, 3, 40)
    rolled = roll_out(rows(6, 40), blocks)
    torch.testing.assert_close(rolled.sum(1), torch.ones(6))
    assert (rolled >= 0).all()


def test_later_blocks_stand_on_the_left():
    blocks, matrices = blocks_and_matrices(2, 1, 9)
    found = roll_out(torch.eye(9), blocks, residual=0.0).numpy()
    np.testing.assert_allclose(found, matrices[1][0] @ matrices[0][0], atol=1e-6)
    assert np.abs(found - matrices[0][0] @ matrices[1][0]).max() > 1e-3


def test_no_tile_is_larger_than_its_bound(monkeypatch: pytest.MonkeyPatch):
    blocks, _ = blocks_and_matrices(1, 2, 50)
    monkeypatch.setattr(module, "TILE", 1000)
    sizes = []
    original = Attention.rows
    monkeypatch.setattr(Attention, "rows", lambda self, part: sizes.append(original(self, part).numel()) or original(self, part))
    roll_out(rows(1, 50), blocks)
    assert max(sizes) <= 1000 and sum(sizes) == 2 * 50 * 50


@pytest.mark.parametrize(
    "options, words", [({"fusion": "sum"}, "mean, max or min"), ({"residual": 1.5}, r"\[0, 1\]"), ({"first": 2}, "0 to 1")]
)
def test_options_that_do_not_fit_are_refused(options: dict, words: str):
    blocks, _ = blocks_and_matrices(2, 1, 4)
    with pytest.raises(ValueError, match=words):
        roll_out(rows(1, 4), blocks, **options)
