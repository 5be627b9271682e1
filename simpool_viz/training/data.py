"""Photos for training: decoded once into a memory-mapped array, cropped and flipped a batch at a time.

Every photo is stored squashed to a square; crops are drawn in the photo's own proportions, so nothing is distorted
but by the usual aspect jitter, and no part of an elongated photo is lost.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from simpool_viz.modeling.encoder import IMAGENET_MEAN, IMAGENET_STD
from simpool_viz.outputs import written_whole
from simpool_viz.training.sources import Source, open_sources

STORED = 128  # side of the stored squares in pixels, unless a recipe says otherwise


@dataclass(frozen=True)
class Photos:
    """images: (n, S, S, 3) uint8, memory-mapped; aspect: (n,) width / height of the originals; labels: (n,) classes, or
    (n, S, S) uint8 maps of classes, squashed as the images are.

    key: of their source, so that what is made of them can be kept.
    """

    images: np.ndarray
    aspect: np.ndarray
    labels: np.ndarray
    key: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, share: float, seed: int) -> Photos:
        """A share in (0, 1] of the photos of each class, at least one of each, drawn by a seed; of photos with label
        maps, of all."""
        if share == 1:
            return self
        random = np.random.default_rng(seed)
        groups = [np.arange(len(self))]
        if self.labels.ndim == 1:
            groups = [np.flatnonzero(self.labels == label) for label in np.unique(self.labels)]
        drawn = [random.permutation(group)[: max(1, round(share * len(group)))] for group in groups]
        index = np.sort(np.concatenate(drawn))
        key = f"{self.key}-{share:g}-{seed}" if self.key else ""
        return Photos(self.images[index], self.aspect[index], self.labels[index], key)

    def batch(self, index: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Images, proportions and labels of some photos, as they are stored."""
        images, aspect, labels = (torch.from_numpy(part[index]) for part in (self.images, self.aspect, self.labels))
        return images, aspect, labels


def load_photos(folder: Path | Sequence[Path], split: str, cache: Path, stored: int = STORED) -> Photos:
    """Photos of a split from any source that `open_source` knows.

    Args:
        folder: of the data; of several folders the photos stand one after the other.
        cache: where the decoded arrays are kept; made on first use.
        stored: side S of the stored squares in pixels.

    Raises:
        DataError: no such photos.
    """
    source = open_sources([folder] if isinstance(folder, Path) else folder, split)
    key = hashlib.sha256(f"{source.stamp}|{stored}".encode()).hexdigest()[:16]
    target = cache / f"{split}-{key}"
    if not (target / "labels.npy").is_file():
        _decode(source, target, stored)
    images, aspect, labels = (np.load(target / f"{part}.npy", mmap_mode="r") for part in ("images", "aspect", "labels"))
    return Photos(images, aspect, labels, key)


def _decode(source: Source, target: Path, stored: int) -> None:
    """Decode into `target`. Another run may be decoding the same photos: what the faster one made stays, and may be in
    use."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with written_whole(target, replace=False) as folder:
            folder.mkdir()
            _write_arrays(source, folder, stored)
    except OSError:
        if not (target / "labels.npy").is_file():
            raise


def _write_arrays(source: Source, target: Path, stored: int) -> None:
    count, square = len(source), (stored, stored)
    images = np.lib.format.open_memmap(target / "images.npy", "w+", np.uint8, (count, *square, 3))
    aspect = np.empty(count, np.float32)
    labels = np.empty((count, *square), np.uint8) if source.dense else np.empty(count, np.int64)
    for i, (photo, label) in enumerate(tqdm(source, desc="decoding photos", unit="photo", total=count)):
        aspect[i] = photo.width / photo.height
        images[i] = np.asarray(photo.resize(square, Image.Resampling.BICUBIC))
        labels[i] = (
            np.asarray(label.resize(square, Image.Resampling.NEAREST)) if isinstance(label, Image.Image) else label
        )
    images.flush()
    np.save(target / "aspect.npy", aspect)
    np.save(target / "labels.npy", labels)


class Batches:
    """Shuffled batches of photos, as index arrays (B,), until `total` photos have been seen.

    Every one of the `count` photos comes once before any comes again. The place in the stream can be kept and taken up
    again.
    """

    def __init__(self, count: int, batch_size: int, total: int, generator: torch.Generator) -> None:
        self.count, self.batch_size, self.generator = count, batch_size, generator
        self.steps, self.step = total // batch_size, 0
        self.order = torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return self.steps - self.step

    def __iter__(self) -> Iterator[np.ndarray]:
        while self.step < self.steps:
            while len(self.order) < self.batch_size:
                self.order = torch.cat([self.order, torch.randperm(self.count, generator=self.generator)])
            index, self.order = self.order[: self.batch_size].sort().values.numpy(), self.order[self.batch_size :]
            self.step += 1
            yield index

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "order": self.order, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.order = state["step"], state["order"]
        self.generator.set_state(state["generator"])


@dataclass(frozen=True)
class Crops:
    """Where the crops of a batch lie in photos stored as squares: half sizes and centres as shares of a half side, each
    (B,).

    A negative half width is a flip.
    """

    width: Tensor
    height: Tensor
    x: Tensor
    y: Tensor

    def images(self, stored: Tensor, size: int) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, size, size) normalised float32, on the device of `stored`."""
        grid = self._grid(len(stored), size, stored.device)
        x = F.grid_sample(stored.permute(0, 3, 1, 2).float(), grid, padding_mode="reflection", align_corners=False)
        mean, std = (
            torch.tensor(values, device=x.device)[:, None, None] * 255 for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        return (x - mean) / std

    def labels(self, stored: Tensor, size: int) -> Tensor:
        """Maps of classes (B, S, S) uint8 -> (B, size, size) int64, the nearest pixel's class."""
        grid = self._grid(len(stored), size, stored.device)
        nearest = F.grid_sample(
            stored[:, None].float(), grid, mode="nearest", padding_mode="reflection", align_corners=False
        )
        return nearest[:, 0].long()

    def of(self, rows: slice | Tensor) -> Crops:
        """Those of some photos of the batch."""
        return Crops(self.width[rows], self.height[rows], self.x[rows], self.y[rows])

    def _grid(self, count: int, size: int, device: torch.device) -> Tensor:
        zero = torch.zeros_like(self.width)
        rows = [torch.stack([self.width, zero, self.x], 1), torch.stack([zero, self.height, self.y], 1)]
        theta = torch.stack(rows, 1).to(device)  # (B, 2, 3)
        return F.affine_grid(theta, [count, 3, size, size], align_corners=False)


def random_crops(
    aspect: Tensor, smallest: float, generator: torch.Generator, *, squeeze: bool = False, largest: float = 1.0
) -> Crops:
    """Random resized crops and horizontal flips of a batch.

    Args:
        aspect: (B,) width / height of the photos.
        smallest: least share of the photo's area.
        squeeze: what becomes of a crop that is longer than the photo: cut to it, so that its content is squeezed in the
            other direction, or (False) made smaller in its proportions, whatever the share.
        largest: greatest share of the photo's area.
    """
    count = len(aspect)
    area = torch.empty(count).uniform_(smallest, largest, generator=generator)
    ratio = torch.empty(count).uniform_(math.log(3 / 4), math.log(4 / 3), generator=generator).exp()
    width = (area * ratio / aspect).sqrt()  # as a share of the photo's own width
    height = (area / ratio * aspect).sqrt()
    if squeeze:
        width, height = width.clamp(max=1), height.clamp(max=1)
    else:
        beyond = torch.maximum(width, height).clamp(min=1)
        width, height = width / beyond, height / beyond
    place = torch.rand(count, 2, generator=generator) * 2 - 1
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    return Crops(width * flip, height, place[:, 0] * (1 - width), place[:, 1] * (1 - height))


def centre_crops(aspect: Tensor) -> Crops:
    """The central square of each photo, from aspect (B,), width / height."""
    zero = torch.zeros(len(aspect))
    return Crops((1 / aspect).clamp(max=1), aspect.clamp(max=1), zero, zero)
