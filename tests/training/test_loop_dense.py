"""Dense heads learn to segment."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simpool_viz import load_checkpoint, record
from simpool_viz.maps.registry import maps_of
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.scores.confusion import mean_ious
from simpool_viz.training.data import load_photos
from simpool_viz.training.heads import train_heads
from simpool_viz.training.loop import train
from simpool_viz.training.measure import confusion
from simpool_viz.training.recipe import HeadsRecipe, Stage
from simpool_viz.training.step import make_accelerator
from tests.helpers import make_photo, stored_weights, vit_recipe, vit_spec
from tests.photos import CLASSES, COLOURS, shape_photo


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of a shape on its ground with their label maps: 0 ground, 1 to 3 the shapes' colours, 9 void at the left
    edge."""
    folder, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for split, count in (("train", 48), ("val", 12)):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for i in range(count):
            name = CLASSES[i % 3]
            photo = np.asarray(shape_photo(name, 96, 64, rng))
            labels = np.where((photo == COLOURS[name]).all(2), 1 + i % 3, 0).astype(np.uint8)
            labels[:, :4] = 9
            Image.fromarray(photo).save(folder / split / "images" / f"{i}.png")
            Image.fromarray(labels).save(folder / split / "labels" / f"{i}.png")
    return folder


NAMES = ("ground", *CLASSES)


def test_dense_head_learns_to_segment_and_its_maps_say_so(tmp_path: Path, scenes: Path) -> None:
    spec = vit_spec("cls", num_classes=4, dense=True, inside="life")
    recipe = vit_recipe(
        scenes, spec, photos=32 * 60, classes=NAMES, void=9, stored=64, stages=(Stage(64, 32 * 60, 0.004, warmup=32),)
    )
    folder = train(recipe, tmp_path, tmp_path / "cache")
    encoder = load_checkpoint(folder, device="cpu")
    told = float(encoder.facts.accuracy.split("mean IoU ")[1].split(" %")[0])
    assert told > 40 and "of the central squares of 12 held-out photos" in encoder.facts.accuracy
    assert f"| mean IoU | {told:.1f} %" in (folder / "README.md").read_text()
    photos = load_photos(scenes, "val", tmp_path / "cache", 64)
    assert 100 * float(mean_ious(confusion(encoder, photos, 48, 9).numpy())) == pytest.approx(told, abs=2), (
        "up to the weights' half precision"
    )
    recording = record(encoder, scenes / "val" / "images" / "0.png", 64)
    assert recording.logits is None and recording.top_classes() == []
    attention = recording.map("dense_rollout")
    assert attention.names[0] in NAMES and attention.note == ""
    refused = {name: why for name, why in maps_of(encoder).items() if why}
    assert set(refused) >= {"contribution", "relevance"} and "classifies tokens" in refused["contribution"]


def test_dense_head_on_a_frozen_backbone(tmp_path: Path, scenes: Path, shapes: Path) -> None:
    train(vit_recipe(shapes, vit_spec("cls"), name="base"), tmp_path, tmp_path / "cache")
    heads = {"segment": {"pooling": "cls", "dense": True}}
    recipe = HeadsRecipe(
        "heads", str(scenes), "base", heads, 32, 32 * 40, 0.02, 64, batch_size=32, classes=NAMES, void=9, stored=64
    )
    (folder,) = train_heads(recipe, tmp_path, tmp_path / "cache")
    encoder = load_checkpoint(folder, device="cpu")
    assert (
        encoder.dense
        and encoder.facts.classes == NAMES
        and not any(key.startswith("backbone") for key in stored_weights(folder))
    )
    assert float(encoder.facts.accuracy.split("mean IoU ")[1].split(" %")[0]) > 20
    with pytest.raises(ValueError, match="dense: true is for heads on photos with label maps"):
        train_heads(dataclasses.replace(recipe, heads={"plain": {"pooling": "cls"}}), tmp_path, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"encoder\.dense: true is for photos with label maps"):
        train(vit_recipe(scenes, vit_spec("cls", num_classes=4), classes=NAMES), tmp_path / "other", tmp_path / "cache")


def test_dense_head_that_cannot_read_tokens_is_refused() -> None:
    for changes in ({"num_classes": 0}, {"norm": "batch"}):
        with pytest.raises(ValueError, match="a dense head reads tokens"):
            vit_spec("cls", dense=True, **changes).build(Facts("x"))
    plain: Encoder = vit_spec("cls", num_classes=0).build(Facts("headless"))
    with pytest.raises(ValueError, match="headless has no head that gives class scores to tokens"):
        plain.token_logits(plain.tokens(torch.randn(1, 3, 32, 32)))


def test_token_logits_of_a_classifier_are_its_head_on_every_token() -> None:
    encoder = vit_spec("gap").build(Facts("x", size=48, classes=CLASSES)).eval().requires_grad_(False)
    recording = record(encoder, make_photo(), 48)
    logits = encoder.token_logits(recording.tokens)
    assert logits.shape == (1, 3, *recording.geometry.grid)
    row = recording.tokens.patches[0, 7]
    assert torch.allclose(logits[0].flatten(1)[:, 7], encoder.head(encoder.norm(row)), atol=1e-6)
    assert make_accelerator("no", "cpu").device.type == "cpu"
