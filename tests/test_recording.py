"""Recordings: the captured queries and keys give the eager attention of every supported family, and nothing stays
patched."""

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
from simpool_viz.images import fit, preprocess, read_picture
from simpool_viz.modeling.encoder import Encoder
from tests.oracles.attention import eager_attention

TAGS = [
    "vit_tiny_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "eva02_tiny_patch14_224",
    "beit_base_patch16_224",
    "vit_base_patch16_siglip_224",
]


def load(tag: str, **options: object) -> Encoder:
    torch.manual_seed(0)
    encoder = load_checkpoint(f"timm:{tag}", device="cpu", pretrained=False, depth=2, **options)
    for (
        name,
        parameter,
    ) in encoder.named_parameters():  # relative position tables start at zero, which would hide their effect
        if "relative_position_bias_table" in name:
            parameter.copy_(torch.randn_like(parameter))
    return encoder


def photos(count: int, size: tuple[int, int] = (150, 100), seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(256, size=(size[1], size[0], 3), dtype=np.uint8) for _ in range(count)]


def inputs(encoder: Encoder, pictures: list[np.ndarray], size: int) -> torch.Tensor:
    read = [read_picture(p) for p in pictures]
    return torch.stack(
        [preprocess(p, fit(p.size, size, encoder.stride), encoder.facts.mean, encoder.facts.std) for p in read]
    )


@pytest.mark.parametrize("tag", TAGS)
def test_captured_attention_equals_eager_softmax_attention(tag: str):
    encoder, pictures = load(tag), photos(2)
    recordings = record_batch(encoder, pictures, size=96)
    expected = eager_attention(encoder, inputs(encoder, pictures, 96))
    h, w = recordings[0].geometry.grid
    assert h != w
    for i, recording in enumerate(recordings):
        found = [*recording.blocks] + ([recording.pool_attention] if recording.pool_attention else [])
        assert len(found) == len(expected) == 2 + (encoder.pooling.name == "latent")
        for attention, eager in zip(found, expected, strict=True):
            assert eager.shape[-1] == encoder.num_prefix_tokens + h * w
            np.testing.assert_allclose(attention.rows(slice(None)).numpy(), eager[i].numpy(), atol=1e-5)


@pytest.mark.parametrize("tag", TAGS)
def test_a_batch_equals_its_pictures_alone(tag: str):
    encoder, pictures = load(tag), photos(2)
    together = record_batch(encoder, pictures, size=96)
    for picture, recording in zip(pictures, together, strict=True):
        alone = record(encoder, picture, size=96)
        np.testing.assert_allclose(recording.vector.numpy(), alone.vector.numpy(), atol=2e-5)
        np.testing.assert_allclose(
            recording.blocks[-1].rows(slice(0, 1)).numpy(), alone.blocks[-1].rows(slice(0, 1)).numpy(), atol=1e-5
        )


@pytest.mark.parametrize(
    "tag", ["vit_tiny_patch16_224", "beit_base_patch16_224", "vit_base_patch16_siglip_224", "resnet18", "convnext_atto"]
)
def test_the_encoder_gives_the_logits_of_the_timm_model(tag: str):
    import timm

    depth = {} if "vit" not in tag and "beit" not in tag else {"depth": 2}
    torch.manual_seed(0)
    model = timm.create_model(tag, pretrained=False, **depth).eval()
    encoder = load_checkpoint(f"timm:{tag}", device="cpu", pretrained=False, **depth)
    encoder.backbone.load_state_dict(model.state_dict())
    recording = record(encoder, photos(1, (224, 224))[0], size=224)
    with torch.inference_mode():
        expected = model(inputs(encoder, [recording.picture.rgb], 224))[0]
    found = recording.vector if recording.logits is None else recording.logits
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


def test_beit_gives_the_same_at_its_trained_size_after_it_saw_another():
    encoder, picture = load("beit_base_patch16_224"), photos(1, (100, 100))[0]
    before = record(encoder, picture, size=224)
    record(encoder, picture, size=96)
    record(encoder, photos(1)[0], size=128)
    after = record(encoder, picture, size=224)
    assert torch.equal(before.vector, after.vector)


def test_pictures_of_different_shapes_are_grouped_and_returned_in_order():
    encoder = load("vit_tiny_patch16_224")
    pictures = [*photos(1), *photos(1, (100, 150), seed=1), *photos(1, seed=2)]
    recordings = record_batch(encoder, pictures, size=64)
    assert [r.geometry.grid for r in recordings] == [(4, 6), (6, 4), (4, 6)]
    for picture, recording in zip(pictures, recordings, strict=True):
        assert np.array_equal(recording.picture.rgb, picture)
        np.testing.assert_allclose(
            recording.vector.numpy(), record(encoder, picture, size=64).vector.numpy(), atol=2e-5
        )


def test_a_cnn_has_no_blocks_and_a_grid_of_its_stride():
    recording = record(load_checkpoint("timm:resnet18", device="cpu", pretrained=False), photos(1)[0], size=128)
    assert (
        len(recording.blocks) == 0
        and recording.geometry.grid == (4, 6)
        and recording.tokens.patches.shape == (1, 24, 512)
    )


@pytest.mark.parametrize(
    "tag, reason",
    [
        ("swin_tiny_patch4_window7_224", "windows"),
        ("cait_xxs24_224", "talking-heads"),
        ("mixer_s32_224", "not a supported"),
    ],
)
def test_backbones_that_cannot_be_shown_are_refused_in_a_sentence(tag: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        load_checkpoint(f"timm:{tag}", device="cpu", pretrained=False)


def test_a_wrong_number_of_captured_calls_is_an_error_never_a_partial_result():
    encoder = load("vit_tiny_patch16_224")
    encoder.backbone.blocks[0].attn.fused_attn = False  # as a model whose attention is not fused everywhere
    with pytest.raises(ValueError, match="block 0: fused attention calls were seen 0 times and expected 1 times"):
        record(encoder, photos(1)[0], size=64)


def test_a_block_that_attends_twice_is_an_error_also_where_another_does_not_attend():
    encoder = load("vit_tiny_patch16_224")
    first, second = (block.attn for block in encoder.backbone.blocks)
    own = first.forward
    first.forward = lambda *args, **kwargs: own(own(*args, **kwargs), **kwargs)
    second.fused_attn = False
    with pytest.raises(ValueError, match="block 0: fused attention calls were seen 2 times and expected 1 times"):
        record(encoder, photos(1)[0], size=64)


@pytest.mark.parametrize("place", ["before a block", "inside its attention"])
def test_nothing_stays_patched_after_an_exception(place: str):
    original = F.scaled_dot_product_attention
    encoder = load("vit_tiny_patch16_224")

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle of the forward")

    block = encoder.backbone.blocks[1]
    handle = (block if place == "before a block" else block.attn.proj).register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        record(encoder, photos(1)[0], size=64)
    handle.remove()
    assert F.scaled_dot_product_attention is original
    assert torch.overrides._get_current_function_mode_stack() == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.modules())
    assert len(record(encoder, photos(1)[0], size=64).blocks) == 2
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


def test_top_classes_carry_names_and_probabilities():
    recording = record(load("vit_tiny_patch16_224"), photos(1)[0], size=64)
    (index, name, probability), second = recording.top_classes(2)
    assert name == recording.encoder.facts.classes[index] and probability >= second[2]
    torch.testing.assert_close(torch.tensor(probability), recording.logits.softmax(0).max())


def test_sizes_that_make_no_sense_are_refused():
    encoder = load("vit_tiny_patch16_224")
    for size, words in ((-3, "must be positive"), (100_000, "choose 2048 or less")):
        with pytest.raises(ValueError, match=words):
            record(encoder, photos(1)[0], size=size)


def test_a_size_of_zero_is_not_taken_for_none():
    with pytest.raises(ValueError, match="must be positive"):
        record(load("vit_tiny_patch16_224"), photos(1)[0], size=0)


@pytest.mark.parametrize(
    ("tag", "options"),
    [
        ("deit_tiny_distilled_patch16_224", {}),
        ("resnet18", {"global_pool": "max"}),
        ("resnet18", {"global_pool": "avgmax"}),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "pool_include_prefix": True}),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"global_pool": "max"}),
        ("convnext_atto", {"head_hidden_size": 64}),
        ("convnext_tiny_hnf", {"depths": (1, 1, 1, 1)}),
        ("vit_relpos_small_patch16_224", {}),
        ("vit_srelpos_small_patch16_224", {}),
        ("naflexvit_base_patch16_gap", {"depth": 1}),
        ("xcit_nano_12_p16_224", {}),
        ("vit_small_r26_s32_224", {"depth": 1}),
        ("vit_base_mci_224", {"depth": 1}),
        ("beit_base_patch16_224", {"depth": 1}),
    ],
)
def test_a_timm_model_keeps_its_logits_or_is_refused_in_a_sentence(tag: str, options: dict):
    torch.manual_seed(0)
    try:
        encoder = load_checkpoint(f"timm:{tag}", device="cpu", pretrained=False, **options)
    except ValueError as error:
        assert len(str(error)) > 40
        return
    model = encoder.backbone
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    recording = record(encoder, photos(1, (224, 224))[0], size=224)
    with torch.inference_mode():
        expected = model(inputs(encoder, [recording.picture.rgb], 224))[0]
    np.testing.assert_allclose(recording.logits.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)


def test_an_encoder_can_be_copied():
    import copy
    import pickle

    encoder = load("vit_tiny_patch16_224")
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(record(twin, photos(1)[0], size=64).vector, record(encoder, photos(1)[0], size=64).vector)


def test_pictures_of_a_batch_do_not_keep_each_other_alive():
    one = record_batch(load("vit_tiny_patch16_224"), photos(3), size=64)[1]
    for tensor in (one.tokens.patches, one.blocks[0].query, one.vector):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_only_the_blocks_to_be_kept_are_looked_into():
    encoder, picture = load("vit_tiny_patch16_224"), photos(1)[0]
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
    encoder, seen = load("vit_tiny_patch16_224"), []

    def look(name: str) -> Callable[..., None]:
        return lambda *_: seen.append((name, len(torch.overrides._get_current_function_mode_stack())))

    for number, block in enumerate(encoder.backbone.blocks):
        block.attn.qkv.register_forward_hook(look(f"{number} qkv"))
        block.mlp.register_forward_hook(look(f"{number} mlp"))
    record(encoder, photos(1)[0], size=64, keep={1})
    assert seen == [("0 qkv", 0), ("0 mlp", 0), ("1 qkv", 1), ("1 mlp", 0)]
    seen.clear()
    record(encoder, photos(1)[0], size=64, keep=())
    assert [on for _, on in seen] == [0, 0, 0, 0]


@pytest.mark.parametrize("tag", ["vit_tiny_patch16_224", "seresnet18"])
def test_threads_that_look_at_once_see_each_only_its_own(tag: str):
    encoder = load_checkpoint(
        f"timm:{tag}", device="cpu", pretrained=False, **({"depth": 2} if tag.startswith("vit") else {})
    )
    pictures = [photos(1)[0], photos(2)[1]]
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
    plain = load("vit_tiny_patch16_224")
    plain.backbone.blocks[1].attn.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    block = record(plain, photos(1)[0], size=96).blocks[1]
    storage = seen[-1].untyped_storage().data_ptr()
    assert block.query.untyped_storage().data_ptr() == block.key.untyped_storage().data_ptr() == storage


@pytest.mark.parametrize("tag", TAGS)
def test_the_log_sum_exp_is_that_of_the_logits(tag: str):
    recording = record(load(tag), photos(1)[0], size=96)
    for attention in recording.blocks:
        torch.testing.assert_close(attention.lse, attention.logits(slice(None)).logsumexp(-1), rtol=1e-5, atol=1e-5)


def test_gradients_flow_through_a_captured_forward():
    q, k, v = (torch.randn(1, 2, 5, 4, requires_grad=True) for _ in range(3))
    with AttentionCapture() as capture:
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    assert v.grad is not None and capture.calls[0].lse is None
