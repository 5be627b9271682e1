"""The captured queries and keys give the eager attention of every supported family, and nothing stays patched."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from simpool_viz import load_checkpoint, record, record_batch
from simpool_viz.capture.hooks import AttentionCapture
from tests.helpers import TAGS, inputs_of, noisy_photos, random_timm
from tests.oracles.attention import eager_attention


@pytest.mark.parametrize("tag", TAGS)
def test_captured_attention_equals_eager_softmax_attention(tag: str):
    encoder, pictures = random_timm(tag), noisy_photos(2)
    recordings = record_batch(encoder, pictures, size=96)
    expected = eager_attention(encoder, inputs_of(encoder, pictures, 96))
    h, w = recordings[0].geometry.grid
    assert h != w
    for i, recording in enumerate(recordings):
        found = [*recording.blocks] + ([recording.pool_attention] if recording.pool_attention else [])
        assert len(found) == len(expected) == 2 + (encoder.pooling.name == "latent")
        for attention, eager in zip(found, expected, strict=True):
            assert eager.shape[-1] == encoder.num_prefix_tokens + h * w
            np.testing.assert_allclose(attention.rows(slice(None)).numpy(), eager[i].numpy(), atol=1e-5)


def test_a_wrong_number_of_captured_calls_is_an_error_never_a_partial_result():
    encoder = random_timm("vit_tiny_patch16_224")
    encoder.backbone.blocks[0].attn.fused_attn = False  # as a model whose attention is not fused everywhere
    with pytest.raises(ValueError, match="block 0: fused attention calls were seen 0 times and expected 1 times"):
        record(encoder, noisy_photos(1)[0], size=64)


def test_a_block_that_attends_twice_is_an_error_also_where_another_does_not_attend():
    encoder = random_timm("vit_tiny_patch16_224")
    first, second = (block.attn for block in encoder.backbone.blocks)
    own = first.forward
    first.forward = lambda *args, **kwargs: own(own(*args, **kwargs), **kwargs)
    second.fused_attn = False
    with pytest.raises(ValueError, match="block 0: fused attention calls were seen 2 times and expected 1 times"):
        record(encoder, noisy_photos(1)[0], size=64)


@pytest.mark.parametrize("place", ["before a block", "inside its attention"])
def test_nothing_stays_patched_after_an_exception(place: str):
    original = F.scaled_dot_product_attention
    encoder = random_timm("vit_tiny_patch16_224")

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle of the forward")

    block = encoder.backbone.blocks[1]
    handle = (block if place == "before a block" else block.attn.proj).register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        record(encoder, noisy_photos(1)[0], size=64)
    handle.remove()
    assert F.scaled_dot_product_attention is original
    assert torch.overrides._get_current_function_mode_stack() == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.modules())
    assert len(record(encoder, noisy_photos(1)[0], size=64).blocks) == 2
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_boolean_masks_and_default_scales_are_captured_as_they_act():
    q, k, v = (torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
    mask = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(3)) > 0.3
    mask[..., 0] = True
    with AttentionCapture() as capture:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    call = capture.calls[0]
    assert call.scale == 0.5 and call.query is q and call.key is k
    logits = (call.query @ call.key.transpose(-2, -1)) * call.scale + call.bias
    torch.testing.assert_close(logits.softmax(-1) @ v, out)
    torch.testing.assert_close(logits.logsumexp(-1), call.lse)


def test_causal_attention_is_refused():
    x = torch.randn(1, 2, 5, 4)
    with pytest.raises(ValueError, match="causal"), AttentionCapture():
        F.scaled_dot_product_attention(x, x, x, is_causal=True)


def test_only_the_blocks_to_be_kept_are_looked_into():
    encoder, picture = random_timm("vit_tiny_patch16_224"), noisy_photos(1)[0]
    recording = record(encoder, picture, size=64, keep={1})
    assert recording.blocks.kept == (1,) and len(recording.blocks) == 2
    whole = record(encoder, picture, size=64)
    assert whole.blocks.kept == (0, 1)
    np.testing.assert_array_equal(recording.map("cls").weights, whole.map("cls").weights)
    with pytest.raises(ValueError, match="the attention of block 0 was not kept"):
        recording.map("rollout")
    encoder.backbone.blocks[0].attn.fused_attn = False
    with pytest.raises(ValueError, match="block 0: fused attention calls were seen 0 times"):
        record(encoder, picture, size=64, keep={0})
    np.testing.assert_allclose(
        record(encoder, picture, size=64, keep={1}).map("cls").weights, whole.map("cls").weights, atol=1e-6
    )


def test_the_mode_is_on_inside_the_attention_of_kept_blocks_alone():
    encoder, seen = random_timm("vit_tiny_patch16_224"), []

    def look(name: str) -> Callable[..., None]:
        return lambda *_: seen.append((name, len(torch.overrides._get_current_function_mode_stack())))

    for number, block in enumerate(encoder.backbone.blocks):
        block.attn.qkv.register_forward_hook(look(f"{number} qkv"))
        block.mlp.register_forward_hook(look(f"{number} mlp"))
    record(encoder, noisy_photos(1)[0], size=64, keep={1})
    assert seen == [("0 qkv", 0), ("0 mlp", 0), ("1 qkv", 1), ("1 mlp", 0)]
    seen.clear()
    record(encoder, noisy_photos(1)[0], size=64, keep=())
    assert [on for _, on in seen] == [0, 0, 0, 0]


@pytest.mark.parametrize("tag", ["vit_tiny_patch16_224", "seresnet18"])
def test_threads_that_look_at_once_see_each_only_its_own(tag: str):
    encoder = load_checkpoint(
        f"timm:{tag}", device="cpu", pretrained=False, **({"depth": 2} if tag.startswith("vit") else {})
    )
    pictures = [noisy_photos(1)[0], noisy_photos(2)[1]]
    alone = [record(encoder, picture, size=64) for picture in pictures]
    meeting = threading.Barrier(2, timeout=30)
    first = encoder.backbone.blocks[0].attn.qkv if encoder.depth else encoder.backbone.layer1[0].se.fc1
    handle = first.register_forward_hook(lambda *_: (meeting.wait(), None)[1])  # in the midst of both forwards
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda picture: record(encoder, picture, size=64), pictures))
    handle.remove()
    for one, other in zip(together, alone, strict=True):
        assert len(one.blocks) == encoder.depth and len(one.gates) == len(other.gates)
        assert all(torch.allclose(a.query, b.query, atol=1e-5) for a, b in zip(one.blocks, other.blocks, strict=True))
        assert all(torch.allclose(a.values, b.values, atol=1e-5) for a, b in zip(one.gates, other.gates, strict=True))


def test_what_is_kept_are_references_to_what_the_kernel_got():
    seen = []
    plain = random_timm("vit_tiny_patch16_224")
    plain.backbone.blocks[1].attn.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    block = record(plain, noisy_photos(1)[0], size=96).blocks[1]
    storage = seen[-1].untyped_storage().data_ptr()
    assert block.query.untyped_storage().data_ptr() == block.key.untyped_storage().data_ptr() == storage


@pytest.mark.parametrize("tag", TAGS)
def test_the_log_sum_exp_is_that_of_the_logits(tag: str):
    recording = record(random_timm(tag), noisy_photos(1)[0], size=96)
    for attention in recording.blocks:
        torch.testing.assert_close(attention.lse, attention.logits(slice(None)).logsumexp(-1), rtol=1e-5, atol=1e-5)


def test_gradients_flow_through_a_captured_forward():
    q, k, v = (torch.randn(1, 2, 5, 4, requires_grad=True) for _ in range(3))
    with AttentionCapture() as capture:
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    assert v.grad is not None and capture.calls[0].lse is None
