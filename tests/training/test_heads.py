"""Heads on a frozen backbone: features computed once, heads that train, and folders that hold the head alone."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from simpool_viz import load_checkpoint, record
from simpool_viz.checkpoints.bundle import load_bundle, save_bundle
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.cli.main import main
from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.training import features as features_module
from simpool_viz.training import heads as heads_module
from simpool_viz.training.data import centre_crops, load_photos
from simpool_viz.training.heads import train_heads
from simpool_viz.training.recipe import HeadsRecipe, load_recipe
from tests.helpers import make_photo, save_small
from tests.photos import CLASSES

HEADS: dict[str, dict[str, Any]] = {
    "look": {"pooling": "simpool", "pooling_options": {"gamma": 2.0}},
    "slots": {"pooling": "slot", "pooling_options": {"k": 3}},
    "probe": {"pooling": "ep", "norm": "batch"},
}


def recipe_for(shapes: Path, **changes: Any) -> HeadsRecipe:
    recipe = HeadsRecipe(
        "mine", str(shapes), "base", HEADS, size=32, photos=32 * 60, lr=0.02, warmup=64, batch_size=32, license="none"
    )
    return dataclasses.replace(recipe, **changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """A folder with the checkpoint "base" and the heads that `simpool-viz train` made on it."""
    folder = tmp_path_factory.mktemp("runs")
    save_small(folder / "base", "gap", "base")
    settings = dataclasses.asdict(recipe_for(shapes))
    del settings["source"], settings["overrides"]
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))
    assert main(["train", str(folder / "mine.yaml"), "-o", str(folder), "--threads", "1"]) == 0
    return folder


@pytest.mark.parametrize("head", HEADS)
def test_head_folder_holds_the_head_alone_and_loads_onto_its_backbone(runs: Path, head: str) -> None:
    folder = runs / f"base+{head}"
    stored = load_file(folder / "model.safetensors")
    assert stored and not any(key.startswith("backbone.") for key in stored)
    encoder, base = load_checkpoint(folder, device="cpu"), load_checkpoint(runs / "base", device="cpu")
    assert (
        encoder.facts.base == "base"
        and encoder.facts.classes == CLASSES
        and encoder.pooling.name == HEADS[head]["pooling"]
    )
    own, others = encoder.backbone.state_dict(), base.backbone.state_dict()
    assert all(torch.equal(value, others[key]) for key, value in own.items()), (
        "batch statistics too: the backbone was frozen"
    )
    recording = record(encoder, make_photo())
    assert recording.map("pooling").weights.shape[1:] == recording.geometry.grid and recording.logits is not None


@pytest.mark.parametrize("head", HEADS)
def test_head_learns(runs: Path, head: str) -> None:
    with (runs / f"base+{head}" / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["loss"]) < 1.1
    accuracy = float(load_checkpoint(runs / f"base+{head}", device="cpu").facts.accuracy.split(" %")[0])
    assert accuracy > 45, "of three classes, on the features of a random backbone"


def test_card_says_what_the_head_stands_on(runs: Path) -> None:
    card = (runs / "base+slots" / "README.md").read_text()
    assert card.startswith("# Slot Attention on frozen base\n") and "`base+slots`: **slot** pooling (k = 3)" in card
    assert (
        "32 px, one crop of each, at least 50 % of its area" in card
        and "mine.yaml" in card
        and "1,920 photos seen" in card
    )


def test_features_are_computed_once_and_are_those_of_the_backbone(
    tmp_path: Path, runs: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs / "base", tmp_path / "base")
    computed: list[int] = []
    compute = features_module._compute
    monkeypatch.setattr(features_module, "_compute", lambda *a: computed.append(len(a[1])) or compute(*a))
    few = recipe_for(shapes, photos=64, heads={"look": HEADS["look"]})
    train_heads(few, tmp_path, tmp_path / "cache")
    train_heads(few, tmp_path, tmp_path / "cache")
    assert computed == [150, 50], "of train and of val"
    train_heads(dataclasses.replace(few, size=40), tmp_path, tmp_path / "cache")
    assert computed == [150, 50] * 2
    encoder = load_bundle(tmp_path / "base")
    photos = load_photos(shapes, "val", tmp_path / "cache")
    features = heads_module._labelled(few, encoder, photos, "val", tmp_path / "cache")
    tokens, labels = features.batch(np.array([7, 3]))
    images, aspect = torch.tensor(photos.images[[7, 3]]), torch.tensor(photos.aspect[[7, 3]])
    wanted = encoder.tokens(centre_crops(aspect).images(images, 32))
    assert (
        tokens.grid == wanted.grid
        and tokens.patches.dtype == torch.float32
        and labels.tolist() == photos.labels[[7, 3]].tolist()
    )
    assert (tokens.patches - wanted.patches).abs().max() < 0.03 * wanted.patches.abs().max(), "up to half precision"


def test_head_on_a_vit_sees_its_prefix_tokens(tmp_path: Path, shapes: Path) -> None:
    kwargs = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "reg_tokens": 2}
    spec = EncoderSpec("vit_tiny_patch16_224", "gap", 3, kwargs)
    torch.manual_seed(0)
    save_bundle(tmp_path / "base", spec.build(Facts("base", size=32, classes=CLASSES)).eval(), spec, "")
    two = {"cls": {"pooling": "cls"}, "cait": {"pooling": "cait", "pooling_options": {"num_heads": 2}}}
    folders = train_heads(recipe_for(shapes, photos=64, heads=two), tmp_path, tmp_path / "cache")
    for folder in folders:
        encoder, base = load_bundle(folder), load_bundle(tmp_path / "base")
        x = torch.randn(2, 3, 32, 48)
        assert torch.equal(encoder.tokens(x).prefix, base.tokens(x).prefix) and base.tokens(x).prefix.shape == (
            2,
            3,
            24,
        )


def test_same_seed_gives_the_same_head(tmp_path: Path, runs: Path, shapes: Path) -> None:
    few = recipe_for(shapes, photos=96, heads={"look": HEADS["look"]})
    states = []
    for i, seed in enumerate((0, 0, 1)):
        shutil.copytree(runs / "base", tmp_path / str(i) / "base")
        (folder,) = train_heads(dataclasses.replace(few, seed=seed), tmp_path / str(i), tmp_path / "cache")
        states.append(load_file(folder / "model.safetensors"))
    first, same, other = states
    assert all(torch.equal(value, same[key]) for key, value in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_head_refuses_another_backbone_and_an_absent_one(tmp_path: Path, runs: Path) -> None:
    shutil.copytree(runs / "base+look", tmp_path / "base+look")
    with pytest.raises(
        ValueError, match=r"head on the backbone of 'base', which is not in .*; put that checkpoint folder there"
    ):
        load_checkpoint(tmp_path / "base+look")
    save_small(tmp_path / "base", "gap", "base", seed=1)
    with pytest.raises(ValueError, match=r"is not the one that 'base\+look' was trained on; train it again"):
        load_checkpoint(tmp_path / "base+look")
    shutil.rmtree(tmp_path / "base")
    shutil.copytree(runs / "base", tmp_path / "base")
    assert load_checkpoint(tmp_path / "base+look", device="cpu").facts.name == "base+look"
    state = load_file(tmp_path / "base" / "model.safetensors")
    state["backbone.conv1.0.weight"][0, 0, 0, 0] += 0.01
    save_file(state, tmp_path / "base" / "model.safetensors")
    with pytest.raises(ValueError, match="not the one"):
        load_checkpoint(tmp_path / "base+look")


@pytest.mark.parametrize(
    ("heads", "says"),
    [
        ({"a": {"pooling": "absent"}}, "the head 'a' cannot be built: no pooling is called 'absent'"),
        ({"a": {"pooling": "gap", "layers": 3}}, "the head 'a' cannot be built"),
        ({"a": {"pooling": "ggem", "pooling_options": {"groups": 5}}}, "the head 'a' cannot be built"),
        ({"a": {}}, "the head 'a' names no pooling"),
    ],
)
def test_head_that_cannot_be_built_is_refused_before_anything_is_computed(
    tmp_path: Path, runs: Path, shapes: Path, heads: dict[str, Any], says: str
) -> None:
    shutil.copytree(runs / "base", tmp_path / "base")
    with pytest.raises(ValueError, match=says):
        train_heads(recipe_for(shapes, heads=heads), tmp_path, tmp_path / "cache")
    assert {p.name for p in tmp_path.iterdir()} == {"base"}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("heads={}", "trains nothing: heads is a table"),
        ("photos=5", "at least one batch"),
        ("stages=[]", "stages"),
        ("size=big", "size is a number"),
    ],
)
def test_recipe_of_heads_is_checked(override: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load_recipe("resnet_heads", [override])


def test_bundled_heads_are_entries_that_nobody_gets_unasked() -> None:
    entries = catalogue()
    recipe = load_recipe("resnet_heads")
    assert isinstance(recipe, HeadsRecipe)
    trained = {name for name, entry in entries.items() if entry.is_head}
    assert trained == {f"{recipe.frozen}+{head}" for head in recipe.heads} and all(
        entries[name].available for name in trained
    )
