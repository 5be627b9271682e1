"""A short run on made-up photos ends in a checkpoint that works."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from simpool_viz import load_checkpoint, record
from simpool_viz.cli.main import main
from simpool_viz.modeling.encoder import Facts
from simpool_viz.training import loop
from simpool_viz.training.data import load_photos
from simpool_viz.training.loop import train
from simpool_viz.training.measure import find_correct
from simpool_viz.training.recipe import Stage
from tests.helpers import interrupted_at, logged_losses, short_recipe, small_spec, trained_weights, write_recipe
from tests.photos import CLASSES, shape_photo


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """What `simpool-viz train` made of a recipe with two stages."""
    folder = tmp_path_factory.mktemp("trained")
    stages = [
        {"size": 32, "photos": 100 * 32, "lr": 0.004, "warmup": 320},
        {"size": 40, "photos": 32, "lr": 0.0005, "warmup": 0},
    ]
    recipe = write_recipe(folder, stages=stages, data=str(shapes), sources="made up", license="none")
    assert main(["train", str(recipe), "-o", str(folder / "runs"), "--threads", "1"]) == 0
    return folder / "runs" / "mine"


def test_training_makes_the_loss_fall(trained: Path) -> None:
    first, last = logged_losses(trained)
    assert last < first - 0.1 and last < 0.9 < math.log(3)


def test_training_ends_in_a_folder_that_loads_classifies_and_records(trained: Path, shapes: Path) -> None:
    made = {"model.safetensors", "config.json", "README.md", "log_stage1.csv", "log_stage2.csv", "tensorboard"}
    assert {p.name for p in trained.iterdir()} == made
    encoder = load_checkpoint(trained, device="cpu")
    facts = encoder.facts
    assert (facts.name, facts.title, facts.size, facts.classes, facts.license) == ("mine", "Mine", 48, CLASSES, "none")
    correct = int(find_correct([encoder], load_photos(shapes, "val", trained.parent / "cache"), [40])[0].sum())
    assert correct > 30, "of 50; 17 by chance"
    photo = shape_photo("circle", 120, 80, np.random.default_rng(5))
    recording = record(encoder, photo)
    assert recording.geometry.grid == (6, 9) and recording.map("simpool").weights.sum() == pytest.approx(1, abs=1e-4)
    told = float(facts.accuracy.split(" %")[0])
    assert told == pytest.approx(100 * correct / 50, abs=6), (
        "the accuracy is that of the weights, up to their half precision"
    )


def test_card_tells_data_recipe_stages_and_accuracy(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    assert "# Mine" in card and "**simpool** pooling (gamma = 2.0)" in card and "48 px" in card
    assert "| data | 150 photos: made up |" in card and "of 50 held-out photos" in card and "seed 0" in card
    assert "1. mine: 32 px, 3,200 photos seen, peak learning rate 0.004, crops of at least 25 % of a photo" in card
    assert (
        "2. mine: 40 px, 32 photos seen" in card
        and "no max-pooling after the stem" in card
        and "random weights, seed 0" in card
    )
    assert load_checkpoint(trained, device="cpu").facts.stages == tuple(
        line.split(". ", 1)[1] for line in card.splitlines() if line.startswith(("1. ", "2. "))
    )


def test_last_stage_rests_the_backbone_and_flattens_the_map(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Stage(32, 96, 0.004, warmup=32)
    both = (first, dataclasses.replace(first, freeze="backbone"))
    rates = {"pooling.wk.weight": 0.0, "backbone.conv1.*": 0.5}  # W_k moves by its factor alone
    one = trained_weights(train(short_recipe(shapes, stages=(first,), rates=rates), tmp_path / "one", tmp_path))
    recipe = short_recipe(shapes, stages=both, rates=rates, scales={"pooling.wk.weight": (1.0, 0.5)})
    two = trained_weights(train(recipe, tmp_path / "two", tmp_path))
    for name, value in one.items():
        if name == "pooling.wk.weight":
            torch.testing.assert_close(two[name], 0.5 * value, atol=1e-6, rtol=1e-3)  # kept in half precision
        else:
            assert torch.equal(two[name], value) == name.startswith("backbone."), name
    monkeypatch.setattr(loop, "SAVE_EVERY", 1)
    with interrupted_at(monkeypatch, 2, stage=2):
        train(recipe, tmp_path / "again", tmp_path)
    again = trained_weights(train(recipe, tmp_path / "again", tmp_path))
    assert all(torch.equal(value, two[name]) for name, value in again.items()), "scaled once"


def test_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path, shapes: Path) -> None:
    runs = [
        train(short_recipe(shapes, seed=seed), tmp_path / str(i), tmp_path / "cache")
        for i, seed in enumerate((0, 0, 1))
    ]
    first, same, other = (trained_weights(run) for run in runs)
    assert all(torch.equal(v, same[k]) for k, v in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_training_changes_the_pooling_and_starts_from_its_seed(tmp_path: Path, shapes: Path) -> None:
    recipe = short_recipe(shapes)
    torch.manual_seed(recipe.seed)
    start = recipe.encoder.build(Facts("start")).state_dict()
    end = trained_weights(train(recipe, tmp_path, tmp_path / "cache"))
    distance = (end["pooling.wq.weight"] - start["pooling.wq.weight"]).abs().max()
    assert 1e-4 < distance < 0.05, "moved by a few steps of AdamW, from the same start"


def test_data_that_does_not_fit_the_recipe_is_refused_before_training(tmp_path: Path, shapes: Path) -> None:
    spec = dataclasses.replace(small_spec(), num_classes=4)
    with pytest.raises(ValueError, match=r"has 3 classes, but the recipe's head has 4; set encoder\.num_classes"):
        train(short_recipe(shapes, encoder=spec), tmp_path, tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []
