"""Heads on a frozen backbone: its features of every photo are computed once, then each head trains on them in minutes.

This is how attention probes are trained (Psomas et al., Attention, please! Revisiting attentive probing, 2025): the
backbone stays as it is, so heads differ in nothing but how they pool.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from simpool_viz.checkpoints.bundle import base_folder, digest_of, load_bundle, read_config, save_bundle
from simpool_viz.encoder import Encoder, EncoderSpec
from simpool_viz.pooling import Tokens
from simpool_viz.training.card import Result, head_title, write_head_card
from simpool_viz.training.data import Photos, centre_crops, load_photos, random_crops, read_classes
from simpool_viz.training.loop import descend, learning_rate
from simpool_viz.training.recipe import HeadsRecipe


@dataclass(frozen=True)
class Features:
    """tokens: (n, P + N, D) float16, memory-mapped, P prefix tokens first; grid: (h, w); labels: (n,) int64."""

    tokens: np.ndarray
    grid: tuple[int, int]
    labels: np.ndarray

    def batch(self, index: np.ndarray | slice) -> tuple[Tokens, Tensor]:
        """Tokens in float32 and labels of some photos."""
        tokens = torch.tensor(self.tokens[index]).float()
        prefix = tokens.shape[1] - self.grid[0] * self.grid[1]
        return Tokens.from_sequence(tokens, self.grid, prefix), torch.tensor(self.labels[index])


def train_heads(recipe: HeadsRecipe, out: Path, cache: Path) -> list[Path]:
    """Train every head of a recipe and write `out`/FROZEN+HEAD for each.

    Args:
        out: the checkpoint folders are made inside it.
        cache: where decoded photos and features are kept.

    Returns:
        The checkpoint folders.

    Raises:
        ValueError: missing data, an unknown checkpoint, or a head that does not fit.
        FloatingPointError: a loss was not finite; says at which step.
    """
    data = Path(recipe.data)
    classes = read_classes(data)
    home = base_folder(out / recipe.name, recipe.frozen)
    base, spec = load_bundle(home), read_config(home)[0]
    encoders = {head: _build(recipe, head, options, base, spec, classes) for head, options in recipe.heads.items()}
    train, val = (_features(recipe, base, load_photos(data, split, cache), split, cache) for split in ("train", "val"))
    return [_train_head(recipe, head, encoder, described, (train, val), out) for head, (encoder, described) in encoders.items()]


def _build(
    recipe: HeadsRecipe, head: str, options: dict[str, object], base: Encoder, spec: EncoderSpec, classes: tuple[str, ...]
) -> tuple[Encoder, EncoderSpec]:
    """A new head on the base's backbone, drawn from the recipe's seed, and its description."""
    if "pooling" not in options:
        raise ValueError(f"the head {head!r} names no pooling; write it as {{pooling: slot}}")
    settings: dict[str, object] = {"pooling_options": {}, "norm": "none"} | options
    try:
        described = dataclasses.replace(spec, num_classes=len(classes), **settings)  # type: ignore[arg-type]
        torch.manual_seed(recipe.seed)
        encoder = described.build(base.facts)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the head {head!r} cannot be built: {error}") from error
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


def _features(recipe: HeadsRecipe, base: Encoder, photos: Photos, split: str, cache: Path) -> Features:
    """Features of every photo, from the cache where they have been computed before."""
    grid = (recipe.size // base.stride, recipe.size // base.stride)
    backbone = digest_of({k: v.half() for k, v in base.backbone.state_dict().items()})
    of = [backbone, photos.key, split, recipe.size, recipe.crop, recipe.seed]
    path = cache / f"features-{split}-{hashlib.sha256(json.dumps(of).encode()).hexdigest()[:16]}.npy"
    if not path.is_file():
        part = path.with_suffix(".part")
        _compute(recipe, base, photos, split, part, grid)
        part.rename(path)
    return Features(np.load(path, mmap_mode="r"), grid, photos.labels)


@torch.inference_mode()
def _compute(recipe: HeadsRecipe, base: Encoder, photos: Photos, split: str, path: Path, grid: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(recipe.seed)
    length = base.num_prefix_tokens + grid[0] * grid[1]
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "<f2", "fortran_order": False, "shape": (len(photos), length, base.dim)})
        for start in tqdm(range(0, len(photos), 64), desc=f"features of {split}", unit="batch", mininterval=5):
            part = slice(start, start + 64)
            images, aspect = torch.tensor(photos.images[part]), torch.tensor(photos.aspect[part])
            if split == "train":
                x = random_crops(images, aspect, recipe.size, recipe.crop, generator)
            else:
                x = centre_crops(images, aspect, recipe.size)
            with torch.autocast("cpu", torch.bfloat16):
                tokens = base.tokens(x.to(memory_format=torch.channels_last))
            file.write(torch.cat([tokens.prefix, tokens.patches], 1).half().numpy().tobytes())


def _train_head(
    recipe: HeadsRecipe, head: str, encoder: Encoder, spec: EncoderSpec, features: tuple[Features, Features], out: Path
) -> Path:
    from timm.optim import create_optimizer_v2

    folder, started = out / encoder.facts.name, time.time()
    folder.mkdir(parents=True, exist_ok=True)
    learned = torch.nn.ModuleList(m for m in (encoder.pooling, encoder.norm, encoder.head) if m is not None).train()
    optimizer = create_optimizer_v2(learned, "adamw", lr=recipe.lr, weight_decay=recipe.weight_decay)
    _run(recipe, encoder, optimizer, features[0], folder / "log.csv")
    learned.eval().requires_grad_(False)
    correct = _count_correct(encoder, features[1])
    result = Result((time.time() - started) / 60, torch.get_num_threads(), correct, len(features[1].labels))
    encoder.facts = dataclasses.replace(encoder.facts, accuracy=result.accuracy())
    parameters = sum(p.numel() for p in learned.parameters())
    save_bundle(folder, encoder, spec, write_head_card(recipe, head, spec, result, len(features[0].labels), parameters))
    print(f"{encoder.facts.name}: top-1 {result.accuracy()}", flush=True)
    return folder


def _run(recipe: HeadsRecipe, encoder: Encoder, optimizer: torch.optim.Optimizer, features: Features, log: Path) -> None:
    """One complete schedule over `recipe.photos` photos, logged every 50 steps."""
    generator = torch.Generator().manual_seed(recipe.seed)
    steps = recipe.photos // recipe.batch_size
    order = torch.empty(0, dtype=torch.long)
    with log.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "lr"])
        running = 0.0
        for step in tqdm(range(1, steps + 1), desc=encoder.facts.name, unit="batch", mininterval=5):
            while len(order) < recipe.batch_size:
                order = torch.cat([order, torch.randperm(len(features.labels), generator=generator)])
            index, order = order[: recipe.batch_size].sort().values.numpy(), order[recipe.batch_size :]
            lr = learning_rate(recipe, step * recipe.batch_size)
            for group in optimizer.param_groups:
                group["lr"] = lr
            tokens, labels = features.batch(index)
            with torch.autocast("cpu", torch.bfloat16):
                logits = encoder.read(tokens).logits
            assert logits is not None, "a classifier is trained, so there is a head"
            running += descend(optimizer, logits, labels, recipe.label_smoothing, step)
            if step % 50 == 0:
                writer.writerow([step, f"{running / 50:.4f}", f"{lr:.2e}"])
                running = 0.0


@torch.inference_mode()
def _count_correct(encoder: Encoder, features: Features, batch_size: int = 256) -> int:
    correct = 0
    for start in range(0, len(features.labels), batch_size):
        tokens, labels = features.batch(slice(start, start + batch_size))
        logits = encoder.read(tokens).logits
        assert logits is not None, "a classifier is counted, so there is a head"
        correct += int((logits.argmax(1) == labels).sum())
    return correct
