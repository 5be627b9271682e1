"""What a file tells is used, and whatever is assumed beside it stands in the notes: over the kinds of files."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers

from simpool_viz.checkpoints.load import load_with_report
from simpool_viz.modeling.encoder import IMAGENET_MEAN, IMAGENET_STD
from tests import made_files as made
from tests.checkpoints.formats.test_flax import as_flax
from tests.checkpoints.formats.test_torchvision import random_model as torchvision_model
from tests.checkpoints.formats.test_transformers import SIZES
from tests.helpers import State, save_weights

# What is said where it is assumed.
ASSUMED = {
    "mean": "mean and std of ImageNet are assumed",
    "size": "its maps are made at 224 px, since the file states no size",
    "heads": r"\d+ heads( are assumed|, as the published ViTs of)",
    "gamma": "gamma is not stated in the file and taken as none",
    "act": "its MLPs are taken to have GELU",
}
# What answers each in their place.
OPTIONS = {"mean": {"mean": 0.5, "std": 0.25}, "size": {"size": 64}, "heads": {"num_heads": 2}, "gamma": {"gamma": 3.0}}
RULE = r"the position embedding is resized|the table of relative positions is resized"
HALF, UNEVEN = (0.5, 0.5, 0.5), (0.1, 0.2, 0.3)
MASK = {"mask_token": torch.zeros(1, 1, 64)}


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        make: writes it into a folder and returns its path.
        assumed: keys of `ASSUMED`.
        told: what the file tells: number of heads, mean, size and gamma, by name.
        rule: a part of the sentence on positions; "" for a CNN.
    """

    make: Callable[[Path], Path]
    assumed: set[str]
    told: dict[str, Any]
    rule: str = "as timm does it"


def saved(content: Any, name: str = "weights.pth") -> Callable[[Path], Path]:
    return lambda folder: save_weights(folder, content() if callable(content) else content, name)


def plain() -> State:
    return made.vit(64, 1, grid=4, classes=3)


def simpool(start: str = "simpool.") -> State:
    return made.vit(64, 1, grid=4, cls=False) | made.simpool(64, start, beta=True)


def lightning() -> dict[str, Any]:
    settings = {"num_heads": 4, "mean": list(UNEVEN), "std": [0.4, 0.5, 0.6], "img_size": 96}
    state = {f"model._orig_mod.{key}": value for key, value in plain().items()}
    return {"pytorch-lightning_version": "2", "state_dict": state, "hyper_parameters": settings}


def of_timms_trainer() -> dict[str, Any]:
    args = argparse.Namespace(mean=list(UNEVEN), std=[0.4, 0.5, 0.6], img_size=96, input_size=None)
    state = timm.create_model("resnet10t", num_classes=3).state_dict()
    return {"epoch": 1, "arch": "resnet10t", "state_dict": state, "version": 2, "args": args}


def clip() -> State:
    sizes = {"depth": 1, "embed_dim": 64, "num_heads": 2, "num_classes": 0, "img_size": 64}
    return timm.create_model("vit_base_patch16_clip_224", **sizes).state_dict()


def beit() -> State:
    sizes = {"depth": 1, "embed_dim": 64, "num_heads": 2, "num_classes": 3, "img_size": 64}
    return timm.create_model("beit_base_patch16_224", **sizes).state_dict()


def of_google(folder: Path) -> Path:
    model = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=64, num_heads=4, num_classes=3, img_size=64)
    np.savez(folder / "vit.npz", **as_flax(model.state_dict(), 1, 4))
    return folder / "vit.npz"


def folder_of_timm(folder: Path) -> Path:
    sizes = {"depth": 1, "embed_dim": 64, "num_heads": 4, "img_size": 64}
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=3, **sizes).state_dict(), folder / "model.bin")
    (folder / "model.bin").rename(folder / "pytorch_model.bin")
    described = {"mean": UNEVEN, "std": HALF, "input_size": [3, 96, 96]}
    config = {"architecture": "vit_tiny_patch16_224", "model_args": sizes, "pretrained_cfg": described}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def folder_of_transformers(folder: Path) -> Path:
    transformers.ViTModel(transformers.ViTConfig(**SIZES)).save_pretrained(folder)
    described = {"image_mean": UNEVEN, "image_std": HALF, "size": {"height": 96, "width": 96}}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    return folder


KINDS = {
    "plain": Kind(saved(plain), {"mean", "size", "heads"}, {"heads": 1}),
    "compiled and distributed": Kind(
        saved(lambda: {"model": {f"_orig_mod.module.{k}": v for k, v in plain().items()}}),
        {"mean", "size", "heads"},
        {"heads": 1},
    ),
    "published width": Kind(saved(lambda: made.vit(192, 1, grid=4)), {"mean", "size", "heads"}, {"heads": 3}),
    "DINO's container": Kind(
        saved(lambda: made.self_supervised(made.vit(384, 1, grid=4), mode="official", arch="vit_small")),
        {"mean", "size"},
        {"heads": 6},
        "as in DINO's code",
    ),
    "DINO's published name": Kind(
        saved(lambda: made.vit(384, 1, grid=4), "dino_deitsmall16_pretrain.pth"),
        {"size", "heads"},
        {"mean": IMAGENET_MEAN},
        "as in DINO's code",
    ),
    "DINOv2": Kind(
        saved(lambda: plain() | {"blocks.0.ls1.gamma": torch.ones(64), "blocks.0.ls2.gamma": torch.ones(64)} | MASK),
        {"mean", "size", "heads"},
        {},
        "as in DINO's code",
    ),
    "MoCo v3": Kind(
        saved(lambda: {"state_dict": {f"module.base_encoder.{k}": v for k, v in made.vit(384, 1, grid=4).items()}}),
        {"mean", "size"},
        {"heads": 12},
    ),
    "MAE": Kind(
        saved(lambda: {"model": plain() | MASK | {"decoder_pred.weight": torch.ones(2, 2)}}),
        {"mean", "size", "heads"},
        {},
    ),
    "self-supervised SimPool": Kind(
        saved(lambda: made.self_supervised(simpool())), {"mean", "size", "heads"}, {"gamma": 1.25}, "as in DINO's code"
    ),
    "supervised SimPool": Kind(
        saved(lambda: made.supervised(simpool("gp.pool."), gp="simpool", gamma=1.5)),
        {"mean", "size", "heads"},
        {"gamma": 1.5},
    ),
    "SimPool alone": Kind(saved(simpool), {"mean", "size", "heads", "gamma"}, {"gamma": None}),
    "Lightning": Kind(saved(lightning, "last.ckpt"), set(), {"heads": 4, "mean": UNEVEN, "size": 96}),
    "timm's trainer": Kind(saved(of_timms_trainer), set(), {"mean": UNEVEN, "size": 96}, ""),
    "timm's CLIP": Kind(saved(clip), {"mean", "size", "heads", "act"}, {}),
    "BEiT": Kind(saved(beit), {"mean", "size"}, {"heads": 2}, "the table of relative positions"),
    "torchvision's ViT": Kind(
        saved(lambda: torchvision_model("vit").state_dict()), {"size", "heads"}, {"mean": IMAGENET_MEAN}
    ),
    "Google's ViT": Kind(of_google, {"size"}, {"heads": 4, "mean": HALF}),
    "ResNet": Kind(saved(made.resnet), {"mean", "size"}, {}, ""),
    "ResNet for CIFAR": Kind(saved(lambda: made.resnet((1, 1, 1), stem=(16, 3))), set(), {"size": 32}, ""),
    "ConvNeXt": Kind(saved(made.convnext), {"mean", "size"}, {}, ""),
    "folder of timm": Kind(folder_of_timm, set(), {"heads": 4, "mean": UNEVEN, "size": 96}, "built as timm's"),
    "folder of transformers": Kind(
        folder_of_transformers, set(), {"heads": 4, "mean": UNEVEN, "size": 96}, "as in transformers"
    ),
}


def assumed_in(notes: tuple[str, ...]) -> set[str]:
    return {key for key, says in ASSUMED.items() if any(re.match(says, note) for note in notes)}


@pytest.mark.parametrize("name", KINDS)
def test_what_a_file_tells_is_used_and_the_rest_is_said(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    path = kind.make(tmp_path)
    encoder, report = load_with_report(path, device="cpu")
    assert assumed_in(report.notes) == kind.assumed, report.notes
    facts = encoder.facts
    found = {
        "heads": getattr(getattr(encoder.blocks[0], "attn", None), "num_heads", 0) if encoder.blocks else 0,
        "mean": facts.mean,
        "size": facts.size,
        "gamma": getattr(encoder.pooling, "gamma", None),
    }
    assert {key: found[key] for key in kind.told} == kind.told
    if "mean" in kind.assumed:
        assert (facts.mean, facts.std) == (IMAGENET_MEAN, IMAGENET_STD)
    else:
        assert any(note.startswith("mean ") and ", from " in note for note in report.notes), report.notes
    assert ("size" in kind.assumed) == (facts.size == 224)
    rules = [note for note in report.notes if re.match(RULE, note)]
    assert any(kind.rule in note for note in report.notes) and len(rules) == (kind.rule not in ("", "built as timm's"))


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.assumed & set(OPTIONS)])
def test_what_is_asked_for_is_no_longer_assumed(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    asked = kind.assumed & set(OPTIONS)
    options: dict[str, Any] = {key: value for each in asked for key, value in OPTIONS[each].items()}
    encoder, report = load_with_report(kind.make(tmp_path), device="cpu", **options)
    assert assumed_in(report.notes) == kind.assumed - asked, report.notes
    facts = encoder.facts
    assert "mean" not in asked or (facts.mean, facts.std) == (HALF, (0.25, 0.25, 0.25))
    assert "size" not in asked or facts.size == 64
    assert "heads" not in asked or encoder.blocks[0].attn.num_heads == 2
    assert "gamma" not in asked or encoder.pooling.gamma == 3.0
    if kind.rule in ("as timm does it", "as in DINO's code"):
        other = "transformers"
        chosen = load_with_report(kind.make(tmp_path), device="cpu", pos_embed=other)[1].notes
        assert any("resized as in transformers" in note for note in chosen)


def test_probing_head_says_which_tokens_it_reads_or_asks(tmp_path: Path) -> None:
    """No tensor tells whether they come before or after the final norm, nor the number of AIM's heads."""
    base = save_weights(tmp_path, made.vit(96, 1, grid=4), "base.pth")
    state = {"0.cls_token": torch.randn(1, 1, 96), "0.k.weight": torch.eye(96), "0.v.weight": torch.eye(96)}
    state |= {"0.bn.running_mean": torch.zeros(96), "0.bn.running_var": torch.ones(96)}
    state |= {"2.weight": torch.randn(3, 96), "2.bias": torch.zeros(3)}
    content: dict[str, Any] = {"saved_module": "head", "model": state}
    path = save_weights(tmp_path, content, "head.pth")
    with pytest.raises(ValueError, match="does not say whether it was trained on tokens before or after"):
        load_with_report(path, device="cpu", backbone=f"{base}?num_heads=2")
    told = save_weights(tmp_path, content | {"args": argparse.Namespace(model="vit_base_patch16")}, "told.pth")
    notes = load_with_report(told, device="cpu", backbone=f"{base}?num_heads=2")[1].notes
    assert "tokens before the final norm, as its training loaded vit_base_patch16" in notes
    assert any(re.match(r"\d+ heads are assumed, which no tensor determines", note) for note in notes)
    report = load_with_report(told, device="cpu", backbone=f"{base}?num_heads=2", tokens="after_norm", num_heads=4)[1]
    assert report.notes == ()
