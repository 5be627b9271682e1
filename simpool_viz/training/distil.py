"""Distillation: a student learns the tokens of a teacher, which are computed once per crop and kept, or its pooled
vector learns the teacher's class token, an aim without labels, or beside them.

Tokens are standardised by channel, so that none outweighs the others. Of a teacher's token y and the student's x the
loss is smooth L1 + (1 - cosine) by default. [ours]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from simpool_viz.errors import TrainingError
from simpool_viz.modeling.encoder import Encoder, Output
from simpool_viz.modeling.pooling import Tokens
from simpool_viz.settings import CLOSED, Natural, NotNegative, Number, Whole
from simpool_viz.training.data import Crops, Photos
from simpool_viz.training.features import CropPlan, Features, keep_features, tokens_at

Distance = Callable[[Tensor, Tensor], Tensor]


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(x, y, dim=-1)


def _smooth_l1(x: Tensor, y: Tensor) -> Tensor:
    return F.smooth_l1_loss(x, y, reduction="none").mean(-1)


# From standardised tokens (..., D) of student and teacher to a distance (...) of each.
DISTANCES: dict[str, Distance] = {
    "smooth_l1_cosine": lambda x, y: _smooth_l1(x, y) + _cosine(x, y),
    "smooth_l1": _smooth_l1,
    "cosine": _cosine,
}


@dataclass(frozen=True)
class Distillation:
    """What of a teacher is learned, as a recipe says it.

    Attributes:
        teacher: any checkpoint that `load_checkpoint` takes; a ViT, or a CNN.
        inherit: how many photos the columns of the student's MLPs are fitted on where it inherits the teacher's blocks
            (see `training.inherit`); 0 where it starts by itself.
        blocks: which of the teacher's blocks it inherits; all by default.
        block: number of the teacher's block whose output is learned, negative from the last; None for its features
            after the final norm.
        student_block: likewise, of the student.
        aim: "tokens", or "vector" for the pooled vector, which learns the teacher's class token through a projection.
        loss: a name of `DISTANCES`.
        weight: of that loss beside the cross entropy, where the student learns classes too.
        class_token: weight of the class token beside the patches; 0 for none.
        teacher_size: side in pixels at which the teacher is given a crop; 0 for the one at which its grid is the
            student's.
        jitter: brightness and contrast of the student's crops vary by this share.
    """

    __pydantic_config__ = CLOSED

    teacher: str
    inherit: Natural = 0
    blocks: tuple[Natural, ...] = ()
    block: Whole | None = None
    student_block: Whole | None = None
    aim: str = "tokens"
    loss: str = "smooth_l1_cosine"
    weight: NotNegative = 1.0
    class_token: NotNegative = 0.0
    teacher_size: Natural = 0
    jitter: Annotated[Number, Field(ge=0, lt=1)] = 0.0


class Answer(NamedTuple):
    """What a student makes of a batch.

    Attributes:
        patches: (B, N, D) in the teacher's width.
        prefix: (B, P, D), likewise. Where the pooled vector learns, it is the only prefix token and N is 0.
        output: of pooling and head, where the vector learns.
    """

    patches: Tensor
    prefix: Tensor
    output: Output | None = None


class Student(nn.Module):
    """The student as it is trained: its tokens or its pooled vector, brought to the teacher's width.

    The projection is part of the training alone and is not saved. Tokens of the teacher's width have none.

    Args:
        encoder: the student's.
        width: of the teacher's tokens.
        recipe: which of its outputs learns.

    Attributes:
        blocks: number of first blocks that have run on what it is given; 0 where it is given images.
        grid: (h, w) of what it is given then.
    """

    def __init__(self, encoder: Encoder, width: int, recipe: Distillation) -> None:
        super().__init__()
        self.encoder, self.recipe = encoder, recipe
        self.blocks, self.grid = 0, (0, 0)
        vector = recipe.aim == "vector"
        own = encoder.pooling.out_dim if vector else encoder.dim
        self.project = nn.Linear(own, width) if vector or own != width else nn.Identity()

    def forward(self, x: Tensor) -> Answer:
        """Of normalised images (B, 3, H, W), or of what the first blocks made of them (B, P + N, D')."""
        tokens = self._tokens(x)
        if self.recipe.aim == "vector":
            output = self.encoder.read(tokens)
            vector = self.project(output.vector)[:, None]
            return Answer(vector[:, :0], vector, output)
        return Answer(self.project(tokens.patches), self.project(tokens.prefix))

    def _tokens(self, x: Tensor) -> Tokens:
        if x.ndim == 3:
            return self.encoder.finish(x, self.blocks, self.grid)
        return tokens_at(self.encoder, x, self.recipe.student_block)


@dataclass(frozen=True)
class Lesson:
    """One stage's crops with what the teacher makes of them.

    grid: of the student. mean, std: (D,) of the teacher's tokens, by channel.
    """

    recipe: Distillation
    crops: Crops
    features: Features
    size: int
    grid: tuple[int, int]
    mean: Tensor
    std: Tensor

    def inputs(self, stored: Tensor, index: np.ndarray, flips: Tensor, noise: Tensor) -> Tensor:
        """The student's crops (B, 3, size, size), float32.

        Args:
            stored: the photos (B, S, S, 3) uint8.
            index: their places (B,) in the data.
            flips: which of them are mirrored, (B,) bool.
            noise: (B, 2) in [-1, 1], what contrast and brightness vary by, as shares of `jitter`.
        """
        crops = self.crops.of(torch.from_numpy(index))
        sign = torch.where(flips, -1.0, 1.0)
        x = Crops(crops.width * sign, crops.height, crops.x, crops.y).images(stored, self.size)
        contrast, brightness = (self.recipe.jitter * noise.to(x.device)).T[:, :, None, None, None]
        return x * (1 + contrast) + brightness

    def targets(self, index: np.ndarray, flips: Tensor, device: torch.device | str = "cpu") -> Tokens:
        """The teacher's tokens of those crops, standardised, on the student's grid."""
        tokens = self.features.batch(index, device)
        if self.recipe.aim == "vector":
            return Tokens(tokens.patches, tokens.grid, self.standardised(tokens.prefix[:, :1]))
        maps = self.standardised(tokens.patches).transpose(1, 2).unflatten(2, tokens.grid)  # (B, D, h, w)
        maps = torch.where(flips.to(device)[:, None, None, None], maps.flip(3), maps)
        if tokens.grid != self.grid:
            maps = F.interpolate(maps, self.grid, mode="bilinear", align_corners=False, antialias=True)
        return Tokens(maps.flatten(2).transpose(1, 2), self.grid, self.standardised(tokens.prefix))

    def standardised(self, tokens: Tensor) -> Tensor:
        """Tokens (..., D) of student or teacher, float32, by the teacher's mean and deviation of each channel."""
        return (tokens.float() - self.mean.to(tokens.device)) / self.std.to(tokens.device)

    def loss(self, answer: Answer, targets: Tokens) -> Tensor:
        """Mean distance of the student's tokens, and of its class token, from the teacher's, or that of its vector."""
        distance = DISTANCES[self.recipe.loss]
        if self.recipe.aim == "vector":
            return distance(self.standardised(answer.prefix), targets.prefix).mean()
        loss = distance(self.standardised(answer.patches), targets.patches).mean()
        if self.recipe.class_token:
            own = self.standardised(answer.prefix[:, :1])
            loss = loss + self.recipe.class_token * distance(own, targets.prefix[:, :1]).mean()
        return loss


def make_lesson(
    recipe: Distillation, student: Encoder, teacher: Encoder, photos: Photos, plan: CropPlan, cache: Path, label: str
) -> Lesson:
    """The teacher's features of every photo's crop, computed unless they are kept already.

    Args:
        plan: the student's crops; the teacher sees the same ones at its own size.
        cache: where features are kept. label: of the progress bar.

    Raises:
        TrainingError: a loss or a block that does not exist, or a class token that either of the two has not.
    """
    check_distillation(recipe, student, teacher)
    grid = (plan.size // student.stride, plan.size // student.stride)
    size = recipe.teacher_size or grid[0] * teacher.stride
    if size % teacher.stride:
        raise TrainingError(f"distil.teacher_size is a multiple of the teacher's {teacher.stride} px, not {size}")
    seen = CropPlan(size, plan.smallest, plan.seed)
    patches = recipe.aim == "tokens"
    features = keep_features(teacher, photos, seen, cache, block=recipe.block, patches=patches, label=label)
    return Lesson(recipe, plan.crops(photos.aspect), features, plan.size, grid, *features.statistics())


def check_distillation(recipe: Distillation, student: Encoder, teacher: Encoder) -> None:
    """Refuse what cannot be learned. Errors as in `make_lesson`."""
    if recipe.loss not in DISTANCES:
        raise TrainingError(f"distil.loss is one of {', '.join(DISTANCES)}, not {recipe.loss!r}")
    for name, block, encoder in (("block", recipe.block, teacher), ("student_block", recipe.student_block, student)):
        if block is not None and not -encoder.depth <= block < encoder.depth:
            raise TrainingError(
                f"distil.{name} is a block of {encoder.facts.name}, which has {encoder.depth}, not {block}"
            )
    if recipe.aim not in ("tokens", "vector"):
        raise TrainingError(f"distil.aim is tokens or vector, not {recipe.aim!r}")
    of_tokens = recipe.class_token or recipe.student_block is not None
    if recipe.aim == "vector" and (of_tokens or not teacher.has_class_token):
        raise TrainingError(
            "distil.aim: vector learns the teacher's class token, which it must have; class_token and student_block "
            "are for tokens"
        )
    without = [e.facts.name for e in (student, teacher) if not e.has_class_token]
    if recipe.class_token and without:
        raise TrainingError(f"distil.class_token is learned from class token to class token; {without[0]} has none")


@torch.inference_mode()
def mean_cosine(
    student: Student, lesson: Lesson, photos: Photos, part: tuple[int, int] = (0, 1), begun: Features | None = None
) -> tuple[float, int]:
    """Sum over photos of the mean cosine between standardised tokens of student and teacher, or between vector and
    class token, and how many photos.

    Args:
        part: (i, n) for each n-th batch from the i-th.
        begun: what the student's frozen trunk made of the crops, where that is kept.
    """
    total, count, batch = 0.0, 0, 64
    device, vector = next(student.parameters()).device, lesson.recipe.aim == "vector"
    for start in range(part[0] * batch, len(photos), part[1] * batch):
        index = np.arange(start, min(start + batch, len(photos)))
        flips, noise = torch.zeros(len(index), dtype=torch.bool), torch.zeros(len(index), 2)
        if begun is None:
            x = lesson.inputs(torch.tensor(photos.images[index]).to(device), index, flips, noise)
        else:
            x = begun.sequence(index, device)
        answer, targets = student(x), lesson.targets(index, flips, device)
        own, given = (answer.prefix, targets.prefix) if vector else (answer.patches, targets.patches)
        total += float(F.cosine_similarity(lesson.standardised(own), given, dim=-1).mean(1).sum())
        count += len(index)
    return total, count
