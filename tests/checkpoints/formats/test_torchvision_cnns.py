"""torchvision's CNNs load from files and from memory, give torchvision's logits, and make every map that is offered."""

from __future__ import annotations

import re
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
from simpool_viz.checkpoints.load import load_with_report
from simpool_viz.maps.registry import maps_of
from tests.helpers import image_of, noisy_photos, save_weights

NAMES = ["densenet121", "efficientnet_b0", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf"]
OTHERS = ["resnet18", "convnext_tiny"]
POOLED = [*NAMES[:3], *NAMES[4:], *OTHERS]


def random_model(name: str, outputs: int = 5) -> Any:
    torch.manual_seed(0)
    if name == "vgg":  # narrow: VGG11 has 129 million parameters
        features = torchvision.models.vgg.make_layers([8, "M", 8, "M", 8, "M", 8, "M", 512, "M"], batch_norm=True)
        model: Any = torchvision.models.VGG(features, outputs, init_weights=False)
        model.classifier[0], model.classifier[3] = nn.Linear(512 * 49, 16), nn.Linear(16, 12)
        model.classifier[6] = nn.Linear(12, outputs)
    else:
        model = torchvision.models.get_model(name, weights=None, num_classes=outputs)
    for key, value in model.state_dict().items():
        if key.endswith("running_mean"):
            nn.init.normal_(value, std=0.1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    return model.eval()


@pytest.mark.parametrize("way", ["file", "memory"])
@pytest.mark.parametrize("name", [*NAMES, *OTHERS, "vgg"])
def test_logits_are_torchvisions_and_every_map_that_is_offered_is_made(tmp_path: Path, name: str, way: str) -> None:
    if name == "vgg" and way == "file":
        pytest.skip("its files are those of another test")
    model = random_model(name)
    source = save_weights(tmp_path, model.state_dict()) if way == "file" else model
    encoder, report = load_with_report(source, device="cpu")
    recording = record(encoder, noisy_photos(1, (150, 100))[0], size=96)
    h, w = recording.geometry.grid
    with torch.inference_mode():
        expected = model(image_of(recording))[0]
    assert h != w and (recording.logits - expected).abs().max() <= 1e-4 * expected.abs().max() and expected.std() > 0
    assert name in ("resnet18", "vgg") or any("torchvision's weights" in note for note in report.notes)
    offered = [method for method, why in maps_of(encoder).items() if why is None]
    assert {"gradcam", "how", "kmeans"} <= set(offered)
    assert ({"contribution", "class_logits"} <= set(offered)) == (name in POOLED)
    for method in offered:
        found = recording.map(method).weights
        assert found.shape[1:] == (h, w) and np.isfinite(found).all(), method
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


@pytest.mark.parametrize("family", ["vgg", "efficientnet", "densenet", "mobilenet_v3", "regnet"])
def test_every_model_of_a_family_is_recognised_by_its_shapes(family: str) -> None:
    """Without weights, since some have hundreds of millions; the largest RegNets are left out for their memory."""
    large = ("128gf", "32gf", "16gf", "8gf")
    names = [name for name in torchvision_cnns._names(family) if not name.endswith(large)]
    assert len(names) >= 2
    for name in names:
        if family == "regnet":
            state = torchvision.models.get_model(name, weights=None).state_dict()
        else:
            with torch.device("meta"):
                state = torchvision.models.get_model(name, weights=None).state_dict()
        assert torchvision_cnns.family_of(state) == family
        with torch.device("meta"):
            parts = torchvision_cnns.recognise_torchvision(state)
        shapes = {key: value.shape for key, value in parts.backbone.model.state_dict().items()}
        assert shapes == {key: value.shape for key, value in state.items()}, name
        assert family == "regnet" or parts.architecture == f"torchvision's {name}"


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
