"""Heads on a frozen backbone: its features of every photo are computed once, then each head trains on them in minutes.

This is how attention probes are trained (Psomas et al., Attention, please! Revisiting attentive probing, 2025): the
backbone stays as it is, so heads differ in nothing but how they pool.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from simpool_viz.checkpoints.bundle import base_folder, load_bundle, read_config, save_bundle
from simpool_viz.errors import SimpoolError, TrainingError
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.pooling import Tokens
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.outputs import CsvFile
from simpool_viz.scores.confusion import count_pixels
from simpool_viz.tensors import enough_memory
from simpool_viz.training.card import Result, head_title, write_head_card
from simpool_viz.training.data import Batches, Photos, load_photos
from simpool_viz.training.features import CHUNK, CropPlan, Features, keep_features
from simpool_viz.training.losses import picture_loss, pixel_loss
from simpool_viz.training.measure import describe_accuracy, describe_iou
from simpool_viz.training.recipe import HeadsRecipe, folders_of
from simpool_viz.training.sources import read_common_classes
from simpool_viz.training.step import descend, make_accelerator, make_optimizer, tell_precision

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Labelled:
    """Features of photos and their labels: (n,) classes, or (n, H, W) maps of classes on the crops."""

    features: Features
    labels: np.ndarray

    def batch(self, index: np.ndarray | slice, device: torch.device | str = "cpu") -> tuple[Tokens, Tensor]:
        """Tokens in float32 and int64 labels of some photos."""
        return self.features.batch(index, device), torch.tensor(self.labels[index]).long().to(device)


@enough_memory("set a smaller batch_size")
def train_heads(recipe: HeadsRecipe, out: Path, cache: Path, *, device: str = "auto") -> list[Path]:
    """Train every head of a recipe and write `out`/FROZEN+HEAD for each.

    Args:
        out: the checkpoint folders are made inside it.
        cache: where decoded photos and features are kept.
        device: "auto" for what accelerate finds, or "cpu".

    Returns:
        The checkpoint folders.

    Raises:
        DataError: missing data.
        CheckpointError: an unknown checkpoint.
        TrainingError: a head that does not fit, or several processes.
        MissingPackageError: accelerate is not installed.
        DivergedError: a loss was not finite; says at which step.
    """
    accelerator = make_accelerator("bf16", device)
    if accelerator.num_processes > 1:
        raise TrainingError(
            "heads on a frozen backbone train in one process, in minutes; start the command without accelerate launch"
        )
    data = folders_of(recipe)
    classes = recipe.classes or read_common_classes(data)
    home = base_folder(out / recipe.name, recipe.frozen)
    base, spec = load_bundle(home), read_config(home)[0]
    encoders = {head: _build(recipe, head, options, base, spec, classes) for head, options in recipe.heads.items()}
    base.to(accelerator.device)
    tell_precision(accelerator, "bf16")
    splits = {split: load_photos(data, split, cache, recipe.stored) for split in ("train", "val")}
    if any(encoder.dense != (splits["train"].labels.ndim == 3) for encoder, _ in encoders.values()):
        raise TrainingError(
            f"dense: true is for heads on photos with label maps, and for all of those; see {recipe.data}"
        )
    train, val = (_labelled(recipe, base, photos, split, cache) for split, photos in splits.items())
    return [_train_head(recipe, head, *built, (train, val), out, accelerator) for head, built in encoders.items()]


def _build(
    recipe: HeadsRecipe,
    head: str,
    options: dict[str, object],
    base: Encoder,
    spec: EncoderSpec,
    classes: tuple[str, ...],
) -> tuple[Encoder, EncoderSpec]:
    """A new head on the base's backbone, drawn from the recipe's seed, and its description."""
    if "pooling" not in options:
        raise TrainingError(f"the head {head!r} names no pooling; write it as {{pooling: slot}}")
    settings: dict[str, object] = {"pooling_options": {}, "norm": "none"} | options
    settings.pop("rates", None)  # of the training
    known = [field.name for field in dataclasses.fields(EncoderSpec)]
    if unknown := [name for name in settings if name not in known]:
        raise TrainingError(
            f"the head {head!r} cannot be built: it takes no setting {', '.join(unknown)}; there are pooling, "
            "pooling_options, norm, dense and rates"
        )
    if not isinstance(settings["pooling_options"], dict):
        raise TrainingError(f"the head {head!r}: pooling_options is a table, not {settings['pooling_options']!r}")
    try:
        described = dataclasses.replace(spec, num_classes=len(classes), **settings)  # type: ignore[arg-type]
        torch.manual_seed(recipe.seed)
        encoder = described.build(base.facts)
    except SimpoolError as error:
        raise TrainingError(f"the head {head!r} cannot be built: {error}") from error
    encoder.facts = dataclasses.replace(
        base.facts,
        name=f"{recipe.frozen}+{head}",
        title=head_title(recipe, described),
        classes=classes,
        source="trained by simpool_viz",
        license=recipe.license,
        accuracy="",
        base=recipe.frozen,
    )
    encoder.backbone = base.backbone  # one for all heads
    return encoder, described


def _labelled(recipe: HeadsRecipe, base: Encoder, photos: Photos, split: str, cache: Path) -> Labelled:
    """Every photo's one crop: random ones to train on, the central squares otherwise."""
    plan = CropPlan(recipe.size, recipe.crop if split == "train" else None, recipe.seed)
    features = keep_features(base, photos, plan, cache, label=split)
    if photos.labels.ndim != 3:
        return Labelled(features, photos.labels)
    crops = plan.crops(photos.aspect)
    starts = range(0, len(photos), CHUNK)
    parts = [
        crops.of(slice(start, start + CHUNK)).labels(torch.tensor(photos.labels[start : start + CHUNK]), recipe.size)
        for start in starts
    ]
    return Labelled(features, torch.cat(parts).to(torch.uint8).numpy())


def _train_head(
    recipe: HeadsRecipe,
    head: str,
    encoder: Encoder,
    spec: EncoderSpec,
    features: tuple[Labelled, Labelled],
    out: Path,
    accelerator: Accelerator,
) -> Path:
    folder, started = out / encoder.facts.name, time.time()
    folder.mkdir(parents=True, exist_ok=True)
    encoder.to(accelerator.device)
    learned = torch.nn.ModuleList(m for m in (encoder.pooling, encoder.norm, encoder.head) if m is not None).train()
    _run(recipe, head, encoder, features[0], folder / "log.csv", accelerator)
    learned.eval().requires_grad_(False)
    accuracy = _measure(recipe, encoder, features[1], accelerator)
    result = Result((time.time() - started) / 60, torch.get_num_threads(), 1, str(accelerator.device), accuracy)
    encoder.facts = dataclasses.replace(encoder.facts, accuracy=accuracy)
    parameters = sum(p.numel() for p in learned.parameters())
    save_bundle(folder, encoder, spec, write_head_card(recipe, head, spec, result, len(features[0].labels), parameters))
    print(f"{encoder.facts.name}: {accuracy}", flush=True)
    return folder


def _run(
    recipe: HeadsRecipe,
    head: str,
    encoder: Encoder,
    features: Labelled,
    log: Path,
    accelerator: Accelerator,
) -> None:
    """One complete schedule over `recipe.photos` photos, logged every 50 steps."""
    stream = Batches(len(features.labels), recipe.batch_size, recipe.photos, torch.Generator().manual_seed(recipe.seed))
    optimizer, scheduler = make_optimizer(encoder, recipe, recipe, recipe.heads[head].get("rates", {}))
    optimizer = accelerator.prepare(optimizer)
    with CsvFile(log, ["step", "loss", "lr"]) as rows:
        running = 0.0
        for step, index in enumerate(tqdm(stream, desc=encoder.facts.name, unit="batch", mininterval=5), 1):
            scheduler.step_update(step * recipe.batch_size)
            running += float(
                descend(accelerator, optimizer, _loss(recipe, encoder, features, index, accelerator), step)
            )
            if step % 50 == 0:
                rows.add([step, f"{running / 50:.4f}", f"{optimizer.param_groups[0]['lr']:.2e}"])
                running = 0.0


def _loss(
    recipe: HeadsRecipe, encoder: Encoder, features: Labelled, index: np.ndarray, accelerator: Accelerator
) -> Tensor:
    tokens, labels = features.batch(index, accelerator.device)
    with accelerator.autocast():
        output = encoder.read(tokens)
    if output.dense_logits is not None:
        return pixel_loss(output.dense_logits, labels, recipe.void, recipe.label_smoothing)
    assert output.logits is not None, "a classifier is trained, so there is a head"
    return picture_loss(output.logits, labels, recipe.label_smoothing)


@torch.inference_mode()
def _measure(
    recipe: HeadsRecipe, encoder: Encoder, features: Labelled, accelerator: Accelerator, batch_size: int = 256
) -> str:
    """Top-1, or the mean IoU of a dense head, on the features of held-out photos."""
    correct, count, classes = 0, len(features.labels), len(encoder.facts.classes)
    table = torch.zeros(classes, classes, dtype=torch.long)
    for start in range(0, count, batch_size):
        tokens, labels = features.batch(slice(start, start + batch_size), accelerator.device)
        output = encoder.read(tokens)
        if output.dense_logits is not None:
            table += count_pixels(output.dense_logits, labels, recipe.void)
        elif output.logits is not None:
            correct += int((output.logits.argmax(1) == labels).sum())
    return describe_iou(table, count) if encoder.dense else describe_accuracy(correct, count)
