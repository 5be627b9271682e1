"""DINO's objective: from every crop of a photo a student learns what a slow average of itself makes of two large ones.

No labels and no other teacher take part. Both models end in a head that maps the pooled vector to K outputs; the loss
is the cross entropy of the student's outputs of every crop with the teacher's of another, centred and sharpened, and
the teacher's weights follow the student's.

Source: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021, section 3.1 and algorithm
1, and its released code. Loss and head are lightly's.
"""

from __future__ import annotations

import argparse
import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from simpool_viz.errors import TrainingError, needs_packages
from simpool_viz.modeling.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder
from simpool_viz.outputs import written_whole
from simpool_viz.settings import CLOSED, CropArea, Natural, Number, Positive, Share
from simpool_viz.training.data import random_crops

if TYPE_CHECKING:
    from accelerate import Accelerator

FILE = "dino.pth"  # beside the checkpoint: student and teacher with their heads, in the container of DINO's code
GLOBAL_CROPS = 2
LOCAL_SIDE = 96 / 224  # of a small crop, as a share of a large one's

Temperature = Annotated[Number, Field(gt=0)]


@dataclass(frozen=True)
class SelfDistillation:
    """DINO's settings, as a recipe has them; the defaults are the paper's, but for `outputs`, 65,536 there.

    Attributes:
        outputs: K, of the head.
        hidden: channels of the head's two hidden layers.
        bottleneck: channels before its last layer.
        local_crops: small crops of each photo beside the two large ones.
        local_size: their side in pixels; 0 for 96 / 224 of the stage's, in whole tokens.
        local_area: smallest share of a photo's area in a small crop; the largest is the smallest of a large one, the
            stage's `crop`.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's, after its rise.
        first_temperature: with which that rise begins.
        rise: share of a stage over which it rises linearly.
        centre_momentum: of the average of the teacher's outputs, which is subtracted.
        momentum: of the teacher's weights at the start of a stage; it rises to 1 by a cosine.
        still: share of a stage in which the head's last layer does not learn.
        photometric: how strongly colours vary, are greyed, blurred and solarised; 1 as in the paper, 0 not at all.
    """

    __pydantic_config__ = CLOSED

    outputs: Positive = 4096
    hidden: Positive = 2048
    bottleneck: Positive = 256
    local_crops: Natural = 6
    local_size: Natural = 0
    local_area: CropArea = 0.05
    student_temperature: Temperature = 0.1
    teacher_temperature: Temperature = 0.07
    first_temperature: Temperature = 0.04
    rise: Share = 0.3
    centre_momentum: Share = 0.9
    momentum: Share = 0.996
    still: Share = 0.01
    photometric: Share = 1.0

    def temperature(self, progress: float) -> float:
        """Of the teacher's softmax at a share of the stage."""
        risen = min(progress / self.rise, 1.0) if self.rise else 1.0
        return self.first_temperature + risen * (self.teacher_temperature - self.first_temperature)

    def momentum_at(self, progress: float) -> float:
        """Of the teacher's weights at a share of the stage."""
        return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2


class LargeCrops(NamedTuple):
    """The large crops of a stage: their side in pixels, the smallest share of a photo's area in one, and whether one
    that is longer than its photo is squeezed."""

    size: int
    smallest: float
    squeeze: bool = False


class Views(nn.Module):
    """An encoder with DINO's head: what both the student and the teacher are.

    Args:
        encoder: without a classifier.
        recipe: of the head.

    Raises:
        MissingPackageError: lightly is not installed.
    """

    def __init__(self, encoder: Encoder, recipe: SelfDistillation) -> None:
        super().__init__()
        with needs_packages("self-supervised training", "lightly"):
            from lightly.models.modules.heads import DINOProjectionHead
        self.encoder = encoder
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of PyTorch, whose older weight norm lightly takes
            self.head = DINOProjectionHead(encoder.pooling.out_dim, recipe.hidden, recipe.bottleneck, recipe.outputs)

    def forward(self, sizes: Sequence[Tensor]) -> list[Tensor]:
        """Of normalised crops, a tensor (n B, 3, S, S) for each size S, to outputs (n B, K) of each."""
        return [self.head(self.encoder(x).vector) for x in sizes]


class SelfTeaching:
    """The student and the teacher of a training, and their loss.

    Args:
        recipe: DINO's settings.
        encoder: the student's.
        accelerator: of this process.

    Attributes:
        student: what learns.
        teacher: what follows it.
        beside: everything of a run but the student's encoder, for an interrupted one.

    Raises:
        MissingPackageError: lightly is not installed.
        TrainingError: small crops that are not whole tokens.
    """

    def __init__(self, recipe: SelfDistillation, encoder: Encoder, accelerator: Accelerator) -> None:
        with needs_packages("self-supervised training", "lightly"):
            from lightly.loss.dino_loss import DINOLoss
        if recipe.local_size % encoder.stride:
            raise TrainingError(f"dino.local_size is a multiple of {encoder.stride} px, not {recipe.local_size}")
        self.recipe, self.accelerator = recipe, accelerator
        self.student = Views(encoder, recipe).to(accelerator.device)
        self.teacher = Views(copy.deepcopy(encoder), recipe).to(accelerator.device).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        self.loss = DINOLoss(
            recipe.outputs,
            student_temp=recipe.student_temperature,
            teacher_temp=recipe.teacher_temperature,
            center_momentum=recipe.centre_momentum,
        ).to(accelerator.device)
        self._learned: dict[str, Tensor] = {}
        self.beside = nn.ModuleDict({"head": self.student.head, "teacher": self.teacher, "loss": self.loss})

    def begin(self) -> None:
        """Make both ready for a stage: the teacher's batch norms take each batch's statistics, as the student's do,
        and it drops nothing."""
        self.student.train()
        for module in self.teacher.eval().modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()

    def local_size(self, size: int) -> int:
        """Side of the small crops in pixels, where the large ones have `size`."""
        stride = self.student.encoder.stride
        return self.recipe.local_size or max(1, round(LOCAL_SIDE * size / stride)) * stride

    def views(
        self, images: Tensor, aspect: Tensor, rows: slice, large: LargeCrops, generator: torch.Generator
    ) -> list[Tensor]:
        """The crops of a batch, normalised: [(2 b, 3, S, S), (n b, 3, s, s)], crop by crop, the second one missing
        where there are no small crops.

        Args:
            images: stored photos (B, H, H, 3) uint8.
            aspect: (B,) width / height.
            rows: the b photos of this process. Crops are drawn for all, so that several processes draw what one does.
            large: of side S.
            generator: of the draw.
        """
        recipe, own = self.recipe, images[rows].to(self.accelerator.device)
        kinds = [(large.size, large.smallest, 1.0)] * GLOBAL_CROPS
        least = min(recipe.local_area, large.smallest)
        kinds += [(self.local_size(large.size), least, large.smallest)] * recipe.local_crops
        made = []
        for number, (side, least, most) in enumerate(kinds):
            crops = random_crops(aspect, least, generator, squeeze=large.squeeze, largest=most).of(rows)
            made.append(varied(crops.images(own, side), number, recipe.photometric))
        sizes = [torch.cat(made[:GLOBAL_CROPS]), *([torch.cat(made[GLOBAL_CROPS:])] if recipe.local_crops else [])]
        return [x.to(memory_format=torch.channels_last) for x in sizes]

    def loss_of(self, model: nn.Module, sizes: Sequence[Tensor], progress: float) -> Tensor:
        """The loss of a batch; the centre follows the teacher's outputs.

        Args:
            model: the student, as accelerate has wrapped it.
            sizes: of `views`.
            progress: share of the stage, in [0, 1].
        """
        with torch.no_grad():
            (taught,) = self.teacher(sizes[:1])
        crops = (GLOBAL_CROPS, self.recipe.local_crops)[: len(sizes)]
        own = [view for x, count in zip(model(sizes), crops, strict=True) for view in x.float().chunk(count)]
        given = list(taught.float().chunk(GLOBAL_CROPS))
        loss: Tensor = self.loss(given, own, teacher_temp=self.recipe.temperature(progress))
        return loss

    def hold(self, progress: float) -> None:
        """Let the head's last layer as it is at the beginning of a stage: its gradients are dropped."""
        if progress < self.recipe.still:
            for parameter in self.student.head.last_layer.parameters():
                parameter.grad = None

    @torch.no_grad()
    def follow(self, progress: float) -> None:
        """The teacher's weights follow the student's, after a step."""
        momentum = self.recipe.momentum_at(progress)
        for own, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            own.lerp_(other, 1 - momentum)

    def finish(self) -> None:
        """The student takes the teacher's weights, which are what is kept, and the statistics of its batch norms; its
        own, of the end of the stage, are for `save`."""
        self._learned = names_of_dino(self.student.state_dict())
        self.student.load_state_dict(self.teacher.state_dict())
        self.student.eval()

    def save(self, folder: Path, settings: dict[str, Any], epoch: int) -> None:
        """Write student and teacher of a stage that is finished, with their heads, as DINO's code writes them.

        Args:
            folder: of the checkpoint.
            settings: of `file_settings`.
            epoch: number of times that every photo was seen.
        """
        content = {
            "student": {f"module.{key}": value for key, value in self._learned.items()},
            "teacher": names_of_dino(self.teacher.state_dict()),
            "epoch": epoch,
            "args": argparse.Namespace(**settings),
        }
        with written_whole(folder / FILE) as part:
            torch.save(content, part)


def names_of_dino(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a `Views` by the names of DINO's code: `backbone.*`, pooling and norm inside it, and `head.*`."""
    named = {}
    for key, value in state.items():
        key = key.removeprefix("encoder.")
        if key.startswith("norm."):
            key = f"backbone.{key}"
        elif key.startswith("pooling."):
            key = "backbone.simpool." + key.removeprefix("pooling.")
        named[key.replace("head.layers.", "head.mlp.")] = value.detach().clone()
    return named


def file_settings(encoder: Encoder, size: int) -> dict[str, Any]:
    """What the reader of `dino.pth` cannot see in its tensors, by the names of the scripts that write such files.

    Args:
        encoder: of the student.
        size: of the large crops in pixels.
    """
    settings: dict[str, Any] = {"mode": "official", "img_size": size, "pos_embed": "timm"}
    if encoder.pooling.name == "simpool":
        settings |= {"gp": "simpool", "gamma": getattr(encoder.pooling, "gamma", None)}
    return settings


# --- photometric variation --------------------------------------------------------------------------------------------


def varied(images: Tensor, number: int, strength: float) -> Tensor:
    """Vary the colours of the crops of one kind, each by itself, as DINO does.

    Brightness and contrast vary by 0.4, saturation by 0.2 and hue by 0.1 in four of five crops, and one of five is
    grey. The first large crop is blurred, one of ten of the second and half of the small ones; one of five of the
    second is solarised. Draws are of PyTorch's global generator.

    Args:
        images: (B, 3, S, S), normalised.
        number: of the crop, the large ones first.
        strength: in [0, 1], of the variations and of their shares.
    """
    if not strength:
        return images
    from torchvision.transforms import v2

    side = images.shape[-1]
    widest = max(2.0 * side / 224, 0.2)  # the standard deviation of 2 px is one at 224 px
    kernel = 2 * math.ceil(2 * widest) + 1
    blurred = {0: 1.0, 1: 0.1}.get(number, 0.5)
    jitter = v2.ColorJitter(0.4 * strength, 0.4 * strength, 0.2 * strength, 0.1 * strength)
    steps: list[nn.Module] = [v2.RandomApply([jitter], 0.8), v2.RandomGrayscale(0.2 * strength)]
    steps.append(v2.RandomApply([v2.GaussianBlur(kernel, (widest / 20, widest))], blurred * strength))
    if number == 1:
        steps.append(v2.RandomSolarize(0.5, 0.2 * strength))
    change = v2.Compose(steps)
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = (images * std + mean).clamp(0, 1)
    return (torch.stack([change(one) for one in pixels]) - mean) / std
