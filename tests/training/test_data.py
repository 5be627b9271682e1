"""Photos and crops in true proportions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from simpool_viz.modeling.encoder import IMAGENET_MEAN, IMAGENET_STD
from simpool_viz.training import data as data_module
from simpool_viz.training.data import STORED, Batches, Photos, centre_crops, load_photos, random_crops
from simpool_viz.training.sources import read_classes
from tests.photos import CLASSES, write_parquet

ASPECTS = [1.0, 1.5, 0.6, 4.0, 0.2]


def cropped(
    images: torch.Tensor, aspect: torch.Tensor, size: int, smallest: float, seed: int, **options: Any
) -> torch.Tensor:
    return random_crops(aspect, smallest, torch.Generator().manual_seed(seed), **options).images(images, size)


def with_coordinates(count: int) -> torch.Tensor:
    """Photos (B, S, S, 3) whose red is the column and green the row, in pixels of the stored square."""
    y, x = torch.meshgrid(torch.arange(STORED), torch.arange(STORED), indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)], 2).to(torch.uint8).expand(count, -1, -1, -1)


def coordinates(crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y (B, size, size) that the pixels of crops of `with_coordinates` show, as shares of the photo."""
    values = crops * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
    return (values[:, 0] * 255 + 0.5) / STORED, (values[:, 1] * 255 + 0.5) / STORED


@pytest.mark.parametrize("aspect", ASPECTS)
def test_random_crops_stay_inside_and_keep_proportions_to_the_usual_jitter(aspect: float) -> None:
    size, count = 32, 300
    crops = cropped(with_coordinates(count), torch.full((count,), aspect), size, 0.25, 0)
    x, y = coordinates(crops)
    assert crops.shape == (count, 3, size, size) and crops.dtype == torch.float32
    # Shares of the photo per pixel of the crop.
    step_x, step_y = (
        (x[:, 5, 20] - x[:, 5, 10]) / 10,
        (y[:, 20, 5] - y[:, 10, 5]) / 10,
    )
    width, height = step_x.abs() * size, step_y * size
    assert (width <= 1 + 1e-3).all() and (height <= 1 + 1e-3).all() and (height > 0).all()
    left, top = torch.minimum(x[:, 0, 0], x[:, 0, -1]) - width / size / 2, y[:, 0, 0] - height / size / 2
    tolerance = 1.2 / STORED  # outside the first and last pixels' centres the photo is reflected
    assert (left > -tolerance).all() and (left + width < 1 + tolerance).all()
    assert (top > -tolerance).all() and (top + height < 1 + tolerance).all()
    proportions = aspect * width / height
    assert (proportions > 3 / 4 - 0.02).all() and (proportions < 4 / 3 + 0.02).all(), "nothing is squeezed further"
    assert proportions.min() < 0.8 and proportions.max() > 1.25, "and all of the jitter is used"
    if 0.75 <= aspect <= 1.34:
        assert (width * height).min() > 0.17 and (width * height).max() > 0.8
    assert 0.35 < (step_x < 0).float().mean() < 0.65, "half of them are flipped"


def test_random_crops_follow_their_generator() -> None:
    images, aspect = torch.randint(256, (5, STORED, STORED, 3), dtype=torch.uint8), torch.tensor(ASPECTS)
    first, same, other = (cropped(images, aspect, 24, 0.25, seed) for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_squeezed_crops_use_the_whole_short_side_where_others_shrink() -> None:
    count, aspect = 300, torch.full((300,), 4.0)
    shapes = []
    for squeeze in (True, False):
        x, y = coordinates(cropped(with_coordinates(count), aspect, 32, 0.25, 0, squeeze=squeeze))
        shapes.append(((x[:, 5, 20] - x[:, 5, 10]).abs() * 3.2, (y[:, 20, 5] - y[:, 10, 5]) * 3.2))
    (width, height), (shrunk_width, shrunk_height) = shapes
    assert (height > 0.97).float().mean() > 0.5, "most crops of 4 : 1 are longer than the photo is high"
    assert (4 * width / height).max() > 1.5, "so they are squeezed"
    assert (4 * shrunk_width / shrunk_height).max() < 1.4 and (shrunk_height <= height + 0.01).all()


def test_labels_are_cropped_as_their_photos_are() -> None:
    """Red of a photo is its column; a label map that holds the column too must show the same."""
    images, aspect = with_coordinates(40), torch.full((40,), 1.5)
    crops = random_crops(aspect, 0.25, torch.Generator().manual_seed(3))
    x, _ = coordinates(crops.images(images, 32))
    labels = crops.labels(images[..., 0], 32)
    assert labels.shape == (40, 32, 32) and labels.dtype == torch.int64
    inside = slice(1, -1)
    assert ((labels + 0.5) / STORED - x)[:, inside, inside].abs().max() < 1 / STORED
    part = crops.of(slice(10, 20))
    assert torch.equal(part.labels(images[10:20, ..., 0], 32), labels[10:20])


def test_centre_crops_take_the_central_square() -> None:
    x, y = coordinates(centre_crops(torch.tensor(ASPECTS)).images(with_coordinates(len(ASPECTS)), 32))
    for i, aspect in enumerate(ASPECTS):
        width, height = min(1 / aspect, 1), min(aspect, 1)
        for shown, share in ((x[i].mean(0), width), (y[i].mean(1), height)):
            wanted = 0.5 + ((torch.arange(32) + 0.5) / 32 - 0.5) * share
            assert (shown - wanted).abs().max() < 0.6 / STORED


@pytest.mark.parametrize("size", [(300, 150), (100, 260)])
def test_circle_in_an_elongated_photo_is_round_in_its_centre_crop(tmp_path: Path, size: tuple[int, int]) -> None:
    photo = Image.new("RGB", size)
    x, y = size[0] / 2, size[1] / 2
    ImageDraw.Draw(photo).ellipse((x - 40, y - 40, x + 40, y + 40), (255, 255, 255))
    write_parquet(tmp_path, "train", [(photo, 0)])
    photos = load_photos(tmp_path, "train", tmp_path / "cache")
    crop = centre_crops(torch.tensor(photos.aspect)).images(torch.tensor(photos.images), 96)[0, 0]
    bright = crop > (crop.max() + crop.min()) / 2
    across, down = bright.any(0).sum().item(), bright.any(1).sum().item()
    assert abs(across - down) <= 2 and across == pytest.approx(96 * 81 / min(size), abs=2)


def test_photos_are_squashed_to_squares_with_their_aspect_and_label(tmp_path: Path) -> None:
    red, grey = Image.new("RGB", (90, 60), (250, 10, 10)), Image.new("L", (40, 80), 100)
    write_parquet(tmp_path, "train", [(red, 2), (grey, 0)])
    photos = load_photos(tmp_path, "train", tmp_path / "cache")
    assert len(photos) == 2 and photos.images.shape == (2, STORED, STORED, 3) and photos.images.dtype == np.uint8
    assert photos.aspect.tolist() == [1.5, 0.5] and photos.labels.tolist() == [2, 0]
    assert np.abs(photos.images[0].astype(int) - (250, 10, 10)).max() < 6 and (photos.images[1] == 100).all()
    assert read_classes(tmp_path) == CLASSES


def test_photos_are_decoded_once_and_again_when_the_shards_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path, "train", [(Image.new("RGB", (90, 60)), 1)])
    first = load_photos(tmp_path, "train", tmp_path / "cache")
    decoded = []
    decode = data_module._decode
    monkeypatch.setattr(data_module, "_decode", lambda *a: (decoded.append(1), decode(*a)))
    assert np.array_equal(load_photos(tmp_path, "train", tmp_path / "cache").images, first.images) and not decoded
    write_parquet(tmp_path, "train", [(Image.new("RGB", (90, 60)), 1), (Image.new("RGB", (60, 90)), 2)])
    assert len(load_photos(tmp_path, "train", tmp_path / "cache")) == 2 and decoded == [1]


def test_decoding_that_fails_leaves_no_half_made_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path, "train", [(Image.new("RGB", (90, 60)), 1)])
    monkeypatch.setattr(np, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_photos(tmp_path, "train", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_photos_and_classes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no train-\*\.parquet; set data="):
        load_photos(tmp_path, "train", tmp_path)
    with pytest.raises(ValueError, match=r"holds no classes\.json"):
        read_classes(tmp_path)


def test_batches_show_every_photo_once_before_any_again() -> None:
    def batches(count: int, batch_size: int, total: int) -> list[list[int]]:
        return [index.tolist() for index in Batches(count, batch_size, total, torch.Generator().manual_seed(0))]

    seen = batches(10, 4, 43)
    assert [len(index) for index in seen] == [4] * 10 and len({tuple(index) for index in seen}) > 5
    assert np.bincount(np.concatenate(seen)).tolist() == [4] * 10
    assert len(batches(3, 8, 8)[0]) == 8, "also when there are fewer photos than a batch takes"


def test_a_part_of_the_photos_has_its_share_of_each_class() -> None:
    labels = np.repeat([3, 0, 7], [40, 20, 1])
    photos = Photos(np.arange(61)[:, None, None, None] + np.zeros((61, 2, 2, 3), np.uint8), np.ones(61), labels, "key")
    part = photos.part(0.25, seed=0)
    assert [int((part.labels == c).sum()) for c in (3, 0, 7)] == [10, 5, 1], "at least one of each"
    assert np.array_equal(labels[part.images[:, 0, 0, 0].astype(int)], part.labels) and len(part.aspect) == 16
    assert np.array_equal(part.images, photos.part(0.25, seed=0).images)
    other = photos.part(0.25, seed=1)
    assert not np.array_equal(part.images, other.images) and len({photos.key, part.key, other.key}) == 3
    assert photos.part(1, seed=0) is photos
    maps = Photos(photos.images, photos.aspect, np.zeros((61, 2, 2), np.uint8))
    assert len(maps.part(0.1, seed=0)) == 6


def test_batch_of_photos_keeps_rows_together() -> None:
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    photos = Photos(images, np.arange(10, dtype=np.float32), np.arange(10))
    index = np.array([1, 4, 9])
    assert [part.flatten(1)[:, 0].tolist() if part.ndim > 1 else part.tolist() for part in photos.batch(index)] == [
        index.tolist()
    ] * 3
