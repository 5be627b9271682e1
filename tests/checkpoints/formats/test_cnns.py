"""ResNet and ConvNeXt files load to maps that equal a float64 computation from their raw tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from simpool_viz import load_checkpoint
from simpool_viz.checkpoints.load import load_with_report
from simpool_viz.maps.registry import maps_of
from tests import made_files as made
from tests.helpers import INPUT_SIZES, assert_same, double, pooling_weights, random_images, save_weights
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
