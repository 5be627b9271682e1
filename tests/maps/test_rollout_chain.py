"""The roll-out chain against N x N products in float64, and the properties of a product of stochastic matrices."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from simpool_viz.capture.block_attention import Attention, Blocks
from simpool_viz.capture.kernels import cpu_kernel, efficient_kernel
from simpool_viz.maps import rollout_chain as module
from simpool_viz.maps.rollout_chain import (
    RolloutOptions,
    Workspace,
    roll_out,
    through_block,
    through_kernel,
    through_tiles,
)
from tests.helpers import Operator, put_operator
from tests.oracles import attention as oracle

SCALE = 0.7


@pytest.fixture(autouse=True)
def blocks_of_any_size_are_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 0)


def blocks_and_matrices(
    depth: int, heads: int, tokens: int, spread: float = 4.0, size: int = 8, kernel: bool = True
) -> tuple[list[Attention], list[np.ndarray]]:
    """Random blocks, every second with a bias, and their matrices in float64; with `kernel`, blocks carry what the
    kernel gives."""
    blocks, matrices = [], []
    for q, k, bias in oracle.random_blocks(depth, heads, tokens, spread, size=size):
        q = q / SCALE
        scores = q.double() @ k.double().transpose(1, 2) * SCALE + (0 if bias is None else bias.double())
        matrices.append(scores.softmax(-1).numpy())
        lse = (
            cpu_kernel(q[None], k[None], k[None], None if bias is None else bias[None], SCALE)[1][0] if kernel else None
        )
        blocks.append(Attention(q, k, bias, SCALE, lse))
    return blocks, matrices


def rows(count: int, tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, tokens, generator=torch.Generator().manual_seed(seed)).softmax(-1)


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("first, residual", [(0, 0.5), (2, 0.5), (0, 0.0), (1, 0.9), (0, 1.0)])
@pytest.mark.parametrize("tokens, kernel", [(1, True), (2, True), (37, True), (37, False)])
def test_the_chain_equals_the_product_of_matrices(fusion: str, first: int, residual: float, tokens: int, kernel: bool):
    blocks, matrices = blocks_and_matrices(3, 2, tokens, kernel=kernel)
    w = rows(4, tokens)
    expected = w.double().numpy() @ oracle.rollout(matrices, first, residual, fusion)
    found = roll_out(w, blocks, first=first, residual=residual, fusion=fusion)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("tokens", [1, 29, 150])
def test_the_chain_is_exact_at_logits_of_200(tokens: int, kernel: bool):
    blocks, matrices = blocks_and_matrices(4, 3, tokens, spread=200.0, kernel=kernel)
    w = rows(5, tokens)
    np.testing.assert_allclose(roll_out(w, blocks).numpy(), w.double().numpy() @ oracle.rollout(matrices), atol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 20.0, 58.0, 150.0])
def test_the_statistic_goes_into_values_or_logits_to_the_same_end(spread: float, monkeypatch: pytest.MonkeyPatch):
    blocks, matrices = blocks_and_matrices(3, 3, 90, spread=spread)
    lse = blocks[0].lse
    assert lse is not None
    widths: list[int] = []

    def spy(*operands):
        widths.append(operands[0].shape[-1])
        return cpu_kernel(*operands)

    monkeypatch.setattr(module, "find_kernel", lambda *_: spy)
    w = rows(5, 90)
    expected = w.double().numpy() @ oracle.rollout(matrices)
    for limit in (module.SPREAD, -1.0):
        monkeypatch.setattr(module, "SPREAD", limit)
        np.testing.assert_allclose(roll_out(w, blocks).numpy(), expected, atol=1e-5)
    safe = float((lse - lse.amin(1, keepdim=True)).max()) <= 60
    assert widths[2] == (8 if safe else 9) and widths[3:] == [9, 9, 9], "a channel more where it enters the logits"
    assert safe == (spread < 100)


def test_the_chain_is_exact_at_thousands_of_tokens():
    blocks, matrices = blocks_and_matrices(2, 2, 2500)
    w = torch.cat([rows(20, 2500), torch.eye(2500)[:1]])
    np.testing.assert_allclose(
        roll_out(w, blocks).numpy(), w.double().numpy() @ oracle.rollout(matrices), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("size", [1, 3, 8, 65])
@pytest.mark.parametrize("classes", [1, 4, 9, 40, 150])
def test_any_head_size_and_any_number_of_classes(size: int, classes: int):
    blocks, matrices = blocks_and_matrices(2, 2, 71, size=size)
    w = rows(classes, 71)
    np.testing.assert_allclose(roll_out(w, blocks).numpy(), w.double().numpy() @ oracle.rollout(matrices), atol=1e-6)


def test_queries_and_keys_in_half_precision_lose_nothing_further():
    blocks, _ = blocks_and_matrices(2, 2, 71)
    halves = []
    for b in blocks:
        q, k = b.query.half(), b.key.half()
        bias = None if b.bias is None else b.bias.half()
        logits = q.float() @ k.float().transpose(1, 2) * SCALE + (0 if bias is None else bias.float())
        halves.append(Attention(q, k, bias, SCALE, logits.logsumexp(-1)))
    exact = [(h.logits(slice(None)).double().softmax(-1)).numpy() for h in halves]
    found = roll_out(rows(3, 71), halves)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), rows(3, 71).double().numpy() @ oracle.rollout(exact), atol=1e-6)


def test_float64_stays_float64():
    blocks, matrices = blocks_and_matrices(2, 2, 71)
    wide = [
        Attention(b.query.double(), b.key.double(), None if b.bias is None else b.bias.double(), SCALE, None)
        for b in blocks
    ]
    wide = [Attention(b.query, b.key, b.bias, SCALE, b.logits(slice(None)).logsumexp(-1)) for b in wide]
    w = rows(3, 71).double()
    found = roll_out(w, wide)
    np.testing.assert_allclose(found.numpy(), w.numpy() @ oracle.rollout(matrices), atol=1e-12)


def test_a_token_that_no_one_may_attend_to_gets_nothing():
    blocks, _ = blocks_and_matrices(1, 2, 12)
    bias = torch.zeros(1, 12, 12)
    bias[..., 5] = float("-inf")
    q, k = blocks[0].query, blocks[0].key
    lse = cpu_kernel(q[None], k[None], k[None], bias[None], SCALE)[1][0]
    block = Attention(q, k, bias, SCALE, lse)
    found, twin = through_block(rows(3, 12), block), through_tiles(rows(3, 12), block)
    assert (found[:, 5] == 0).all()
    torch.testing.assert_close(found, twin)


def test_the_kernel_runs_where_it_can_and_rows_are_read_where_few_have_weight(monkeypatch: pytest.MonkeyPatch):
    called = []
    original = through_kernel
    monkeypatch.setattr(
        module,
        "through_kernel",
        lambda w, block, kernel, workspace: called.append(len(w)) or original(w, block, kernel, workspace),
    )
    blocks, matrices = blocks_and_matrices(3, 2, 90)
    found = roll_out(torch.eye(90)[:2], blocks, residual=0.0)
    assert called == [2, 2], "the last block's rows are read, the two before it are turned around"
    np.testing.assert_allclose(found.numpy(), oracle.rollout(matrices, residual=0.0)[:2], atol=1e-6)


@pytest.mark.parametrize("small", [0, 10**9])
def test_one_token_needs_one_row_of_the_last_block_however_small_it_is(small: int, monkeypatch: pytest.MonkeyPatch):
    blocks, matrices = blocks_and_matrices(2, 2, 90)
    monkeypatch.setattr(module, "SMALL", small)
    read: list[int] = []
    original = Attention.rows
    monkeypatch.setattr(
        Attention, "rows", lambda self, rows: read.append(original(self, rows).shape[1]) or original(self, rows)
    )
    found = roll_out(torch.eye(90)[:1], blocks)
    assert read == ([1, 90] if small else [1])
    np.testing.assert_allclose(found.numpy(), oracle.rollout(matrices)[:1], atol=1e-6)


def test_blocks_whose_matrix_is_small_are_not_turned(monkeypatch: pytest.MonkeyPatch):
    blocks, matrices = blocks_and_matrices(2, 2, 90)
    monkeypatch.setattr(module, "SMALL", 2 * 90 * 90)
    monkeypatch.setattr(
        module, "through_kernel", lambda *_: pytest.fail("a block as small as this costs less as a tile")
    )
    np.testing.assert_allclose(
        roll_out(rows(3, 90), blocks).numpy(), rows(3, 90).double().numpy() @ oracle.rollout(matrices), atol=1e-6
    )
    monkeypatch.setattr(module, "SMALL", 2 * 90 * 90 - 1)
    with pytest.raises(pytest.fail.Exception, match="costs less"):
        roll_out(rows(3, 90), blocks)


def test_a_bias_is_turned_a_tile_at_a_time(monkeypatch: pytest.MonkeyPatch):
    blocks, _ = blocks_and_matrices(2, 2, 23)
    whole = through_block(rows(3, 23), blocks[1])
    monkeypatch.setattr(module, "TILE", 2 * 23 * 5)
    shapes: list[torch.Size] = []

    def spy(query, key, value, bias, scale):
        shapes.append(bias.shape)
        return cpu_kernel(query, key, value, bias, scale)

    torch.testing.assert_close(through_kernel(rows(3, 23), blocks[1], spy, Workspace()), whole, rtol=0, atol=1e-6)
    assert [s[2] for s in shapes] == [5, 5, 5, 5, 3]


def test_cuda_kernels_get_what_they_ask_for(monkeypatch: pytest.MonkeyPatch):
    blocks, matrices = blocks_and_matrices(2, 2, 71)
    put_operator(monkeypatch, "_scaled_dot_product_efficient_attention", operator := Operator(True, 32))
    monkeypatch.setattr(module, "find_kernel", lambda *_: efficient_kernel)
    w = rows(13, 71)
    np.testing.assert_allclose(roll_out(w, blocks).numpy(), w.double().numpy() @ oracle.rollout(matrices), atol=1e-6)
    assert operator.calls == 4, "two groups of at most 9 columns in each of two blocks"


def test_blocks_that_were_not_kept_say_so():
    blocks, _ = blocks_and_matrices(3, 2, 12)
    kept = Blocks([None, *blocks[1:]], "the ViT")
    assert kept.kept == (1, 2) and kept[-1] is blocks[2] and kept[1:] == tuple(blocks[1:])
    assert torch.equal(roll_out(rows(1, 12), kept, first=1), roll_out(rows(1, 12), blocks, first=1))
    with pytest.raises(ValueError, match="the ViT: the attention of block 0 was not kept"):
        roll_out(rows(1, 12), kept)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch):
    blocks, _ = blocks_and_matrices(2, 2, 23, kernel=False)
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
    blocks, _ = blocks_and_matrices(1, 2, 50, kernel=False)
    monkeypatch.setattr(module, "TILE", 1000)
    sizes = []
    original = Attention.rows
    monkeypatch.setattr(
        Attention, "rows", lambda self, part: sizes.append(original(self, part).numel()) or original(self, part)
    )
    roll_out(rows(1, 50), blocks)
    assert max(sizes) <= 1000 and sum(sizes) == 2 * 50 * 50


@pytest.mark.parametrize(
    "options, words",
    [({"fusion": "sum"}, "mean, max or min"), ({"residual": 1.5}, r"\[0, 1\]"), ({"first": 2}, "0 to 1")],
)
def test_options_that_do_not_fit_are_refused(options: dict, words: str):
    blocks, _ = blocks_and_matrices(2, 1, 4)
    with pytest.raises(ValueError, match=words):
        roll_out(rows(1, 4), blocks, **options)


@pytest.mark.parametrize("options", [{"first": -1}, {"first": 1.5}, {"first": "1"}, {"residual": "half"}])
def test_first_block_is_a_whole_number_from_0_and_the_residual_a_number(options: dict):
    with pytest.raises(ValueError, match=r"number from 0|\[0, 1\]"):
        RolloutOptions(**options)


def test_a_chain_of_one_block_has_no_second():
    blocks, matrices = blocks_and_matrices(1, 2, 12)
    with pytest.raises(ValueError, match="the first block is 0 to 0, not 1"):
        roll_out(rows(1, 12), blocks, first=1)
    w = rows(2, 12)
    np.testing.assert_allclose(roll_out(w, blocks).numpy(), w.double().numpy() @ oracle.rollout(matrices), atol=1e-6)


def test_kernel_is_asked_for_by_what_it_will_be_given(monkeypatch: pytest.MonkeyPatch):
    """Heads with the channel that the statistic may take, and whether there is a bias, of each block."""
    asked = []
    monkeypatch.setattr(module, "find_kernel", lambda *what: asked.append(what))
    blocks, _ = blocks_and_matrices(2, 2, 90, size=8)
    roll_out(rows(5, 90), blocks)
    biased = [block.bias is not None for block in reversed(blocks)]
    assert asked == [(torch.device("cpu"), torch.float32, 9, bias) for bias in biased] and set(biased) == {False, True}


@pytest.mark.parametrize(("spread", "channels"), [(59.0, 8), (61.0, 9), (87.0, 9), (120.0, 9)])
def test_the_statistic_is_exponentiated_only_where_float32_leaves_room(
    spread: float, channels: int, monkeypatch: pytest.MonkeyPatch
):
    """Its exp is multiplied and summed, so that a spread near float32's own range of 88 is too wide already."""
    (block,), _ = blocks_and_matrices(1, 2, 90)
    stretched = dataclasses.replace(block, lse=torch.linspace(0, spread, 90).expand(2, 90))
    widths: list[int] = []

    def spy(*operands):
        widths.append(operands[0].shape[-1])
        return cpu_kernel(*operands)

    through_kernel(rows(5, 90), stretched, spy, Workspace())
    assert set(widths) == {channels}


def test_the_least_of_heads_far_apart_does_not_underflow() -> None:
    scores = torch.tensor([[[100.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-90.0, 0.0, 90.0]],
                           [[0.0, 100.0, 100.0], [0.0, 1.0, 2.0], [90.0, 0.0, -90.0]]])  # fmt: skip
    block = Attention(scores, torch.eye(3).expand(2, 3, 3), None, 1.0)  # logits are the queries
    for fusion, pick in (("min", torch.amin), ("max", torch.amax)):
        exact = pick(scores.double().log_softmax(-1), 0)
        expected = exact.exp() / exact.exp().sum(-1, keepdim=True)
        found = roll_out(torch.eye(3), [block], residual=0.0, fusion=fusion)
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.sum(1), torch.ones(3))


def test_the_least_of_heads_that_share_no_key_is_nothing() -> None:
    bias = torch.tensor([[[0.0, -torch.inf]], [[-torch.inf, 0.0]]]).expand(2, 2, 2)
    block = Attention(torch.zeros(2, 2, 4), torch.zeros(2, 2, 4), bias, 1.0)
    assert torch.equal(roll_out(torch.eye(2), [block], residual=0.0, fusion="min"), torch.zeros(2, 2))


@pytest.mark.parametrize("fusion", ["mean", "min"])
def test_a_block_without_a_skip_is_its_attention_alone(fusion: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(3, 2, 7, 4, generator=generator) for _ in range(2))
    blocks = [Attention(query[i], key[i], None, 0.5, skip=i != 2) for i in range(3)]
    weights = torch.eye(7)
    expected = weights.double()
    for block in blocks:
        heads = (query_logits(block)).softmax(-1)
        step = heads.mean(0) if fusion == "mean" else heads.amin(0) / heads.amin(0).sum(-1, keepdim=True)
        expected = (0.4 * step + 0.6 * torch.eye(7) if block.skip else step) @ expected
    found = roll_out(weights, blocks, residual=0.6, fusion=fusion)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)


def query_logits(block: Attention) -> torch.Tensor:
    return block.query.double() @ block.key.double().transpose(1, 2) * block.scale


def vit_explain(matrices: list[np.ndarray], fusion: str, discard: float) -> np.ndarray:
    """The roll-out of all tokens by the tool's own steps, of attention (H, N, N) from first to last."""
    result = np.eye(matrices[0].shape[-1])
    for attention in matrices:
        fused = {"mean": attention.mean(0), "max": attention.max(0), "min": attention.min(0)}[fusion].copy()
        order = np.argsort(fused.ravel(), kind="stable")[: int(fused.size * discard)]
        for place in order:
            if place != 0:
                fused[place // len(fused), place % len(fused)] = 0
        mixed = (fused + np.eye(len(fused))) / 2
        result = (mixed / mixed.sum(-1)[None, :]) @ result  # column j by the sum of row j, as in its code
    return result


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("discard", [0.01, 0.5, 0.9])
def test_discarding_low_weights_equals_vit_explain(
    fusion: str, discard: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, matrices = blocks_and_matrices(3, 4, 37)
    w = rows(3, 37)
    expected = w.double().numpy() @ vit_explain(matrices, fusion, discard)
    plain = roll_out(w, blocks, fusion=fusion)
    for tile in (module.TILE, 400):
        monkeypatch.setattr(module, "TILE", tile)
        found = roll_out(w, blocks, fusion=fusion, discard=discard)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-7)
    assert discard < 0.1 or (found - plain).abs().max() > 1e-4


def test_a_discarded_share_of_nothing_is_the_plain_roll_out_and_one_of_all_is_refused() -> None:
    blocks, _ = blocks_and_matrices(2, 2, 23)
    assert torch.equal(roll_out(rows(2, 23), blocks, discard=0.0), roll_out(rows(2, 23), blocks))
    for wrong in (1.0, -0.1, "a"):
        with pytest.raises(ValueError, match=rf"the share that is discarded lies in \[0, 1\), not {wrong}"):
            roll_out(rows(2, 23), blocks, discard=wrong)


def test_a_block_without_a_skip_connection_is_not_mixed_where_low_weights_are_discarded() -> None:
    (block,), (matrix,) = blocks_and_matrices(1, 2, 9)
    fused = matrix.mean(0)
    fused.ravel()[np.argsort(fused.ravel())[: int(81 * 0.4)]] = 0
    fused[0, 0] = matrix.mean(0)[0, 0]
    found = roll_out(torch.eye(9), [dataclasses.replace(block, skip=False)], discard=0.4)
    np.testing.assert_allclose(found.numpy(), fused / fused.sum(-1)[None, :], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gain", [1, 10, 100])
def test_the_error_grows_with_the_logits_as_is_said_and_not_more_than_that_of_a_plain_softmax(gain: int) -> None:
    """The bound of the module's head: a relative error of 2^-23 times the largest logit, by every way."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 300, 64, generator=generator) for _ in range(2))
    q, scale = q * gain, 64**-0.5
    lse = cpu_kernel(q[None], k[None], k[None], None, scale)[1][0]
    scores = q.double() @ k.double().transpose(1, 2) * scale
    w = rows(3, 300)
    expected = w.double() @ scores.softmax(-1).mean(0)
    block = Attention(q, k, None, scale, lse)
    bound = 4 * 2**-23 * max(1.0, float(scores.abs().max()))
    seen = expected > 1e-12  # below, a weight may underflow
    for found in (through_kernel(w, block, cpu_kernel, Workspace()), through_tiles(w, block)):
        error = ((found.double() - expected).abs() / expected)[seen].max()
        assert error < bound, f"{error:.1e} of {bound:.1e}"
