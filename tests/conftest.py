"""Small encoders, checkpoint folders and photos that several test files share; everything is made here, nothing
fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simpool_viz.checkpoints.bundle import save_bundle
from simpool_viz.checkpoints.load import load_checkpoint
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.spec import EncoderSpec
from tests.photos import CLASSES, shape_photo, write_parquet

BACKBONE = {"channels": (8, 8, 16, 16), "stem_type": "deep", "stem_width": 8, "output_stride": 16}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine more threads wait for each other longer than such small models compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_spec(pooling: str = "simpool") -> EncoderSpec:
    """A ResNet-18 of 8 to 16 channels and stride 8."""
    return EncoderSpec("resnet18", pooling, 3, dict(BACKBONE), False, {"gamma": 2.0} if pooling == "simpool" else {})


def small_resnet(pooling: str = "simpool", name: str = "", seed: int = 0) -> Encoder:
    """An encoder of `small_spec` with random weights, whose maps are far from uniform."""
    torch.manual_seed(seed)
    name = name or f"small_{pooling}"
    encoder = small_spec(pooling).build(Facts(name, name.replace("_", " "), 64, classes=CLASSES, source="made up"))
    for key, parameter in encoder.named_parameters():
        if key.startswith("pooling.w"):
            parameter.data.mul_(4)
    return encoder.eval().requires_grad_(False)


def save_small(folder: Path, pooling: str = "simpool", name: str = "", seed: int = 0) -> Path:
    """A checkpoint folder of a `small_resnet`."""
    save_bundle(folder, small_resnet(pooling, name, seed), small_spec(pooling), "# made up\n")
    return folder


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


def make_photo(width: int = 91, height: int = 60, seed: int = 0) -> np.ndarray:
    """A noisy picture (H, W, 3) with a bright disc right of its middle, the object of `make_mask_file`."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(90, size=(height, width, 3), dtype=np.uint8)
    rgb[disc(width, height)] = (230, 200, 40)
    return rgb


def disc(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (x - width * 0.6) ** 2 + (y - height * 0.5) ** 2 < (height * 0.3) ** 2


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
