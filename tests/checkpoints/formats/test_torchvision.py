"""Files of torchvision's models give what torchvision gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from simpool_viz.checkpoints.load import load_with_report
from tests.helpers import save_weights


def random_model(kind: str) -> Any:
    torch.manual_seed(0)
    models = torchvision.models
    makers = {
        "vit": lambda: models.VisionTransformer(64, 16, 2, 4, 64, 128, num_classes=5),
        "convnext": lambda: ConvNeXt(
            [CNBlockConfig(8, 12, 1), CNBlockConfig(12, 16, 2), CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)],
            num_classes=5,
        ),
        "resnext": lambda: models.ResNet(models.resnet.Bottleneck, [1] * 4, 5, groups=4, width_per_group=8),
        "wide": lambda: models.ResNet(models.resnet.Bottleneck, [1] * 4, 5, width_per_group=128),
    }
    model = makers[kind]().eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2 if parameter.ndim > 1 else 0.1)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.data.add_(1)
    return model


@pytest.mark.parametrize("way", ["file", "memory"])
@pytest.mark.parametrize(
    ("kind", "says"),
    [("vit", "4 heads"), ("convnext", "ConvNeXt"), ("resnext", "ResNeXt"), ("wide", "Wide ResNet")],
)
def test_model_gives_torchvisions_logits(tmp_path: Path, kind: str, says: str, way: str) -> None:
    model = random_model(kind)
    source = save_weights(tmp_path, model.state_dict()) if way == "file" else model
    options = {"num_heads": 4} if kind == "vit" and way == "file" else {}  # a model in memory says it itself
    encoder, report = load_with_report(source, device="cpu", **options)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted, found = model(x), encoder(x).logits
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max().clamp_min(1)
    assert says in " ".join(report.lines())
    if kind in ("vit", "convnext"):
        assert any("torchvision's" in line for line in report.lines())


def test_vits_attention_is_torchvisions_own(tmp_path: Path) -> None:
    model = random_model("vit")
    encoder, _ = load_with_report(save_weights(tmp_path, model.state_dict()), device="cpu", num_heads=4)
    x = torch.randn(1, 3, 64, 64)
    layer = model.encoder.layers[0]
    with torch.no_grad():
        tokens = torch.cat([model.class_token, model._process_input(x)], 1) + model.encoder.pos_embedding
        normed = layer.ln_1(tokens)
        _, wanted = layer.self_attention(normed, normed, normed, average_attn_weights=False)
        qkv = encoder.blocks[0].attn.qkv(encoder.blocks[0].norm1(encoder.begin(x, 0)))
        q, k, _ = qkv.unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
    assert ((q @ k.transpose(-2, -1) / 4).softmax(-1) - wanted).abs().max() < 1e-6


@pytest.mark.parametrize("where", ["heads", "heads.0", "heads.head.1"])
def test_classifier_that_took_the_place_of_torchvisions(tmp_path: Path, where: str) -> None:
    model, linear = random_model("vit"), torch.nn.Linear(64, 3)
    if where == "heads.head.1":
        model.heads.head = torch.nn.Sequential(torch.nn.Dropout(), linear)
    else:
        model.heads = linear if where == "heads" else torch.nn.Sequential(linear)
    model.eval()
    assert f"{where}.weight" in model.state_dict()
    encoder, _ = load_with_report(save_weights(tmp_path, model.state_dict()), device="cpu", num_heads=4)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (encoder(x).logits - model(x)).abs().max() < 1e-5


def test_head_that_reads_a_hidden_layer_is_left_out_with_it(tmp_path: Path) -> None:
    """Its logits would be those of other features."""
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(64, 16, 2, 4, 64, 128, num_classes=5, representation_size=32).eval()
    encoder, report = load_with_report(save_weights(tmp_path, model.state_dict()), device="cpu", num_heads=4)
    assert report.dropped == {"a head of several layers, since no tensor says what is between them": 4}
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens = torch.cat([model.class_token, model._process_input(x)], 1)
        assert (encoder(x).vector - model.encoder(tokens)[:, 0]).abs().max() < 1e-5
    assert encoder.head is None
