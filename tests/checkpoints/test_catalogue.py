"""The catalogue of bundled checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from simpool_viz import catalogue, load_checkpoint
from simpool_viz.checkpoints import bundle
from simpool_viz.checkpoints.catalogue import bundled_names
from simpool_viz.maps.registry import maps_of


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
    monkeypatch.setattr(bundle, "_PACKAGE", tmp_path / "package")
    assert {e.name: e.available for e in catalogue().values()} == {"small_simpool": True, "small_gap": False}
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        load_checkpoint("small_gap")


def test_an_outline_has_the_maps_of_the_checkpoint_without_its_weights() -> None:
    entries = catalogue()
    for name in ("resnet_simpool", "resnet_gap+slot", "resnet_gap+cbam"):
        outline = entries[name].outline()
        assert all(p.is_meta for p in outline.parameters())
        assert maps_of(outline) == maps_of(load_checkpoint(name, device="cpu"))
