"""Probing heads read the tokens that they were trained on, as the settings of their training say."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from simpool_viz import load_checkpoint, record
from simpool_viz.checkpoints.load import load_with_report
from tests import made_files as made
from tests.helpers import State, make_photo, random_images, save_weights

DIM = 64


def backbone(folder: Path) -> Path:
    state = made.vit(DIM, 2, grid=4)
    return save_weights(folder, state, "backbone.pth")


def head(pooling: State, width: int = DIM) -> State:
    torch.manual_seed(1)
    state = {f"0.{key}": value for key, value in pooling.items()}
    state |= {"1.running_mean": torch.randn(width), "1.running_var": torch.rand(width) + 0.5}
    return state | {"2.weight": torch.randn(6, width), "2.bias": torch.randn(6)}


def efficient(queries: int = 4) -> State:
    torch.manual_seed(0)
    return {"cls_token": torch.randn(1, queries, DIM), "v.weight": torch.randn(DIM, DIM)}


def saved(folder: Path, state: State, **args: Any) -> Path:
    content = {"saved_module": "head", "model": state, "epoch": 3}
    return save_weights(folder, content | ({"args": argparse.Namespace(**args)} if args else {}), "head.pth")


def tokens_of(folder: Path, images: torch.Tensor, normed: bool) -> torch.Tensor:
    """Class token and patches (B, 1 + N, D), before or after the final norm."""
    plain = load_checkpoint(backbone(folder), device="cpu")
    with torch.no_grad():
        hidden = plain.begin(images, plain.depth)
        return plain.backbone.norm(hidden) if normed else hidden


def logits_of(x: torch.Tensor, state: State) -> torch.Tensor:
    """EP, its norm and its classifier, by the paper's formula."""
    weights = (state["0.cls_token"][0] @ x.transpose(1, 2) / DIM**0.5).softmax(-1)  # (B, Q, N)
    values = x @ state["0.v.weight"].T
    parts = [weights[:, m : m + 1] @ part for m, part in enumerate(values.chunk(weights.shape[1], -1))]
    vector = torch.cat(parts, -1)[:, 0]
    vector = (vector - state["1.running_mean"]) / (state["1.running_var"] + 1e-6).sqrt()
    return vector @ state["2.weight"].T + state["2.bias"]


@pytest.mark.parametrize(
    ("args", "normed", "everything"),
    [
        ({"model": "vit_base_patch16", "cls_features": "ep"}, False, False),
        ({"model": "vit_base_patch16", "cls_features": "ep_all"}, False, True),
        ({"model": "vit_base_patch16_224.mae", "timm": True, "cls_features": "ep"}, True, False),
        ({"model": "dinov2_vitb14", "cls_features": "ep_all"}, True, True),
        ({"model": "ViT-B-16", "openclip": True, "cls_features": "ep"}, True, False),
    ],
)
def test_settings_of_the_training_say_which_tokens(
    tmp_path: Path, args: dict[str, Any], normed: bool, everything: bool
) -> None:
    state = head(efficient())
    path = saved(tmp_path, state, **args)
    encoder, report = load_with_report(path, device="cpu", backbone=str(backbone(tmp_path)))
    images = random_images(64, 96)
    x = tokens_of(tmp_path, images, normed)
    wanted = logits_of(x if everything else x[:, 1:], state)
    with torch.no_grad():
        output = encoder(images)
    assert (output.logits - wanted).abs().max() < 1e-4
    assert output.pooled.weights.shape[-1] == 24
    assert any(f"{'after' if normed else 'before'} the final norm" in note for note in report.notes)
    weights = record(encoder, make_photo(), 64).map("pooling").weights
    assert (weights.sum() < 3.999) == everything


def test_released_head_says_it_in_its_meta_and_the_option_comes_first(tmp_path: Path) -> None:
    state = head(efficient())
    meta = {"model": "vit_base_patch16", "loader": "", "cls_features": "ep", "ep_queries": 4}
    path = save_weights(tmp_path, {"state_dict": state, "meta": meta}, "head.pth")
    images = random_images(64, 64)
    for options, normed in (({}, False), ({"tokens": "after_norm"}, True)):
        encoder = load_checkpoint(path, device="cpu", backbone=str(backbone(tmp_path)), **options)
        with torch.no_grad():
            found = encoder(images).logits
        assert (found - logits_of(tokens_of(tmp_path, images, normed)[:, 1:], state)).abs().max() < 1e-4


def test_head_that_does_not_say_asks(tmp_path: Path) -> None:
    path = saved(tmp_path, head(efficient()))
    with pytest.raises(ValueError, match=r"head\.pth does not say whether .* say tokens=before_norm"):
        load_checkpoint(path, device="cpu", backbone=str(backbone(tmp_path)))
    with pytest.raises(ValueError, match="tokens= is before_norm or after_norm, not 'both'"):
        load_checkpoint(path, device="cpu", backbone=str(backbone(tmp_path)), tokens="both")


def test_aims_number_of_heads_is_that_of_its_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {"cls_token": torch.randn(1, 1, DIM), "k.weight": torch.randn(DIM, DIM), "v.weight": torch.randn(DIM, DIM)}
    state |= {"bn.running_mean": torch.zeros(DIM), "bn.running_var": torch.ones(DIM)}
    path = saved(tmp_path, head(state), model="vit_base_patch16", cls_features="aim", num_heads=16)
    encoder, report = load_with_report(path, device="cpu", backbone=str(backbone(tmp_path)))
    assert encoder.pooling.num_heads == 16 and not any("assumed" in note for note in report.notes)
    told = load_with_report(path, device="cpu", backbone=str(backbone(tmp_path)), num_heads=8)[0]
    assert told.pooling.num_heads == 8


@pytest.mark.parametrize("applied", ["none", "map", "both"])
def test_abmilp_loads_by_its_own_names(tmp_path: Path, applied: str) -> None:
    torch.manual_seed(0)
    state = {"attention_predictor.0.weight": torch.randn(DIM, DIM) / 8, "attention_predictor.0.bias": torch.randn(DIM)}
    state |= {"attention_predictor.2.weight": torch.randn(1, DIM), "attention_predictor.2.bias": torch.randn(1)}
    if applied != "none":
        state |= {"self_attn.qkv.weight": torch.randn(3 * DIM, DIM) / 8}
        state |= {"self_attn.proj.weight": torch.randn(DIM, DIM) / 8, "self_attn.proj.bias": torch.randn(DIM)}
    path = saved(
        tmp_path, head(state), model="vit_base_patch16", cls_features="abmilp", abmilp_sa=applied, abmilp_act="relu"
    )
    encoder = load_checkpoint(path, device="cpu", backbone=str(backbone(tmp_path)))
    images = random_images(64, 64)
    x = attended = tokens_of(tmp_path, images, False)[:, 1:]
    if applied != "none":
        q, k, v = (x @ part.T for part in state["self_attn.qkv.weight"].chunk(3))
        attended = F.linear((q @ k.transpose(1, 2) / 8).softmax(-1) @ v, *_pair(state, "self_attn.proj"))
    hidden = F.linear(attended, *_pair(state, "attention_predictor.0")).relu()
    weights = F.linear(hidden, *_pair(state, "attention_predictor.2")).softmax(1)
    vector = (weights * (attended if applied == "both" else x)).sum(1)
    with torch.no_grad():
        pooled = encoder(images).pooled
    assert (pooled.vector - vector).abs().max() < 1e-4
    assert (pooled.weights[:, 0] - weights[..., 0]).abs().max() < 1e-5


def _pair(state: State, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]


def test_simpool_head_loads_without_an_exponent(tmp_path: Path) -> None:
    path = saved(tmp_path, head(made.simpool(DIM, "")), model="vit_base_patch16", cls_features="simpool")
    encoder = load_checkpoint(path, device="cpu", backbone=str(backbone(tmp_path)))
    assert encoder.pooling.name == "simpool" and encoder.pooling.gamma is None
    assert isinstance(encoder.backbone.norm, nn.Identity)


def test_backbone_of_the_base_keeps_its_norm(tmp_path: Path) -> None:
    from simpool_viz.checkpoints.files import load_file

    base = load_checkpoint(backbone(tmp_path), device="cpu")
    path = saved(tmp_path, head(efficient()), model="vit_base_patch16", cls_features="ep")
    encoder, _ = load_file(path, base=base)
    assert isinstance(base.backbone.norm, nn.LayerNorm) and isinstance(encoder.backbone.norm, nn.Identity)
    assert encoder.backbone.blocks is base.backbone.blocks
