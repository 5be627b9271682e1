"""Checkpoints by name, path and device."""

from __future__ import annotations

from pathlib import Path

import pytest

from simpool_viz import load_checkpoint


def test_checkpoint_is_loaded_by_path_as_text_or_path_object(checkpoints: dict[str, Path]) -> None:
    for name in (checkpoints["gap"], str(checkpoints["gap"])):
        encoder = load_checkpoint(name, device="cpu")
        assert encoder.facts.name == "small_gap" and encoder.pooling.name == "gap"


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
