"""Models in memory that are wrapped, or changed in what no tensor shows, give their own logits."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

from simpool_viz import load_checkpoint, record
from simpool_viz.checkpoints.load import load_with_report
from tests.checkpoints.formats.test_transformers import SIZES
from tests.helpers import make_photo

VIT: dict[str, Any] = {"depth": 2, "embed_dim": 64, "num_heads": 4, "num_classes": 0, "img_size": 64}


class Classifier(nn.Module):
    """As many trainings write it: a backbone without its head, and a linear layer."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Sequential(nn.Dropout(), nn.Linear(width, 3))
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        found = self.backbone(x)
        logits: Tensor = self.head(getattr(found, "pooler_output", found))
        return logits


def drawn(model: Any) -> Any:
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def assert_own_logits(model: Any, encoder: Any) -> None:
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted, found = model(x), encoder(x).logits
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max() and wanted.std() > 1e-6


@pytest.mark.parametrize(
    ("tag", "options", "width"),
    [
        ("mobilenetv2_035", {"num_classes": 0}, 1280),
        ("vit_tiny_patch16_224", VIT | {"global_pool": "avg", "fc_norm": False}, 64),
        ("vit_base_patch32_clip_quickgelu_224", VIT, 64),
    ],
)
def test_model_of_timm_inside_another_module_keeps_its_layers(tag: str, options: dict[str, Any], width: int) -> None:
    """Its pooling and its activation leave no tensor."""
    model = drawn(Classifier(timm.create_model(tag, **options), width))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    encoder, report = load_with_report(model, device="cpu", classes=["a", "b", "c"])
    assert_own_logits(model, encoder)
    assert "the model is its part backbone" in report.notes and encoder.facts.classes == ("a", "b", "c")
    assert "its layer head.1 is taken to read what backbone gives" in report.notes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert any(note.startswith("mean ") and "from timm's" in note for note in report.notes)


def test_cnn_of_torchvision_inside_another_module() -> None:
    inner = torchvision.models.mobilenet_v3_small(num_classes=3)
    inner.classifier = nn.Identity()
    model = drawn(Classifier(inner, 576))
    assert_own_logits(model, load_checkpoint(model, device="cpu"))


def test_model_of_transformers_inside_another_module_keeps_what_its_config_says() -> None:
    config = transformers.CLIPVisionConfig(**SIZES, hidden_act="quick_gelu", layer_norm_eps=1e-3)
    model = drawn(Classifier(transformers.CLIPVisionModel(config), 64))
    encoder, report = load_with_report(model, device="cpu")
    assert_own_logits(model, encoder)
    assert "4 heads" in report.architecture


def test_several_layers_beside_the_model_are_left_out_and_said() -> None:
    model = drawn(Classifier(timm.create_model("vit_tiny_patch16_224", **VIT), 64))
    model.head = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    encoder, report = load_with_report(model, device="cpu")
    assert encoder.head is None
    assert "its layers head.0, head.2 are left out: no single one fits" in report.notes


@pytest.mark.parametrize("way", ["parallel", "compiled", "both"])
def test_compilation_and_parallel_training_are_taken_off(way: str) -> None:
    model = drawn(timm.create_model("mobilenetv2_035", num_classes=3))
    wrapped: Any = nn.DataParallel(model) if way != "compiled" else model
    wrapped = torch.compile(wrapped) if way != "parallel" else wrapped
    encoder, report = load_with_report(wrapped, device="cpu")
    assert_own_logits(model, encoder)
    assert report.architecture.startswith("EfficientNet") and encoder.facts.name.startswith("mobilenetv2_035")


@pytest.mark.parametrize("dilated", [(False, True, True), (False, False, True)])
def test_dilated_resnet_of_torchvision_keeps_its_grid(dilated: tuple[bool, ...]) -> None:
    """Its tensors are those of the plain one, whose tokens have 32 pixels."""
    model = drawn(torchvision.models.resnet50(num_classes=3, replace_stride_with_dilation=list(dilated)))
    encoder, report = load_with_report(model, device="cpu")
    assert_own_logits(model, encoder)
    stride = 32 // 2 ** sum(dilated)
    assert encoder.stride == stride and "dilated ResNet" in report.architecture
    recording = record(encoder, make_photo(), 64)
    with torch.no_grad():
        seen = model.layer4(model.layer3(model.layer2(model.layer1(torch.zeros(1, 64, 16, 16)))))
    assert seen.shape[-1] == 64 // stride and min(recording.geometry.grid) == 64 // stride


def test_model_of_several_stages_is_refused_in_a_sentence() -> None:
    model = timm.create_model("resnet18", features_only=True)
    with pytest.raises(ValueError, match=r"gives features of several stages \(features_only=True\)"):
        load_checkpoint(model, device="cpu")
