"""The last block without its skip."""

from __future__ import annotations

import pytest
import timm
import torch

from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.layers.sar import has_skip, remove_last_skip
from simpool_viz.modeling.layers.sar_block import NoSkipBlock
from simpool_viz.modeling.spec import EncoderSpec


def test_last_block_has_no_skip_and_no_second_norm() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, drop_path_rate=0.5, init_values=0.5)
    weights = model.blocks[-1].attn.proj.weight.clone()
    remove_last_skip(model)
    block = model.blocks[-1]
    assert isinstance(block, NoSkipBlock) and not has_skip(block) and has_skip(model.blocks[0])
    assert torch.equal(block.attn.proj.weight, weights)
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
