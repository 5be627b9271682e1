"""Segmentation heads in files of their own, as DINOv2's, on a backbone that is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from simpool_viz import load_checkpoint
from simpool_viz.checkpoints.files import convert
from simpool_viz.checkpoints.load import load_with_report
from simpool_viz.errors import CheckpointError
from tests.checkpoints.formats.test_dense import CLASSES, DIM, batch_norm, linear, normed, through, under, vit
from tests.helpers import State, random_images, save_weights


def head(wide: int = DIM) -> State:
    return under("decode_head.conv_seg", linear(CLASSES, wide, conv=True)) | under("decode_head.bn", batch_norm(wide))


@pytest.mark.parametrize("tokens", ["", "after_norm", "before_norm"])
def test_scores_on_the_named_backbone_are_those_of_the_raw_tensors(tmp_path: Path, tokens: str) -> None:
    base = save_weights(tmp_path, vit(), "backbone.pth")
    path = save_weights(tmp_path, {"state_dict": head(), "meta": {"epoch": 1}}, "head.pth")
    options = {"tokens": tokens} if tokens else {}
    encoder, report = load_with_report(path, device="cpu", backbone=str(base), **options)
    plain, images = load_checkpoint(base, device="cpu"), random_images(64, 96)
    with torch.no_grad():
        hidden = plain.begin(images, plain.depth)
        x = (hidden if tokens == "before_norm" else plain.backbone.norm(hidden))[:, 1:]
        bn = {key.rpartition(".")[2]: value for key, value in head().items() if ".bn." in key}
        conv = {key.rpartition(".")[2]: value for key, value in head().items() if ".conv_seg." in key}
        wanted = through(normed(x, bn), conv).transpose(1, 2).unflatten(2, (4, 6))
        assert torch.allclose(encoder(images).dense_logits, wanted, atol=1e-4)
    assert encoder.dense and encoder.facts.base == plain.facts.name and report.container == "segmentation head"
    assert any("before the final norm" in n if tokens == "before_norm" else "after" in n for n in report.notes)
    convert(path, tmp_path / "head.safetensors", **options)
    again = load_checkpoint(tmp_path / "head.safetensors", device="cpu", backbone=str(base))
    with torch.no_grad():
        assert torch.equal(again(images).dense_logits, encoder(images).dense_logits)


def test_a_head_without_its_backbone_or_on_another_is_told(tmp_path: Path) -> None:
    base = save_weights(tmp_path, vit(), "backbone.pth")
    path = save_weights(tmp_path, head(), "head.pth")
    with pytest.raises(CheckpointError, match="is a segmentation head without a backbone; name the checkpoint"):
        load_checkpoint(path, device="cpu")
    several = save_weights(tmp_path, head(4 * DIM), "ms.pth")
    with pytest.raises(CheckpointError, match="reads 256 channels, and the backbone gives 64; heads on the tokens"):
        load_checkpoint(several, device="cpu", backbone=str(base))
    with pytest.raises(CheckpointError, match="tokens= is before_norm or after_norm, not 'norm'"):
        load_checkpoint(path, device="cpu", backbone=str(base), tokens="norm")
