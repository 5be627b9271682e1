"""Preprocessing, heads, gamma and classes of a file: read, asked for, or said to be assumed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from simpool_viz import load_checkpoint
from simpool_viz.checkpoints.formats.timm import quick_variant
from simpool_viz.checkpoints.load import load_with_report
from simpool_viz.modeling.encoder import IMAGENET_MEAN
from tests import made_files as made
from tests.helpers import save_weights


def tiny(**options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", depth=1, **options).eval()


def test_options_come_first_and_what_is_assumed_is_said(tmp_path: Path) -> None:
    path = save_weights(tmp_path, made.vit(64, 1, grid=4))
    encoder, report = load_with_report(path, device="cpu")
    assert encoder.facts.mean == IMAGENET_MEAN and any("of ImageNet are assumed" in note for note in report.notes)
    encoder, report = load_with_report(f"{path}?mean=0.5&std=0.5+0.25+0.125&size=96", device="cpu")
    assert (encoder.facts.mean, encoder.facts.std, encoder.facts.size) == ((0.5,) * 3, (0.5, 0.25, 0.125), 96)
    assert not any("assumed; say mean" in note for note in report.notes)
    for wrong in ({"mean": [0.5, 0.5]}, {"std": 0}, {"std": "many"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}= takes"):
            load_checkpoint(path, device="cpu", **wrong)


def test_tag_brings_its_mean_and_std(tmp_path: Path) -> None:
    path = save_weights(tmp_path, timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict())
    tagged, report = load_with_report(path, device="cpu", arch="vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    assert tagged.facts.mean == tagged.facts.std == (0.5, 0.5, 0.5)
    assert any("mean 0.5 / 0.5 / 0.5" in note and "augreg_in21k_ft_in1k" in note for note in report.notes)


def test_saved_folder_of_timm_brings_arguments_preprocessing_and_labels(tmp_path: Path) -> None:
    model = tiny(num_classes=3, global_pool="avg")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "model_args": {"depth": 1, "global_pool": "avg"},
        "label_names": ["ant", "bee", "cat"],
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 192, 192]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder, _ = load_with_report(tmp_path, device="cpu")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert (encoder(x).logits - model(x)).abs().max() < 1e-5
    assert encoder.facts.classes == ("ant", "bee", "cat") and encoder.facts.size == 192
    assert encoder.facts.mean == (0.1, 0.2, 0.3) and encoder.pooling.name == "gap"
    for args, says in (({"depth": 10**9}, "numbers beyond"), ({"pretrained": True}, "may not hold pretrained")):
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_args": args}))
        with pytest.raises(ValueError, match=says):
            load_checkpoint(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("dim", "heads"), [(192, 3), (384, 6), (768, 12), (1152, 16), (1280, 16), (1408, 16), (1536, 24), (1664, 16)]
)
def test_heads_are_those_of_the_published_shapes(tmp_path: Path, dim: int, heads: int) -> None:
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in made_shapes(dim).items()}
    state = {key: torch.zeros(shape) for key, shape in shapes.items()}
    encoder, report = load_with_report(save_weights(tmp_path, state), device="cpu")
    assert encoder.blocks[0].attn.num_heads == heads
    assert f"{heads} heads, as the published ViTs of {dim} channels have them; else say num_heads=" in report.notes
    told = load_with_report(tmp_path / "weights.pth", device="cpu", num_heads=1)[1]
    assert not any(" heads" in note for note in told.notes)


def made_shapes(dim: int) -> dict[str, torch.Tensor]:
    return timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=dim, depth=1, num_heads=1, num_classes=0, mlp_ratio=0.25
    ).state_dict()


def test_other_widths_are_said_to_be_assumed(tmp_path: Path) -> None:
    _, report = load_with_report(save_weights(tmp_path, made.vit(128, 1, grid=4)), device="cpu")
    assert any("2 heads are assumed, of 64 channels each" in note for note in report.notes)


@pytest.mark.parametrize("beta", [False, True])
def test_gamma_of_a_supervised_file_is_its_trainers(tmp_path: Path, beta: bool) -> None:
    state = made.vit(64, 1, grid=4, cls=False, classes=3) | made.simpool(64, "gp.pool.", beta=beta)
    told = load_checkpoint(save_weights(tmp_path, made.supervised(state, gp="simpool", gamma=1.25)), device="cpu")
    assert told.pooling.gamma == 1.25
    silent, report = load_with_report(save_weights(tmp_path, made.supervised(state)), device="cpu")
    assert silent.pooling.gamma is None
    assert any("its beta exists only where there was one" in note for note in report.notes) == beta


def test_classes_come_from_a_file_or_from_the_checkpoint(tmp_path: Path) -> None:
    state = made.vit(64, 1, grid=4, classes=3)
    path = save_weights(tmp_path, state)
    (tmp_path / "names.txt").write_text("ant\nbee\n\ncat\n")
    (tmp_path / "names.json").write_text('{"1": "bee", "0": "ant", "2": "cat"}')
    (tmp_path / "two.json").write_text('["ant", "bee"]')
    (tmp_path / "gap.json").write_text('{"0": "ant", "7": "bee"}')
    for name in ("names.txt", "names.json"):
        assert load_checkpoint(path, device="cpu", classes=tmp_path / name).facts.classes == ("ant", "bee", "cat")
    assert load_checkpoint(path, device="cpu", classes=["x", "y", "z"]).facts.classes == ("x", "y", "z")
    for name, says in (
        ("two.json", "names 2 classes, and the head has 3 outputs"),
        ("gap.json", "not numbered from 0 to 1"),
        ("none.txt", r"none\.txt cannot be read"),
    ):
        with pytest.raises(ValueError, match=says):
            load_checkpoint(path, device="cpu", classes=tmp_path / name)
    for inside in (
        {"class_to_idx": {"ant": 0, "cat": 2, "bee": 1}},
        {"classes": ["ant", "bee", "cat"]},
        {"id2label": {0: "ant", 1: "bee", 2: "cat"}},
    ):
        told = save_weights(tmp_path, {"state_dict": state, **inside}, "told.pth")
        assert load_checkpoint(told, device="cpu").facts.classes == ("ant", "bee", "cat")


def test_openais_weights_have_quickgelu() -> None:
    assert quick_variant("vit_base_patch16_clip_224.openai") == "vit_base_patch16_clip_quickgelu_224.openai"
    for tag in ("vit_base_patch16_clip_224.laion2b", "vit_tiny_patch16_224", "no_such_model"):
        assert quick_variant(tag) == tag
    assert load_checkpoint(tiny(num_classes=21843), device="cpu").facts.classes[0]


def test_timm_model_in_memory_gives_its_own_logits_at_any_size_and_stays_as_it_is() -> None:
    model = tiny(num_classes=3, img_size=64)
    encoder = load_checkpoint(model, device="cpu", mean=0.5, std=0.25, classes=["a", "b", "c"])
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (encoder(x).logits - model(x)).abs().max() < 1e-5
        assert encoder(torch.randn(1, 3, 48, 96)).logits.shape == (1, 3)
    assert model.dynamic_img_size is False and model.patch_embed.flatten and model.pos_embed.requires_grad
    assert (encoder.facts.mean, encoder.facts.classes) == ((0.5,) * 3, ("a", "b", "c"))
    with pytest.raises(ValueError, match="a model of timm brings its own"):
        load_checkpoint(model, device="cpu", num_heads=3)
    with pytest.raises(ValueError, match="Linear is not recognised"):
        load_checkpoint(torch.nn.Linear(2, 2), device="cpu")


CLIP = "vit_base_patch32_clip_224"


def small_clip(quick: bool) -> Any:
    """A CLIP of two narrow blocks, with weights by which GELU and QuickGELU differ."""
    torch.manual_seed(0)
    name = CLIP.replace("_clip_", "_clip_quickgelu_") if quick else CLIP
    model = timm.create_model(name, depth=2, embed_dim=64, num_heads=4, num_classes=5).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("tag", ["openai", "metaclip_400m", "laion2b", "mine"])
def test_folder_of_timm_has_quickgelu_where_its_weights_were_trained_with_it(tmp_path: Path, tag: str) -> None:
    """As `save_pretrained` and the hub have it: the plain architecture, the tag beside it, and timm's note."""
    quick = tag in ("openai", "metaclip_400m")
    model = small_clip(quick)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    sizes = {"depth": 2, "embed_dim": 64, "num_heads": 4}
    described = {"tag": tag, "mean": [0.5] * 3, "std": [0.5] * 3, "notes": ["a note of timm"]}
    config = {"architecture": CLIP, "num_classes": 5, "model_args": sizes, "pretrained_cfg": described}
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder, report = load_with_report(tmp_path, device="cpu")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        wanted, other, found = model(x), small_clip(not quick)(x), encoder(x).logits
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (wanted - other).abs().max() > 1e-3 * wanted.abs().max()
    assert any("QuickGELU" in note for note in report.notes) == quick and "a note of timm" in report.notes


@pytest.mark.parametrize("tag", ["openai", "laion2b", ""])
def test_arch_with_a_tag_of_openai_has_quickgelu(tmp_path: Path, tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, name = tag == "openai", f"{CLIP}.{tag}".rstrip(".")
    model, create = small_clip(quick), timm.create_model
    small = {"depth": 2, "embed_dim": 64, "num_heads": 4}
    path = save_weights(tmp_path, model.state_dict())
    monkeypatch.setattr(timm, "create_model", lambda *given, **options: create(*given, **(options | small)))
    encoder, report = load_with_report(path, device="cpu", arch=name)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        wanted, found = model(x), encoder(x).logits
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    said = " ".join(report.notes)
    assert f"built as timm's {name}, as asked for" in said
    if quick:
        assert "since its weights were trained with QuickGELU" in said and "natively QuickGELU" in said
    assert ("name the tag, as in arch=" in said) == (not tag)


def test_notes_of_timm_on_a_model_in_memory_are_shown() -> None:
    model = small_clip(True)
    model.pretrained_cfg = {**model.pretrained_cfg, "notes": ("a note of timm",)}
    assert "a note of timm" in load_with_report(model, device="cpu")[1].notes


def test_arch_with_a_tag_that_timm_does_not_have_is_a_sentence(tmp_path: Path) -> None:
    path = save_weights(tmp_path, tiny().state_dict())
    with pytest.raises(ValueError, match="no weights called 'mine' of vit_tiny_patch16_224; leave the tag out, or"):
        load_checkpoint(path, device="cpu", arch="vit_tiny_patch16_224.mine")


def trained(model: Any, arch: str, **args: Any) -> dict[str, Any]:
    """The file of timm's trainer."""
    settings = argparse.Namespace(**{"mean": None, "std": None, "img_size": None, "input_size": None} | args)
    return {"epoch": 3, "arch": arch, "state_dict": model.state_dict(), "optimizer": {}, "version": 2, "args": settings}


@pytest.mark.parametrize("given", [True, False])
def test_file_of_timms_trainer_brings_its_pictures(tmp_path: Path, given: bool) -> None:
    """From its settings, else those that timm has for the model, which the trainer then took."""
    args: dict[str, Any] = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "img_size": 96} if given else {}
    path = save_weights(tmp_path, trained(tiny(num_classes=3), "vit_tiny_patch16_224", **args), "model_best.pth.tar")
    encoder, report = load_with_report(path, device="cpu")
    if given:
        assert (encoder.facts.mean, encoder.facts.std, encoder.facts.size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 96)
        assert any("from the settings of its training" in note for note in report.notes)
    else:
        assert encoder.facts.mean == (0.5, 0.5, 0.5)
        assert any("from timm's vit_tiny_patch16_224" in note for note in report.notes)
    assert load_checkpoint(path, device="cpu", mean=0.25).facts.mean == (0.25, 0.25, 0.25)


def test_model_that_no_tensor_tells_is_the_one_that_timms_trainer_wrote(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_035", num_classes=3).eval()
    path = save_weights(tmp_path, trained(model, "mobilenetv2_035"), "model_best.pth.tar")
    encoder, report = load_with_report(path, device="cpu")
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert (encoder(x).logits - model(x)).abs().max() < 1e-5
    assert any("built as timm's mobilenetv2_035, as its trainer wrote" in note for note in report.notes)
    with pytest.raises(ValueError, match=r"is not recognised as a ViT or a CNN by its tensors.*arch="):
        load_with_report(save_weights(tmp_path, model.state_dict()), device="cpu")


@pytest.mark.parametrize("container", ["plain", "model", "state_dict", "supervised", "self-supervised"])
def test_no_mean_and_no_size_is_assumed_in_silence(tmp_path: Path, container: str) -> None:
    state = made.vit(64, 1, grid=4)
    content = {
        "plain": lambda: state,
        "model": lambda: {"model": state, "optimizer": {}},
        "state_dict": lambda: {"state_dict": state},
        "supervised": lambda: made.supervised(state),
        "self-supervised": lambda: made.self_supervised(state, mode="official"),
    }[container]()
    path = save_weights(tmp_path, content)
    _, report = load_with_report(path, device="cpu", num_heads=1)
    told = " ".join(report.notes)
    assert "mean and std of ImageNet are assumed" in told or "from timm's" in told
    assert "its maps are made at 224 px, since the file states no size" in told
    _, report = load_with_report(path, device="cpu", num_heads=1, mean=0.5, std=0.5, size=64)
    assert "ImageNet" not in " ".join(report.notes) and "px, since" not in " ".join(report.notes)


def test_settings_of_a_lightning_module_are_those_of_its_training(tmp_path: Path) -> None:
    """Lightning calls them hyper_parameters; those on another scale are not taken."""
    settings: dict[str, Any] = {"num_heads": 4, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "image_size": 96}
    settings |= {"class_names": ["ant", "bee", "cat"], "lr": 1e-3, "classes": 3}
    state = {f"net.{key}": value for key, value in made.vit(64, 1, grid=4, classes=3).items()}
    content = {"pytorch-lightning_version": "2.4.0", "state_dict": state, "hyper_parameters": settings}
    encoder, report = load_with_report(save_weights(tmp_path, content, "last.ckpt"), device="cpu")
    assert (encoder.facts.mean, encoder.facts.std, encoder.facts.size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 96)
    assert encoder.facts.classes == ("ant", "bee", "cat") and encoder.blocks[0].attn.num_heads == 4
    told = " ".join(report.notes)
    assert "4 heads, from the settings of its training" in told and "assumed" not in told
    settings |= {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4], "num_heads": True, "class_names": 7}
    encoder, report = load_with_report(save_weights(tmp_path, content, "last.ckpt"), device="cpu")
    assert encoder.facts.mean == IMAGENET_MEAN and encoder.facts.classes == ()
    told = " ".join(report.notes)
    assert "mean and std of ImageNet are assumed" in told and "1 heads are assumed" in told


def test_config_of_timm_before_its_configurations_were_nested(tmp_path: Path) -> None:
    torch.save(tiny(num_classes=3).state_dict(), tmp_path / "pytorch_model.bin")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "model_args": {"depth": 1}}
    config |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 192, 192], "labels": ["a", "b", "c"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    facts = load_checkpoint(tmp_path, device="cpu").facts
    assert (facts.mean, facts.std, facts.size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 192)
    assert facts.classes == ("a", "b", "c")


@pytest.mark.parametrize("tag", ["resnetblur50", "vit_base_patch32_clip_quickgelu_224"])
def test_what_no_tensor_tells_is_that_of_the_model_that_timms_trainer_names(
    tmp_path: Path, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blurred strides and QuickGELU leave no tensor, so these files equal those of a plain ResNet and a plain CLIP."""
    create, vit = timm.create_model, {"depth": 2, "embed_dim": 64, "num_heads": 2}
    small: dict[str, Any] = vit if "clip" in tag else {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 24)}
    monkeypatch.setattr(timm, "create_model", lambda *given, **options: create(*given, **(options | small)))
    torch.manual_seed(0)
    model = timm.create_model(tag, num_classes=5).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    path = save_weights(tmp_path, trained(model, tag))
    encoder, report = load_with_report(path, device="cpu")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        wanted, found = model(x), encoder(x).logits
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert any(f"built as timm's {tag}, as its trainer wrote" in note for note in report.notes)
    plain = load_checkpoint(save_weights(tmp_path, model.state_dict(), "plain.pth"), device="cpu")
    with torch.no_grad():
        assert (plain(x).logits - wanted).abs().max() > 1e-3 * wanted.abs().max(), "no tensor tells it"


def test_model_that_a_trainer_changed_is_read_by_its_tensors(tmp_path: Path) -> None:
    """Named like timm's, with fewer blocks; and options that only ViTs read by their tensors take are heeded."""
    path = save_weights(tmp_path, trained(tiny(num_classes=3), "vit_tiny_patch16_224"))
    _, report = load_with_report(path, device="cpu")
    assert report.architecture.startswith("ViT, 1 blocks of 192 channels and 3 heads")
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    path = save_weights(tmp_path, trained(whole, "vit_tiny_patch16_224"))
    assert load_with_report(path, device="cpu")[1].architecture == "timm vit_tiny_patch16_224"
    assert "and 6 heads" in load_with_report(path, device="cpu", num_heads=6)[1].architecture
    with pytest.raises(ValueError, match="num_heads= is for ViTs that are read by their tensors; timm's vit_tiny"):
        load_checkpoint(path, device="cpu", num_heads=6, arch="vit_tiny_patch16_224")
