"""The teacher of a training: loaded once, asked for its tokens of every stage's crops."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from simpool_viz.checkpoints.load import load_checkpoint
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.training.data import Photos
from simpool_viz.training.distil import Distillation, Lesson, Student, check_distillation, make_lesson, mean_cosine
from simpool_viz.training.features import CropPlan, Features
from simpool_viz.training.inherit import inherit
from simpool_viz.training.recipe import Stage

if TYPE_CHECKING:
    from accelerate import Accelerator


class School:
    """A teacher, and how its students are begun, taught and measured.

    Args:
        recipe: what is learned of which teacher.
        cache: where the teacher's features are kept.
        encoder: the student's; its projection to the teacher's width is the same one in every stage.
        accelerator: of this process; the first one computes what the others read.

    Raises:
        CheckpointError: a teacher that cannot be loaded.
        TrainingError: as in `check_distillation`.
    """

    def __init__(self, recipe: Distillation, encoder: Encoder, cache: Path, accelerator: Accelerator) -> None:
        self.recipe, self.cache, self.accelerator = recipe, cache, accelerator
        self.teacher = load_checkpoint(recipe.teacher, device="cpu").to(accelerator.device)
        check_distillation(recipe, encoder, self.teacher)
        self.student = Student(encoder, self.teacher.dim, recipe).to(accelerator.device)

    def begin(self, photos: Photos, stage: Stage, seed: int) -> None:
        """Let the student inherit the teacher's blocks where the recipe says so. Errors as in `inherit`."""
        if not self.recipe.inherit:
            return
        chosen = np.sort(np.random.default_rng(seed).permutation(len(photos))[: self.recipe.inherit])
        crops = CropPlan(stage.size, stage.crop, seed).crops(photos.aspect[chosen])
        images = crops.images(torch.tensor(photos.images[chosen]), stage.size)
        inherit(self.student.encoder, self.teacher, images.to(self.accelerator.device), self.recipe.blocks or None)

    def lesson(self, photos: Photos, plan: CropPlan, label: str) -> Lesson:
        """The teacher's tokens of every photo's crop. Errors as in `make_lesson`."""
        with self.accelerator.main_process_first():
            return make_lesson(self.recipe, self.student.encoder, self.teacher, photos, plan, self.cache, label)

    def measure(self, photos: Photos, size: int, begun: Features | None = None) -> str:
        """The mean cosine of standardised tokens, or vectors, with the teacher's, on the central squares of held-out
        photos.

        Args:
            size: of the squares in pixels, as the student is given them.
            begun: what the student's frozen trunk made of them, where that is kept.
        """
        lesson = self.lesson(photos, CropPlan(size, None), "held-out photos")
        place = (self.accelerator.process_index, self.accelerator.num_processes)
        if begun is not None:
            self.student.grid = begun.grid
        total, _ = mean_cosine(self.student.eval(), lesson, photos, place, begun)
        reduced = self.accelerator.reduce(torch.tensor(total, device=self.accelerator.device), "sum")
        what = "class token" if self.recipe.aim == "vector" else "tokens"
        return (
            f"cosine {float(reduced) / len(photos):.3f} with the {what} of {self.teacher.facts.title} on "  # type: ignore[arg-type]
            f"{len(photos)} held-out photos"
        )
