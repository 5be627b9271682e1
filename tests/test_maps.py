"""Every map method against an independent computation, on ViTs and CNNs with random weights, h != w, with prefix
tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from simpool_viz import load_checkpoint, map_methods, record
from simpool_viz.checkpoints.formats.timm import encoder_from_timm
from simpool_viz.images import fit, preprocess
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.registry import maps_of
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.pooling import create_pooling
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.recording import Recording
from tests.oracles import attention as oracle

PHOTO = np.random.default_rng(0).integers(256, size=(100, 150, 3), dtype=np.uint8)


def vit(
    pooling: str = "token", classes: int = 7, registers: int = 2, seed: int = 0, **pooling_options: object
) -> Encoder:
    """A small ViT with registers, and a class token where the pooling reads one."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)
    has_class = pooling == "token"
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=classes, reg_tokens=registers,
        class_token=has_class, global_pool="token" if has_class else "avg", dynamic_img_size=True, init_values=None,
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.25)
    facts = Facts("small_vit", "small ViT", 96, classes=("tench", "church", "lamp", "okapi", "cup", "ant", "emu"))
    if has_class or pooling == "avg":
        return encoder_from_timm(model, facts).eval().requires_grad_(False)
    model.norm, norm = nn.Identity(), nn.LayerNorm(24)
    encoder = Encoder(
        model, create_pooling(pooling, 24, **pooling_options), norm=norm, head=nn.Linear(24, classes), facts=facts
    )
    return encoder.eval().requires_grad_(False)


def cnn(pooling: str, **options: object) -> Encoder:
    torch.manual_seed(0)
    kwargs = {"channels": (8, 8, 16, 16), "stem_type": "deep", "stem_width": 8, "output_stride": 16}
    spec = EncoderSpec("resnet18", pooling, 5, kwargs, False, options)
    return (
        spec.build(Facts("small_cnn", "small CNN", 64, classes=("a", "b", "c", "d", "e"))).eval().requires_grad_(False)
    )


def eager(recording: Recording) -> list[np.ndarray]:
    encoder = recording.encoder
    geometry = fit(recording.picture.size, 96, encoder.stride)
    images = preprocess(recording.picture, geometry, encoder.facts.mean, encoder.facts.std)[None]
    return [a[0].numpy() for a in oracle.eager_attention(encoder, images)]


def grids(recording: Recording, rows: np.ndarray) -> np.ndarray:
    """Rows over P + N tokens to grids, prefixes dropped."""
    return rows[:, recording.encoder.num_prefix_tokens :].reshape(-1, *recording.geometry.grid)


def close(found: AttentionMap, expected: np.ndarray) -> None:
    assert (
        found.weights.dtype == np.float32
        and found.weights.shape == expected.shape
        and found.weights.shape[1] != found.weights.shape[2]
    )
    np.testing.assert_allclose(found.weights, expected, atol=1e-5)


@pytest.mark.parametrize("block", [-1, 0, 1])
def test_cls_is_the_class_tokens_row_per_head(block: int):
    recording = record(vit(), PHOTO, 96)
    assert recording.encoder.num_prefix_tokens == 3
    found = recording.map("cls", block=block)
    close(found, grids(recording, eager(recording)[block][:, 0]))
    assert found.names == ("head 0", "head 1", "head 2")
    assert found.logits is not None and found.logits.shape == found.weights.shape


def test_cls_logits_are_the_scores_before_the_softmax():
    recording = record(vit(), PHOTO, 96)
    found = recording.map("cls")
    ratio = np.exp(found.logits - found.logits[:, :1, :1]) * found.weights[:, :1, :1]
    np.testing.assert_allclose(ratio, found.weights, rtol=1e-4)


def test_rollout_is_the_class_tokens_row_of_the_product():
    recording = record(vit(), PHOTO, 96)
    matrices = eager(recording)
    for options in ({}, {"first": 1}, {"residual": 0.3}, {"fusion": "max"}, {"fusion": "min", "first": 2}):
        close(recording.map("rollout", **options), grids(recording, oracle.rollout(matrices, **options)[:1]))


def test_rollout_starts_from_the_poolings_own_row_without_a_class_token():
    gap, simpool = record(vit("avg"), PHOTO, 96), record(vit("simpool", gamma=1.25), PHOTO, 96)
    for recording in (gap, simpool):
        prefix, count = recording.encoder.num_prefix_tokens, int(np.prod(recording.geometry.grid))
        assert prefix == 2
        row = np.zeros(prefix + count)
        weights = recording.pooled.weights
        row[prefix:] = 1 / count if recording is gap else weights[0, 0].numpy()
        close(recording.map("rollout"), grids(recording, row[None] @ oracle.rollout(eager(recording))))
        assert recording.map("rollout").note.startswith("starts from")


def test_rollout_of_siglip_starts_from_its_query():
    recording = record(
        load_checkpoint("timm:vit_base_patch16_siglip_224", device="cpu", pretrained=False, depth=2), PHOTO, 96
    )
    *blocks, pool = eager(recording)
    close(recording.map("rollout"), grids(recording, pool.mean((0, 1))[None] @ oracle.rollout(blocks)))
    close(recording.map("pooling"), grids(recording, pool[:, 0]))
    assert recording.map("latent").method == "pooling"


@pytest.mark.parametrize("soft", [False, True])
def test_dense_rollout_is_the_mean_row_of_the_classes_tokens(soft: bool):
    recording = record(vit(), PHOTO, 96)
    encoder, prefix = recording.encoder, recording.encoder.num_prefix_tokens
    tokens = recording.tokens.patches[0]
    scores = (tokens @ encoder.head.weight.T + encoder.head.bias).double().numpy()
    expected = oracle.dense_rollout(oracle.rollout(eager(recording)), scores, prefix, soft)
    present = list(expected)
    assert len(present) > 1
    found = recording.map("dense_rollout", classes=present, soft=soft)
    close(found, np.stack([expected[c] for c in present]).reshape(-1, *recording.geometry.grid))
    assert found.names == tuple(encoder.facts.classes[c] for c in present) and "heuristic" in found.note
    if not soft:  # hard maps, unnormalised, sum over the classes to the column sums over the patches
        counts = np.bincount(scores.argmax(1), minlength=7)[present]
        column_sums = oracle.rollout(eager(recording))[prefix:, prefix:].sum(0)
        np.testing.assert_allclose(
            (found.weights.reshape(len(present), -1) * counts[:, None]).sum(0), column_sums, atol=1e-4
        )


def test_dense_rollout_reports_a_class_that_no_token_has():
    encoder, absent = vit(), 4
    encoder.head.bias[absent] = -30.0  # below every other class on every token
    recording = record(encoder, PHOTO, 96)
    with pytest.raises(ValueError, match=f"absent from this picture: {recording.encoder.facts.classes[absent]}"):
        recording.map("dense_rollout", classes=[absent])
    assert np.isfinite(recording.map("dense_rollout", classes=[absent], soft=True).weights).all()


def test_dense_rollout_chooses_a_class_that_is_there():
    recording = record(vit(), PHOTO, 96)
    assert len(recording.map("dense_rollout").names) == 1
    assert recording.map("dense_rollout", classes=["tench"], soft=True).names == ("tench",)
    with pytest.raises(ValueError, match="no class 'tenhc'"):
        recording.map("dense_rollout", classes=["tenhc"])
    with pytest.raises(ValueError, match="classes 0 to 6"):
        recording.map("dense_rollout", classes=[7])


def test_token_query_is_the_row_of_the_token_under_the_point():
    recording = record(vit(), PHOTO, 96)
    h, w = recording.geometry.grid
    matrices, prefix = eager(recording), recording.encoder.num_prefix_tokens
    for at, (row, column) in {(149, 0): (0, w - 1), (0, 99): (h - 1, 0), (76, 51): (h // 2, w // 2)}.items():
        index = prefix + row * w + column
        close(recording.map("token", at=at), grids(recording, matrices[-1][:, index]))
        close(recording.map("token", at=at, block=0), grids(recording, matrices[0][:, index]))
        close(recording.map("token", at=at, rollout=True), grids(recording, oracle.rollout(matrices)[index][None]))
    with pytest.raises(ValueError, match="outside the picture"):
        recording.map("token", at=(151, 10))


@pytest.mark.parametrize("gamma", [None, 2.0])
def test_pooling_attention_of_simpool_on_a_cnn(gamma: float | None):
    recording = record(cnn("simpool", gamma=gamma), PHOTO, 64)
    x, pooling = recording.tokens.patches[0].double().numpy(), recording.encoder.pooling
    xn = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    s = (xn @ pooling.wk.weight.double().numpy().T) @ (pooling.wq.weight.double().numpy() @ x.mean(0)) / 4.0
    a = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
    found = recording.map("simpool")
    close(found, a.reshape(1, 8, 12))
    np.testing.assert_allclose(found.logits.ravel(), s, atol=1e-5)
    assert found.method == "pooling" and found.names == ("SimPool",) and abs(found.weights.sum() - 1) < 1e-5


POOLINGS = {"gap": {}, "max": {}, "gem": {}, "ggem": {"groups": 4}, "lse": {}, "simpool": {"gamma": 2.0, "beta": True}}


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("normed", [False, True])
def test_contributions_sum_to_the_logit_less_the_bias(name: str, normed: bool):
    """sum over tokens = logit - b', with b' from the definition, to 1e-10 in float64."""
    encoder = cnn(name, **POOLINGS[name]).double()
    if normed:
        encoder.norm = nn.LayerNorm(16).double()
        nn.init.normal_(encoder.norm.weight), nn.init.normal_(encoder.norm.bias)
    if name == "simpool":
        encoder.pooling.beta.data.fill_(0.7)
    recording = record(encoder, PHOTO, 64)
    from simpool_viz.maps.contribution import folded_head

    weight, bias = folded_head(recording, [3, 1])
    given = encoder.pooling.contribution(recording.tokens, recording.pooled)[0]
    total = (weight @ given.T).sum(1) + bias
    np.testing.assert_allclose(total.numpy(), recording.logits[[3, 1]].numpy(), atol=1e-10)
    found = recording.map("contribution", classes=[3, 1])
    assert found.signed and found.names == ("d", "b")
    np.testing.assert_allclose(found.weights.reshape(2, -1), (weight @ given.T).numpy(), rtol=1e-5, atol=1e-7)


def test_contribution_with_gap_and_a_linear_head_is_cam():
    recording = record(cnn("gap"), PHOTO, 64)
    features = recording.tokens.patches[0].T.reshape(16, 8, 12)
    cam = torch.einsum("d,dhw->hw", recording.encoder.head.weight[int(recording.logits.argmax())], features) / 96
    close(recording.map("contribution"), cam[None].numpy())


def test_contribution_through_convnexts_norm():
    encoder = load_checkpoint("timm:convnext_atto", device="cpu", pretrained=False).double()
    recording = record(encoder, PHOTO, 64)
    from simpool_viz.maps.contribution import folded_head

    top = int(recording.logits.argmax())
    _, bias = folded_head(recording, [top])
    found = recording.map("contribution").weights.sum()
    np.testing.assert_allclose(found, float(recording.logits[top] - bias[0]), atol=1e-5)


def test_every_absence_is_explained_and_every_map_that_is_offered_works():
    encoders = [vit(), vit("avg"), vit("simpool"), cnn("gap"), cnn("simpool"), vit(classes=0)]
    for encoder in encoders:
        recording = record(encoder, PHOTO, 64)
        for name, reason in maps_of(encoder).items():
            if reason is None:
                attention = recording.map(name)
                assert np.isfinite(attention.weights).all() and attention.weights.shape[1:] == recording.geometry.grid
                mask = attention.mask()
                assert 0 < mask.coverage <= 1 and np.isfinite(attention.entropy()[0])
            else:
                with pytest.raises(ValueError, match="has no"):
                    recording.map(name)
    assert maps_of(cnn("gap"))["cls"] == "its backbone is a CNN, which has no attention blocks"
    assert "contribution" in (maps_of(cnn("gap"))["pooling"] or "")


def test_maps_work_on_a_single_token():
    for encoder in (vit(), vit("simpool"), cnn("simpool")):
        recording = record(encoder, np.zeros((9, 9, 3), np.uint8), encoder.stride)
        assert recording.geometry.grid == (1, 1)
        for name, reason in maps_of(encoder).items():
            if reason is None:
                assert recording.map(name).mask().constant


def test_unknown_maps_blocks_and_options_are_refused_in_a_sentence():
    recording = record(vit(), PHOTO, 96)
    with pytest.raises(ValueError, match="has no map 'atention'; its maps are cls"):
        recording.map("atention")
    with pytest.raises(ValueError, match="blocks 0 to 2"):
        recording.map("cls", block=3)
    with pytest.raises(ValueError, match="unexpected keyword argument 'blok'"):
        recording.map("cls", blok=1)


def test_fusions_names_and_indices():
    attention = record(vit(), PHOTO, 96).map("cls")
    np.testing.assert_allclose(attention.fused(), attention.weights.mean(0), atol=1e-7)
    assert np.array_equal(attention.fused("max"), attention.weights.max(0))
    assert np.array_equal(attention.fused(1), attention.weights[1]) and np.array_equal(
        attention.fused("head 2"), attention.weights[2]
    )
    with pytest.raises(ValueError, match="is no fusion"):
        attention.fused("head 9")


def test_half_precision_recordings_give_float32_maps():
    encoder = vit().bfloat16()
    recording = record(encoder, PHOTO, 96)
    assert recording.blocks[0].query.dtype == torch.bfloat16
    full = record(vit(), PHOTO, 96)
    for name in ("cls", "rollout", "token"):
        found = recording.map(name)
        assert found.weights.dtype == np.float32
        np.testing.assert_allclose(found.weights, full.map(name).weights, atol=0.05)


def test_a_new_map_is_one_function_and_one_line():
    from simpool_viz.maps import registry

    @registry.register_map("toy_uniform", "Uniform", "Nothing.", why_not=lambda encoder: None)
    def uniform(recording: Recording) -> AttentionMap:
        h, w = recording.geometry.grid
        return AttentionMap(np.full((1, h, w), 1 / (h * w), np.float32), ("all",), recording.geometry, "toy_uniform")

    try:
        assert "toy_uniform" in map_methods()
        assert record(cnn("gap"), PHOTO, 64).map("toy_uniform").mask().constant
    finally:
        registry._METHODS.pop("toy_uniform")


def test_a_poolings_name_is_explained_where_the_checkpoint_pools_otherwise():
    recording = record(cnn("gap"), PHOTO, 64)
    with pytest.raises(ValueError, match="it pools by GAP, not by SimPool"):
        recording.map("simpool")
    with pytest.raises(ValueError, match="does not weigh positions"):
        recording.map("gap")


def test_a_maps_unit_is_one_of_three_and_its_own_fusion_stands_where_none_is_asked() -> None:
    from dataclasses import replace

    attention = record(vit(), PHOTO, 96).map("cls")
    largest = replace(attention, fusion="max")
    assert np.array_equal(largest.fused(), attention.weights.max(0)) and not attention.signed
    assert np.array_equal(largest.mask("area", 0.2).grid, attention.mask("area", 0.2, fusion="max").grid)
    with pytest.raises(ValueError, match="uniform, mean or logit, not 'volt'"):
        replace(attention, unit="volt")
