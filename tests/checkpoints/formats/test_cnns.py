"""ResNet and ConvNeXt files load to maps that equal a float64 computation from their raw tensors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from simpool_viz import load_checkpoint, record
from simpool_viz.checkpoints.load import load_with_report
from simpool_viz.maps.registry import maps_of
from tests import made_files as made
from tests.helpers import INPUT_SIZES, assert_same, double, make_photo, pooling_weights, random_images, save_weights
from tests.oracles import backbones as oracle


@pytest.mark.parametrize("size", INPUT_SIZES)
@pytest.mark.parametrize("prefix", ["simpool.", "attn."])
def test_resnet_with_simpool_equals_its_raw_tensors(tmp_path: Path, size: tuple[int, int], prefix: str) -> None:
    pool = made.simpool(512, prefix)
    if prefix == "attn.":  # an older upload
        pool = {k.removeprefix(prefix) if "norm_patches" in k else k: v for k, v in pool.items()}
    backbone = made.resnet()
    encoder = load_checkpoint(save_weights(tmp_path, made.self_supervised(backbone | pool, gamma=2.0)), device="cpu")
    features = oracle.resnet_features(random_images(*size)[0].double(), double(backbone)).flatten(1).T
    assert_same(pooling_weights(encoder, size), oracle.simpool_map(features, double(made.simpool(512, ""))))
    assert encoder.pooling.gamma == 2.0 and encoder.head is None


@pytest.mark.parametrize("size", INPUT_SIZES)
@pytest.mark.parametrize("norm", ["norm", "norm_output"])
def test_convnext_with_simpool_equals_its_raw_tensors(tmp_path: Path, size: tuple[int, int], norm: str) -> None:
    backbone = made.convnext(norm=norm)
    encoder = load_checkpoint(
        save_weights(tmp_path, made.self_supervised(backbone | made.simpool(40, "simpool."), gamma=2.0)), device="cpu"
    )
    features = oracle.convnext_features(random_images(*size)[0].double(), double(backbone)).flatten(1).T
    assert_same(pooling_weights(encoder, size), oracle.simpool_map(features, double(made.simpool(40, ""))))
    assert torch.equal(encoder.norm.weight, backbone[f"{norm}.weight"])


@pytest.mark.parametrize("size", INPUT_SIZES)
@pytest.mark.parametrize("kind", ["resnet", "convnext", "vit"])
def test_timms_names_of_simpool_load_with_timms_minimum(tmp_path: Path, size: tuple[int, int], kind: str) -> None:
    backbone, dim = {
        "resnet": (made.resnet(), 512),
        "convnext": (made.convnext(), 40),
        "vit": (made.vit(cls=False), 128),
    }[kind]
    names = {"norm_patches": "norm", "wq": "q", "wk": "k"}
    pool = {f"pool.{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in made.simpool(dim, "").items()}
    encoder = load_checkpoint(save_weights(tmp_path, backbone | pool), device="cpu", gamma=2.0)
    assert (
        encoder.pooling.min == "channel" and encoder.pooling.norm_patches.eps == 1e-5 and encoder.pooling.gamma == 2.0
    )
    if kind == "resnet":
        features = oracle.resnet_features(random_images(*size)[0].double(), double(backbone)).flatten(1).T
        assert_same(
            pooling_weights(encoder, size), oracle.simpool_map(features, double(made.simpool(512, "")), eps=1e-5)
        )


@pytest.mark.parametrize(
    ("prefix", "classes", "count"), [("simpool.", 0, 31_900_736), ("global_pool.pool.", 1000, 33_949_736)]
)
def test_full_size_resnet50_simpool_has_the_published_counts(
    tmp_path: Path, prefix: str, classes: int, count: int
) -> None:
    backbone = made.resnet((3, 4, 6, 3), 64, classes=classes)
    state = backbone | made.simpool(2048, prefix)
    content = made.supervised(state, mode="simpool", gamma=2.0) if classes else made.self_supervised(state, gamma=2.0)
    encoder, report = load_with_report(save_weights(tmp_path, content), device="cpu")
    assert report.parameters == count and encoder.pooling.gamma == 2.0
    for size in INPUT_SIZES:
        features = oracle.resnet_features(random_images(*size)[0].double(), double(backbone)).flatten(1).T
        assert_same(pooling_weights(encoder, size), oracle.simpool_map(features, double(state), prefix))


def test_full_size_convnext_small_simpool_has_the_published_counts(tmp_path: Path) -> None:
    backbone = made.convnext((3, 3, 27, 3), (96, 192, 384, 768))
    state = backbone | made.simpool(768, "simpool.")
    encoder, report = load_with_report(save_weights(tmp_path, made.self_supervised(state, gamma=None)), device="cpu")
    assert len(state) == 346 and report.parameters == 50_635_872
    for size in INPUT_SIZES:
        features = oracle.convnext_features(random_images(*size)[0].double(), double(backbone)).flatten(1).T
        assert_same(pooling_weights(encoder, size), oracle.simpool_map(features, double(state), "simpool."))


def test_supervised_cnns_load_without_their_auxiliary_norms(tmp_path: Path) -> None:
    resnet = made.resnet(classes=7) | made.simpool(512, "global_pool.pool.")
    encoder, report = load_with_report(
        save_weights(tmp_path, made.supervised(resnet, mode="simpool", gamma=2.0)), device="cpu"
    )
    assert encoder.head.out_features == 7 and "second half of split batch norm, used in training only" in report.dropped
    convnext = made.convnext(classes=7) | made.simpool(40, "head.global_pool.pool.")
    encoder = load_checkpoint(save_weights(tmp_path, made.supervised(convnext)), device="cpu")
    assert encoder.head.out_features == 7 and encoder.pooling.name == "simpool"
    assert torch.equal(encoder.head.weight, convnext["head.weight"]) and torch.equal(
        encoder.norm.weight, convnext["norm.weight"]
    )


@pytest.mark.parametrize("size", INPUT_SIZES)
@pytest.mark.parametrize("bottleneck", [True, False])
def test_spe_checkpoint_equals_its_raw_tensors(tmp_path: Path, size: tuple[int, int], bottleneck: bool) -> None:
    state = made.resnet(bottleneck=bottleneck, spe=True, classes=5)
    content = {
        "epoch": 3,
        "state_dict": {f"module.{k}": v for k, v in state.items()},
        "acc": 1.0,
        "best_acc": 2.0,
        "optimizer": {},
    }
    encoder, report = load_with_report(save_weights(tmp_path, content), device="cpu")
    wanted = oracle.resnet_features(random_images(*size)[0].double(), double(state)).flatten(1).T
    with torch.inference_mode():
        found = encoder.tokens(random_images(*size)).patches[0].double()
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max() and "SPE" in report.architecture
    assert maps_of(encoder)["gates"] is None


@pytest.mark.parametrize(
    "depth, bottleneck, spe, size",
    [(29, True, True, (32, 32)), (29, True, True, (40, 64)), (164, True, True, (32, 16)), (20, False, False, (40, 64))],
)
def test_resnets_of_cifar_equal_their_raw_tensors(
    tmp_path: Path, depth: int, bottleneck: bool, spe: bool, size: tuple[int, int]
) -> None:
    n = (depth - 2) // (9 if bottleneck else 6)
    state = made.resnet((n, n, n), bottleneck=bottleneck, spe=spe, classes=10, stem=(16, 3))
    assert state["fc.weight"].shape == (10, 256 if bottleneck else 64) and "layer4.0.conv1.weight" not in state
    assert not spe or state["layer3.0.w1"].shape == (1, 256, 1, 1)
    content = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}, "acc": 1.0, "best_acc": 2.0}
    encoder, report = load_with_report(save_weights(tmp_path, content | {"optimizer": {}}), device="cpu")
    wanted = oracle.resnet_features(random_images(*size)[0].double(), double(state))
    with torch.inference_mode():
        output = encoder(random_images(*size))
    found = output.tokens.patches[0].double()
    assert (found - wanted.flatten(1).T).abs().max() < 1e-4 * wanted.abs().max() and encoder.stride == 4
    logits = wanted.mean((1, 2)) @ state["fc.weight"].T.double() + state["fc.bias"]
    assert (output.logits[0] - logits).abs().max() < 1e-4 * logits.abs().max()
    assert report.architecture.startswith(f"CIFAR ResNet-{depth}" + " with SPE" * spe)
    assert encoder.facts.size == 32 and encoder.facts.mean == (0.4914, 0.4822, 0.4465)
    assert any("from CIFAR-10, since it is a ResNet for CIFAR" in note for note in report.notes)


def test_every_map_that_is_offered_for_a_resnet_of_cifar_is_made(tmp_path: Path) -> None:
    state = made.resnet((3, 3, 3), spe=True, classes=10, stem=(16, 3))
    encoder = load_checkpoint(save_weights(tmp_path, {"state_dict": state}), device="cpu")
    recording = record(encoder, make_photo(), 40)
    h, w = recording.geometry.grid
    offered = [name for name, why in maps_of(encoder).items() if why is None]
    assert {"gates", "gradcam", "contribution", "class_logits", "how", "kmeans"} <= set(offered) and h != w
    for name in offered:
        found = recording.map(name).weights
        assert found.shape[1:] == (h, w) and np.isfinite(found).all(), name
    earlier = recording.map("gradcam", layer="layer2").weights
    assert earlier.shape[1:] == (2 * h, 2 * w)
    assert len(recording.gates) == 9


@pytest.mark.parametrize("way", ["timm", "original"])
def test_convnext_v2_is_read_by_both_names(tmp_path: Path, way: str) -> None:
    """With its response normalisation, which the original holds as (1, 1, 1, C)."""
    import timm

    torch.manual_seed(0)
    sizes = {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 40)}
    model = timm.create_model("convnextv2_nano", num_classes=5, **sizes).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = dict(model.state_dict())
    if way == "original":
        state = {_original_v2(key): v.reshape(1, 1, 1, -1) if ".grn." in key else v for key, v in state.items()}
    encoder, report = load_with_report(save_weights(tmp_path, {"model": state}), device="cpu")
    x = random_images(64, 96)
    with torch.no_grad():
        wanted = model(x)
        assert (encoder(x).logits - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert "ConvNeXt V2 of 1-1-2-1 blocks" in report.architecture


def _original_v2(key: str) -> str:
    key = re.sub(r"^stem\.", "downsample_layers.0.", key).replace(".blocks.", ".").replace("conv_dw", "dwconv")
    key = re.sub(r"^stages\.(\d)\.downsample", r"downsample_layers.\1", key)
    key = key.replace(".mlp.grn.weight", ".grn.gamma").replace(".mlp.grn.bias", ".grn.beta")
    return re.sub(r"\.mlp\.fc", ".pwconv", key).replace("head.norm", "norm").replace("head.fc", "head")


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("bottleneck", [True, False])
def test_layers_of_a_resnet_in_a_row_are_its_own(tmp_path: Path, bottleneck: bool, prefix: str) -> None:
    """nn.Sequential(*model.children()), with the classifier and without."""
    state = made.resnet(bottleneck=bottleneck, classes=0 if prefix else 5)
    numbers = {"conv1": 0, "bn1": 1, "fc": 9} | {f"layer{i}": i + 3 for i in (1, 2, 3, 4)}
    row = {f"{prefix}{numbers[key.partition('.')[0]]}.{key.partition('.')[2]}": value for key, value in state.items()}
    found, report = load_with_report(save_weights(tmp_path, row), device="cpu")
    wanted, _ = load_with_report(save_weights(tmp_path, state, "plain.pth"), device="cpu")
    x = random_images(64, 96)
    with torch.no_grad():
        one, other = found(x), wanted(x)
    assert torch.equal(one.vector, other.vector) and (one.logits is None) == bool(prefix)
    assert prefix or torch.equal(one.logits, other.logits)
    assert any("a ResNet's layers in a row" in note for note in report.notes)


def test_resnet_of_another_stem_is_named(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet26d", num_classes=3).eval()
    path = save_weights(tmp_path, model.state_dict())
    with pytest.raises(ValueError, match="its stem is one of several convolutions, as of timm's ResNet-D; name it"):
        load_with_report(path, device="cpu")
    encoder, _ = load_with_report(path, device="cpu", arch="resnet26d")
    x = random_images(64, 96)
    with torch.no_grad():
        assert (encoder(x).logits - model(x)).abs().max() < 1e-4


def test_classifier_of_every_name_is_read_with_arch(tmp_path: Path) -> None:
    """timm calls it head, fc, head.fc, classifier, last_linear or, as a convolution of 1 x 1, fc again."""
    import timm

    for tag in ("mobilenetv2_035", "resnetv2_18", "legacy_seresnet18", "dla46_c", "regnetx_002"):
        torch.manual_seed(0)
        model = timm.create_model(tag, num_classes=3).eval()
        path = save_weights(tmp_path, model.state_dict())
        encoder, _ = load_with_report(path, device="cpu", arch=tag)
        x = random_images(64, 96)
        with torch.no_grad():
            wanted = model(x)
        assert (encoder(x).logits - wanted).abs().max() <= 1e-4 * wanted.abs().max(), tag


def test_classifier_of_timms_convnext_after_dropout(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=3)
    model.head.fc = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(32, 4))
    assert "head.fc.1.weight" in model.eval().state_dict()
    encoder = load_checkpoint(save_weights(tmp_path, model.state_dict()), device="cpu")
    x = random_images(64, 96)
    with torch.no_grad():
        assert (encoder(x).logits - model(x)).abs().max() < 1e-5
