"""torchvision's CNNs load from files and from memory, give torchvision's logits, and make every map that is offered."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.regnet import BlockParams, RegNet

from simpool_viz import record
from simpool_viz.checkpoints.formats import torchvision_cnns
from simpool_viz.checkpoints.formats.containers import Weights
from simpool_viz.checkpoints.formats.parts import LoadOptions
from simpool_viz.checkpoints.formats.recognise import build_encoder
from simpool_viz.checkpoints.load import load_with_report
from simpool_viz.maps.registry import maps_of
from simpool_viz.modeling.encoder import Facts
from tests.helpers import image_of, noisy_photos, save_weights

NAMES = [
    *("densenet121", "efficientnet_b0", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf"),
    *("googlenet", "mnasnet0_5", "shufflenet_v2_x0_5"),
]
OTHERS = ["resnet18", "convnext_tiny"]
VGGS = ["vgg", "vgg_bn"]
POOLED = [*NAMES[:3], *NAMES[4:], *OTHERS]


def random_model(name: str, outputs: int = 5) -> Any:
    torch.manual_seed(0)
    if name in VGGS:  # narrow: VGG11 has 129 million parameters
        model: Any = narrow_vgg([8, "M", 8, 8, "M", 8, "M", 8, 12, 8, "M", 32, "M"], name == "vgg_bn", outputs)
    else:
        options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
        model = torchvision.models.get_model(name, weights=None, num_classes=outputs, **options)
    for key, value in model.state_dict().items():
        if key.endswith("running_mean"):
            nn.init.normal_(value, std=0.1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    return model.eval()


def narrow_vgg(layers: list[Any], normed: bool, outputs: int) -> Any:
    with torch.device("meta"):
        model: Any = torchvision.models.VGG(nn.Identity(), 1, init_weights=False)
    model.features = torchvision.models.vgg.make_layers(layers, normed)
    width = layers[-2]
    model.classifier[0], model.classifier[3] = nn.Linear(width * 49, 16), nn.Linear(16, 12)
    model.classifier[6] = nn.Linear(12, outputs)
    return model


@pytest.mark.parametrize("way", ["file", "memory"])
@pytest.mark.parametrize("name", [*NAMES, *OTHERS, *VGGS])
def test_logits_are_torchvisions_and_every_map_that_is_offered_is_made(tmp_path: Path, name: str, way: str) -> None:
    model = random_model(name)
    source = save_weights(tmp_path, model.state_dict()) if way == "file" else model
    encoder, report = load_with_report(source, device="cpu")
    recording = record(encoder, noisy_photos(1, (150, 100))[0], size=96)
    h, w = recording.geometry.grid
    with torch.inference_mode():
        expected = model(image_of(recording))[0]
    assert h != w and (recording.logits - expected).abs().max() <= 1e-4 * expected.abs().max() and expected.std() > 0
    assert name == "resnet18" or any("torchvision's weights" in note for note in report.notes)
    offered = [method for method, why in maps_of(encoder).items() if why is None]
    assert {"gradcam", "how", "kmeans"} <= set(offered)
    assert ({"contribution", "class_logits"} <= set(offered)) == (name in POOLED)
    for method in offered:
        found = recording.map(method).weights
        assert found.shape[1:] == (h, w) and np.isfinite(found).all(), method
    reasons = {"mobilenet_v3_small": "a layer with a non-linearity stands between pooling and head"}
    reasons |= dict.fromkeys(VGGS, "the vector of Own head pooling is not a sum of what single tokens give")
    if name in reasons:
        with pytest.raises(ValueError, match=f"has no Contribution map: {reasons[name]}"):
            recording.map("contribution")
    if name in POOLED[:3]:  # CAM: the classifier's weights on the features before they are averaged
        with torch.inference_mode():
            features = model.features(image_of(recording))[0].double()
            features = features.relu() if name == "densenet121" else features
            weight = [m for m in model.modules() if isinstance(m, nn.Linear)][-1].weight.double()
            cam = torch.einsum("kd,dhw->khw", weight[[1]], features).numpy() / (h * w)
        found = recording.map("contribution", classes=[1]).weights
        np.testing.assert_allclose(found, cam, atol=1e-5 * np.abs(cam).max())


def test_grad_cam_of_a_layer_inside_is_that_of_autograd(tmp_path: Path) -> None:
    model = random_model("mobilenet_v2")
    encoder, _ = load_with_report(model, device="cpu")
    recording = record(encoder, noisy_photos(1, (150, 100))[0], size=96)
    kept: list[torch.Tensor] = []
    model.features[7].register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits = model(image_of(recording).clone().requires_grad_())
    (slope,) = torch.autograd.grad(logits[0, 2], kept[0])
    expected = (kept[0] * slope.mean((2, 3), keepdim=True)).sum(1).relu()[0].detach().numpy()
    found = recording.map("gradcam", layer="model.features.7", classes=[2]).weights[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())
    assert found.shape[0] > recording.geometry.grid[0] and expected.max() > 0


FAMILIES = ["vgg", "efficientnet", "densenet", "googlenet", "mnasnet", "mobilenet_v3", "regnet", "shufflenet_v2"]


@pytest.fixture
def built_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Each model of a list is built once, without weights, since some have hundreds of millions."""
    make = torchvision.models.get_model
    for name in ("trunc_normal_", "normal_", "kaiming_normal_", "kaiming_uniform_", "uniform_", "zeros_", "ones_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *given, **options: tensor)  # slow even without numbers

    @cache
    def built(name: str) -> Any:
        with torch.device("cpu" if name.startswith("regnet") else "meta"):  # a RegNet computes widths with tensors
            return make(name, weights=None, **torchvision_cnns._options(name))

    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights=None, **options: built(name))
    torchvision_cnns._shapes.cache_clear()
    return built


@pytest.mark.parametrize("family", FAMILIES)
def test_every_model_of_a_family_is_recognised_by_its_shapes(family: str, built_once: Callable[[str], Any]) -> None:
    """All of torchvision's, but for the largest RegNets, for their memory."""
    large = ("128gf", "32gf", "16gf", "8gf", "3_2gf")
    names = [name for name in torchvision_cnns._names(family) if not name.endswith(large)]
    assert len(names) >= (1 if family == "googlenet" else 2)
    for name in names:
        state = built_once(name).state_dict()
        assert torchvision_cnns.family_of(state) == family
        with torch.device("meta"):
            parts = torchvision_cnns.recognise_torchvision(state)
        shapes = {key: value.shape for key, value in parts.backbone.model.state_dict().items()}
        assert shapes == {key: value.shape for key, value in state.items()}, name
        if family == "vgg":
            depth = name.removesuffix("_bn").removeprefix("vgg")
            assert parts.architecture.startswith(f"torchvision's VGG{depth} ")
            assert ("with batch norms" in parts.architecture) == name.endswith("_bn")
            assert kinds_of(parts.backbone.model) == kinds_of(built_once(name))
        elif family != "regnet":
            assert parts.architecture == f"torchvision's {name}"


def kinds_of(model: nn.Module) -> list[str]:
    """The kinds of a model's layers in their order; pooling is a layer without tensors."""
    return [type(module).__name__ for module in model.modules()]


@pytest.mark.parametrize("way", ["prefix", "linear", "sequence", "none", "old"])
def test_files_of_fine_tuned_models(tmp_path: Path, way: str) -> None:
    """With a prefix, another classifier in place of the first, none at all, or a DenseNet's names of 2017."""
    model: Any = random_model("densenet121" if way == "old" else "mobilenet_v2", 7)
    if way in ("linear", "sequence"):
        last = nn.Linear(1280, 7)
        model.classifier = last if way == "linear" else nn.Sequential(nn.Dropout(), nn.Dropout(), last)
    state = model.state_dict()
    if way == "prefix":
        state = {f"module.net.{key}": value for key, value in state.items()}
    if way == "none":
        state = {key: value for key, value in state.items() if not key.startswith("classifier")}
    if way == "old":
        old = r"(.*denselayer\d+\.(?:norm|conv))((?:[12])\..*)"
        state = {re.sub(old, r"\1.\2", key): v for key, v in state.items() if "num_batches" not in key}
    encoder, report = load_with_report(save_weights(tmp_path, {"state_dict": state}), device="cpu")
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found, wanted = encoder(x), model.eval()(x)
        pooled = model.features(x).mean((2, 3)) if way == "none" else None
    if way == "none":
        assert found.logits is None and (found.vector - pooled).abs().max() < 1e-4 * pooled.abs().max()
    else:
        assert (found.logits - wanted).abs().max() < 1e-4 * wanted.abs().max() and found.logits.shape == (1, 7)
    assert way != "prefix" or any("module.net." in note or "net." in note for note in report.notes)


def test_model_of_torchvision_that_no_list_has(tmp_path: Path) -> None:
    """RegNets are built from their shapes; of the other families a file needs a known model, a module does not."""
    torch.manual_seed(0)
    regnet = RegNet(BlockParams([1, 1, 2, 1], [16, 24, 32, 40], [8] * 4, [1.0] * 4, [2] * 4, 0.25), 3, 16).eval()
    encoder, report = load_with_report(save_weights(tmp_path, regnet.state_dict()), device="cpu")
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert (encoder(x).logits - regnet(x)).abs().max() < 1e-5
    assert "RegNetY of 1-1-2-1 blocks, 16 to 40 channels" in report.architecture
    narrow = torchvision.models.MobileNetV2(3, width_mult=0.35).eval()
    with pytest.raises(ValueError, match=r"none of torchvision's models mobilenet_v2 has tensors .* load_checkpoint"):
        load_with_report(save_weights(tmp_path, narrow.state_dict()), device="cpu")
    encoder, _ = load_with_report(narrow, device="cpu")
    with torch.no_grad():
        assert (encoder(x).logits - narrow(x)).abs().max() < 1e-5


def test_googlenet_brings_its_input_from_memory_and_is_asked_for_it_from_a_file(tmp_path: Path) -> None:
    """The published one changes mean and std in its own first step, which no tensor tells."""
    torch.manual_seed(0)
    options = {"num_classes": 3, "init_weights": False, "transform_input": True}
    model = torchvision.models.googlenet(weights=None, aux_logits=True, **options).eval()
    x = torch.randn(1, 3, 64, 96)
    encoder, _ = load_with_report(model, device="cpu")
    with torch.no_grad():
        assert (encoder(x).logits - model(x)).abs().max() < 1e-4
    path = save_weights(tmp_path, model.state_dict())
    encoder, report = load_with_report(path, device="cpu", mean=0.5, std=0.5)
    assert report.dropped["a classifier in the middle, which training alone uses"] == 20
    assert any("say mean=0.5&std=0.5 for the former" in note for note in report.notes)
    raw = x * torch.tensor([0.229, 0.224, 0.225])[:, None, None] + torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    with torch.no_grad():
        assert (encoder((raw - 0.5) / 0.5).logits - model(x)).abs().max() < 1e-3


def test_vggs_of_other_layers_are_told_apart(tmp_path: Path) -> None:
    bare = narrow_vgg([8, "M", 8, "M", 8, "M", 8, "M", 16, "M"], True, 3).eval()
    state = {key: value for key, value in bare.state_dict().items() if key.startswith("features.")}
    encoder, _ = load_with_report(save_weights(tmp_path, state), device="cpu")
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert encoder.head is None and torch.allclose(encoder(x).vector, bare.features(x).mean((2, 3)), atol=1e-6)
    for layers in ([8, "M", 8, "M", 8, "M", 8, "M"], [8, "M", 8, "M", 8, "M", 8, "M", 8, "M", 8, "M"]):
        with pytest.raises(ValueError, match="its layers are not those of a VGG, which has 5 blocks"):
            load_with_report(save_weights(tmp_path, narrow_vgg(layers, False, 3).state_dict()), device="cpu")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("alexnet", "AlexNet's first layers are not padded"),
        ("squeezenet1_1", "SqueezeNet averages class scores"),
        ("inception_v3", "Inception's layers are not padded"),
        ("swin_t", r"load timm:<tag>"),
    ],
)
def test_models_of_torchvision_that_cannot_be_shown_are_refused_with_the_reason(name: str, says: str) -> None:
    with torch.device("meta"):
        options = {"init_weights": False} if name == "inception_v3" else {}
        model = torchvision.models.get_model(name, weights=None, **options)
    weights = Weights({key: value for key, value in model.state_dict().items()}, "plain")
    with pytest.raises(ValueError, match=says):
        build_encoder(weights, Facts(name), LoadOptions())
