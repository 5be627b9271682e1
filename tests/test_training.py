"""Training: recipes, crops in true proportions, the schedule, and a short run on made-up photos that ends in a
checkpoint that works."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw

from simpool_viz import load_checkpoint, record
from simpool_viz.cli.main import main
from simpool_viz.modeling.encoder import IMAGENET_MEAN, IMAGENET_STD, Facts
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.training import data as data_module
from simpool_viz.training import loop as loop_module
from simpool_viz.training.card import Result, stage_line, write_card
from simpool_viz.training.data import STORED, Batches, Photos, centre_crops, load_photos, random_crops
from simpool_viz.training.interruption import Run
from simpool_viz.training.loop import run_stage, train
from simpool_viz.training.measure import find_correct, tell_accuracy
from simpool_viz.training.recipe import HeadsRecipe, Recipe, Stage, list_recipes, load_recipe
from simpool_viz.training.sources import read_classes
from simpool_viz.training.step import Step, make_accelerator, make_optimizer
from tests.conftest import BACKBONE, CLASSES, small_resnet, small_spec
from tests.photos import shape_photo, write_parquet

# --- recipes
# --------------------------------------------------------------------------------------------------------------------


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """A nested dict as {"a.b": value}."""
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, part in value.items() for k, v in flat(part, f"{path}.{key}".lstrip(".")).items()}


def test_bundled_recipes_are_listed_without_their_bases_and_load() -> None:
    assert {"resnet_gap", "resnet_simpool"} <= set(list_recipes()) and not any(
        name.startswith("_") for name in list_recipes()
    )
    for name in list_recipes():
        recipe = load_recipe(name)
        assert recipe.name == name and recipe.sources and recipe.license
        assert isinstance(recipe, HeadsRecipe) or (recipe.title and recipe.stages)


def test_siblings_of_one_base_differ_only_in_what_they_compare() -> None:
    siblings = {
        p: flat(dataclasses.asdict(load_recipe(f"resnet_{p}")))
        for p in ("gap", "gem", "simpool", "spe_gap", "spe_simpool")
    }
    gap, compared = siblings["gap"], {"encoder.pooling", "encoder.pooling_options.gamma", "encoder.inside"}
    for name, recipe in siblings.items():
        differing = {k for k in gap.keys() | recipe.keys() if gap.get(k) != recipe.get(k)}
        assert differing <= compared | {"name", "title", "source", "encoder.pooling_options"}, name
        assert recipe.get("encoder.pooling_options.gamma") == (2.0 if "simpool" in name else None)
        assert recipe["encoder.inside"] == ("spe" if "spe" in name else "")


VITS = {
    "vit_gap": {"encoder.pooling"},
    "vit_ggem": {"encoder.pooling"},
    "vit_simpool": {"encoder.pooling", "encoder.pooling_options.gamma"},
    "vit_cls_sar": {"spatial_entropy"},
    "vit_life_cls": {"encoder.inside"},
}


@pytest.mark.parametrize("name", VITS)
def test_vits_differ_from_the_one_with_class_token_only_in_what_they_compare(name: str) -> None:
    cls, other = (flat(dataclasses.asdict(load_recipe(n))) for n in ("vit_cls", name))
    told = {"name", "title", "source"} | ({"encoder.backbone_kwargs.class_token"} if "cls" not in name else set())
    assert {key for key in cls | other if cls.get(key) != other.get(key)} == VITS[name] | told


def test_vits_and_dense_models_with_life_differ_from_their_siblings_in_life_alone() -> None:
    for one, other in (("vit_simpool", "vit_life_simpool"), ("camvid_vit", "camvid_vit_life")):
        own, theirs = (flat(dataclasses.asdict(load_recipe(n))) for n in (one, other))
        start = {"init_from"} if "camvid" in one else set()
        assert {key for key in own | theirs if own.get(key) != theirs.get(key)} == {
            "name",
            "title",
            "source",
            "encoder.inside",
        } | start


def test_recipes_of_vits_are_of_three_to_five_million_parameters_on_one_frozen_stem() -> None:
    for name in (*VITS, "vit_cls", "vit_life_simpool"):
        recipe = load_recipe(name)
        encoder = recipe.encoder.build(Facts(name))
        assert 3e6 < sum(p.numel() for p in encoder.parameters()) < 5e6 and encoder.has_stem and recipe.freeze == "stem"


def write_recipe(folder: Path, name: str = "mine", **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "name": name,
        "title": "Mine",
        "data": str(folder),
        "encoder": {
            "backbone": "resnet18",
            "pooling": "simpool",
            "num_classes": 3,
            "backbone_kwargs": {k: list(v) if isinstance(v, tuple) else v for k, v in BACKBONE.items()},
            "stem_pool": False,
            "pooling_options": {"gamma": 2.0},
        },
        "stages": [{"size": 32, "photos": 128, "lr": 0.004, "warmup": 64}],
        "map_size": 48,
        "batch_size": 32,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings | changes))
    return folder / f"{name}.yaml"


def test_recipe_of_ones_own_inherits_from_a_base_beside_it(tmp_path: Path) -> None:
    write_recipe(tmp_path, "_base")
    (tmp_path / "child.yaml").write_text(
        "base: _base\nname: child\nencoder: {pooling_options: {beta: true}}\nbatch_size: 16\n"
    )
    child, base = load_recipe(str(tmp_path / "child.yaml")), load_recipe(str(tmp_path / "_base.yaml"))
    assert child.encoder.pooling_options == {"gamma": 2.0, "beta": True}
    same = dataclasses.replace(child.encoder, pooling_options=base.encoder.pooling_options)
    assert dataclasses.replace(child, name="_base", encoder=same, batch_size=32) == base


def test_overrides_reach_any_setting_with_its_type() -> None:
    changes = ["seed=3", "weight_decay=1e-3", "encoder.pooling_options.gamma=1.25", "title=My own, with = in it"]
    recipe = load_recipe("resnet_simpool", [*changes, "stages=[{size: 64, photos: 256, lr: 1e-4}]"])
    assert (recipe.seed, recipe.weight_decay, recipe.title) == (3, 0.001, "My own, with = in it")
    assert recipe.encoder.pooling_options == {"gamma": 1.25} and recipe.stages == (Stage(64, 256, 0.0001),)
    assert load_recipe("resnet_simpool").seed == 0, "the bundled recipe is not changed"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "--set takes key=value, not 'seed'"),
        ("epochs=3", "epochs"),
        ("encoder.poling=gap", "poling"),
        ("seed=three", "seed is a number, not 'three'"),
        ("batch_size=1.5", "batch_size is a whole number, not 1.5"),
        ("batch_size=0", "at least one batch of photos"),
        ("stages=[]", "at least one stage"),
        ("stages=[{size: 64, photos: 5, lr: 0.1}]", "at least one batch of photos"),
        ("stages=[{size: 64, photos: 500}]", "lr"),
        ("stages=[{size: 64, photos: 500, lr: fast}]", "lr is a number, not 'fast'"),
        ("stages.0.lr=1", "stages holds no settings of its own"),
        ("title=[1, 2", "--set title is not readable as YAML"),
    ],
)
def test_override_that_fits_no_setting_is_refused_in_a_sentence(override: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        load_recipe("resnet_simpool", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("- a\n- b\n", "is not a table of settings"),
        ("name: [1, 2", "is not readable as YAML"),
        ("name: mine\n", "is not a complete recipe"),
        ("base: absent\nname: mine\n", "there is no recipe 'absent'"),
        ("", "is not a complete recipe"),
    ],
)
def test_file_that_is_no_recipe_is_refused_in_a_sentence(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ValueError, match=says):
        load_recipe(str(tmp_path / "mine.yaml"))
    with pytest.raises(ValueError, match=r"there is no recipe 'absent'; bundled are .*resnet_gap"):
        load_recipe("absent")


# --- schedule
# -------------------------------------------------------------------------------------------------------------------


def learning_rates(stage: Stage, at: tuple[int, ...]) -> list[float]:
    """The optimiser's learning rate after so many photos."""
    optimizer, scheduler = make_optimizer(torch.nn.Linear(2, 2), load_recipe("resnet_gap"), stage)
    rates = []
    for seen in at:
        scheduler.step_update(seen)
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        rates.append(rate)
    return rates


def test_learning_rate_warms_up_linearly_and_falls_by_half_a_cosine_to_zero() -> None:
    stage = Stage(size=64, photos=1000, lr=0.02, warmup=200)
    wanted = [0, 0.005, 0.02, 0.02 * (1 + math.cos(math.pi / 4)) / 2, 0.01, 0, 0]
    assert learning_rates(stage, (0, 50, 200, 400, 600, 1000, 1200)) == pytest.approx(wanted)
    assert learning_rates(Stage(64, 1000, 0.02, warmup=0), (1,)) == pytest.approx([0.02], rel=1e-4)


def test_biases_norms_and_exponents_are_not_decayed() -> None:
    encoder = EncoderSpec("resnet18", "ggem", 3, dict(BACKBONE), False, {"groups": 4}).build(Facts("x"))
    optimizer, _ = make_optimizer(encoder, load_recipe("resnet_gap"), Stage(64, 1000, 0.02))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    own = dict(encoder.named_parameters())
    assert (
        id(own["pooling.mean.p"]) not in decayed
        and id(own["head.bias"]) not in decayed
        and id(own["head.weight"]) in decayed
    )
    assert len(decayed) == len([p for p in own.values() if p.ndim > 1])


# --- crops
# ----------------------------------------------------------------------------------------------------------------------

ASPECTS = [1.0, 1.5, 0.6, 4.0, 0.2]


def cropped(
    images: torch.Tensor, aspect: torch.Tensor, size: int, smallest: float, seed: int, **options: Any
) -> torch.Tensor:
    return random_crops(aspect, smallest, torch.Generator().manual_seed(seed), **options).images(images, size)


def with_coordinates(count: int) -> torch.Tensor:
    """Photos (B, S, S, 3) whose red is the column and green the row, in pixels of the stored square."""
    y, x = torch.meshgrid(torch.arange(STORED), torch.arange(STORED), indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)], 2).to(torch.uint8).expand(count, -1, -1, -1)


def coordinates(crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y (B, size, size) that the pixels of crops of `with_coordinates` show, as shares of the photo."""
    values = crops * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
    return (values[:, 0] * 255 + 0.5) / STORED, (values[:, 1] * 255 + 0.5) / STORED


@pytest.mark.parametrize("aspect", ASPECTS)
def test_random_crops_stay_inside_and_keep_proportions_to_the_usual_jitter(aspect: float) -> None:
    size, count = 32, 300
    crops = cropped(with_coordinates(count), torch.full((count,), aspect), size, 0.25, 0)
    x, y = coordinates(crops)
    assert crops.shape == (count, 3, size, size) and crops.dtype == torch.float32
    # Shares of the photo per pixel of the crop.
    step_x, step_y = (
        (x[:, 5, 20] - x[:, 5, 10]) / 10,
        (y[:, 20, 5] - y[:, 10, 5]) / 10,
    )
    width, height = step_x.abs() * size, step_y * size
    assert (width <= 1 + 1e-3).all() and (height <= 1 + 1e-3).all() and (height > 0).all()
    left, top = torch.minimum(x[:, 0, 0], x[:, 0, -1]) - width / size / 2, y[:, 0, 0] - height / size / 2
    tolerance = 1.2 / STORED  # outside the first and last pixels' centres the photo is reflected
    assert (left > -tolerance).all() and (left + width < 1 + tolerance).all()
    assert (top > -tolerance).all() and (top + height < 1 + tolerance).all()
    proportions = aspect * width / height
    assert (proportions > 3 / 4 - 0.02).all() and (proportions < 4 / 3 + 0.02).all(), "nothing is squeezed further"
    assert proportions.min() < 0.8 and proportions.max() > 1.25, "and all of the jitter is used"
    if 0.75 <= aspect <= 1.34:
        assert (width * height).min() > 0.17 and (width * height).max() > 0.8
    assert 0.35 < (step_x < 0).float().mean() < 0.65, "half of them are flipped"


def test_random_crops_follow_their_generator() -> None:
    images, aspect = torch.randint(256, (5, STORED, STORED, 3), dtype=torch.uint8), torch.tensor(ASPECTS)
    first, same, other = (cropped(images, aspect, 24, 0.25, seed) for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_squeezed_crops_use_the_whole_short_side_where_others_shrink() -> None:
    count, aspect = 300, torch.full((300,), 4.0)
    shapes = []
    for squeeze in (True, False):
        x, y = coordinates(cropped(with_coordinates(count), aspect, 32, 0.25, 0, squeeze=squeeze))
        shapes.append(((x[:, 5, 20] - x[:, 5, 10]).abs() * 3.2, (y[:, 20, 5] - y[:, 10, 5]) * 3.2))
    (width, height), (shrunk_width, shrunk_height) = shapes
    assert (height > 0.97).float().mean() > 0.5, "most crops of 4 : 1 are longer than the photo is high"
    assert (4 * width / height).max() > 1.5, "so they are squeezed"
    assert (4 * shrunk_width / shrunk_height).max() < 1.4 and (shrunk_height <= height + 0.01).all()


def test_labels_are_cropped_as_their_photos_are() -> None:
    """Red of a photo is its column; a label map that holds the column too must show the same."""
    images, aspect = with_coordinates(40), torch.full((40,), 1.5)
    crops = random_crops(aspect, 0.25, torch.Generator().manual_seed(3))
    x, _ = coordinates(crops.images(images, 32))
    labels = crops.labels(images[..., 0], 32)
    assert labels.shape == (40, 32, 32) and labels.dtype == torch.int64
    inside = slice(1, -1)
    assert ((labels + 0.5) / STORED - x)[:, inside, inside].abs().max() < 1 / STORED
    part = crops.of(slice(10, 20))
    assert torch.equal(part.labels(images[10:20, ..., 0], 32), labels[10:20])


def test_centre_crops_take_the_central_square() -> None:
    x, y = coordinates(centre_crops(torch.tensor(ASPECTS)).images(with_coordinates(len(ASPECTS)), 32))
    for i, aspect in enumerate(ASPECTS):
        width, height = min(1 / aspect, 1), min(aspect, 1)
        for shown, share in ((x[i].mean(0), width), (y[i].mean(1), height)):
            wanted = 0.5 + ((torch.arange(32) + 0.5) / 32 - 0.5) * share
            assert (shown - wanted).abs().max() < 0.6 / STORED


@pytest.mark.parametrize("size", [(300, 150), (100, 260)])
def test_circle_in_an_elongated_photo_is_round_in_its_centre_crop(tmp_path: Path, size: tuple[int, int]) -> None:
    photo = Image.new("RGB", size)
    x, y = size[0] / 2, size[1] / 2
    ImageDraw.Draw(photo).ellipse((x - 40, y - 40, x + 40, y + 40), (255, 255, 255))
    write_parquet(tmp_path, "train", [(photo, 0)])
    photos = load_photos(tmp_path, "train", tmp_path / "cache")
    crop = centre_crops(torch.tensor(photos.aspect)).images(torch.tensor(photos.images), 96)[0, 0]
    bright = crop > (crop.max() + crop.min()) / 2
    across, down = bright.any(0).sum().item(), bright.any(1).sum().item()
    assert abs(across - down) <= 2 and across == pytest.approx(96 * 81 / min(size), abs=2)


# --- photos
# ---------------------------------------------------------------------------------------------------------------------


def test_photos_are_squashed_to_squares_with_their_aspect_and_label(tmp_path: Path) -> None:
    red, grey = Image.new("RGB", (90, 60), (250, 10, 10)), Image.new("L", (40, 80), 100)
    write_parquet(tmp_path, "train", [(red, 2), (grey, 0)])
    photos = load_photos(tmp_path, "train", tmp_path / "cache")
    assert len(photos) == 2 and photos.images.shape == (2, STORED, STORED, 3) and photos.images.dtype == np.uint8
    assert photos.aspect.tolist() == [1.5, 0.5] and photos.labels.tolist() == [2, 0]
    assert np.abs(photos.images[0].astype(int) - (250, 10, 10)).max() < 6 and (photos.images[1] == 100).all()
    assert read_classes(tmp_path) == CLASSES


def test_photos_are_decoded_once_and_again_when_the_shards_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path, "train", [(Image.new("RGB", (90, 60)), 1)])
    first = load_photos(tmp_path, "train", tmp_path / "cache")
    decoded = []
    decode = data_module._decode
    monkeypatch.setattr(data_module, "_decode", lambda *a: (decoded.append(1), decode(*a)))
    assert np.array_equal(load_photos(tmp_path, "train", tmp_path / "cache").images, first.images) and not decoded
    write_parquet(tmp_path, "train", [(Image.new("RGB", (90, 60)), 1), (Image.new("RGB", (60, 90)), 2)])
    assert len(load_photos(tmp_path, "train", tmp_path / "cache")) == 2 and decoded == [1]


def test_decoding_that_fails_leaves_no_half_made_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path, "train", [(Image.new("RGB", (90, 60)), 1)])
    monkeypatch.setattr(np, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_photos(tmp_path, "train", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_photos_and_classes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no train-\*\.parquet; set data="):
        load_photos(tmp_path, "train", tmp_path)
    with pytest.raises(ValueError, match=r"holds no classes\.json"):
        read_classes(tmp_path)


def test_batches_show_every_photo_once_before_any_again() -> None:
    def batches(count: int, batch_size: int, total: int) -> list[list[int]]:
        return [index.tolist() for index in Batches(count, batch_size, total, torch.Generator().manual_seed(0))]

    seen = batches(10, 4, 43)
    assert [len(index) for index in seen] == [4] * 10 and len({tuple(index) for index in seen}) > 5
    assert np.bincount(np.concatenate(seen)).tolist() == [4] * 10
    assert len(batches(3, 8, 8)[0]) == 8, "also when there are fewer photos than a batch takes"


def test_batch_of_photos_keeps_rows_together() -> None:
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    photos = Photos(images, np.arange(10, dtype=np.float32), np.arange(10))
    index = np.array([1, 4, 9])
    assert [part.flatten(1)[:, 0].tolist() if part.ndim > 1 else part.tolist() for part in photos.batch(index)] == [
        index.tolist()
    ] * 3


# --- the loop
# --------------------------------------------------------------------------------------------------------------------


def losses(folder: Path, stage: int = 1) -> list[float]:
    with (folder / f"log_stage{stage}.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


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
    first, last = losses(trained)
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


def test_card_lists_the_stages_done_the_machine_and_what_was_set() -> None:
    recipe = load_recipe("resnet_spe_simpool", ["mixup=0.2", "ema=0.999", "spatial_entropy=0.01"])
    lines = [
        stage_line("first", Stage(96, 5000, 0.001, crop=0.5), 3.2),
        stage_line("mine", Stage(64, 1000, 0.01, squeeze=True), 12.3),
    ]
    card = write_card(
        recipe, Result(12.3, 2, 1, "cpu", "50.0 % ± 1"), 1000, lines, "started from `first`: 3 tensors taken"
    )
    assert (
        "1. first: 96 px, 5,000 photos seen, peak learning rate 0.001, crops of at least 50 % of a photo, 3 minutes"
        in card
    )
    assert (
        "2. mine: 64 px, 1,000 photos seen, peak learning rate 0.01, crops of at least 25 % of a photo, squeezed, 12 "
        "minutes" in card
    )
    assert "12 minutes on 2 CPU thread(s)" in card and "| start | started from `first`: 3 tensors taken |" in card
    assert "mixup 0.2, average of weights with decay 0.999, seed 0" in card and "spe inside" in card
    assert "0.1 of SPE's penalty + 0.01 of spatial entropy" in card
    assert "5 minutes on 2 processes of cuda:0" in write_card(recipe, Result(5, 1, 2, "cuda:0", "x"), 9, lines)
    assert tell_accuracy(50, 200) == "25.0 % ± 6.0 of 200 held-out photos"


def short(shapes: Path, **changes: Any) -> Recipe:
    stage = Stage(32, 96, 0.004, warmup=32)
    recipe = Recipe("short", "Short", str(shapes), small_spec(), (stage,), 48, batch_size=32)
    return dataclasses.replace(recipe, **changes)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder, device="cpu").state_dict()


def test_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path, shapes: Path) -> None:
    runs = [train(short(shapes, seed=seed), tmp_path / str(i), tmp_path / "cache") for i, seed in enumerate((0, 0, 1))]
    first, same, other = (weights_of(run) for run in runs)
    assert all(torch.equal(v, same[k]) for k, v in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_training_changes_the_pooling_and_starts_from_its_seed(tmp_path: Path, shapes: Path) -> None:
    recipe = short(shapes)
    torch.manual_seed(recipe.seed)
    start = recipe.encoder.build(Facts("start")).state_dict()
    end = weights_of(train(recipe, tmp_path, tmp_path / "cache"))
    distance = (end["pooling.wq.weight"] - start["pooling.wq.weight"]).abs().max()
    assert 1e-4 < distance < 0.05, "moved by a few steps of AdamW, from the same start"


def test_schedule_reaches_the_optimiser(tmp_path: Path, shapes: Path) -> None:
    """In a warm-up that has hardly begun no weight moves, whatever the peak."""
    recipe = short(shapes)
    encoder = recipe.encoder.build(Facts("still"))
    before = {k: v.clone() for k, v in encoder.named_parameters()}
    photos = load_photos(shapes, "train", tmp_path)
    run, accelerator = Run(tmp_path, recipe, encoder, {}), make_accelerator("no", "cpu")
    run_stage(run, Stage(32, 96, 0.1, warmup=10**9), photos, 1, accelerator)
    assert all((v - before[k]).abs().max() < 1e-6 for k, v in encoder.named_parameters())
    run_stage(run, Stage(32, 96, 0.1, warmup=0), photos, 1, accelerator)
    assert all((v - before[k]).abs().max() > 1e-3 for k, v in encoder.named_parameters())


def step_for(recipe: Recipe, encoder: Any, rate: float = 0.0) -> Step:
    optimizer = torch.optim.SGD(encoder.parameters(), lr=rate)
    return Step(recipe, recipe.stages[0], encoder, encoder, optimizer, make_accelerator("no", "cpu"), 1)


def test_gradient_of_a_step_is_that_of_its_own_batch(shapes: Path, tmp_path: Path) -> None:
    photos, gradients = load_photos(shapes, "train", tmp_path), []
    for steps in (2, 1):
        encoder = small_resnet().train().requires_grad_(True)
        step, stream = step_for(short(shapes), encoder), Batches(len(photos), 32, 96, torch.Generator().manual_seed(0))
        batches = [photos.batch(index) for index in stream]
        stream.step = 1
        for batch in batches[-steps:]:
            stream.generator.manual_seed(7)
            step(batch, stream)
        gradients.append(encoder.pooling.wq.weight.grad)
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0


def test_loss_that_is_not_finite_stops_the_training_with_its_step(tmp_path: Path, shapes: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step [2-9]\d*; lower the learning rate"):
        train(short(shapes, stages=(Stage(32, 3200, 1e20, warmup=0),)), tmp_path, tmp_path / "cache")
    assert not (tmp_path / "short" / "model.safetensors").exists()


def test_loss_that_is_nan_at_once_stops_at_step_1(tmp_path: Path, shapes: Path) -> None:
    recipe = short(shapes)
    encoder = recipe.encoder.build(Facts("broken"))
    encoder.head.weight.data.fill_(float("nan"))
    photos = load_photos(shapes, "train", tmp_path)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1;"):
        run_stage(Run(tmp_path, recipe, encoder, {}), recipe.stages[0], photos, 1, make_accelerator("no", "cpu"))


def test_data_that_does_not_fit_the_recipe_is_refused_before_training(tmp_path: Path, shapes: Path) -> None:
    spec = dataclasses.replace(small_spec(), num_classes=4)
    with pytest.raises(ValueError, match=r"has 3 classes, but the recipe's head has 4; set encoder\.num_classes"):
        train(short(shapes, encoder=spec), tmp_path, tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_card_prints_the_command_with_what_was_changed() -> None:
    recipe = load_recipe("resnet_simpool", ["seed=3", "title=My own"])
    card = write_card(recipe, Result(12.3, 2, 1, "cpu", "25 %"), 1000, [])
    assert "`simpool-viz train resnet_simpool --set 'seed=3' --set 'title=My own'`" in card


# --- interruption
# ---------------------------------------------------------------------------------------------------------------

TWO = (Stage(32, 32 * 7, 0.004, warmup=32), Stage(40, 32 * 4, 0.001, warmup=0))


class Interrupted(Exception):
    pass


@pytest.fixture
def every_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "SAVE_EVERY", 2)


@pytest.mark.usefixtures("every_two_steps")
@pytest.mark.parametrize("at", [1, 5, 6, 8, 10])
def test_interrupted_training_goes_on_to_the_same_bits(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    spec = dataclasses.replace(small_spec(), backbone_kwargs={**BACKBONE, "drop_path_rate": 0.3})
    recipe = short(shapes, stages=TWO, encoder=spec, mixup=0.4, ema=0.9)  # chance and memory beside the weights' own
    whole = train(recipe, tmp_path / "whole", tmp_path / "cache")
    step, seen = Step.__call__, []

    def breaking(*arguments: Any) -> Any:
        if len(seen) == at:
            raise Interrupted
        seen.append(1)
        return step(*arguments)

    monkeypatch.setattr(Step, "__call__", breaking)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "parts", tmp_path / "cache")
    steps: list[int] = []
    monkeypatch.setattr(Step, "__call__", lambda *a: (steps.append(a[-1].step), step(*a))[1])
    parts = train(recipe, tmp_path / "parts", tmp_path / "cache")
    left = {1: 11, 5: 7, 6: 5, 8: 4, 10: 2}[at]  # from the last multiple of two steps, or the start of the stage
    assert len(steps) == left and not (parts / "resume.pt").exists()
    first, second = weights_of(whole), weights_of(parts)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    for name in ("log_stage1.csv", "log_stage2.csv"):
        assert (whole / name).exists() and (parts / name).exists()


@pytest.mark.usefixtures("every_two_steps")
def test_interrupted_training_of_another_recipe_is_not_gone_on_with(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = short(shapes, stages=TWO)
    count = loop_module.measure
    monkeypatch.setattr(loop_module, "measure", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(recipe, tmp_path, tmp_path / "cache")
    monkeypatch.setattr(loop_module, "measure", count)
    with pytest.raises(
        ValueError, match="holds an interrupted run of another recipe; begin anew with --restart, or choose another"
    ):
        train(dataclasses.replace(recipe, seed=1), tmp_path, tmp_path / "cache")
    moved = dataclasses.replace(recipe, data=str(shapes / ".." / shapes.name), source="elsewhere")
    train(moved, tmp_path, tmp_path / "cache")
    assert "going on with stage 1, step 6" in capsys.readouterr().out
    (tmp_path / "short" / "resume.pt").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"resume\.pt is damaged; delete it, or begin anew with --restart"):
        train(recipe, tmp_path, tmp_path / "cache")
    train(recipe, tmp_path, tmp_path / "cache", restart=True)


def test_spe_is_trained_with_its_penalty(tmp_path: Path, shapes: Path) -> None:
    spec = dataclasses.replace(small_spec("gap"), inside="spe")
    strong, none = (
        short(shapes, encoder=spec, spe_penalty=weight, stages=(Stage(32, 32 * 30, 0.01, warmup=0),))
        for weight in (10.0, 0.0)
    )
    penalties = []
    for i, recipe in enumerate((strong, none)):
        state = weights_of(train(recipe, tmp_path / str(i), tmp_path / "cache"))
        penalties.append(
            sum(float((value.float() ** 2).sum()) for key, value in state.items() if key.endswith(".se.p"))
        )
    assert penalties[0] < 0.8 * penalties[1]
