"""A ResNet's first blocks as the stem of a ViT: the same features, tokens at their stride, and a start from the
ResNet's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from simpool_viz import load_checkpoint, record
from simpool_viz.checkpoints.bundle import save_bundle
from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.layers.stem import ResidualStem
from simpool_viz.training.start import start_from
from tests.helpers import BACKBONE, SMALL_VIT, STEM, hybrid, make_photo, save_small
from tests.photos import CLASSES


def test_stem_gives_the_features_of_its_last_block() -> None:
    torch.manual_seed(0)
    resnet = timm.create_model("resnet18", **BACKBONE).eval()
    seen: list[torch.Tensor] = []
    resnet.layer3[0].register_forward_hook(lambda *a: seen.append(a[2]))
    x = torch.randn(2, 3, 48, 64)
    resnet.forward_features(x)
    stem = ResidualStem(resnet, 5).eval()
    assert torch.equal(stem(x), seen[0])
    assert not any(key.startswith(("layer3.1", "layer4", "fc")) for key in stem.state_dict())
    for blocks in (0, 9):
        with pytest.raises(ValueError, match=f"the stem takes 1 to 8 blocks of its ResNet, not {blocks}"):
            ResidualStem(resnet, blocks)


@pytest.mark.parametrize("inside", ["", "life", "nosn"])
def test_hybrid_records_at_its_stride_and_loads_again(tmp_path: Path, inside: str) -> None:
    spec = hybrid(inside=inside)
    torch.manual_seed(0)
    encoder = spec.build(Facts("hybrid", size=64, classes=CLASSES)).eval().requires_grad_(False)
    assert encoder.stride == 8 and encoder.num_prefix_tokens == 1 and encoder.depth == 2
    save_bundle(tmp_path / "hybrid", encoder, spec, "")
    loaded = load_checkpoint(tmp_path / "hybrid", device="cpu")
    photo = make_photo(91, 60)
    for size in (64, 40):
        one, two = (record(e, photo, size).map("cls").weights for e in (encoder, loaded))
        assert one.shape[1:] == record(encoder, photo, size).geometry.grid and one.shape[2] > one.shape[1]
        assert abs(one - two).max() < 1e-2, "up to half precision"
    assert record(encoder, photo, 64).map("rollout").weights.shape == (1, 8, 12)


def test_start_from_a_resnet_fills_the_stem(tmp_path: Path) -> None:
    save_small(tmp_path / "base", "simpool", "base")
    encoder = hybrid().build(Facts("hybrid"))
    start = start_from(encoder, "base", tmp_path / "mine")
    base = load_checkpoint(tmp_path / "base", device="cpu").backbone.state_dict()
    own = encoder.backbone.patch_embed.backbone.state_dict()
    assert own and all(torch.equal(value, base[key]) for key, value in own.items())
    assert f"{len(own)} tensors taken; new are " in start.summary and "backbone.blocks" in start.summary


def test_stem_that_is_no_resnet_or_has_patches_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="a stem is made of a ResNet's blocks, and convnext_atto is none"):
        hybrid(stem={"backbone": "convnext_atto", "blocks": 2}).build(Facts("x"))
    with pytest.raises(ValueError, match="may not hold pretrained"):
        hybrid(stem=STEM | {"backbone_kwargs": {"pretrained": True}}).build(Facts("x"))
    with pytest.raises(ValueError, match="a ViT on a stem takes no patch_size"):
        hybrid(backbone_kwargs=SMALL_VIT | {"patch_size": 8}).build(Facts("x"))
