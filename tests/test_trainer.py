"""What the trainer can be asked for beside the plain classifier: processes, sources, starts, averages, dense heads,
entropy."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from simpool_viz import load_checkpoint, record
from simpool_viz.capture.hooks import AttentionCapture
from simpool_viz.checkpoints.bundle import load_bundle
from simpool_viz.maps.registry import maps_of
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.scores.confusion import count_pixels, mean_ious
from simpool_viz.scores.spatial_entropy import spatial_entropy
from simpool_viz.training.data import load_photos
from simpool_viz.training.heads import train_heads
from simpool_viz.training.loop import train
from simpool_viz.training.losses import pixel_loss, readout_scores
from simpool_viz.training.measure import confusion
from simpool_viz.training.recipe import FOLDER, HeadsRecipe, Recipe, Stage, load_recipe
from simpool_viz.training.sources import open_source, read_classes
from simpool_viz.training.start import start_from
from simpool_viz.training.step import make_accelerator, rows_of
from tests.conftest import CLASSES, make_photo, small_spec
from tests.photos import COLOURS, shape_photo
from tests.test_stem import hybrid

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def vit_spec(pooling: str = "cls", **changes: Any) -> EncoderSpec:
    return dataclasses.replace(EncoderSpec("vit_tiny_patch16_224", pooling, 3, dict(VIT)), **changes)


def recipe_for(data: Path, spec: EncoderSpec, photos: int = 32 * 4, **changes: Any) -> Recipe:
    stage = Stage(32, photos, 0.004, warmup=32)
    return dataclasses.replace(
        Recipe("mine", "Mine", str(data), spec, (stage,), 48, batch_size=32, precision="no"), **changes
    )


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# --- processes
# ----------------------------------------------------------------------------------------------------------


def test_two_processes_under_accelerate_launch_train_as_one(tmp_path: Path, shapes: Path) -> None:
    recipe = recipe_for(shapes, vit_spec("gap"))
    settings = {k: v for k, v in dataclasses.asdict(recipe).items() if k not in ("source", "overrides", "classes")}
    settings["stages"] = [dict(stage) for stage in settings["stages"]]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    launch = (
        "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
        "--dynamo_backend no"
    )
    command = [
        sys.executable,
        *launch.split(),
        "--main_process_port",
        "0",
        "-m",
        "simpool_viz",
        "train",
        str(tmp_path / "mine.yaml"),
    ]
    # Where there are GPUs, they are left alone.
    command += [
        "-o",
        str(tmp_path / "two"),
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    done = subprocess.run(command, env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("holds the checkpoint") == 1
    assert "on 2 processes of 1 CPU thread(s)" in (tmp_path / "two" / "mine" / "README.md").read_text()
    two, one = stored(tmp_path / "two" / "mine"), stored(train(recipe, tmp_path / "one", tmp_path / "cache"))
    torch.manual_seed(0)
    start = recipe.encoder.build(Facts("start")).state_dict()
    for key, value in one.items():
        assert (value.float() - two[key].float()).abs().max() < 1e-3, key
    assert (one["head.weight"].float() - start["head.weight"]).abs().max() > 5e-3, "it has moved"


def test_batch_that_does_not_split_is_refused() -> None:
    class Three:
        num_processes, process_index = 3, 1

    assert rows_of(12, Three()) == slice(4, 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a batch of 32 does not split over 3 processes; set batch_size"):
        rows_of(32, Three())  # type: ignore[arg-type]


def test_precision_is_checked_when_the_recipe_is_read() -> None:
    with pytest.raises(ValueError, match="precision is bf16, fp16 or no, not 'half'"):
        load_recipe("resnet_gap", ["precision=half"])
    with pytest.raises(ValueError, match="an even batch and no dense head"):
        load_recipe("resnet_gap", ["mixup=0.2", "batch_size=33"])


# --- sources
# ------------------------------------------------------------------------------------------------------------


def test_folder_of_pictures_by_class_trains(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 9)):
        for i in range(count):
            folder = tmp_path / "data" / split / CLASSES[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            shape_photo(CLASSES[i % 3], 70, 50, rng).save(folder / f"{i}.png")
    assert read_classes(tmp_path / "data") == CLASSES and len(open_source(tmp_path / "data", "train")) == 24
    photos = load_photos(tmp_path / "data", "val", tmp_path / "cache", stored=40)
    assert photos.images.shape == (9, 40, 40, 3) and sorted(photos.labels.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    folder = train(recipe_for(tmp_path / "data", small_spec("gap"), stored=40), tmp_path, tmp_path / "cache")
    assert (
        load_checkpoint(folder, device="cpu").facts.classes == CLASSES
        and "| data | 24 photos" in (folder / "README.md").read_text()
    )


def test_folder_that_holds_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"holds no train-\*\.parquet; set data=.* or with train/images and train/labels"
    ):
        open_source(tmp_path, "train")
    (tmp_path / "train" / "empty").mkdir(parents=True)
    with pytest.raises(ValueError, match="is no folder of pictures by class"):
        open_source(tmp_path, "train")


# --- starts
# -------------------------------------------------------------------------------------------------------------


def test_training_starts_from_another_and_tells_what_it_took(tmp_path: Path, shapes: Path) -> None:
    first = train(recipe_for(shapes, vit_spec("cls"), name="first"), tmp_path, tmp_path / "cache")
    later = recipe_for(shapes, vit_spec("simpool"), init_from="first", stages=(Stage(32, 32, 0.0),))
    folder = train(later, tmp_path, tmp_path / "cache")
    before, after = stored(first), stored(folder)
    assert torch.equal(before["backbone.blocks.0.attn.qkv.weight"], after["backbone.blocks.0.attn.qkv.weight"])
    card, stages = (folder / "README.md").read_text(), load_checkpoint(folder, device="cpu").facts.stages
    assert "started from `first`: " in card and "new are pooling (4)" in card
    assert [line.split(":")[0] for line in stages] == ["first", "mine"] and "2. mine: 32 px, 32 photos seen" in card


def test_start_that_does_not_fit_is_refused(tmp_path: Path, shapes: Path) -> None:
    train(recipe_for(shapes, vit_spec("cls"), name="first"), tmp_path, tmp_path / "cache")
    with pytest.raises(ValueError, match="nothing of the backbone of first has the names and shapes"):
        start_from(small_spec().build(Facts("x")), "first", tmp_path / "mine")
    with pytest.raises(ValueError, match="'absent'"):
        start_from(small_spec().build(Facts("x")), "absent", tmp_path / "mine")


def test_frozen_stem_keeps_its_start_to_the_bit_while_the_rest_learns(tmp_path: Path, shapes: Path) -> None:
    first = train(recipe_for(shapes, small_spec("gap"), name="first"), tmp_path, tmp_path / "cache")
    recipe = recipe_for(shapes, hybrid(), init_from="first", freeze="stem", ema=0.9)
    folder = train(recipe, tmp_path, tmp_path / "cache")
    before, after = stored(first), stored(folder)
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
        after["backbone.blocks.0.attn.qkv.weight"], stored(untrained)["backbone.blocks.0.attn.qkv.weight"]
    )
    card = (folder / "README.md").read_text()
    assert "the first 5 blocks of a resnet18" in card and "; the stem stays as it is |" in card
    later = train(
        recipe_for(shapes, hybrid("simpool"), name="later", init_from="mine", freeze="stem"),
        tmp_path,
        tmp_path / "cache",
    )
    assert load_checkpoint(later, device="cpu").facts.stem == "first", "the stem is lent by who had it first"
    loose = train(recipe_for(shapes, hybrid(), name="loose", init_from="first"), tmp_path, tmp_path / "cache")
    assert load_checkpoint(loose, device="cpu").facts.stem == "" and any(
        "patch_embed.backbone" in key for key in stored(loose)
    )
    before["backbone.conv1.0.weight"][0] += 1
    save_file(before, first / "model.safetensors")
    with pytest.raises(ValueError, match=r"the first blocks in .* are not those that 'mine' was trained on"):
        load_checkpoint(folder, device="cpu")
    shutil.rmtree(first)
    with pytest.raises(ValueError, match="stands on the stem of 'first', which is not in"):
        load_checkpoint(folder, device="cpu")


def test_frozen_backbone_leaves_pooling_and_head_to_learn(tmp_path: Path, shapes: Path) -> None:
    first = train(recipe_for(shapes, small_spec("simpool"), name="first"), tmp_path, tmp_path / "cache")
    folder = train(
        recipe_for(shapes, small_spec("simpool"), init_from="first", freeze="backbone"), tmp_path, tmp_path / "cache"
    )
    before, after = stored(first), stored(folder)
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


# --- the average of weights, mixup
# ----------------------------------------------------------------------------------------


def test_average_of_weights_is_what_is_kept(tmp_path: Path, shapes: Path) -> None:
    """With a decay of nearly 1 the average has hardly left the start when the weights have."""
    recipe = recipe_for(shapes, small_spec("gap"))
    torch.manual_seed(recipe.seed)
    start = recipe.encoder.build(Facts("start")).state_dict()["head.weight"]
    plain = stored(train(recipe, tmp_path / "plain", tmp_path / "cache"))["head.weight"].float()
    slow = stored(train(dataclasses.replace(recipe, ema=0.5), tmp_path / "slow", tmp_path / "cache"))[
        "head.weight"
    ].float()
    assert 0.05 < (slow - start).norm() / (plain - start).norm() < 0.98


def test_mixed_photos_give_mixed_targets(tmp_path: Path, shapes: Path) -> None:
    recipe = recipe_for(shapes, small_spec("gap"))
    runs = [
        train(dataclasses.replace(recipe, mixup=alpha), tmp_path / str(alpha), tmp_path / "cache")
        for alpha in (0.0, 0.8)
    ]
    assert not torch.equal(*(stored(run)["head.weight"] for run in runs))


# --- spatial entropy
# --------------------------------------------------------------------------------------------------------


def entropy_on(folder: Path, shapes: Path, cache: Path) -> float:
    encoder, photos = load_bundle(folder), load_photos(shapes, "val", cache)
    scores = [record(encoder, np.asarray(image), 64).map("cls", block=-1).logits for image in photos.images[:16]]
    return float(spatial_entropy(torch.from_numpy(np.stack(scores))).mean())


def test_spatial_entropy_is_lower_where_it_is_trained_for(tmp_path: Path, shapes: Path) -> None:
    recipe = recipe_for(shapes, vit_spec("cls"), photos=32 * 60, stages=(Stage(64, 32 * 60, 0.004, warmup=32),))
    plain, regular = (
        train(dataclasses.replace(recipe, spatial_entropy=weight), tmp_path / str(weight), tmp_path / "cache")
        for weight in (0.0, 1.0)
    )
    plain_entropy, regular_entropy = (entropy_on(folder, shapes, tmp_path / "cache") for folder in (plain, regular))
    assert regular_entropy < 0.8 * plain_entropy
    assert "1 of spatial entropy" in (regular / "README.md").read_text()


@pytest.mark.parametrize("pooling", ["simpool", "cls"])
def test_scores_that_read_the_tokens_are_the_map_before_its_softmax(pooling: str) -> None:
    torch.manual_seed(0)
    encoder = vit_spec(pooling).build(Facts("x", size=32, classes=CLASSES)).eval()
    x = torch.randn(2, 3, 32, 48)
    with AttentionCapture() as capture:
        output = encoder(x)
    scores = readout_scores(encoder, output, capture)
    assert scores.shape == ((2, 3, 4, 6) if pooling == "cls" else (2, 1, 4, 6))
    softmax = scores.flatten(2).softmax(2)
    if pooling == "simpool":
        assert output.pooled.weights is not None and torch.allclose(softmax, output.pooled.weights, atol=1e-6)
    else:
        call = capture.calls[-1]
        rows = (call.query[:, :, 0:1] @ call.key.transpose(2, 3) * call.scale).softmax(3)[:, :, 0, 1:]
        assert torch.allclose(softmax, rows / rows.sum(2, keepdim=True), atol=1e-6)


def test_encoder_without_anything_that_attends_is_refused(tmp_path: Path, shapes: Path) -> None:
    with pytest.raises(
        ValueError, match="spatial entropy needs a class token or a pooling that attends, and mine has neither"
    ):
        train(recipe_for(shapes, small_spec("gap"), spatial_entropy=0.01), tmp_path, tmp_path / "cache")


# --- dense heads
# ------------------------------------------------------------------------------------------------------------


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
    recipe = recipe_for(
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


def test_pixels_of_void_count_nowhere_and_an_unknown_class_is_told() -> None:
    logits = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(4, (2, 6, 10), generator=torch.Generator().manual_seed(1))
    labels[0, :2] = 9
    enlarged = torch.nn.functional.interpolate(logits, (6, 10), mode="bilinear", align_corners=False).log_softmax(1)
    wanted = [
        -float(enlarged[b, labels[b, y, x], y, x])
        for b in range(2)
        for y in range(6)
        for x in range(10)
        if labels[b, y, x] != 9
    ]
    assert float(pixel_loss(logits, labels, 9, 0.0)) == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)
    assert float(pixel_loss(logits, torch.full((2, 6, 10), 9), 9, 0.1)) == 0
    with pytest.raises(ValueError, match="a label map holds class 9, but the head has classes 0 to 3; set void="):
        pixel_loss(logits, labels, 255, 0.0)


def test_mean_iou_is_that_of_torchmetrics_and_scikit_learn() -> None:
    from sklearn.metrics import confusion_matrix
    from torchmetrics.classification import MulticlassJaccardIndex

    rng = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(3, 4, 8, 8, generator=rng), torch.randint(4, (3, 8, 8), generator=rng)
    labels[:, 0] = 9
    table = count_pixels(logits, labels, 9)
    counted = labels != 9
    truth, found = labels[counted].numpy(), logits.argmax(1)[counted].numpy()
    assert np.array_equal(table.numpy(), confusion_matrix(truth, found))
    theirs = MulticlassJaccardIndex(4, ignore_index=9)(logits.argmax(1), labels)
    assert float(mean_ious(table.numpy())) == pytest.approx(float(theirs))


def test_dense_head_on_a_frozen_backbone(tmp_path: Path, scenes: Path, shapes: Path) -> None:
    train(recipe_for(shapes, vit_spec("cls"), name="base"), tmp_path, tmp_path / "cache")
    heads = {"segment": {"pooling": "cls", "dense": True}}
    recipe = HeadsRecipe(
        "heads", str(scenes), "base", heads, 32, 32 * 40, 0.02, 64, batch_size=32, classes=NAMES, void=9, stored=64
    )
    (folder,) = train_heads(recipe, tmp_path, tmp_path / "cache")
    encoder = load_checkpoint(folder, device="cpu")
    assert (
        encoder.dense
        and encoder.facts.classes == NAMES
        and not any(key.startswith("backbone") for key in stored(folder))
    )
    assert float(encoder.facts.accuracy.split("mean IoU ")[1].split(" %")[0]) > 20
    with pytest.raises(ValueError, match="dense: true is for heads on photos with label maps"):
        train_heads(dataclasses.replace(recipe, heads={"plain": {"pooling": "cls"}}), tmp_path, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"encoder\.dense: true is for photos with label maps"):
        train(recipe_for(scenes, vit_spec("cls", num_classes=4), classes=NAMES), tmp_path / "other", tmp_path / "cache")


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
