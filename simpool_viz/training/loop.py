"""The training loop: stages of AdamW with cosine schedules, ending in a checkpoint folder with its card."""

from __future__ import annotations

import csv
import dataclasses
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from simpool_viz.checkpoints.bundle import load_bundle, save_bundle
from simpool_viz.encoder import Encoder, Facts
from simpool_viz.training.card import Result, write_card
from simpool_viz.training.data import Photos, batches, centre_crops, load_photos, random_crops, read_classes
from simpool_viz.training.recipe import HeadsRecipe, Recipe, Stage


def train(recipe: Recipe, out: Path, cache: Path) -> Path:
    """Train a recipe and write `out`/`recipe.name`.

    Args:
        out: the checkpoint folder is made inside it.
        cache: where decoded photos are kept.

    Returns:
        The checkpoint folder.

    Raises:
        ValueError: missing data.
        FloatingPointError: the loss was not finite; says at which step.
    """
    data = Path(recipe.data)
    classes = read_classes(data)
    if len(classes) != recipe.encoder.num_classes:
        raise ValueError(
            f"{data} has {len(classes)} classes, but the recipe's head has {recipe.encoder.num_classes}; set encoder.num_classes"
        )
    photos, held_out = load_photos(data, "train", cache), load_photos(data, "val", cache)
    facts = Facts(recipe.name, recipe.title, recipe.map_size, classes=classes, source="trained by simpool_viz", license=recipe.license)
    torch.manual_seed(recipe.seed)
    encoder = recipe.encoder.build(facts)
    folder, started = out / recipe.name, time.time()
    folder.mkdir(parents=True, exist_ok=True)
    result = Result(minutes=0.0, threads=torch.get_num_threads(), correct=0, count=len(held_out))
    for number, stage in enumerate(recipe.stages, 1):
        run_stage(
            encoder, stage, recipe, photos, folder / f"log_stage{number}.csv", f"{recipe.name} stage {number}/{len(recipe.stages)}", number
        )
        correct = count_correct(encoder, held_out, recipe.stages[-1].size)
        result = dataclasses.replace(result, minutes=(time.time() - started) / 60, correct=correct)
        encoder.facts = dataclasses.replace(facts, accuracy=result.accuracy())
        save_bundle(folder, encoder, recipe.encoder, write_card(recipe, result, len(photos), done=number))
        print(f"{recipe.name}: after stage {number} top-1 {result.accuracy()}")
    load_bundle(folder)  # what was written must load
    return folder


def run_stage(encoder: Encoder, stage: Stage, recipe: Recipe, photos: Photos, log: Path, label: str, number: int = 1) -> None:
    """One complete schedule over `stage.photos` photos, logged every 50 steps."""
    from timm.optim import create_optimizer_v2

    generator = torch.Generator().manual_seed(recipe.seed * 1000 + number)
    steps = stage.photos // recipe.batch_size
    optimizer = create_optimizer_v2(encoder, "adamw", lr=stage.lr, weight_decay=recipe.weight_decay)
    encoder.train().requires_grad_(True).to(memory_format=torch.channels_last)
    with log.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "lr", "photos_per_second"])
        running, since = 0.0, time.time()
        bar = tqdm(batches(photos, recipe.batch_size, stage.photos, generator), desc=label, total=steps, unit="batch", mininterval=5)
        for step, (images, aspect, labels) in enumerate(bar, 1):
            lr = learning_rate(stage, step * recipe.batch_size)
            for group in optimizer.param_groups:
                group["lr"] = lr
            x = random_crops(images, aspect, stage.size, stage.crop, generator).to(memory_format=torch.channels_last)
            running += train_step(encoder, optimizer, x, labels, recipe.label_smoothing, step)
            if step % 50 == 0:
                rate = 50 * recipe.batch_size / (time.time() - since)
                writer.writerow([step, f"{running / 50:.4f}", f"{lr:.2e}", f"{rate:.1f}"])
                file.flush()
                bar.set_postfix(loss=f"{running / 50:.3f}")
                running, since = 0.0, time.time()
    encoder.eval()


def learning_rate(stage: Stage | HeadsRecipe, seen: int) -> float:
    """Linear warm-up over `stage.warmup` photos, then half a cosine to zero."""
    if seen < stage.warmup:
        return stage.lr * seen / stage.warmup
    progress = (seen - stage.warmup) / max(1, stage.photos - stage.warmup)
    return stage.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train_step(encoder: Encoder, optimizer: torch.optim.Optimizer, x: Tensor, labels: Tensor, smoothing: float, step: int) -> float:
    """One step on normalised images in bf16 autocast; returns the loss."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = encoder(x).logits
    assert logits is not None, "a classifier is trained, so there is a head"
    return descend(optimizer, logits, labels, smoothing, step)


def descend(optimizer: torch.optim.Optimizer, logits: Tensor, labels: Tensor, smoothing: float, step: int) -> float:
    """One step down the cross entropy of logits (B, K) with labels (B,), gradients clipped to a norm of 1; returns the loss.

    Raises:
        FloatingPointError: the loss or its gradient is not finite; says at which step.
    """
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"the loss is {loss.item()} at step {step}; lower the learning rate of the stage and start again")
    optimizer.zero_grad()
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradient is {norm} at step {step}; lower the learning rate of the stage and start again")
    optimizer.step()
    return loss.item()


@torch.inference_mode()
def count_correct(encoder: Encoder, photos: Photos, size: int, batch_size: int = 256) -> int:
    """How many photos' central squares, at size x size, are classified correctly."""
    encoder.eval()
    correct = 0
    for start in range(0, len(photos), batch_size):
        part = slice(start, start + batch_size)
        x = centre_crops(torch.tensor(photos.images[part]), torch.tensor(photos.aspect[part]), size)
        logits = encoder(x.to(memory_format=torch.channels_last)).logits
        assert logits is not None, "a classifier is counted, so there is a head"
        correct += int((logits.argmax(1) == torch.tensor(photos.labels[part])).sum())
    return correct
