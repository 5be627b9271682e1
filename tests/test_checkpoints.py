"""Checkpoint folders: what is saved comes back, and every kind of damage is a sentence that names the file and the
fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from simpool_viz import catalogue, load_checkpoint, record
from simpool_viz.checkpoints import bundle
from simpool_viz.checkpoints.bundle import load_bundle, read_config, save_bundle
from simpool_viz.maps.registry import maps_of
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.spec import EncoderSpec
from tests.conftest import CLASSES, make_photo, small_resnet, small_spec

# --- there and back
# -----------------------------------------------------------------------------------------------------------


def test_saved_encoder_comes_back_in_half_precision_with_its_description(tmp_path: Path, resnet: Encoder) -> None:
    save_bundle(tmp_path / "new" / "small", resnet, small_spec(), "# card\n")
    loaded = load_bundle(tmp_path / "new" / "small")
    assert loaded.facts == resnet.facts and loaded.facts.classes == CLASSES
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    own, other = resnet.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys()
    for key, value in own.items():
        assert other[key].dtype == value.dtype
        assert torch.equal(other[key], value.half().to(value.dtype) if value.is_floating_point() else value), key
    assert (tmp_path / "new" / "small" / "README.md").read_text() == "# card\n"
    stored = load_file(tmp_path / "new" / "small" / "model.safetensors")
    assert {v.dtype for v in stored.values()} == {torch.float16, torch.int64}


def test_loaded_encoder_makes_the_maps_of_the_saved_one(tmp_path: Path, resnet: Encoder) -> None:
    save_bundle(tmp_path, resnet, small_spec(), "")
    maps = [record(encoder, make_photo()).map("simpool").weights for encoder in (resnet, load_bundle(tmp_path))]
    assert np.abs(maps[0] - maps[1]).max() < 0.02 * maps[0].max() and np.ptp(maps[0]) > 0.5 / maps[0].size


def test_saving_a_loaded_encoder_again_changes_no_bit(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    spec, _ = read_config(checkpoints["simpool"])
    save_bundle(tmp_path, load_bundle(checkpoints["simpool"]), spec, "# made up\n")
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / name).read_bytes() == (checkpoints["simpool"] / name).read_bytes()


def test_checkpoint_is_loaded_by_path_as_text_or_path_object(checkpoints: dict[str, Path]) -> None:
    for name in (checkpoints["gap"], str(checkpoints["gap"])):
        encoder = load_checkpoint(name, device="cpu")
        assert encoder.facts.name == "small_gap" and encoder.pooling.name == "gap"


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_half_precision_cannot_hold_are_not_saved(tmp_path: Path, value: float) -> None:
    encoder = small_resnet()
    encoder.pooling.wq.weight[0, 0] = value
    with pytest.raises(ValueError, match=r"small_simpool is not saved.*pooling\.wq\.weight"):
        save_bundle(tmp_path / "new", encoder, small_spec(), "")
    assert not (tmp_path / "new").exists()


# --- damage
# -------------------------------------------------------------------------------------------------------------------


def change_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def change_state(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return damage


def write(name: str, content: bytes | Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors", ""),
    "empty weights": (write("model.safetensors", b""), "model.safetensors is damaged or not a safetensors file", ""),
    "other weights": (write("model.safetensors", b"PK\x03\x04 a pickle, say" * 9), "model.safetensors is damaged", ""),
    "weights cut off": (write("model.safetensors", lambda b: b[: len(b) // 2]), "model.safetensors is damaged", ""),
    "header garbled": (
        write("model.safetensors", lambda b: b[:8] + b"?" * 40 + b[48:]),
        "model.safetensors is damaged",
        "",
    ),
    "git-lfs pointer": (
        write("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "damaged",
        "",
    ),
    "missing tensor": (
        change_state(lambda s: s.pop("pooling.wk.weight")),
        "model.safetensors",
        "pooling.wk.weight is missing",
    ),
    "extra tensor": (
        change_state(lambda s: s.update(surplus=torch.zeros(2))),
        "model.safetensors",
        "surplus is not known",
    ),
    "wrong shape": (
        change_state(lambda s: s.update({"head.weight": torch.zeros(4, 16)})),
        "model.safetensors",
        "head.weight has shape (4, 16), not (3, 16)",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "holds no config.json", "not a checkpoint folder"),
    "config is not JSON": (write("config.json", b"{format: 1"), "config.json is not readable as JSON", ""),
    "config is not text": (write("config.json", b"\xff\xfe\x00\x81"), "config.json is not readable as JSON", ""),
    "config is a list": (write("config.json", b"[1]"), "config.json is not of format 1", ""),
    "config of another format": (change_config(lambda c: c.update(format=2)), "config.json is not of format 1", ""),
    "config without encoder": (
        change_config(lambda c: c.pop("encoder")),
        "config.json does not describe a checkpoint",
        "'encoder'",
    ),
    "config without facts": (
        change_config(lambda c: c.pop("facts")),
        "config.json does not describe a checkpoint",
        "'facts'",
    ),
    "config without backbone": (
        change_config(lambda c: c["encoder"].pop("backbone")),
        "config.json does not describe",
        "'backbone'",
    ),
    "config with an unknown field": (
        change_config(lambda c: c["facts"].update(size_=3)),
        "config.json does not describe",
        "'size_'",
    ),
    "unknown backbone": (
        change_config(lambda c: c["encoder"].update(backbone="resnet19")),
        "config.json",
        "'resnet19'",
    ),
    "unknown pooling": (change_config(lambda c: c["encoder"].update(pooling="simpol")), "config.json", "'simpol'"),
    "unknown pooling option": (
        change_config(lambda c: c["encoder"]["pooling_options"].update(gama=1)),
        "config.json",
        "gama",
    ),
    "unknown backbone option": (
        change_config(lambda c: c["encoder"]["backbone_kwargs"].update(stemtype=1)),
        "config.json",
        "stemtype",
    ),
    "number of classes is text": (change_config(lambda c: c["encoder"].update(num_classes="three")), "config.json", ""),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folder_is_refused_by_the_name_of_its_file_and_fault(
    tmp_path: Path, checkpoints: dict[str, Path], name: str
) -> None:
    folder = tmp_path / "small"
    shutil.copytree(checkpoints["simpool"], folder)
    damage, *said = DAMAGES[name]
    damage(folder)
    with pytest.raises(ValueError) as caught:
        load_bundle(folder)
    assert str(folder) in str(caught.value)
    assert all(part in str(caught.value) for part in said), str(caught.value)


def test_every_fault_is_told_at_once_and_a_long_list_is_cut(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    shutil.copytree(checkpoints["simpool"], tmp_path / "small")
    change_state(lambda s: [s.pop(k) for k in list(s) if k.startswith("backbone.layer4")])(tmp_path / "small")
    change_state(lambda s: s.update(surplus=torch.zeros(2)))(tmp_path / "small")
    with pytest.raises(ValueError, match=r"is missing.*\(and \d+ more\)"):
        load_bundle(tmp_path / "small")


def test_fill_copies_every_tensor_or_none() -> None:
    encoder = small_resnet()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    state = {k: torch.zeros_like(v) for k, v in before.items()}
    state["head.bias"] = torch.zeros(7)
    with pytest.raises(ValueError, match=r"here does not fit its encoder: head\.bias has shape \(7,\), not \(3,\)"):
        bundle.fill(encoder, state, "here")
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


# --- names
# ---------------------------------------------------------------------------------------------------------------------


def test_unknown_name_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint is called 'resnet_simpol'.*timm:<tag>.*config.json"):
        load_checkpoint("resnet_simpol")
    with pytest.raises(ValueError, match="no checkpoint is called"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"has no model called 'vit_huge_patch3'"):
        load_checkpoint("timm:vit_huge_patch3", pretrained=False)


def test_options_are_for_timm_models_only(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="options depth are for files and timm"):
        load_checkpoint(checkpoints["gap"], depth=2)


@pytest.mark.parametrize(
    ("device", "says"),
    [("tpu7", "no device is called 'tpu7'"), ("cuda:99", "cuda:99 is not here"), ("meta", "not supported")],
)
def test_device_that_is_not_here_is_refused(checkpoints: dict[str, Path], device: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load_checkpoint(checkpoints["gap"], device=device)


def test_every_bundled_checkpoint_is_in_the_catalogue_and_loads() -> None:
    entries = catalogue()
    assert list(entries) == sorted(entries)
    for name, entry in entries.items():
        assert entry.name == name and entry.facts.size > 0
        if entry.available:
            encoder = load_checkpoint(name, device="cpu")
            assert len(encoder.facts.classes) == entry.spec.num_classes == encoder.head.out_features


def test_unavailable_entry_is_listed_and_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, Path]
) -> None:
    shutil.copytree(checkpoints["gap"], tmp_path / "models" / "b")
    shutil.copytree(checkpoints["simpool"], tmp_path / "models" / "a")
    (tmp_path / "models" / "b" / "model.safetensors").unlink()
    monkeypatch.setattr(bundle, "_PACKAGE", tmp_path / "package")
    assert {e.name: e.available for e in catalogue().values()} == {"small_simpool": True, "small_gap": False}
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        load_checkpoint("small_gap")


# --- timm
# ----------------------------------------------------------------------------------------------------------------------


def test_timm_model_brings_its_facts(vit: Encoder) -> None:
    facts = vit.facts
    assert facts.name == "timm:vit_tiny_patch16_224" and facts.size == 224 and facts.source.endswith("random weights")
    assert facts.mean == facts.std == (0.5, 0.5, 0.5), "not ImageNet's: this model was trained with others"
    assert len(facts.classes) == 1000 and facts.classes[0] == "tench"
    assert not vit.training and vit.depth == 2


def test_weights_that_cannot_be_fetched_are_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(
        ValueError,
        match=r"weights of timm:resnet18 could not be fetched .*\(ConnectionError: no route to host\); check",
    ):
        load_checkpoint("timm:resnet18")
    with pytest.raises(ConnectionError):
        load_checkpoint("timm:resnet18", pretrained=False)


def test_timm_model_for_which_there_are_no_weights_is_told() -> None:
    with pytest.raises(ValueError, match="No pretrained weights exist for vit_base_patch16_18x2_224"):
        load_checkpoint("timm:vit_base_patch16_18x2_224", depth=1)


@pytest.mark.parametrize("tag", ["swin_tiny_patch4_window7_224", "efficientnet_b0", "deit_tiny_distilled_patch16_224"])
def test_family_that_cannot_be_shown_is_refused_in_a_sentence(tag: str) -> None:
    with pytest.raises(ValueError, match=r"Choose a ViT|Supported are"):
        load_checkpoint(f"timm:{tag}", device="cpu", pretrained=False)


@pytest.mark.parametrize("option", ["pretrained", "checkpoint_path", "pretrained_cfg_overlay"])
def test_a_description_cannot_reach_for_other_weights(option: str) -> None:
    spec = EncoderSpec("resnet18", "gap", 3, {option: "anything"})
    with pytest.raises(ValueError, match=f"may not hold {option}"):
        spec.build(Facts("x"))


def test_an_outline_has_the_maps_of_the_checkpoint_without_its_weights() -> None:
    entries = catalogue()
    for name in ("resnet_simpool", "resnet_gap+slot", "resnet_gap+cbam"):
        outline = entries[name].outline()
        assert all(p.is_meta for p in outline.parameters())
        assert maps_of(outline) == maps_of(load_checkpoint(name, device="cpu"))
