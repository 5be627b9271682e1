"""Roll-outs of the class token and of dense classes against N x N products."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simpool_viz import load_checkpoint, record
from simpool_viz.board.inspection import Lens, inspect
from simpool_viz.board.segmentation import segment
from simpool_viz.maps.rollout_chain import roll_out
from simpool_viz.recording import Recording
from tests.helpers import (
    PHOTO,
    assert_close,
    dense,
    eager_attention_of,
    flat_rows,
    make_photo,
    random_vit,
    small_vit,
    to_grids,
    token_scores,
)
from tests.oracles import attention as oracle


def matrix(recording: Recording) -> np.ndarray:
    return oracle.rollout([m[0].numpy() for m in oracle.eager_attention(recording.encoder, recording.image[None])])


@pytest.mark.parametrize("soft", [False, True])
def test_maps_are_those_of_the_whole_matrix(dense_recording: Recording, soft: bool) -> None:
    expected = oracle.dense_rollout(
        matrix(dense_recording), token_scores(dense_recording), dense_recording.encoder.num_prefix_tokens, soft
    )
    assert dense_recording.geometry.grid[0] != dense_recording.geometry.grid[1] and len(expected) > 1
    found = dense_recording.map("dense_rollout", classes=list(expected), soft=soft)
    np.testing.assert_allclose(flat_rows(found.weights), np.stack(list(expected.values())), atol=1e-5)
    assert found.note == "", "no heuristic on a dense head"


def test_rows_of_the_product_sum_to_1_and_uniform_and_one_hot_rows_are_means_and_rows(
    dense_recording: Recording,
) -> None:
    product, prefix = matrix(dense_recording), dense_recording.encoder.num_prefix_tokens
    count = len(product)
    token = prefix + 5
    weights = torch.zeros(3, count, dtype=torch.float64)
    weights[0] = 1 / count
    weights[1, prefix:] = 1 / (count - prefix)
    weights[2, token] = 1
    rolled = roll_out(weights, dense_recording.blocks).double().numpy()
    np.testing.assert_allclose(rolled.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(rolled, np.stack([product.mean(0), product[prefix:].mean(0), product[token]]), atol=1e-5)


def test_hard_maps_unnormalised_sum_to_the_column_sums(dense_recording: Recording) -> None:
    found = segment(dense_recording)
    counts = np.bincount(found.labels.ravel(), minlength=len(found.names))
    maps = dense_recording.map("dense_rollout", classes=found.found())
    total = (flat_rows(maps.weights) * counts[found.found()][:, None]).sum(0)
    prefix = dense_recording.encoder.num_prefix_tokens
    np.testing.assert_allclose(total, matrix(dense_recording)[prefix:, prefix:].sum(0), atol=1e-4)


def test_union_is_the_mean_row_of_the_tokens_of_either_class(dense_recording: Recording) -> None:
    found = segment(dense_recording)
    first, second = found.found()[:2]
    one, other = (flat_rows(dense_recording.map("dense_rollout", classes=[c]).weights)[0] for c in (first, second))
    counts = np.bincount(found.labels.ravel(), minlength=len(found.names))
    both = dense_recording.map("dense_rollout", classes=[first, second], union=True)
    expected = (counts[first] * one + counts[second] * other) / (counts[first] + counts[second])
    np.testing.assert_allclose(flat_rows(both.weights)[0], expected, atol=1e-6)
    assert both.names == (f"{found.names[first]} + {found.names[second]}",)
    again = dense_recording.map("dense_rollout", classes=[first, second, first], union=True)
    assert np.array_equal(again.weights, both.weights), "a class named twice counts once"


def test_absent_class_is_told_and_never_nan() -> None:
    encoder = dense()
    encoder.head.bias[3] = -1e3
    recording = record(encoder, make_photo(150, 90), 96)
    for classes in (["tree"], ["tree", "car"]):
        with pytest.raises(ValueError, match="absent from this picture: tree"):
            recording.map("dense_rollout", classes=classes)
    assert 3 not in segment(recording).found()
    assert np.isfinite(recording.map("dense_rollout", classes=["tree", "car"], union=True).weights).all()
    answer = inspect(recording, "class", Lens(target="tree"))
    assert "absent from this picture: tree" in answer.notes[0] and [r.request.name for r in answer.rows][-2:] == [
        "class_logits",
        "rollout",
    ]


def test_all_classes_cost_one_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    from simpool_viz.maps import make

    recording, chains = record(dense(), make_photo(150, 90), 96), []
    monkeypatch.setattr(make, "roll_out", lambda rows, *a, **k: chains.append(len(rows)) or roll_out(rows, *a, **k))
    everything = segment(recording).found()
    recording.maps(
        [
            ("dense_rollout", {"classes": everything}),
            ("dense_rollout", {"classes": everything, "soft": True}),
            ("rollout", {}),
        ]
    )
    assert chains == [2 * len(everything) + 1]


def test_rollout_is_the_class_tokens_row_of_the_product():
    recording = record(random_vit(), PHOTO, 96)
    matrices = eager_attention_of(recording)
    for options in ({}, {"first": 1}, {"residual": 0.3}, {"fusion": "max"}, {"fusion": "min", "first": 2}):
        assert_close(recording.map("rollout", **options), to_grids(recording, oracle.rollout(matrices, **options)[:1]))


def test_rollout_starts_from_the_poolings_own_row_without_a_class_token():
    gap, simpool = record(random_vit("avg"), PHOTO, 96), record(random_vit("simpool", gamma=1.25), PHOTO, 96)
    for recording in (gap, simpool):
        prefix, count = recording.encoder.num_prefix_tokens, int(np.prod(recording.geometry.grid))
        assert prefix == 2
        row = np.zeros(prefix + count)
        weights = recording.pooled.weights
        row[prefix:] = 1 / count if recording is gap else weights[0, 0].numpy()
        assert_close(
            recording.map("rollout"), to_grids(recording, row[None] @ oracle.rollout(eager_attention_of(recording)))
        )
        assert recording.map("rollout").note.startswith("starts from")


def test_rollout_of_siglip_starts_from_its_query():
    recording = record(
        load_checkpoint("timm:vit_base_patch16_siglip_224", device="cpu", pretrained=False, depth=2), PHOTO, 96
    )
    *blocks, pool = eager_attention_of(recording)
    assert_close(recording.map("rollout"), to_grids(recording, pool.mean((0, 1))[None] @ oracle.rollout(blocks)))
    assert_close(recording.map("pooling"), to_grids(recording, pool[:, 0]))
    assert recording.map("latent").method == "pooling"


@pytest.mark.parametrize("soft", [False, True])
def test_dense_rollout_is_the_mean_row_of_the_classes_tokens(soft: bool):
    recording = record(random_vit(), PHOTO, 96)
    encoder, prefix = recording.encoder, recording.encoder.num_prefix_tokens
    tokens = recording.tokens.patches[0]
    scores = (tokens @ encoder.head.weight.T + encoder.head.bias).double().numpy()
    expected = oracle.dense_rollout(oracle.rollout(eager_attention_of(recording)), scores, prefix, soft)
    present = list(expected)
    assert len(present) > 1
    found = recording.map("dense_rollout", classes=present, soft=soft)
    assert_close(found, np.stack([expected[c] for c in present]).reshape(-1, *recording.geometry.grid))
    assert found.names == tuple(encoder.facts.classes[c] for c in present) and "heuristic" in found.note
    if not soft:  # hard maps, unnormalised, sum over the classes to the column sums over the patches
        counts = np.bincount(scores.argmax(1), minlength=7)[present]
        column_sums = oracle.rollout(eager_attention_of(recording))[prefix:, prefix:].sum(0)
        np.testing.assert_allclose(
            (found.weights.reshape(len(present), -1) * counts[:, None]).sum(0), column_sums, atol=1e-4
        )


def test_dense_rollout_reports_a_class_that_no_token_has():
    encoder, absent = random_vit(), 4
    encoder.head.bias[absent] = -30.0  # below every other class on every token
    recording = record(encoder, PHOTO, 96)
    with pytest.raises(ValueError, match=f"absent from this picture: {recording.encoder.facts.classes[absent]}"):
        recording.map("dense_rollout", classes=[absent])
    assert np.isfinite(recording.map("dense_rollout", classes=[absent], soft=True).weights).all()


def test_dense_rollout_chooses_a_class_that_is_there():
    recording = record(random_vit(), PHOTO, 96)
    assert len(recording.map("dense_rollout").names) == 1
    assert recording.map("dense_rollout", classes=["tench"], soft=True).names == ("tench",)
    with pytest.raises(ValueError, match="no class 'tenhc'"):
        recording.map("dense_rollout", classes=["tenhc"])
    with pytest.raises(ValueError, match="classes 0 to 6"):
        recording.map("dense_rollout", classes=[7])


def test_the_last_block_of_nosn_has_no_skip_in_its_rollout() -> None:
    encoder = small_vit(inside="nosn")
    recording = record(encoder, make_photo(150, 100))
    assert [block.skip for block in recording.blocks] == [True, True, False]
    rolled = torch.eye(1 + recording.tokens.patches.shape[1], dtype=torch.float64)
    for block in recording.blocks:
        step = block.rows(slice(None)).double().mean(0)
        rolled = (step if block is recording.blocks[-1] else (step + torch.eye(len(step))) / 2) @ rolled
    expected = rolled[0, 1:].reshape(1, *recording.geometry.grid).numpy()
    np.testing.assert_allclose(recording.map("rollout").weights, expected, rtol=1e-4, atol=1e-6)


def test_every_roll_out_takes_a_discard_ratio_and_those_of_one_ratio_share_a_chain() -> None:
    recording = record(small_vit("cls"), make_photo(), 64)
    matrices = [block.rows(slice(None)) for block in recording.blocks]
    rolled = torch.eye(matrices[0].shape[-1])
    for attention in matrices:
        fused, flat = attention.mean(0), attention.mean(0).flatten()
        lowest = flat.argsort()[: int(0.8 * len(flat))]
        fused.view(-1)[lowest[lowest != 0]] = 0
        mixed = (fused + torch.eye(len(fused))) / 2
        rolled = mixed / mixed.sum(-1) @ rolled
    shape = recording.geometry.grid
    found = recording.map("rollout", discard=0.8).weights[0]
    np.testing.assert_allclose(found, rolled[0, 1:].reshape(shape).numpy(), rtol=1e-4, atol=1e-7)
    middle = 1 + (shape[0] // 2) * shape[1] + shape[1] // 2
    token = recording.map("token", rollout=True, discard=0.8).weights[0]
    np.testing.assert_allclose(token, rolled[middle, 1:].reshape(shape).numpy(), rtol=1e-4, atol=1e-7)
    dense, plain = (recording.map("dense_rollout", discard=d).weights for d in (0.8, 0.0))
    assert dense.shape == plain.shape and np.abs(dense - plain).max() > 1e-4
    with pytest.raises(ValueError, match="fusion and discard are options of a token's roll-out"):
        recording.map("token", discard=0.5)
