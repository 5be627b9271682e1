"""SAR's loss: against the measure of single maps, its gradient, its schedule, and the last block without its skip."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from simpool_viz.capture.hooks import AttentionCapture
from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.layers.sar import NoSkipBlock, remove_last_skip
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.training.losses import class_token_scores, entropy_schedule, spatial_entropy_loss
from tests.oracles.spatial_entropy import spatial_entropy


def test_loss_is_the_mean_entropy_of_the_maps() -> None:
    scores = torch.randn(5, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    wanted = sum(spatial_entropy(m.numpy()) for m in scores.flatten(0, 1)) / 15
    assert float(spatial_entropy_loss(scores)) == pytest.approx(wanted, abs=1e-5)


def test_gradient_flows_through_the_excess_and_its_mean_alone() -> None:
    """Against a derivative by hand: the components held fixed, sum_k -(ln P_k + 1) dP_k."""
    scores = torch.randn(1, 1, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_(
        True
    )
    spatial_entropy_loss(scores).backward()
    step, numeric = 1e-3, torch.zeros(9, 8)
    for i in range(9):
        for j in range(8):
            ends = []
            for sign in (1, -1):
                moved = scores.detach().clone()
                moved[0, 0, i, j] += sign * step
                assert torch.equal(moved > moved.mean(), scores > scores.mean()), "no cell changes sides"
                ends.append(spatial_entropy(moved[0, 0].numpy()))
            numeric[i, j] = (ends[0] - ends[1]) / (2 * step)
    assert (scores.grad[0, 0] - numeric).abs().max() < 1e-3 and numeric.abs().max() > 0.01
    assert abs(float(scores.grad.sum())) < 1e-4, "invariant to an added constant"


def test_descending_the_loss_gathers_a_map_into_fewer_parts() -> None:
    scores = torch.randn(4, 2, 10, 10, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    first = float(spatial_entropy_loss(scores.detach()))
    optimizer = torch.optim.Adam([scores], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        spatial_entropy_loss(scores).backward()
        optimizer.step()
    assert float(spatial_entropy_loss(scores.detach())) < 0.5 * first


def test_constant_maps_have_no_loss_and_no_gradient() -> None:
    scores = torch.full((2, 3, 4, 4), 0.1).requires_grad_(True)
    loss = spatial_entropy_loss(scores)
    assert float(loss) == 0
    loss.backward()
    assert not scores.grad.isnan().any()


def test_schedule_rises_for_ten_epochs_and_falls_by_a_cosine() -> None:
    assert [entropy_schedule(e, 30) for e in (0, 5, 10)] == pytest.approx([0, 0.5, 1])
    assert entropy_schedule(20, 30) == pytest.approx(0.5) and entropy_schedule(30, 30) == pytest.approx(0)
    assert entropy_schedule(15, 30) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    with pytest.raises(ValueError, match="takes more than 10 epochs, not 10"):
        entropy_schedule(0, 10)


def test_scores_are_those_of_the_class_token_with_gradients() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, reg_tokens=2, dynamic_img_size=True)
    x = torch.randn(2, 3, 48, 64)
    with AttentionCapture() as capture:
        model.forward_features(x)
    call = capture.calls[-1]
    query, key, scale = call.query, call.key, call.scale
    scores = class_token_scores(query, key, scale, 3, (3, 4))
    for head in range(3):
        wanted = query[1, head, 0] @ key[1, head, 3:].T * scale
        assert torch.allclose(scores[1, head].flatten(), wanted, atol=1e-5)
    spatial_entropy_loss(scores).backward()
    assert model.blocks[-1].attn.qkv.weight.grad.abs().max() > 0 and model.blocks[-1].mlp.fc1.weight.grad is None
    with pytest.raises(ValueError, match="15 tokens are not 3 and a grid of 4 x 4"):
        class_token_scores(query, key, scale, 3, (4, 4))


def test_last_block_has_no_skip_and_no_second_norm() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, drop_path_rate=0.5, init_values=0.5)
    weights = model.blocks[-1].attn.proj.weight.clone()
    remove_last_skip(model)
    block = model.blocks[-1]
    assert isinstance(block, NoSkipBlock) and torch.equal(block.attn.proj.weight, weights)
    assert not [k for k in model.state_dict() if k.startswith("blocks.1.norm2")]
    block.eval()
    x = torch.randn(1, 17, 192)
    inside = block.ls1(block.attn(block.norm1(x)))
    assert torch.equal(block(x), inside + block.ls2(block.mlp(inside)))
    for backbone in (model, timm.create_model("resnet18")):
        with pytest.raises(ValueError, match="removed from a ViT of plain blocks"):
            remove_last_skip(backbone)


def test_spec_builds_it() -> None:
    spec = EncoderSpec("vit_tiny_patch16_224", "cls", 3, {"depth": 2, "img_size": 64}, inside="nosn")
    assert isinstance(spec.build(Facts("sar", size=64)).backbone.blocks[-1], NoSkipBlock)
