"""One step of training, on one process or several, and what it needs: accelerate's view of the machine, timm's
optimiser.

Every process draws the crops of the whole batch and works on its own rows, so that two processes train as one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from simpool_viz.capture.hooks import AttentionCapture
from simpool_viz.errors import DivergedError, TrainingError, needs_packages
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.layers.spe import spe_penalty
from simpool_viz.modeling.sharing import EMBEDDING
from simpool_viz.tensors import computes_bfloat16
from simpool_viz.training import losses
from simpool_viz.training.data import Batches, random_crops
from simpool_viz.training.dino import LargeCrops, SelfTeaching
from simpool_viz.training.distil import Lesson
from simpool_viz.training.features import Features
from simpool_viz.training.recipe import HeadsRecipe, Recipe, Stage, check_patterns, factor_of

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(precision: str, device: str = "auto") -> Accelerator:
    """accelerate's view of this process: alone, or one of those that `accelerate launch` started.

    Args:
        precision: as `Recipe.precision`; "bf16" becomes "no" on a device that would emulate it.
        device: "auto" for what accelerate finds, or "cpu".

    Raises:
        TrainingError: a precision that the device does not have.
    """
    with needs_packages("training", "accelerate"):
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    AcceleratorState._reset_state()  # one process may train recipes of several precisions, one after the other
    try:
        accelerator = Accelerator(mixed_precision=precision, cpu=device == "cpu")
    except ValueError as error:  # of accelerate, for a precision that the device lacks
        raise TrainingError(f"precision: {precision} cannot be had here ({error}); set precision=no") from error
    if precision != "bf16" or computes_bfloat16(accelerator.device):
        return accelerator
    return make_accelerator("no", device)


def tell_precision(accelerator: Accelerator, precision: str) -> None:
    """Say where another precision is computed in than the recipe's."""
    if accelerator.mixed_precision != precision:
        accelerator.print("bfloat16 is only emulated on this device, so float32 is computed")


def rows_of(batch_size: int, accelerator: Accelerator) -> slice:
    """The rows of a batch that this process works on.

    Raises:
        TrainingError: the batch does not split into equal parts.
    """
    share, rest = divmod(batch_size, accelerator.num_processes)
    if rest:
        raise TrainingError(
            f"a batch of {batch_size} does not split over {accelerator.num_processes} processes; set batch_size"
        )
    return slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)


def set_learning(encoder: Encoder, freeze: str = "", blocks: int = 0) -> None:
    """Make an encoder ready to learn, but for its "stem", "backbone" or "trunk" of first blocks, which stays as it is,
    batch statistics included."""
    encoder.train().requires_grad_(True)
    vit: Any = encoder.backbone
    if freeze == "trunk":
        for part in [getattr(vit, name, None) for name in EMBEDDING] + list(encoder.blocks[:blocks]):
            if isinstance(part, nn.Module):
                part.eval()
            if part is not None:
                part.requires_grad_(False)
    elif freeze:
        still: nn.Module = vit if freeze == "backbone" else vit.patch_embed.backbone
        still.eval().requires_grad_(False)


def attention_to_learn(device: torch.device) -> AbstractContextManager[Any]:
    """The attention kernel to train with: on CPUs the backward pass of the fused one takes longer than plain matrix
    products do."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def make_optimizer(
    module: nn.Module,
    recipe: Recipe | HeadsRecipe,
    stage: Stage | HeadsRecipe,
    rates: Mapping[str, float] | None = None,
) -> tuple[torch.optim.Optimizer, Any]:
    """timm's optimiser, without weight decay on biases, norms and exponents, and its cosine schedule, which counts
    photos.

    Args:
        module: what is learned, an encoder or a student that holds one.
        recipe: for the optimiser.
        stage: for the schedule.
        rates: factors of the learning rate, as `Recipe.rates`.

    Raises:
        TrainingError: rates for a tensor that there is not, or that does not learn.
    """
    from timm.optim import create_optimizer_v2
    from timm.scheduler.cosine_lr import CosineLRScheduler

    groups = _groups(module, recipe.weight_decay, rates or {}, isinstance(stage, Stage) and bool(stage.freeze))
    optimizer = create_optimizer_v2(groups, recipe.optimizer, lr=stage.lr, weight_decay=recipe.weight_decay)
    fall = max(1, stage.photos - stage.warmup)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=fall, warmup_t=stage.warmup, warmup_prefix=True, t_in_epochs=False
    )
    return optimizer, scheduler


def _groups(module: nn.Module, weight_decay: float, rates: Mapping[str, float], resting: bool) -> list[dict[str, Any]]:
    """timm's groups of parameters, divided by the factor of the learning rate, which timm's schedules multiply by.

    resting: some tensors learn in other stages alone.
    """
    from timm.optim import param_groups_weight_decay

    names = {parameter: name.removeprefix("encoder.") for name, parameter in module.named_parameters()}
    learned = [name for parameter, name in names.items() if parameter.requires_grad]
    check_patterns("rates", rates, [*names.values()] if resting else learned, " that learns")
    parts: list[dict[str, Any]] = []
    for group in param_groups_weight_decay(module, weight_decay):
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_factor.setdefault(factor_of(rates, names[parameter]), []).append(parameter)
        parts += [{**group, "params": params, "lr_scale": scale} for scale, params in by_factor.items()]
    return parts


def make_average(module: nn.Module, recipe: Recipe) -> Any:
    """timm's exponential moving average of the weights, or None where the recipe asks for none."""
    from timm.utils import ModelEmaV3

    return ModelEmaV3(module, decay=recipe.ema, use_warmup=True) if recipe.ema else None


class Step:
    """One step of a stage on a batch of stored photos; returns the loss, the mean over all processes.

    Attributes:
        entropy: sum of the spatial entropies of the steps, where these are measured: a scalar, of all processes.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        model: nn.Module,
        encoder: Encoder,
        optimizer: Any,
        accelerator: Accelerator,
        number: int,
        lesson: Lesson | None = None,
        kept: Features | None = None,
        dino: SelfTeaching | None = None,
    ) -> None:
        self.recipe, self.stage, self.model, self.encoder = recipe, stage, model, encoder
        self.optimizer, self.accelerator, self.number = optimizer, accelerator, number
        self.rows = rows_of(recipe.batch_size, accelerator)
        self.mix, self.lesson, self.kept, self.dino = _mixup(recipe), lesson, kept, dino
        self.entropy = torch.zeros((), device=accelerator.device)

    def __call__(self, batch: tuple[Tensor, Tensor, Tensor], index: np.ndarray, stream: Batches) -> Tensor:
        """A step on stored photos `batch` (images, proportions, labels), which are those of `index` (B,)."""
        from accelerate.utils import set_seed

        # Anew at every step, so that drop-path and mixup need no state of their own to be taken up again.
        set_seed(
            ((self.recipe.seed * 100 + self.number) * 1_000_000 + stream.step * 64 + self.accelerator.process_index)
            % 2**32
        )
        images, aspect, labels = batch
        device = self.accelerator.device
        if self.dino is not None:
            return self._self_taught(self.dino, images, aspect, stream)
        targets = labels[self.rows].to(device)
        if self.lesson is not None:
            loss = self._taught(self.lesson, images, targets, index, stream)
            return descend(self.accelerator, self.optimizer, loss, stream.step)
        if self.kept is not None:
            x = self.kept.sequence(index[self.rows], device)
        else:
            crops = random_crops(aspect, self.stage.crop, stream.generator, squeeze=self.stage.squeeze).of(self.rows)
            x = crops.images(images[self.rows].to(device), self.stage.size).to(memory_format=torch.channels_last)
            targets = crops.labels(targets, self.stage.size) if targets.ndim == 3 else targets
        if self.mix is not None:
            x, targets = self.mix(x, targets)
        loss = self.loss(x, targets, stream.step / stream.steps)
        return descend(self.accelerator, self.optimizer, loss, stream.step)

    def _self_taught(self, dino: SelfTeaching, images: Tensor, aspect: Tensor, stream: Batches) -> Tensor:
        """A step by DINO's objective, after which its teacher follows."""
        progress = stream.step / stream.steps
        large = LargeCrops(self.stage.size, self.stage.crop, self.stage.squeeze)
        views = dino.views(images, aspect, self.rows, large, stream.generator)
        loss = dino.loss_of(self.model, views, progress)
        mean = descend(self.accelerator, self.optimizer, loss, stream.step, lambda: dino.hold(progress))
        dino.follow(progress)
        return mean

    def _taught(self, lesson: Lesson, images: Tensor, classes: Tensor, index: np.ndarray, stream: Batches) -> Tensor:
        """The loss of a student against what its teacher makes of the same crops, and that of their classes, where it
        has a head."""
        device, own = self.accelerator.device, index[self.rows]
        # Drawn for the whole batch, so that two processes draw what one does.
        draws = torch.rand(len(index), 3, generator=stream.generator)[self.rows]
        flips, noise = draws[:, 0] < 0.5, 2 * draws[:, 1:] - 1
        if self.kept is not None:
            x, flips = self.kept.sequence(own, device), torch.zeros_like(flips)
        else:
            x = lesson.inputs(images[self.rows].to(device), own, flips, noise)
            x = x.to(memory_format=torch.channels_last)
        with self._capture() as capture:
            answer = self.model(x)
        loss = lesson.loss(answer, lesson.targets(own, flips, device))
        if not self.recipe.encoder.num_classes:
            return loss
        return lesson.recipe.weight * loss + self._supervised(
            answer.output, classes, stream.step / stream.steps, capture
        )

    def _capture(self) -> AbstractContextManager[AttentionCapture | None]:
        """Where spatial entropy is a loss or followed, the attention of a forward."""
        return AttentionCapture() if self.recipe.measures_entropy else nullcontext()

    def loss(self, x: Tensor, targets: Tensor, progress: float) -> Tensor:
        """Of normalised images (B, 3, H, W), or of what the trunk made of them (B, P + N, D), with classes (B,), mixed
        targets (B, K) or label maps (B, H, W); progress from 0 to 1."""
        with self._capture() as capture:
            output = self.model(x)
        return self._supervised(output, targets, progress, capture)

    def _supervised(self, output: Any, targets: Tensor, progress: float, capture: AttentionCapture | None) -> Tensor:
        """The loss of an `Output` against classes or labels, with its regularisers."""
        recipe, encoder = self.recipe, self.encoder
        if encoder.dense:
            loss = losses.pixel_loss(output.dense_logits, targets, recipe.void, recipe.label_smoothing)
        else:
            loss = losses.picture_loss(output.logits, targets, recipe.label_smoothing)
        loss = loss + recipe.spe_penalty * spe_penalty(encoder.backbone)
        if capture is not None:
            scores = losses.readout_scores(encoder, output, capture)
            scores = scores if recipe.spatial_entropy else scores.detach()
            entropy = losses.spatial_entropy_loss(scores, recipe.entropy_threshold)
            self.entropy += self.accelerator.reduce(entropy.detach(), reduction="mean")
            if recipe.spatial_entropy:
                loss = loss + recipe.spatial_entropy * losses.SCHEDULES[recipe.entropy_schedule](progress) * entropy
        return loss


def _mixup(recipe: Recipe) -> Any:
    if not recipe.mixup and not recipe.cutmix:
        return None
    from timm.data import Mixup

    return Mixup(
        recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=recipe.encoder.num_classes
    )


def descend(
    accelerator: Accelerator, optimizer: Any, loss: Tensor, step: int, before: Callable[[], None] | None = None
) -> Tensor:
    """One step of the optimiser down a loss, gradients clipped to a norm of 1.

    Args:
        accelerator: of this process.
        optimizer: as it has prepared it.
        loss: a scalar with gradients.
        step: its number, for the error.
        before: what is done once there are gradients.

    Returns:
        The loss, the mean over all processes.

    Raises:
        DivergedError: the loss or its gradient is not finite; says at which step.
    """
    mean: Tensor = accelerator.reduce(loss.detach(), "mean")  # type: ignore[assignment]
    _check_finite("loss", mean, step)
    optimizer.zero_grad()
    accelerator.backward(loss)
    if before is not None:
        before()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = accelerator.clip_grad_norm_(parameters, 1.0)
    if accelerator.scaler is None:  # in fp16 the scaler skips such steps itself
        _check_finite("gradient", norm, step)
    optimizer.step()
    return mean


def _check_finite(what: str, value: Tensor | None, step: int) -> None:
    if value is not None and not math.isfinite(float(value)):
        raise DivergedError(
            f"the {what} is {float(value)} at step {step}; lower the learning rate of the stage and start again"
        )
