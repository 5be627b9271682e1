"""DINO's objective: the loss is the paper's, no model collapses, runs go on, and DINO's own reader takes the file."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simpool_viz import load_checkpoint, record
from simpool_viz.errors import TrainingError
from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.training import loop as loop_module
from simpool_viz.training.data import centre_crops, load_photos, random_crops
from simpool_viz.training.dino import (
    FILE,
    LargeCrops,
    SelfDistillation,
    SelfTeaching,
    Views,
    file_settings,
    names_of_dino,
    varied,
)
from simpool_viz.training.loop import train
from simpool_viz.training.recipe import Recipe, load_recipe
from simpool_viz.training.step import make_accelerator
from tests.helpers import interrupted_at, make_photo, small_spec, trained_weights, vit_spec, write_recipe

SMALL = {"outputs": 64, "hidden": 48, "bottleneck": 24, "local_crops": 2, "local_size": 16, "photometric": 0}
VIT = {"img_size": 32, "embed_dim": 192, "depth": 2, "num_heads": 3, "patch_size": 8}
HALF = LargeCrops(32, 0.5)
RESNET = {"channels": [8, 8, 16, 16], "stem_type": "deep", "stem_width": 8, "output_stride": 16}
MODELS: dict[str, dict[str, Any]] = {
    "vit cls": {
        "backbone": "vit_tiny_patch16_224",
        "pooling": "cls",
        "num_classes": 0,
        "backbone_kwargs": {**VIT, "class_token": True},
    },
    "vit simpool": {
        "backbone": "vit_tiny_patch16_224",
        "pooling": "simpool",
        "num_classes": 0,
        "pooling_options": {"gamma": 1.25},
        "norm": "layer",  # the released code's SimPool pools tokens before the final norm
        "backbone_kwargs": {**VIT, "class_token": False, "global_pool": "avg", "final_norm": False},
    },
    "resnet simpool": {
        "backbone": "resnet18",
        "pooling": "simpool",
        "num_classes": 0,
        "stem_pool": False,
        "backbone_kwargs": RESNET,
    },
}


def recipe_for(shapes: Path, folder: Path, model: str, *, photos: int = 32 * 3, **dino: Any) -> Recipe:
    stages = [{"size": 32, "photos": photos, "lr": 0.001, "warmup": 32}]
    path = write_recipe(
        folder,
        name=model.replace(" ", "_"),
        data=str(shapes),
        encoder=MODELS[model],
        stages=stages,
        map_size=32,
        precision="no",
        dino={**SMALL, **dino},
    )
    recipe = load_recipe(str(path))
    assert isinstance(recipe, Recipe)
    return recipe


# --- the loss and its schedules ---------------------------------------------------------------------------------------


def cross_entropies(taught: list[Tensor], learned: list[Tensor], centre: Tensor, sharp: float, soft: float) -> Tensor:
    """Algorithm 1 of the paper, pair by pair."""
    found = []
    for i, given in enumerate(taught):
        targets = ((given - centre) / sharp).softmax(-1)
        for j, own in enumerate(learned):
            if i != j:
                found.append(-(targets * (own / soft).log_softmax(-1)).sum(-1).mean())
    return torch.stack(found).mean()


def teaching(**changes: Any) -> SelfTeaching:
    torch.manual_seed(0)
    encoder = dataclasses.replace(small_spec(), num_classes=0).build(Facts("small"))
    recipe = SelfDistillation(**{**SMALL, "local_size": 0, **changes})
    return SelfTeaching(recipe, encoder, make_accelerator("no", "cpu"))


def test_the_loss_is_the_paper_s_and_the_centre_follows_the_teacher() -> None:
    dino = teaching()
    dino.begin()
    sizes = [torch.randn(2 * 4, 3, 32, 32), torch.randn(2 * 4, 3, 16, 16)]
    with torch.no_grad():
        dino.loss.center.normal_(generator=torch.Generator().manual_seed(1))
        before = dino.loss.center.flatten().clone()
        learned = [*dino.student(sizes)[0].chunk(2), *dino.student(sizes)[1].chunk(2)]
        taught = list(dino.teacher(sizes[:1])[0].chunk(2))
    for progress, sharp in ((0.0, 0.04), (0.15, 0.055), (0.3, 0.07), (1.0, 0.07)):
        dino.loss.center.copy_(before.view_as(dino.loss.center))
        wanted = cross_entropies(taught, learned, before, sharp, 0.1)
        assert float(dino.loss_of(dino.student, sizes, progress)) == pytest.approx(float(wanted), rel=1e-5)
    followed = 0.9 * before + 0.1 * torch.cat(taught).mean(0)
    assert torch.allclose(dino.loss.center.flatten(), followed, atol=1e-6)


def test_without_small_crops_the_two_large_ones_learn_of_each_other() -> None:
    dino = teaching(local_crops=0)
    (large,) = dino.views(
        torch.zeros(4, 48, 48, 3, dtype=torch.uint8),
        torch.ones(4),
        slice(0, 4),
        LargeCrops(32, 0.4),
        torch.Generator(),
    )
    assert large.shape == (8, 3, 32, 32) and math.isfinite(float(dino.loss_of(dino.student, [large], 0.5)))


def test_schedules_begin_and_end_as_the_paper_s() -> None:
    recipe = SelfDistillation()
    assert [recipe.temperature(p) for p in (0, 0.15, 0.3, 1)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert [recipe.momentum_at(p) for p in (0, 0.5, 1)] == pytest.approx([0.996, 0.998, 1.0])
    assert SelfDistillation(rise=0).temperature(0) == 0.07


def test_the_teacher_follows_and_the_last_layer_waits() -> None:
    dino = teaching(momentum=0.9)
    own = [p.clone() for p in dino.teacher.parameters()]
    with torch.no_grad():
        for parameter in dino.student.parameters():
            parameter.add_(1.0)
    dino.follow(0.0)
    for before, after in zip(own, dino.teacher.parameters(), strict=True):
        assert torch.allclose(after, before + 0.1, atol=1e-6) and not after.requires_grad
    for progress, held in ((0.005, True), (0.02, False)):
        for parameter in dino.student.parameters():
            parameter.grad = torch.ones_like(parameter)
        dino.hold(progress)
        last = list(dino.student.head.last_layer.parameters())
        assert all((p.grad is None) == held for p in last)
        assert all(p.grad is not None for p in dino.student.encoder.parameters())


# --- crops ------------------------------------------------------------------------------------------------------------


def test_crops_have_their_sizes_and_areas_and_two_processes_draw_what_one_does() -> None:
    dino = teaching(local_crops=3)
    ramp = torch.arange(64, dtype=torch.float32)[None, :, None, None].expand(6, 64, 64, 3).clone().to(torch.uint8)
    whole = dino.views(ramp, torch.ones(6), slice(0, 6), HALF, torch.Generator().manual_seed(3))
    assert [tuple(x.shape) for x in whole] == [(12, 3, 32, 32), (18, 3, 16, 16)]
    spans = [x.amax((1, 2, 3)) - x.amin((1, 2, 3)) for x in whole]  # of a ramp, the height of a crop
    assert float(spans[0].min()) > 1.1 * float(spans[1].mean()) and float(spans[1].max()) < float(spans[0].max())
    parts = [
        dino.views(ramp, torch.ones(6), rows, HALF, torch.Generator().manual_seed(3))
        for rows in (slice(0, 3), slice(3, 6))
    ]
    for size, (one, other) in enumerate(zip(*parts, strict=True)):
        for crop, (first, second) in zip(
            whole[size].split(6), zip(one.split(3), other.split(3), strict=True), strict=True
        ):
            assert torch.equal(crop, torch.cat([first, second]))


def test_colours_vary_as_the_paper_says() -> None:
    torch.manual_seed(0)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = torch.tensor([0.7, 0.5, 0.3])[None, :, None, None].repeat(60, 1, 16, 224)
    pixels[..., 112:] *= 0.3  # an edge, which a blur takes away and no change of colours does
    images = F.pad((pixels - mean) / std, (0, 0, 104, 104), mode="replicate")
    assert torch.equal(varied(images, 0, 0.0), images)
    made = [varied(images, number, 1.0) * std + mean for number in (0, 1, 2)]
    sharp = []
    for one in made:
        assert one.min() > -1e-4 and one.max() < 1 + 1e-4
        brightness = one.mean(1)[:, 112]  # (60, 224), across the edge
        height = brightness.amax(1) - brightness.amin(1)
        sharp.append(float((brightness.diff().abs().amax(1) > 0.9 * height).float().mean()))
    first, second, small = sharp
    assert first < 0.35 and second > 0.8 and 0.35 < small < 0.75, "blurred always, seldom, half of the time"
    grey = torch.cat([(one.amax(1) - one.amin(1)).amax((1, 2)) < 1e-3 for one in made])
    assert 0.12 < float(grey.float().mean()) < 0.28, "one of five"
    whole = torch.cat([one.mean((1, 2, 3)) for one in made])
    assert float(whole.std()) > 0.03, "brightness varies"


# --- whole runs -------------------------------------------------------------------------------------------------------


# A learning rate and temperatures of the teacher at which a model this small learns in so few steps.
SETTINGS: dict[str, dict[str, Any]] = {
    "vit simpool": {"momentum": 0.99},
    "resnet simpool": {"momentum": 0.98, "teacher_temperature": 0.03, "first_temperature": 0.03},
}


@pytest.fixture(scope="module", params=SETTINGS)
def trained(request: pytest.FixtureRequest, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A model and what 100 steps made of it."""
    folder = tmp_path_factory.mktemp("dino")
    recipe = recipe_for(shapes, folder, request.param, photos=32 * 100, **SETTINGS[request.param])
    if request.param.startswith("resnet"):
        recipe = dataclasses.replace(recipe, stages=(dataclasses.replace(recipe.stages[0], lr=0.0005),))
    return request.param, train(recipe, folder / "runs", folder / "cache")


def outputs_of(state: dict[str, Tensor], model: str, images: Tensor) -> Tensor:
    """What an encoder with its head makes of images, by the tensors of a file of DINO's names."""
    dino = SelfDistillation(**{**SMALL, **SETTINGS[model]})
    torch.manual_seed(0)
    views = Views(EncoderSpec(**MODELS[model]).build(Facts("mine")), dino).eval()
    if state:
        own = views.state_dict()
        named = dict(zip(own, names_of_dino(own), strict=True))
        views.load_state_dict({key: state[name] for key, name in named.items()})
    with torch.inference_mode():
        return views([images])[0]


def entropy(shares: Tensor) -> Tensor:
    return -(shares * shares.clamp(min=1e-9).log()).sum(-1)


def test_the_student_learns_the_teacher_which_does_not_collapse(trained: tuple[str, Path], shapes: Path) -> None:
    model, folder = trained
    content = torch.load(folder / FILE, weights_only=False)
    photos = load_photos(shapes, "val", folder.parent / "cache")
    crops = random_crops(torch.tensor(photos.aspect), 0.25, torch.Generator().manual_seed(5), largest=0.5)
    whole, part = (
        plan.images(torch.tensor(photos.images), 32) for plan in (centre_crops(torch.tensor(photos.aspect)), crops)
    )
    taught = outputs_of(content["teacher"], model, whole)
    targets = ((taught - taught.mean(0)) / 0.05).softmax(-1)
    told = float(entropy(targets.mean(0)) - entropy(targets).mean())
    assert told > 0.1, "its outputs tell photos apart, where a collapsed model has the same, or the flattest, for all"
    student = {key.removeprefix("module."): value for key, value in content["student"].items()}
    losses = [
        float(-(targets * (outputs_of(state, model, part) / 0.1).log_softmax(-1)).sum(-1).mean())
        for state in ({}, student)
    ]
    assert losses[1] < losses[0] - 0.1, "of a part of a photo it knows what the teacher makes of the whole"
    assert content["epoch"] == 32 * 100 // 150
    apart = [not torch.equal(value, student[key]) for key, value in content["teacher"].items()]
    assert any(apart), "the file has both"


def test_the_card_and_the_folder_tell_the_objective(trained: tuple[str, Path]) -> None:
    model, folder = trained
    encoder = load_checkpoint(folder, device="cpu")
    accuracy = encoder.facts.accuracy.removeprefix("k-NN ")
    assert float(accuracy.split(" %")[0]) > 45, f"{model}: three classes, 33 by chance"
    assert accuracy.endswith("of 50 held-out photos by the 20 nearest of 150 photos") and encoder.classifier is None
    card = (folder / "README.md").read_text()
    assert f"| k-NN | {accuracy} |" in card and "DINO: 2 large and 2 small crops, 64 outputs" in card
    assert "labels are not used" in card


@pytest.mark.parametrize("model", ["vit cls", "vit simpool"])  # of our ResNet, stem and widths are in no such file
def test_the_reader_of_dino_s_files_takes_the_file(shapes: Path, tmp_path: Path, model: str) -> None:
    folder = train(recipe_for(shapes, tmp_path, model, momentum=0.5), tmp_path / "runs", tmp_path / "cache")
    own, read = load_checkpoint(folder, device="cpu"), load_checkpoint(folder / FILE, device="cpu")
    assert read.facts.size == 32 and read.stride == 8
    name = model.split()[1]
    photo = make_photo(48, 32)
    here, there = record(own, photo, 32), record(read, photo, 32)
    ours, theirs = here.map(name).weights, there.map(name).weights
    np.testing.assert_allclose(theirs, ours, rtol=0.02, atol=1e-4)  # the folder is in half precision
    assert torch.allclose(here.vector, there.vector, rtol=0.02, atol=0.02)
    student = load_checkpoint(folder / FILE, device="cpu", weights="student")
    assert not torch.equal(record(student, photo, 32).vector, there.vector)


def test_an_interrupted_run_goes_on_to_the_same_bits(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_for(shapes, tmp_path, "resnet simpool", photos=32 * 5, photometric=1)
    whole = train(recipe, tmp_path / "whole", tmp_path / "cache")
    monkeypatch.setattr(loop_module, "SAVE_EVERY", 2)
    with interrupted_at(monkeypatch, 4):
        train(recipe, tmp_path / "parts", tmp_path / "cache")
    parts = train(recipe, tmp_path / "parts", tmp_path / "cache")
    first, second = trained_weights(whole), trained_weights(parts)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    files = [torch.load(run / FILE, weights_only=False) for run in (whole, parts)]
    assert all(torch.equal(value, files[1]["teacher"][key]) for key, value in files[0]["teacher"].items())


def test_names_and_settings_are_those_of_dino_s_files() -> None:
    encoder = vit_spec("simpool", num_classes=0).build(Facts("mine"))
    state = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    named = names_of_dino(state | {"head.layers.0.weight": torch.zeros(1)})
    assert "backbone.blocks.0.attn.qkv.weight" in named and "backbone.simpool.wq.weight" in named
    assert "head.mlp.0.weight" in named and "backbone.norm.weight" in names_of_dino(
        {"encoder.norm.weight": named["head.mlp.0.weight"]}
    )
    assert not [key for key in named if "pooling" in key or "encoder" in key]
    assert file_settings(encoder, 64)["gp"] == "simpool" and file_settings(encoder, 64)["img_size"] == 64


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder": {**MODELS["vit cls"], "num_classes": 3}}, r"leave out encoder\.num_classes"),
        ({"mixup": 0.2, "ema": 0.9}, "of its own average; leave out mixup, ema"),
        ({"follow_entropy": True}, "of its own average; leave out follow_entropy"),
        ({"dino": {**SMALL, "local_size": 12}}, "local_size is a multiple of 8 px, not 12"),
        ({"dino": {**SMALL, "momentum": 1.5}}, r"dino\.momentum"),
        ({"dino": {"crops": 2}}, r"dino.*crops"),
        ({"encoder": {**MODELS["resnet simpool"], "inside": "spe"}}, "SPE's penalty is no part of dino's loss"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    shapes: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    given = {"encoder": MODELS["vit cls"], "dino": SMALL, "stages": [{"size": 32, "photos": 64, "lr": 0.001}]}
    path = write_recipe(tmp_path, data=str(shapes), **(given | changes))
    with pytest.raises(TrainingError, match=sentence):
        recipe = load_recipe(str(path))
        assert isinstance(recipe, Recipe)
        train(recipe, tmp_path / "runs", tmp_path / "cache")
