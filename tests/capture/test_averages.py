"""The kept mean over the heads is that of the eager attention, and takes the place of queries and keys where small."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks import measure
from simpool_viz import Recording, load_checkpoint, load_checkpoints, record, record_batch
from simpool_viz.capture import averages
from simpool_viz.capture.averages import averaged_attention, keeps_mean
from simpool_viz.capture.hooks import Keep
from simpool_viz.recording import record_shared
from tests.helpers import TAGS, noisy_photos, random_timm

BOTH = Keep(frozenset(), frozenset({0, 1}))
QUERIED = Keep(frozenset({0, 1}))


def operands(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    qkv = torch.randn(shape[0], shape[2], 3, shape[1], shape[3], generator=draw, dtype=torch.float64).to(dtype)
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)  # as timm's attention lays them out


@pytest.mark.parametrize("tile", [0, 1, 60, averages.TILE])
@pytest.mark.parametrize("biased", ["", "one of all heads", "one of each", "one of each picture", "masked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_and_mean_are_those_of_the_softmax(
    monkeypatch: pytest.MonkeyPatch, tile: int, biased: str, dtype: torch.dtype
) -> None:
    if tile:  # else all at once
        monkeypatch.setattr(averages, "SMALL", 0)
        monkeypatch.setattr(averages, "TILE", tile)
    query, key, value = operands(2, 3, 5, 4, dtype=dtype)
    bias = None
    if biased:
        shape = {"one of each": (1, 3), "one of each picture": (2, 1)}.get(biased, (1, 1))
        bias = torch.randn(*shape, 5, 5, generator=torch.Generator().manual_seed(1))
        bias = torch.where(bias > 0.8, -torch.inf, bias) if biased == "masked" else bias
        if biased == "masked":
            bias[..., 2, :] = -torch.inf  # a token that attends to none
    output, mean = averaged_attention(query, key, value, bias, 0.7)
    logits = 0.7 * query.double() @ key.double().transpose(-2, -1) + (0 if bias is None else bias)
    matrix = logits.softmax(-1)
    matrix = matrix.where(matrix.isfinite(), 0.0)
    assert output.dtype == mean.dtype == dtype
    np.testing.assert_allclose(output, matrix @ value.double(), atol=1e-6)
    np.testing.assert_allclose(mean, matrix.mean(1), atol=1e-6)


def test_a_keeps_mean_up_to_a_multiple_of_queries_and_keys() -> None:
    most = int(averages.MOST * 2 * 2 * 4)
    assert keeps_mean(*operands(1, 2, most, 4))
    assert not keeps_mean(*operands(1, 2, most + 1, 4))
    assert not keeps_mean(*operands(1, 2, 8, 4, dtype=torch.bfloat16))
    query, key, value = operands(1, 2, 8, 4)
    assert not keeps_mean(query[:, :, :1], key, value)  # a pooling's query, not a block


def held(recording: Recording) -> int:
    """Bytes of the storages of all tensors of a recording."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in recording.tensors()}
    return sum(storages.values())


@pytest.mark.parametrize("tag", TAGS)
def test_a_roll_out_from_kept_means_is_that_from_queries_and_keys(tag: str) -> None:
    encoder, pictures = random_timm(tag), noisy_photos(2)
    requests: list[tuple[str, dict[str, Any]]] = [("rollout", {}), ("token", {"rollout": True, "residual": 0.2})]
    for mean, queried in zip(
        record_batch(encoder, pictures, 96, BOTH), record_batch(encoder, pictures, 96, QUERIED), strict=True
    ):
        assert mean.blocks.kept == () and len(mean.blocks.means) == 2 and not queried.blocks.means
        assert held(mean) < held(queried)
        for one, other in zip(mean.maps(requests), queried.maps(requests), strict=True):
            np.testing.assert_allclose(one.weights, other.weights, rtol=1e-4, atol=1e-8)


def test_what_is_kept_as_a_mean_makes_no_other_map() -> None:
    recording = record(random_timm("vit_tiny_patch16_224"), noisy_photos(1)[0], 64, BOTH)
    for name, options in (("cls", {}), ("rollout", {"fusion": "max"}), ("rollout", {"discard": 0.3}), ("token", {})):
        with pytest.raises(ValueError, match=r"block 1 was kept as its mean .* alone.*record with keep=None"):
            recording.map(name, **options)


def test_a_block_asked_for_in_both_ways_is_kept_as_queries_and_keys() -> None:
    encoder, photo = random_timm("vit_tiny_patch16_224"), noisy_photos(1)[0]
    keep = Keep(frozenset({1})) | BOTH
    recording, whole = record(encoder, photo, 64, keep), record(encoder, photo, 64)
    assert recording.blocks.kept == (1,) and [*recording.blocks.means] == [0]
    np.testing.assert_allclose(recording.blocks.means[0].matrix, whole.blocks[0].rows(slice(None)).mean(0), atol=1e-6)
    for name in ("rollout", "cls"):
        np.testing.assert_allclose(recording.map(name).weights, whole.map(name).weights, rtol=1e-4, atol=1e-8)


def test_what_several_maps_keep_is_kept_together() -> None:
    keep = Keep(frozenset({1}), frozenset({0}), False) | Keep(frozenset({2}), frozenset({1}), True)
    assert keep == Keep(frozenset({1, 2}), frozenset({0, 1}), True)
    assert (Keep() | BOTH).blocks is None and 7 in (Keep() | BOTH) and 2 not in BOTH


@pytest.mark.parametrize("case", ["long", "half precision"])
def test_where_a_mean_is_large_or_the_numbers_are_short_queries_and_keys_are_kept(
    monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    encoder = load_checkpoint("timm:vit_tiny_patch16_224", pretrained=False, device="cpu", depth=2)
    if case == "long":
        monkeypatch.setattr(averages, "MOST", 0.01)
    else:
        encoder = encoder.to(torch.bfloat16)
    recording = record(encoder, noisy_photos(1)[0], 64, BOTH)
    assert recording.blocks.kept == (0, 1) and recording.blocks.means == {}
    assert np.isfinite(recording.map("rollout").weights).all()


def test_models_on_one_trunk_share_its_means() -> None:
    encoders, keep = load_checkpoints(["vit_cls", "vit_gap"]), Keep(frozenset(), frozenset(range(12)))
    (one,), (other,) = record_shared(encoders, noisy_photos(1), 64, keep)
    shared = [one.blocks.means[i] is other.blocks.means[i] for i in range(12)]
    assert shared == [True] * 10 + [False] * 2
    for recording, encoder in ((one, encoders[0]), (other, encoders[1])):
        alone = record(encoder, noisy_photos(1)[0], 64).map("rollout")
        np.testing.assert_allclose(recording.map("rollout").weights, alone.weights, rtol=1e-4, atol=1e-8)
        with pytest.raises(ValueError, match=f"{encoder.facts.name}: the attention of block 11 was kept as its mean"):
            recording.map("token")


def test_the_peak_stays_within_twice_the_queries_and_keys_where_means_are_largest() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("reads the peak where Linux tells it")
    tokens = 1370  # of a ViT-S, of which MOST allows 1,382
    assert keeps_mean(*(torch.empty(1, 6, tokens, 64) for _ in range(3)))
    plain, every = (
        int(measure.in_child("--child", name, tokens, 1).split()[0])
        for name in ("plain fused forward", "every map in one request")
    )
    held = 2 * 12 * tokens * 384 * 4
    assert 0.5 * held < every - plain < 2 * held
