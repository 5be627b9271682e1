"""Google's `.npz` files give what timm's own reading of them gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from simpool_viz.checkpoints.load import load_with_report

BLOCK = "Transformer/encoderblock_{}/"
ATTENTION = "MultiHeadDotProductAttention_1/"


def as_flax(state: dict[str, torch.Tensor], depth: int, heads: int) -> dict[str, np.ndarray]:
    """The reverse of the mapping: names and axes as Google's code wrote them."""
    dim = state["cls_token"].shape[-1]
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for i in range(depth):
        start, ours = BLOCK.format(i), f"blocks.{i}."
        for part, rows in zip(("query", "key", "value"), state[ours + "attn.qkv.weight"].chunk(3), strict=True):
            arrays[f"{start}{ATTENTION}{part}/kernel"] = rows.T.reshape(dim, heads, -1)
        for part, rows in zip(("query", "key", "value"), state[ours + "attn.qkv.bias"].chunk(3), strict=True):
            arrays[f"{start}{ATTENTION}{part}/bias"] = rows.reshape(heads, -1)
        arrays[f"{start}{ATTENTION}out/kernel"] = state[ours + "attn.proj.weight"].T.reshape(heads, -1, dim)
        arrays[f"{start}{ATTENTION}out/bias"] = state[ours + "attn.proj.bias"]
        for theirs, name in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            arrays[f"{start}{theirs}/scale"] = state[f"{ours}{name}.weight"]
            arrays[f"{start}{theirs}/bias"] = state[f"{ours}{name}.bias"]
        for theirs, name in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
            arrays[f"{start}MlpBlock_3/{theirs}/kernel"] = state[f"{ours}mlp.{name}.weight"].T
            arrays[f"{start}MlpBlock_3/{theirs}/bias"] = state[f"{ours}mlp.{name}.bias"]
    return {name: value.contiguous().numpy() for name, value in arrays.items()}


def test_npz_gives_timms_logits_and_its_own_number_of_heads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", depth=2, embed_dim=96, num_heads=6, num_classes=5, img_size=64
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    arrays = as_flax(model.state_dict(), 2, 6)
    np.savez(tmp_path / "vit.npz", **arrays)
    encoder, report = load_with_report(tmp_path / "vit.npz", device="cpu")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert (encoder(x).logits - model(x)).abs().max() < 1e-4
    assert "6 heads" in report.architecture and encoder.facts.mean == (0.5, 0.5, 0.5)
    other = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=96, num_heads=6, num_classes=5, img_size=64)
    other.load_pretrained(str(tmp_path / "vit.npz"))
    with torch.no_grad():
        assert (encoder(x).logits - other.eval()(x)).abs().max() < 1e-4


def test_npz_that_is_compressed_damaged_or_holds_objects_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", cls=np.zeros((1, 1, 8)))
    with pytest.raises(ValueError, match=r"a\.npz is compressed .*save its arrays with numpy\.savez"):
        load_with_report(tmp_path / "a.npz", device="cpu")
    np.savez(tmp_path / "b.npz", cls=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"b\.npz is damaged, or holds more than numbers"):
        load_with_report(tmp_path / "b.npz", device="cpu")
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ValueError, match=r"c\.npz is damaged"):
        load_with_report(tmp_path / "c.npz", device="cpu")


def test_head_of_a_pretraining_that_reads_a_hidden_layer_is_left_out_with_it(tmp_path: Path) -> None:
    """Google's first files have a tanh layer between class token and head."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=96, num_heads=6, num_classes=5, img_size=64)
    hidden = {"pre_logits/kernel": np.eye(96, dtype=np.float32), "pre_logits/bias": np.ones(96, dtype=np.float32)}
    np.savez(tmp_path / "vit.npz", **as_flax(model.state_dict(), 1, 6), **hidden)
    encoder, report = load_with_report(tmp_path / "vit.npz", device="cpu")
    assert report.dropped == {"a head of several layers, since no tensor says what is between them": 4}
    assert encoder.head is None
