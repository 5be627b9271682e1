"""The catalogue of bundled checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simpool_viz import bundled, catalogue, load_checkpoint
from simpool_viz.checkpoints.catalogue import bundled_names, usable
from simpool_viz.maps.registry import maps_of
from tests.helpers import change_config


def test_every_bundled_checkpoint_is_in_the_catalogue_and_loads() -> None:
    entries = catalogue()
    assert list(entries) == sorted(entries)
    for name, entry in entries.items():
        assert entry.name == name and entry.facts.size > 0
        if entry.available:
            encoder = load_checkpoint(name, device="cpu")
            outputs = encoder.head.out_features if encoder.head else 0
            assert len(encoder.facts.classes) == entry.spec.num_classes == outputs


def test_commands_take_classifiers_where_none_is_named() -> None:
    classifiers, dense = bundled_names(), bundled_names(dense=True)
    assert "resnet_gap" in classifiers and "vit_thin" not in classifiers and "resnet_gap+slot" not in classifiers
    assert set(dense) == {"camvid_vit", "camvid_vit_life"}


def test_unavailable_entry_is_listed_and_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, Path]
) -> None:
    shutil.copytree(checkpoints["gap"], tmp_path / "models" / "b")
    shutil.copytree(checkpoints["simpool"], tmp_path / "models" / "a")
    (tmp_path / "models" / "b" / "model.safetensors").unlink()
    monkeypatch.setattr(bundled, "_PACKAGE", tmp_path / "package")
    assert {e.name: e.available for e in catalogue().values()} == {"small_simpool": True, "small_gap": False}
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        load_checkpoint("small_gap")


def test_an_outline_has_the_maps_of_the_checkpoint_without_its_weights() -> None:
    entries = catalogue()
    for name in ("resnet_simpool", "resnet_gap+slot", "resnet_gap+cbam"):
        outline = entries[name].outline()
        assert all(p.is_meta for p in outline.parameters())
        assert maps_of(outline) == maps_of(load_checkpoint(name, device="cpu"))


def test_outlines_of_one_backbone_share_it_and_are_those_that_stand_alone() -> None:
    found, _ = usable()
    keys = {entry.spec.backbone_key for entry, _ in found.values()}
    assert len({id(outline.backbone) for _, outline in found.values()}) == len(keys) < len(found) / 2
    for name in ("resnet_spe_gap", "resnet_gap+simpool", "vit_life_simpool", "vit_cls", "camvid_vit_life"):
        entry, outline = found[name]
        alone = entry.outline()
        shapes = [{key: value.shape for key, value in one.state_dict().items()} for one in (outline, alone)]
        assert shapes[0] == shapes[1] and maps_of(outline) == maps_of(alone) and outline.facts == alone.facts
        assert all(p.is_meta and not p.requires_grad for p in outline.parameters()) and not outline.training


WEIGHTS, POINTER = "model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1]), "is damaged or cut off"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "is damaged or cut off"),
    "pointer": (lambda f: (f / WEIGHTS).write_bytes(POINTER), "is a pointer of Git LFS"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "is missing"),
    "weights are a folder": (lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).mkdir()), "cannot be read"),
    "bad JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not readable as JSON"),
    "pointer of a description": (lambda f: (f / "config.json").write_bytes(POINTER), "not readable as JSON"),
    "no description": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "a key is missing": (change_config(lambda c: c["encoder"].pop("backbone")), "'backbone'"),
    "no such backbone": (change_config(lambda c: c["encoder"].update(backbone="resnet19")), "resnet19"),
}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, Path]) -> Path:
    """The folder of bundled models, of which there are two."""
    for name, pooling in (("a", "simpool"), ("b", "gap")):
        shutil.copytree(checkpoints[pooling], tmp_path / "models" / name)
    (tmp_path / "models" / "results.json").write_text("{}")
    monkeypatch.setattr(bundled, "_PACKAGE", tmp_path / "package")
    return tmp_path / "models"


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_left_out_and_said_and_the_others_stay(models: Path, name: str) -> None:
    damage, words = DAMAGES[name]
    damage(models / "b")
    found, faults = usable()
    assert list(found) == ["small_simpool"] and list(faults) == ["b"]
    assert words in faults["b"] and str(models) not in faults["b"]
    assert bundled_names() == ["small_simpool"] or name == "no such backbone", "that is seen when it is built"
    load_checkpoint("small_simpool", device="cpu")
    with pytest.raises(ValueError, match=r"b|small_gap"):
        load_checkpoint("b" if "small_gap" not in catalogue() else "small_gap")


def test_a_damaged_lender_is_the_fault_of_what_stands_on_it(models: Path) -> None:
    change_config(lambda c: c["facts"].update(base="b"))(models / "a")
    (models / "b" / WEIGHTS).unlink()
    _, faults = usable()
    assert faults == {"a": "it needs b: model.safetensors is missing", "b": "model.safetensors is missing"}


def test_every_bundled_checkpoint_is_usable() -> None:
    found, faults = usable()
    assert not faults and list(found) == list(catalogue())
