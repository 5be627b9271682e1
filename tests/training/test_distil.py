"""Distillation: the teacher's tokens of the very crop that the student sees, and a loss that is 0 where they agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simpool_viz.errors import TrainingError
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.training.data import Photos, load_photos
from simpool_viz.training.distil import DISTANCES, Distillation, Lesson, Student, make_lesson, mean_cosine
from simpool_viz.training.features import CropPlan
from tests.helpers import small_resnet, small_vit


@pytest.fixture(scope="module")
def photos(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Photos:
    return load_photos(shapes, "val", tmp_path_factory.mktemp("cache"), 64)


def lesson_of(
    photos: Photos, cache: Path, student: Encoder, teacher: Encoder, size: int = 32, **settings: Any
) -> Lesson:
    recipe = Distillation("teacher", **settings)
    return make_lesson(recipe, student, teacher, photos, CropPlan(size, 0.5, seed=2), cache, "made up")


@pytest.mark.parametrize("loss", DISTANCES)
def test_the_teacher_itself_has_nothing_left_to_learn(photos: Photos, tmp_path: Path, loss: str) -> None:
    teacher = small_vit()
    lesson = lesson_of(photos, tmp_path, teacher, teacher, loss=loss, class_token=0.5)
    index, still = np.arange(8), torch.zeros(8, dtype=torch.bool)
    x = lesson.inputs(torch.tensor(photos.images[index]), index, still, torch.zeros(len(index), 2))
    with torch.inference_mode():
        own = lesson.loss(Student(teacher, teacher.dim, lesson.recipe)(x), lesson.targets(index, still))
        other = lesson.loss(Student(small_vit(seed=5), teacher.dim, lesson.recipe)(x), lesson.targets(index, still))
    assert float(own) < 0.05 < 0.3 < float(other), "up to bfloat16, in which the teacher's tokens were computed"


def test_a_mirrored_crop_goes_with_mirrored_tokens(photos: Photos, tmp_path: Path) -> None:
    teacher = small_vit()
    lesson = lesson_of(photos, tmp_path, teacher, teacher)
    index, flips = np.arange(4), torch.tensor([True, False, True, False])
    still = torch.zeros(4, dtype=torch.bool)
    stored = torch.tensor(photos.images[index])
    plain, mirrored = (lesson.inputs(stored, index, f, torch.zeros(len(index), 2)) for f in (still, flips))
    for i, flipped in enumerate(flips):
        expected = plain[i].flip(2) if flipped else plain[i]
        torch.testing.assert_close(mirrored[i], expected, atol=1e-4, rtol=0)
        maps = [lesson.targets(index, f).patches[i].T.unflatten(1, lesson.grid) for f in (still, flips)]
        torch.testing.assert_close(maps[1], maps[0].flip(2) if flipped else maps[0])


def test_a_cnn_learns_a_vits_tokens_on_its_own_grid_and_in_its_width(photos: Photos, tmp_path: Path) -> None:
    student, teacher = small_resnet("gap"), small_vit()
    lesson = lesson_of(photos, tmp_path, student, teacher, size=48)
    assert lesson.grid == lesson.features.grid == (6, 6) and lesson.size == 48
    half = lesson_of(photos, tmp_path, student, teacher, size=48, teacher_size=3 * teacher.stride)
    assert half.grid == (6, 6) and half.features.grid == (3, 3)
    index, still = np.arange(4), torch.zeros(4, dtype=torch.bool)
    module = Student(student, teacher.dim, lesson.recipe)
    x = half.inputs(torch.tensor(photos.images[index]), index, still, torch.zeros(len(index), 2))
    answer = module(x)
    assert answer.patches.shape == half.targets(index, still).patches.shape == (4, 36, teacher.dim)
    assert answer.prefix.shape[1] == 0 and answer.output is None
    half.loss(answer, half.targets(index, still)).backward()
    assert module.project.weight.grad is not None


def test_jitter_changes_pictures_and_no_target(photos: Photos, tmp_path: Path) -> None:
    teacher = small_vit()
    lesson = lesson_of(photos, tmp_path, teacher, teacher, jitter=0.3)
    index, still = np.arange(4), torch.zeros(4, dtype=torch.bool)
    stored = torch.tensor(photos.images[index])
    plain = lesson.inputs(stored, index, still, torch.zeros(4, 2))
    found = lesson.inputs(stored, index, still, torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 0.0], [-0.5, 0.5]]))
    expected = [plain[0] * 1.3, plain[1] - 0.3, plain[2], plain[3] * 0.85 + 0.15]
    torch.testing.assert_close(found, torch.stack(expected))


def test_the_cosine_of_the_teacher_with_itself_is_one_over_any_split(photos: Photos, tmp_path: Path) -> None:
    teacher = small_vit()
    lesson = lesson_of(photos, tmp_path, teacher, teacher)
    student = Student(teacher, teacher.dim, lesson.recipe).eval()
    total, count = mean_cosine(student, lesson, photos)
    assert count == len(photos) and total / count > 0.99
    parts = [mean_cosine(student, lesson, photos, (i, 2)) for i in (0, 1)]
    assert sum(c for _, c in parts) == count and sum(t for t, _ in parts) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"loss": "l7"}, "distil.loss is one of smooth_l1_cosine, smooth_l1, cosine, not 'l7'"),
        ({"block": 9}, "distil.block is a block of"),
        ({"student_block": -7}, "distil.student_block is a block of"),
        ({"teacher_size": 33}, "a multiple of the teacher's"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    photos: Photos, tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TrainingError, match=sentence):
        lesson_of(photos, tmp_path, small_vit(), small_vit(), **settings)


def test_a_class_token_is_learned_from_a_class_token(photos: Photos, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="from class token to class token"):
        lesson_of(photos, tmp_path, small_resnet("gap"), small_vit(), size=48, class_token=1.0)
