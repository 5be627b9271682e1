"""Starts from another checkpoint, and what stays frozen."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from simpool_viz import load_checkpoint
from simpool_viz.modeling.encoder import Facts
from simpool_viz.training.loop import train
from simpool_viz.training.recipe import FOLDER, Stage, load_recipe
from simpool_viz.training.start import start_from
from tests.helpers import hybrid, small_spec, stored_weights, vit_recipe, vit_spec


def test_training_starts_from_another_and_tells_what_it_took(tmp_path: Path, shapes: Path) -> None:
    first = train(vit_recipe(shapes, vit_spec("cls"), name="first"), tmp_path, tmp_path / "cache")
    later = vit_recipe(shapes, vit_spec("simpool"), init_from="first", stages=(Stage(32, 32, 0.0),))
    folder = train(later, tmp_path, tmp_path / "cache")
    before, after = stored_weights(first), stored_weights(folder)
    assert torch.equal(before["backbone.blocks.0.attn.qkv.weight"], after["backbone.blocks.0.attn.qkv.weight"])
    card, stages = (folder / "README.md").read_text(), load_checkpoint(folder, device="cpu").facts.stages
    assert "started from `first`: " in card and "new are pooling (4)" in card
    assert [line.split(":")[0] for line in stages] == ["first", "mine"] and "2. mine: 32 px, 32 photos seen" in card


def test_start_that_does_not_fit_is_refused(tmp_path: Path, shapes: Path) -> None:
    train(vit_recipe(shapes, vit_spec("cls"), name="first"), tmp_path, tmp_path / "cache")
    with pytest.raises(ValueError, match="nothing of the backbone of first has the names and shapes"):
        start_from(small_spec().build(Facts("x")), "first", tmp_path / "mine")
    with pytest.raises(ValueError, match="'absent'"):
        start_from(small_spec().build(Facts("x")), "absent", tmp_path / "mine")


def test_frozen_stem_keeps_its_start_to_the_bit_while_the_rest_learns(tmp_path: Path, shapes: Path) -> None:
    first = train(vit_recipe(shapes, small_spec("gap"), name="first"), tmp_path, tmp_path / "cache")
    recipe = vit_recipe(shapes, hybrid(), init_from="first", freeze="stem", ema=0.9)
    folder = train(recipe, tmp_path, tmp_path / "cache")
    before, after = stored_weights(first), stored_weights(folder)
    encoder = load_checkpoint(folder, device="cpu")
    stem = encoder.backbone.patch_embed.backbone.state_dict()
    assert "bn1.running_mean" in stem and all(
        torch.equal(value.to(before[f"backbone.{key}"].dtype), before[f"backbone.{key}"]) for key, value in stem.items()
    )
    assert encoder.facts.stem == "first" and not any("patch_embed.backbone" in key for key in after), (
        "it is not saved a second time"
    )
    untrained = train(
        dataclasses.replace(recipe, name="untrained", stages=(Stage(32, 32, 0.0),)), tmp_path, tmp_path / "cache"
    )
    assert not torch.equal(
        after["backbone.blocks.0.attn.qkv.weight"], stored_weights(untrained)["backbone.blocks.0.attn.qkv.weight"]
    )
    card = (folder / "README.md").read_text()
    assert "the first 5 blocks of a resnet18" in card and "; the stem stays as it is |" in card
    later = train(
        vit_recipe(shapes, hybrid("simpool"), name="later", init_from="mine", freeze="stem"),
        tmp_path,
        tmp_path / "cache",
    )
    assert load_checkpoint(later, device="cpu").facts.stem == "first", "the stem is lent by who had it first"
    loose = train(vit_recipe(shapes, hybrid(), name="loose", init_from="first"), tmp_path, tmp_path / "cache")
    assert load_checkpoint(loose, device="cpu").facts.stem == "" and any(
        "patch_embed.backbone" in key for key in stored_weights(loose)
    )
    before["backbone.conv1.0.weight"][0] += 1
    save_file(before, first / "model.safetensors")
    with pytest.raises(ValueError, match=r"the first blocks in .* are not those that 'mine' was trained on"):
        load_checkpoint(folder, device="cpu")
    shutil.rmtree(first)
    with pytest.raises(ValueError, match="stands on the stem of 'first', which is not in"):
        load_checkpoint(folder, device="cpu")


def test_frozen_backbone_leaves_pooling_and_head_to_learn(tmp_path: Path, shapes: Path) -> None:
    first = train(vit_recipe(shapes, small_spec("simpool"), name="first"), tmp_path, tmp_path / "cache")
    folder = train(
        vit_recipe(shapes, small_spec("simpool"), init_from="first", freeze="backbone"), tmp_path, tmp_path / "cache"
    )
    before, after = stored_weights(first), stored_weights(folder)
    changed = {key.split(".")[0] for key in after if not torch.equal(after[key], before[key])}
    assert changed == {"pooling", "head"}


@pytest.mark.parametrize(
    ("freeze", "told"), [("head", "freeze is stem or backbone"), ("stem", "there is no stem to freeze")]
)
def test_freezing_what_is_not_there_is_refused(tmp_path: Path, freeze: str, told: str) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"base: {FOLDER / '_resnet'}\nname: mine\ntitle: Mine\nencoder: {{pooling: gap}}\nfreeze: {freeze}\n"
    )
    with pytest.raises(ValueError, match=told):
        load_recipe(str(tmp_path / "mine.yaml"))
