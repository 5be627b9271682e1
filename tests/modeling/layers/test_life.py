"""LIFE: the published parameter counts, an independent float64 reference, prefix tokens, grids and heads by scale."""

from __future__ import annotations

import pytest
import timm
import torch

from simpool_viz import record
from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.layers.life import LIFE, insert_life, life_of_qkv, scale_of_heads, token_grid
from simpool_viz.modeling.spec import EncoderSpec
from tests.helpers import make_photo
from tests.oracles.backbones import life_qkv

TINY = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 3}


@pytest.mark.parametrize(
    ("tag", "before", "after"), [("tiny", 5_543_716, 5_617_444), ("small", 21_704_164, 21_851_620)]
)
def test_parameters_are_the_published_ones(tag: str, before: int, after: int) -> None:
    model = timm.create_model(f"vit_{tag}_patch16_224", num_classes=100)
    assert sum(p.numel() for p in model.parameters()) == before
    insert_life(model)
    assert sum(p.numel() for p in model.parameters()) == after
    keys = {f"scale{n}.{part}.weight" for n in (2, 3) for part in ("depthwise", "pointwise")} | {
        "scale1.weight",
        "scale1.bias",
    }
    assert {k.split("qkv.")[1] for k in model.state_dict() if k.startswith("blocks.0.attn.qkv.")} == keys


def figure_qkv(x: torch.Tensor, state: dict[str, torch.Tensor], grid: tuple[int, int], prefix: int) -> torch.Tensor:
    """The figure's keys: k1, k2, k3 of the prefix tokens each from its own scale."""
    code = life_qkv(x, state, "m", grid, prefix)
    y1 = x @ state["m.scale1.weight"].T + state["m.scale1.bias"]
    y2 = y1[:prefix] @ state["m.scale2.pointwise.weight"][:, :, 0, 0].T
    y3 = y2 @ state["m.scale3.pointwise.weight"][:, :, 0, 0].T
    third, dim = y1.shape[1] // 3, y1.shape[1]
    keys = torch.cat([y[:, third : 2 * third] for y in (y1[:prefix], y2, y3)], 1)
    code[:prefix, dim : 2 * dim] = keys
    return code


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("grid", [(4, 4), (3, 7)])
@pytest.mark.parametrize("keys", ["code", "figure"])
def test_output_equals_an_independent_reference(prefix: int, grid: tuple[int, int], keys: str) -> None:
    torch.manual_seed(0)
    module = LIFE(12, prefix_keys=keys).double()
    x = torch.randn(2, prefix + grid[0] * grid[1], 12, dtype=torch.float64)
    state = {f"m.{k}": v.detach() for k, v in module.state_dict().items()}
    with token_grid(grid, prefix):
        found = module(x)
    for i in range(2):
        wanted = life_qkv(x[i], state, "m", grid, prefix) if keys == "code" else figure_qkv(x[i], state, grid, prefix)
        assert (found[i] - wanted).abs().max() < 1e-12


def test_the_norm_is_shared_by_queries_keys_and_values() -> None:
    module, plain = LIFE(12, norm=True).double(), LIFE(12).double()
    plain.load_state_dict(module.state_dict(), strict=False)
    x = torch.randn(1, 7, 12, dtype=torch.float64)
    with token_grid((2, 3), 1):
        parts, normed = plain(x).chunk(3, 2), module(x).chunk(3, 2)
    for part, found in zip(parts, normed, strict=True):
        assert torch.allclose(torch.nn.functional.layer_norm(part, (12,), eps=1e-5), found)


def test_gradients_are_right() -> None:
    module = LIFE(6).double()
    x = torch.randn(1, 2 + 6, 6, dtype=torch.float64, requires_grad=True)
    with token_grid((2, 3), 2):
        assert torch.autograd.gradcheck(module, (x,))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="10 is not divisible by 3"):
        LIFE(10)
    with pytest.raises(ValueError, match="prefix_keys is 'figure' or 'code', not 'x'"):
        LIFE(12, prefix_keys="x")
    with pytest.raises(ValueError, match="7 tokens without their grid; run the model as an Encoder"):
        LIFE(12)(torch.randn(1, 7, 12))
    with token_grid((2, 2), 1), pytest.raises(ValueError, match="7 tokens without their grid"):
        LIFE(12)(torch.randn(1, 7, 12))
    with pytest.raises(ValueError, match="ResNet has none"):
        insert_life(timm.create_model("resnet18"))


NO_CLS = {"class_token": False, "global_pool": ""}


@pytest.mark.parametrize("prefix", [{"class_token": True}, {"class_token": True, "reg_tokens": 3}, NO_CLS])
def test_encoder_runs_it_on_any_grid_with_any_prefix_and_every_map_follows(prefix: dict) -> None:
    torch.manual_seed(0)
    pooling = "cls" if prefix["class_token"] else "simpool"
    encoder = EncoderSpec("vit_tiny_patch16_224", pooling, 3, TINY | prefix, inside="life").build(
        Facts("life", size=64)
    )
    encoder.eval().requires_grad_(False)
    recording = record(encoder, make_photo(), 64)
    h, w = recording.geometry.grid
    assert h != w and len(recording.blocks) == 2
    assert recording.map("rollout").weights.sum() <= 1 + 1e-5
    assert recording.map("token", at=(10, 10)).weights.shape[1:] == (h, w)
    with token_grid((9, 9), 0):  # what runs around it does not reach inside
        again = record(encoder, make_photo(), 64)
    assert torch.equal(again.logits, recording.logits)


def test_heads_belong_to_scales_where_they_come_in_threes() -> None:
    assert scale_of_heads(3) == ("1 x 1", "3 x 3", "5 x 5")
    assert scale_of_heads(6) == ("1 x 1", "1 x 1", "3 x 3", "3 x 3", "5 x 5", "5 x 5")
    assert scale_of_heads(4) is None


def test_life_begins_at_the_block_that_is_asked_for() -> None:
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=24, num_heads=3, depth=4, img_size=32)
    kept = [block.attn.qkv for block in model.blocks[:3]]
    insert_life(model, first=3)
    assert [block.attn.qkv for block in model.blocks[:3]] == kept and isinstance(model.blocks[3].attn.qkv, LIFE)
    for first in (-1, 4):
        with pytest.raises(ValueError, match=f"one of the blocks 0 to 3, not at {first}"):
            insert_life(timm.create_model("vit_tiny_patch16_224", embed_dim=24, num_heads=3, depth=4), first=first)


def test_life_begins_near_the_projection_in_whose_place_it_stands() -> None:
    torch.manual_seed(0)
    qkv, x = torch.nn.Linear(48, 144), torch.randn(2, 1 + 15, 48)
    torch.nn.init.orthogonal_(qkv.weight)
    life = LIFE(48)
    life.load_state_dict(life_of_qkv(qkv.weight.detach(), qkv.bias.detach()))
    with torch.no_grad(), token_grid((3, 5), 1):
        error = (life(x) - qkv(x)).norm() / qkv(x).norm()
    # The first scale's map of x tells all of x, but its bias is the others' too.
    assert error < 0.2
    with torch.no_grad(), token_grid((3, 5), 1):
        queries = life(x)[:, :, :16], qkv(x)[:, :, :16]
    assert torch.allclose(*queries, atol=1e-5), "those of the first scale are the same"
    assert max(float(s.pointwise.weight.abs().max()) for s in (life.scale2, life.scale3)) < 50
