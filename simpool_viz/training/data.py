"""Photos for training: decoded once into a memory-mapped array, cropped and flipped a batch at a time.

Every photo is stored squashed to a square; crops are drawn in the photo's own proportions, so nothing is distorted
but by the usual aspect jitter, and no part of an elongated photo is lost.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from simpool_viz.encoder import IMAGENET_MEAN, IMAGENET_STD

STORED = 128  # side of the stored squares in pixels


@dataclass(frozen=True)
class Photos:
    """images: (n, STORED, STORED, 3) uint8, memory-mapped; aspect: (n,) width / height of the originals; labels: (n,).

    key: of their shards, so that what is made of them can be kept.
    """

    images: np.ndarray
    aspect: np.ndarray
    labels: np.ndarray
    key: str = ""

    def __len__(self) -> int:
        return len(self.labels)


def read_classes(folder: Path) -> tuple[str, ...]:
    """The class names of a data folder, in the order of the labels."""
    path = folder / "classes.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no classes.json; set data= to a folder with train-*.parquet, val-*.parquet and classes.json")
    return tuple(json.loads(path.read_text(encoding="utf-8")))


def load_photos(folder: Path, split: str, cache: Path) -> Photos:
    """Photos of `split` from parquet shards with columns image {bytes}, label.

    Args:
        folder: holds `{split}-*.parquet`.
        cache: where the decoded array is kept; made on first use.
    """
    shards = sorted(folder.glob(f"{split}-*.parquet"))
    if not shards:
        raise ValueError(f"{folder} holds no {split}-*.parquet; set data= to the folder that does")
    stamp = "|".join(f"{s.resolve()}:{s.stat().st_size}" for s in shards) + f"|{STORED}"
    key = hashlib.sha256(stamp.encode()).hexdigest()[:16]
    target = cache / f"{split}-{key}"
    if not (target / "labels.npy").is_file():
        _decode(shards, target)
    images, aspect, labels = (np.load(target / f"{part}.npy", mmap_mode="r") for part in ("images", "aspect", "labels"))
    return Photos(images, aspect, labels, key)


def _decode(shards: list[Path], target: Path) -> None:
    """Decode into a folder beside `target` and move it there: another run may be decoding the same photos."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as work:
        folder = Path(work) / "photos"
        folder.mkdir()
        _write_arrays(shards, folder)
        try:
            folder.rename(target)
        except OSError:
            if not (target / "labels.npy").is_file():  # else the other run was faster
                raise


def _write_arrays(shards: list[Path], target: Path) -> None:
    import pyarrow.parquet as parquet

    tables = [parquet.read_table(s, columns=["image", "label"]) for s in shards]
    rows = [(row["image"]["bytes"], row["label"]) for table in tables for row in table.to_pylist()]
    images = np.lib.format.open_memmap(target / "images.npy", "w+", np.uint8, (len(rows), STORED, STORED, 3))
    aspect = np.empty(len(rows), np.float32)
    for i, (data, _) in enumerate(tqdm(rows, desc="decoding photos", unit="photo")):
        with Image.open(io.BytesIO(data)) as photo:
            aspect[i] = photo.width / photo.height
            images[i] = np.asarray(photo.convert("RGB").resize((STORED, STORED), Image.Resampling.BICUBIC))
    images.flush()
    np.save(target / "aspect.npy", aspect)
    np.save(target / "labels.npy", np.array([label for _, label in rows], np.int64))


class Batches:
    """Shuffled batches (images uint8 (B, S, S, 3), aspect (B,), labels (B,)) until `total` photos have been seen.

    Every photo comes once before any comes again. The place in the stream can be kept and taken up again.
    """

    def __init__(self, photos: Photos, batch_size: int, total: int, generator: torch.Generator) -> None:
        self.photos, self.batch_size, self.generator = photos, batch_size, generator
        self.steps, self.step = total // batch_size, 0
        self.order = torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return self.steps - self.step

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        while self.step < self.steps:
            while len(self.order) < self.batch_size:
                self.order = torch.cat([self.order, torch.randperm(len(self.photos), generator=self.generator)])
            index, self.order = self.order[: self.batch_size].sort().values.numpy(), self.order[self.batch_size :]
            self.step += 1
            photos = self.photos
            yield torch.from_numpy(photos.images[index]), torch.from_numpy(photos.aspect[index]), torch.from_numpy(photos.labels[index])

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "order": self.order, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.order = state["step"], state["order"]
        self.generator.set_state(state["generator"])


def random_crops(
    images: Tensor, aspect: Tensor, size: int, smallest: float, generator: torch.Generator, *, squeeze: bool = False
) -> Tensor:
    """Random resized crops and horizontal flips of a batch, by one `grid_sample`.

    Args:
        images: (B, S, S, 3) uint8, squashed photos.
        aspect: (B,) width / height of the photos.
        size: side of the crops in pixels.
        smallest: least share of the photo's area.
        squeeze: what becomes of a crop that is longer than the photo: cut to it, so that its content is squeezed in the other
            direction, or (False) made smaller in its proportions, whatever the share.

    Returns:
        (B, 3, size, size) normalised float32.
    """
    count = len(images)
    area = torch.empty(count).uniform_(smallest, 1, generator=generator)
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
    return _sample(images, width * flip, height, place[:, 0] * (1 - width), place[:, 1] * (1 - height), size)


def centre_crops(images: Tensor, aspect: Tensor, size: int) -> Tensor:
    """The central square of each photo. Shapes as in `random_crops`."""
    width, height = (1 / aspect).clamp(max=1), aspect.clamp(max=1)
    zero = torch.zeros(len(images))
    return _sample(images, width, height, zero, zero, size)


def _sample(images: Tensor, sx: Tensor, sy: Tensor, tx: Tensor, ty: Tensor, size: int) -> Tensor:
    zero = torch.zeros_like(sx)
    theta = torch.stack([torch.stack([sx, zero, tx], 1), torch.stack([zero, sy, ty], 1)], 1)  # (B, 2, 3)
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    x = F.grid_sample(images.permute(0, 3, 1, 2).float(), grid, padding_mode="reflection", align_corners=False)
    mean, std = torch.tensor(IMAGENET_MEAN) * 255, torch.tensor(IMAGENET_STD) * 255
    return (x - mean[:, None, None]) / std[:, None, None]
