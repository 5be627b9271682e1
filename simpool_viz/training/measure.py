"""Accuracy of a trained encoder on held-out photos, and the phrases in which its card gives it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from simpool_viz.errors import OptionError
from simpool_viz.evaluation.classification import Classified
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.layers.stem import stems_once
from simpool_viz.modeling.sharing import forward_shared, sharing_groups
from simpool_viz.scores.confusion import count_pixels, mean_ious
from simpool_viz.scores.retrieval import NEIGHBOURS, classify_by_neighbours
from simpool_viz.training.data import Photos, centre_crops, load_photos
from simpool_viz.training.features import Features
from simpool_viz.training.recipe import Recipe
from simpool_viz.training.sources import read_classes

if TYPE_CHECKING:
    from accelerate import Accelerator

KNOWN = 5000  # training photos that vote for the classes of held-out ones


def measure(
    encoder: Encoder, photos: Photos, recipe: Recipe, accelerator: Accelerator, begun: Features | None = None
) -> str:
    """Measure top-1, or the mean IoU of a dense head, on the central squares of photos at the recipe's `map_size`.

    Args:
        encoder: the model; the photos are divided among the processes of `accelerator`.
        photos: held-out photos.
        recipe: for the size and the void label.
        accelerator: of the training.
        begun: what a frozen trunk made of the squares, where that is kept.

    Returns:
        A phrase, as from `describe_accuracy` or `describe_iou`.
    """
    size, place = recipe.map_size, (accelerator.process_index, accelerator.num_processes)
    if encoder.dense:
        table = confusion(encoder, photos, size, recipe.void, part=place).to(accelerator.device)
        table = accelerator.reduce(table, "sum")  # type: ignore[assignment]
        return describe_iou(table, len(photos))
    if begun is None:
        correct = int(find_correct([encoder], photos, [size], part=place)[0].sum())
    else:
        correct = _count_correct(encoder, photos, begun, recipe.trunk_blocks, place)
    right = torch.tensor(correct, device=accelerator.device)
    return describe_accuracy(int(accelerator.reduce(right, "sum")), len(photos))  # type: ignore[arg-type]


@torch.inference_mode()
def _count_correct(
    encoder: Encoder, photos: Photos, begun: Features, blocks: int, part: tuple[int, int], batch_size: int = 256
) -> int:
    """How many photos an encoder classifies correctly, given what its first blocks made of them."""
    device, correct = next(encoder.parameters()).device, 0
    encoder.eval()
    for start in range(part[0] * batch_size, len(photos), part[1] * batch_size):
        rows = slice(start, start + batch_size)
        logits = encoder.read(encoder.finish(begun.sequence(rows, device), blocks, begun.grid)).logits
        assert logits is not None, "a classifier is counted, so there is a head"
        correct += int((logits.argmax(1).cpu() == torch.tensor(photos.labels[rows])).sum())
    return correct


def measure_neighbours(encoder: Encoder, photos: Photos, held_out: Photos, size: int) -> str:
    """Measure the k-NN accuracy of the pooled vectors of central squares, for a model without a head.

    Args:
        encoder: the model.
        photos: of which at most KNOWN, evenly spread, vote with their classes.
        held_out: the photos that are classified.
        size: of the squares in pixels.

    Returns:
        A phrase, which begins as that of `describe_accuracy`.
    """
    chosen = np.unique(np.linspace(0, len(photos) - 1, min(KNOWN, len(photos))).astype(int))
    known = _vectors(encoder, photos, chosen, size)
    found = classify_by_neighbours(
        known, photos.labels[chosen], _vectors(encoder, held_out, np.arange(len(held_out)), size)
    )
    correct = int((found == held_out.labels).sum())
    return f"k-NN {describe_accuracy(correct, len(held_out))} by the {NEIGHBOURS} nearest of {len(chosen)} photos"


@torch.inference_mode()
def _vectors(encoder: Encoder, photos: Photos, chosen: np.ndarray, size: int, batch: int = 256) -> np.ndarray:
    """(n, D) float32, the pooled vectors of some photos."""
    device = next(encoder.eval().parameters()).device
    made = []
    for start in range(0, len(chosen), batch):
        index = chosen[start : start + batch]
        crops = centre_crops(torch.tensor(photos.aspect[index]))
        x = crops.images(torch.tensor(photos.images[index]).to(device), size)
        made.append(encoder(x).vector.float().cpu().numpy())
    return np.concatenate(made)


def describe_accuracy(correct: int, count: int) -> str:
    """Top-1 in per cent with the half width of its 95 % interval (normal approximation), as a phrase."""
    share = correct / count
    half = 1.96 * math.sqrt(share * (1 - share) / count)
    return f"{100 * share:.1f} % ± {100 * half:.1f} of {count} held-out photos"


def describe_iou(table: Tensor, count: int) -> str:
    """The mean IoU in per cent, as a phrase.

    Args:
        table: (K, K) int64, pixels by true class (rows) and predicted class (columns).
        count: number of photos.
    """
    return (
        f"mean IoU {100 * float(mean_ious(table.cpu().numpy())):.1f} % of the central squares of {count} held-out "
        "photos"
    )


@torch.inference_mode()
def find_correct(
    encoders: Sequence[Encoder],
    photos: Photos,
    sizes: Sequence[int],
    *,
    classes: tuple[str, ...] = (),
    part: tuple[int, int] = (0, 1),
    batch_size: int = 256,
    progress: bool = False,
) -> list[Tensor]:
    """Find which photos each encoder classifies correctly by their central squares.

    Encoders that share a backbone, a trunk or a stem run it once.

    Args:
        encoders: classifiers.
        photos: the photos with their classes.
        sizes: side of the squares in pixels, for each encoder.
        classes: names of the photos' labels, where an encoder may know more classes, or in another order; () where
            labels are numbers of the encoders' own classes.
        part: (i, n) to take every n-th batch from the i-th; photos of other batches count as wrong.
        batch_size: photos of a forward pass.
        progress: whether to show a progress bar.

    Returns:
        For each encoder (n,) bool, in the order of the photos.
    """
    right = [torch.zeros(len(photos), dtype=torch.bool) for _ in encoders]
    labels = [_labels_of(encoder, classes) for encoder in encoders]
    groups: list[tuple[int, list[int]]] = []  # a size, and the encoders that share a forward at it
    for size in dict.fromkeys(sizes):
        same = [i for i, own in enumerate(sizes) if own == size]
        shared = sharing_groups([encoders[i].eval() for i in same], size)
        groups += [(size, [same[i] for i in group]) for group in shared]
    starts = range(part[0] * batch_size, len(photos), part[1] * batch_size)
    for start in tqdm(starts, desc="classifying", unit="batch", disable=not progress):
        rows = slice(start, start + batch_size)
        crops, stored = centre_crops(torch.tensor(photos.aspect[rows])), torch.tensor(photos.images[rows])
        with stems_once({}):
            for size, members in groups:
                device = next(encoders[members[0]].parameters()).device
                x = crops.images(stored, size).to(device, memory_format=torch.channels_last)
                for i, output in zip(members, forward_shared([encoders[m] for m in members], x), strict=True):
                    assert output.logits is not None, "a classifier is counted, so there is a head"
                    predicted = labels[i][output.logits.argmax(1).cpu()]
                    right[i][rows] = predicted == torch.tensor(photos.labels[rows])
    return right


def _labels_of(encoder: Encoder, classes: tuple[str, ...]) -> Tensor:
    """(K,) int64: the photos' label for each of an encoder's outputs, -1 where it is none of theirs."""
    names = encoder.facts.classes
    numbers = [classes.index(name) if name in classes else -1 for name in names] if classes else range(len(names))
    return torch.tensor(list(numbers), dtype=torch.long)


def classify_held_out(
    encoders: Sequence[Encoder], folder: Path, size: int | None = None, progress: bool = False
) -> list[Classified]:
    """Classify the held-out photos of a data folder.

    Args:
        encoders: classifiers of the folder's classes and perhaps of others.
        folder: holds val-*.parquet or val/CLASS/*, as `sources.open_source` reads it.
        size: side of the central squares in pixels; each checkpoint's own by default.
        progress: whether to show a progress bar.

    Returns:
        Which photos each checkpoint classified correctly, for `classification_table`.

    Raises:
        DataError: no such photos, or no names of their classes.
        OptionError: a checkpoint of other classes.
    """
    classes = read_classes(folder)
    others = [e.facts.name for e in encoders if e.classifier is None or set(classes) - set(e.facts.classes)]
    if others:
        raise OptionError(f"{', '.join(others)} knows other classes than {folder}; choose classifiers of these photos")
    with tempfile.TemporaryDirectory() as cache:
        photos = load_photos(folder, "val", Path(cache))
        sizes = [size or e.facts.size for e in encoders]
        right = find_correct(encoders, photos, sizes, classes=classes, progress=progress)
    return [Classified(encoder, own.numpy()) for encoder, own in zip(encoders, right, strict=True)]


@torch.inference_mode()
def confusion(
    encoder: Encoder, photos: Photos, size: int, void: int, *, part: tuple[int, int] = (0, 1), batch_size: int = 32
) -> Tensor:
    """Count the pixels of the photos' central squares by true and by predicted class.

    Args:
        encoder: with a dense head of K classes.
        photos: photos with label maps.
        size: side of the squares in pixels.
        void: the label that is left out.
        part: (i, n) to take every n-th batch from the i-th.
        batch_size: photos of a forward pass.

    Returns:
        (K, K) int64: true class (rows) and predicted class (columns).
    """
    encoder.eval()
    device, count = next(encoder.parameters()).device, len(encoder.facts.classes)
    table = torch.zeros(count, count, dtype=torch.long)
    for start in range(part[0] * batch_size, len(photos), part[1] * batch_size):
        rows = slice(start, start + batch_size)
        crops = centre_crops(torch.tensor(photos.aspect[rows]))
        logits = encoder(crops.images(torch.tensor(photos.images[rows]).to(device), size)).dense_logits
        assert logits is not None, "a dense head is measured"
        table += count_pixels(logits, crops.labels(torch.tensor(photos.labels[rows]), size), void)
    return table
