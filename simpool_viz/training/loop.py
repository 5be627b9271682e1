"""The training loop: stages of AdamW with cosine schedules, ending in a checkpoint folder with its card."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from simpool_viz.checkpoints.bundle import load_bundle, save_bundle
from simpool_viz.encoder import Encoder, Facts
from simpool_viz.layers.spe import spe_penalty
from simpool_viz.training.card import Result, write_card
from simpool_viz.training.data import Batches, Photos, centre_crops, load_photos, random_crops, read_classes
from simpool_viz.training.recipe import HeadsRecipe, Recipe, Stage

SAVE_EVERY = 200  # steps
RESUME = "resume.pt"


def train(recipe: Recipe, out: Path, cache: Path, *, restart: bool = False) -> Path:
    """Train a recipe and write `out`/`recipe.name`; a run that was interrupted there goes on where it was.

    Args:
        out: the checkpoint folder is made inside it.
        cache: where decoded photos are kept.
        restart: begin anew even so.

    Returns:
        The checkpoint folder.

    Raises:
        ValueError: missing data, or an interrupted run of another recipe.
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
    folder = out / recipe.name
    run = Run(folder, recipe, encoder, {} if restart else read_interrupted(folder, recipe))
    folder.mkdir(parents=True, exist_ok=True)
    for number, stage in enumerate(recipe.stages, 1):
        if number >= run.stage:
            run_stage(run, stage, photos, number)
            correct = count_correct(encoder, held_out, recipe.stages[-1].size)
            result = Result(run.minutes, torch.get_num_threads(), correct, len(held_out))
            encoder.facts = dataclasses.replace(facts, accuracy=result.accuracy())
            save_bundle(folder, encoder, recipe.encoder, write_card(recipe, result, len(photos), done=number))
            print(f"{recipe.name}: after stage {number} top-1 {result.accuracy()}")
            run.save({"stage": number + 1})
    load_bundle(folder)  # what was written must load
    (folder / RESUME).unlink(missing_ok=True)
    return folder


class Run:
    """A training as it stands: what is needed to go on with it to the bit, in `folder`/resume.pt.

    stage: the number of the stage it is in. minutes: it has taken so far, over all its parts.
    """

    def __init__(self, folder: Path, recipe: Recipe, encoder: Encoder, state: dict[str, Any]) -> None:
        self.folder, self.recipe, self.encoder = folder, recipe, encoder
        self._begun, self._before = time.time(), float(state.get("minutes", 0.0))
        self.stage = int(state.get("stage", 1))
        self.within: dict[str, Any] = state.get("within", {})
        if state:
            encoder.load_state_dict(state["encoder"])

    @property
    def minutes(self) -> float:
        return self._before + (time.time() - self._begun) / 60

    def save(self, place: dict[str, Any]) -> None:
        """Keep where it stands, whole or not at all."""
        state = {"recipe": fingerprint(self.recipe), "minutes": self.minutes, "encoder": self.encoder.state_dict(), **place}
        part = self.folder / f"{RESUME}.part"
        torch.save(state, part)
        part.replace(self.folder / RESUME)


def fingerprint(recipe: Recipe) -> str:
    """What makes two runs the same: every setting but where the data lies."""
    settings = dataclasses.asdict(recipe)
    return json.dumps({k: v for k, v in settings.items() if k not in ("data", "source", "overrides")}, sort_keys=True)


def read_interrupted(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """The state of an interrupted run in `folder`; {} where there is none.

    Raises:
        ValueError: it is of another recipe, or cannot be read.
    """
    path = folder / RESUME
    if not path.is_file():
        return {}
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of damaged bytes, the reader raises whatever they lead to
        raise ValueError(f"{path} is damaged; delete it, or begin anew with --restart") from error
    if state.get("recipe") != fingerprint(recipe):
        raise ValueError(
            f"{folder} holds an interrupted run of another recipe; begin anew with --restart, or choose another folder with -o"
        )
    print(f"{recipe.name}: going on with stage {state['stage']}, step {state.get('within', {}).get('stream', {}).get('step', 0)}")
    return state


def run_stage(run: Run, stage: Stage, photos: Photos, number: int = 1) -> None:
    """One complete schedule over `stage.photos` photos, logged every 50 steps, or the rest of it."""
    from timm.optim import create_optimizer_v2

    recipe, encoder = run.recipe, run.encoder
    stream = Batches(photos, recipe.batch_size, stage.photos, torch.Generator().manual_seed(recipe.seed * 1000 + number))
    optimizer = create_optimizer_v2(encoder, "adamw", lr=stage.lr, weight_decay=recipe.weight_decay)
    encoder.train().requires_grad_(True).to(memory_format=torch.channels_last)
    running = 0.0
    if run.within:
        optimizer.load_state_dict(run.within["optimizer"])
        stream.load_state_dict(run.within["stream"])
        running, run.within = float(run.within["running"]), {}
    with Log(run.folder / f"log_stage{number}.csv", stream.step, recipe.batch_size) as log:
        label = f"{recipe.name} stage {number}/{len(recipe.stages)}"
        bar = tqdm(stream, desc=label, initial=stream.step, total=stream.steps, unit="batch", mininterval=5)
        for images, aspect, labels in bar:
            lr = learning_rate(stage, stream.step * recipe.batch_size)
            for group in optimizer.param_groups:
                group["lr"] = lr
            x = random_crops(images, aspect, stage.size, stage.crop, stream.generator, squeeze=stage.squeeze)
            x = x.to(memory_format=torch.channels_last)
            running += train_step(encoder, optimizer, x, labels, recipe, stream.step)
            if stream.step % 50 == 0:
                log.write(stream.step, running / 50, lr)
                bar.set_postfix(loss=f"{running / 50:.3f}")
                running = 0.0
            if stream.step % SAVE_EVERY == 0:
                within = {"optimizer": optimizer.state_dict(), "stream": stream.state_dict(), "running": running}
                run.save({"stage": number, "within": within})
    encoder.eval()


class Log:
    """A CSV of step, mean loss, learning rate and photos per second; taken up again, it keeps the rows up to `step`."""

    def __init__(self, path: Path, step: int, batch_size: int) -> None:
        rows = list(csv.reader(path.open(newline=""))) if step and path.is_file() else []
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(["step", "loss", "lr", "photos_per_second"])
        self._writer.writerows(row for row in rows[1:] if int(row[0]) <= step)
        self._last, self._since, self._batch_size = step, time.time(), batch_size

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, step: int, loss: float, lr: float) -> None:
        rate = (step - self._last) * self._batch_size / (time.time() - self._since)
        self._writer.writerow([step, f"{loss:.4f}", f"{lr:.2e}", f"{rate:.1f}"])
        self._file.flush()
        self._last, self._since = step, time.time()


def learning_rate(stage: Stage | HeadsRecipe, seen: int) -> float:
    """Linear warm-up over `stage.warmup` photos, then half a cosine to zero."""
    if seen < stage.warmup:
        return stage.lr * seen / stage.warmup
    progress = (seen - stage.warmup) / max(1, stage.photos - stage.warmup)
    return stage.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train_step(encoder: Encoder, optimizer: torch.optim.Optimizer, x: Tensor, labels: Tensor, recipe: Recipe, step: int) -> float:
    """One step on normalised images in bf16 autocast; returns the loss. Errors as in `descend`."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = encoder(x).logits
    assert logits is not None, "a classifier is trained, so there is a head"
    return descend(optimizer, logits, labels, recipe.label_smoothing, step, recipe.spe_penalty * spe_penalty(encoder.backbone))


def descend(
    optimizer: torch.optim.Optimizer, logits: Tensor, labels: Tensor, smoothing: float, step: int, penalty: Tensor | float = 0.0
) -> float:
    """One step down the cross entropy of logits (B, K) with labels (B,) plus a penalty, gradients clipped to a norm of 1.

    Returns:
        The loss.

    Raises:
        FloatingPointError: the loss or its gradient is not finite; says at which step.
    """
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing) + penalty
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
