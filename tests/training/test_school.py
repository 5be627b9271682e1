"""A student that a recipe trains from a teacher: the loss falls, the folder loads, an interrupted run goes on."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from simpool_viz import load_checkpoint, record
from simpool_viz.checkpoints.bundle import save_bundle
from simpool_viz.errors import TrainingError
from simpool_viz.modeling.encoder import Facts
from simpool_viz.training import loop as loop_module
from simpool_viz.training.loop import train
from simpool_viz.training.recipe import Recipe, load_recipe
from tests.helpers import interrupted_at, make_photo, stored_weights, trained_weights, vit_spec, write_recipe

CNN: dict[str, Any] = {
    "backbone": "resnet18",
    "pooling": "gap",
    "num_classes": 0,
    "stem_pool": False,
    "backbone_kwargs": {"channels": [8, 8, 16, 16], "stem_type": "deep", "stem_width": 8, "output_stride": 16},
}
TEACHER = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 8, "class_token": True}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a ViT whose weights are far from their start."""
    torch.manual_seed(0)
    spec = vit_spec(num_classes=0, backbone_kwargs=TEACHER)
    encoder = spec.build(Facts("teacher", "Teacher", 64)).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("teachers") / "teacher"
    save_bundle(folder, encoder, spec, "# made up\n")
    return folder


def recipe_for(
    shapes: Path,
    folder: Path,
    teacher: Path,
    *,
    photos: int = 32 * 6,
    encoder: Any = None,
    precision: str = "bf16",
    **distil: Any,
) -> Recipe:
    thin = {**TEACHER, "mlp_ratio": 2.0}
    encoder = encoder or {
        "backbone": "vit_tiny_patch16_224",
        "pooling": "cls",
        "num_classes": 0,
        "backbone_kwargs": thin,
    }
    stages = [{"size": 32, "photos": photos, "lr": 0.002, "warmup": 32}]
    path = write_recipe(
        folder,
        data=str(shapes),
        encoder=encoder,
        stages=stages,
        precision=precision,
        distil={"teacher": str(teacher), **distil},
    )
    recipe = load_recipe(str(path))
    assert isinstance(recipe, Recipe)
    return recipe


def losses(folder: Path) -> list[float]:
    with (folder / "log_stage1.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def cosine_of(folder: Path) -> float:
    accuracy = load_checkpoint(folder, device="cpu").facts.accuracy
    assert "with the tokens of Teacher on 50 held-out photos" in accuracy
    return float(accuracy.split()[1])


def test_a_student_by_itself_learns_its_teachers_tokens(
    shapes: Path, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "LOG_EVERY", 5)
    made = train(recipe_for(shapes, tmp_path, teacher, photos=32 * 60), tmp_path / "runs", tmp_path / "cache")
    first, *_, last = losses(made)
    assert last < 0.7 * first and cosine_of(made) > 0.5
    recording = record(load_checkpoint(made, device="cpu"), make_photo())
    assert recording.map("cls").weights.shape[1:] == recording.geometry.grid and recording.logits is None
    assert "cosine" in (made / "README.md").read_text()


def test_a_student_that_inherits_begins_where_the_other_does_not_arrive(
    shapes: Path, tmp_path: Path, teacher: Path
) -> None:
    recipe = recipe_for(shapes, tmp_path, teacher, photos=32, inherit=100, class_token=0.3, jitter=0.1)
    heir = train(recipe, tmp_path / "heir", tmp_path / "cache")
    alone = train(recipe_for(shapes, tmp_path, teacher, photos=32), tmp_path / "alone", tmp_path / "cache")
    assert cosine_of(heir) > 0.6 > cosine_of(alone) + 0.1


def test_a_cnn_learns_a_vit_in_its_own_width(shapes: Path, tmp_path: Path, teacher: Path) -> None:
    recipe = recipe_for(shapes, tmp_path, teacher, encoder=CNN, photos=32 * 80)
    made = train(recipe, tmp_path / "runs", tmp_path / "cache")
    assert cosine_of(made) > 0.15, "measured through the projection that was trained; a random one gives about 0"
    assert not [key for key in trained_weights(made) if "project" in key]
    assert load_checkpoint(made, device="cpu").dim == 16


def test_a_pooled_vector_learns_the_class_token_without_labels(
    shapes: Path, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "LOG_EVERY", 5)
    encoder = {**CNN, "pooling": "simpool"}
    made = train(
        recipe_for(shapes, tmp_path, teacher, encoder=encoder, photos=32 * 60, aim="vector"),
        tmp_path / "runs",
        tmp_path / "cache",
    )
    first, *_, last = losses(made)
    assert last < 0.8 * first
    accuracy = load_checkpoint(made, device="cpu").facts.accuracy
    assert "with the class token of Teacher on 50 held-out photos" in accuracy and float(accuracy.split()[1]) > 0.3
    assert record(load_checkpoint(made, device="cpu"), make_photo()).map("simpool").weights.ndim == 3


def test_a_pooled_vector_learns_classes_and_the_class_token_together(
    shapes: Path, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "LOG_EVERY", 5)
    encoder = {**CNN, "pooling": "simpool", "num_classes": 3}
    runs = {}
    for weight in (0, 4):
        recipe = recipe_for(
            shapes, tmp_path, teacher, encoder=encoder, photos=32 * 40, precision="no", aim="vector", weight=weight
        )
        runs[weight] = train(recipe, tmp_path / f"runs{weight}", tmp_path / "cache")
    first, *_, last = losses(runs[4])
    assert last < 0.8 * first and first > losses(runs[0])[0] + 3  # smooth L1 + (1 - cosine) is about 1.4 at first
    taught = load_checkpoint(runs[4], device="cpu")
    assert len(taught.facts.classes) == 3 and taught.facts.accuracy.split()[1] == "%"
    card = (runs[4] / "README.md").read_text()
    assert "label smoothing 0.1 + 4 of smooth_l1_cosine of the pooled vector" in card and "not used" not in card
    plain, own = trained_weights(runs[0]), trained_weights(runs[4])
    assert any(not torch.equal(value, plain[key]) for key, value in own.items())


def test_what_no_vector_can_learn_is_refused(shapes: Path, tmp_path: Path, teacher: Path) -> None:
    for distil in ({"aim": "vector", "class_token": 0.3}, {"aim": "vector", "student_block": 1}):
        with pytest.raises(TrainingError, match="class_token and student_block are for tokens"):
            train(recipe_for(shapes, tmp_path, teacher, **distil), tmp_path / "runs", tmp_path / "cache")
    with pytest.raises(TrainingError, match=r"distil\.aim is tokens or vector, not 'patches'"):
        train(recipe_for(shapes, tmp_path, teacher, aim="patches"), tmp_path / "runs", tmp_path / "cache")


def test_an_interrupted_student_goes_on_to_the_same_bits(
    shapes: Path, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = {**CNN["backbone_kwargs"], "drop_path_rate": 0.3}
    recipe = recipe_for(shapes, tmp_path, teacher, encoder={**CNN, "backbone_kwargs": chance}, jitter=0.1)
    whole = train(recipe, tmp_path / "whole", tmp_path / "cache")
    monkeypatch.setattr(loop_module, "SAVE_EVERY", 2)
    with interrupted_at(monkeypatch, 5):
        train(recipe, tmp_path / "parts", tmp_path / "cache")
    parts = train(recipe, tmp_path / "parts", tmp_path / "cache")
    other = trained_weights(parts)
    assert all(torch.equal(value, other[key]) for key, value in trained_weights(whole).items())


def test_two_processes_teach_as_one(shapes: Path, tmp_path: Path, teacher: Path) -> None:
    recipe = recipe_for(shapes, tmp_path, teacher, precision="no", inherit=40, class_token=0.5, jitter=0.2)
    one = stored_weights(train(recipe, tmp_path / "one", tmp_path / "cache"))
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    command = [sys.executable, *launch.split(), "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "simpool_viz", "train", str(tmp_path / "mine.yaml"), "-o", str(tmp_path / "two")]
    # Where there are GPUs, they are left alone.
    command += ["--threads", "1", "--device", "cpu"]
    done = subprocess.run(command, env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = stored_weights(tmp_path / "two" / "mine")
    for key, value in one.items():
        assert (value.float() - two[key].float()).abs().max() < 2e-3, key


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"distil": {"teacher": "x", "loss": 3}}, "distil.loss is text"),
        ({"distil": {"teacher": "x", "jitter": 2}}, "distil.jitter"),
        ({"distil": {"teacher": "x", "losses": "x"}}, "no setting distil.losses: .losses. is none of teacher, inherit"),
        ({"distil": {"teacher": "x"}}, "a student learns tokens and no classes"),
        ({"distil": {"teacher": "x", "aim": "vector"}, "mixup": 0.2}, "what a teacher makes of a photo is not mixed"),
    ],
)
def test_a_recipe_that_teaches_nothing_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        load_recipe(str(write_recipe(tmp_path, **changes)))
