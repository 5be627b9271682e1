"""Small encoders, checkpoint folders and photos that several test files share; everything is made here, nothing
fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simpool_viz import load_checkpoint, record
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.recording import Recording
from tests.helpers import dense, disc, make_photo, save_small, small_resnet
from tests.photos import CLASSES, shape_photo, write_parquet


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine more threads wait for each other longer than such small models compute.

    Processes that tests start have one too, since another number of threads changes the last digits.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def resnet() -> Encoder:
    return small_resnet()


@pytest.fixture(scope="session")
def resnet_gap() -> Encoder:
    return small_resnet("gap")


@pytest.fixture(scope="session")
def vit() -> Encoder:
    torch.manual_seed(0)
    return load_checkpoint("timm:vit_tiny_patch16_224", device="cpu", pretrained=False, depth=2)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint folders by pooling: "simpool" and "gap"."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {pooling: save_small(folder / pooling, pooling) for pooling in ("simpool", "gap")}


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files: "wide" and "tall" photos, and "wide mask" and "tall mask" with their object."""
    folder = tmp_path_factory.mktemp("photos")
    files = {}
    for name, (width, height) in {"wide": (91, 60), "tall": (64, 100)}.items():
        Image.fromarray(make_photo(width, height)).save(folder / f"{name}.png")
        Image.fromarray((255 * disc(width, height)).astype(np.uint8)).save(folder / f"{name}_mask.png")
        files |= {name: folder / f"{name}.png", f"{name} mask": folder / f"{name}_mask.png"}
    return files


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 photos of three shapes, 2 train shards and 1 val shard."""
    folder, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    photos = [
        (shape_photo(CLASSES[i % 3], int(rng.integers(60, 120)), int(rng.integers(60, 120)), rng), i % 3)
        for i in range(200)
    ]
    write_parquet(folder, "train", photos[:150], shards=2)
    write_parquet(folder, "val", photos[150:])
    return folder


BUNDLED_DENSE = [name for name, entry in catalogue().items() if entry.available and entry.outline().dense]


@pytest.fixture(scope="module", params=["registers", "life", *BUNDLED_DENSE])
def dense_recording(request: pytest.FixtureRequest) -> Recording:
    """Of random models and of the bundled ones, on a picture whose grid is not square."""
    encoder = (
        dense(inside="life" if request.param == "life" else "") if request.param in ("registers", "life") else None
    )
    return record(encoder or load_checkpoint(request.param, device="cpu"), make_photo(150, 90), 96)
