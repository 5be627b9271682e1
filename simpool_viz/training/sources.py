"""Where photos for training come from: parquet shards, a folder of pictures by class, or photos with label maps."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from simpool_viz.errors import DataError, needs_packages
from simpool_viz.images import open_picture


class Source(Protocol):
    """Photos of one split with their labels.

    A label is a class index, or a label map: a grey picture of the photo's size whose values are class indices.

    Attributes:
        stamp: a text that changes when the files do.
        dense: whether labels are label maps.
    """

    stamp: str
    dense: bool

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Image.Image, int | Image.Image]]: ...


def open_sources(folders: Sequence[Path], split: str) -> Source:
    """The photos of `split` in several data folders, one after the other; in one, its own. Errors as in `open_source`,
    and DataError for photos with classes beside photos with label maps."""
    sources = [open_source(folder, split) for folder in folders]
    return sources[0] if len(sources) == 1 else Joined(sources)


def open_source(folder: Path, split: str) -> Source:
    """Open the photos of a split.

    Args:
        split: "train" or "val".
        folder: holds `{split}-*.parquet` with columns image {bytes} and label, or `{split}/CLASS/*` with a picture a
            file, or `{split}/images/*` and `{split}/labels/*`, grey pictures of class numbers with the photos' names.

    Raises:
        DataError: it holds none of these.
    """
    shards = sorted(folder.glob(f"{split}-*.parquet"))
    if shards:
        return ParquetShards(shards)
    place = folder / split
    if (place / "images").is_dir() and (place / "labels").is_dir():
        return LabelMaps(place)
    if place.is_dir():
        return ClassFolders(place)
    raise DataError(
        f"{folder} holds no {split}-*.parquet; set data= to the folder that does, or to one with {split}/CLASS/*.jpg, "
        f"or with {split}/images and {split}/labels"
    )


def read_common_classes(folders: Sequence[Path]) -> tuple[str, ...]:
    """The class names of several data folders that number their classes alike: those of the one that has most.

    Raises:
        DataError: as in `read_classes`, or a folder that calls a number by another name.
    """
    tables = [read_classes(folder) for folder in folders]
    longest = max(tables, key=len)
    for folder, table in zip(folders, tables, strict=True):
        if table != longest[: len(table)]:
            raise DataError(
                f"{folder} numbers its classes in another way than the folder with most of them; train on folders "
                "whose classes.json begin alike"
            )
    return longest


def read_classes(folder: Path) -> tuple[str, ...]:
    """Read the class names of a data folder from classes.json, or from the names of the folders in train/.

    Args:
        folder: the data folder.

    Returns:
        Names in the order of the labels.

    Raises:
        DataError: it has neither.
    """
    path = folder / "classes.json"
    if path.is_file():
        try:
            return tuple(map(str, json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError) as error:  # no JSON, or no list
            raise DataError(f"{path} is not readable as a list of class names: {error}") from error
    if (folder / "train").is_dir() and not (folder / "train" / "labels").is_dir():
        return tuple(ClassFolders(folder / "train").classes)
    raise DataError(
        f"{folder} holds no classes.json; set data= to a folder with train-*.parquet, val-*.parquet and classes.json, "
        "or with train/CLASS/*.jpg and val/CLASS/*.jpg, or name the classes in the recipe"
    )


def _parquet() -> Any:
    with needs_packages("reading parquet files", "pyarrow"):
        import pyarrow.parquet as parquet
    return parquet


class Joined:
    """The photos of several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.dense = sources[0].dense
        if any(source.dense != self.dense for source in sources):
            raise DataError("photos with a class each and photos with label maps cannot be trained on together")
        self.stamp = "|".join(source.stamp for source in sources)
        self._sources = sources

    def __len__(self) -> int:
        return sum(map(len, self._sources))

    def __iter__(self) -> Iterator[tuple[Image.Image, int | Image.Image]]:
        for source in self._sources:
            yield from source


class ParquetShards:
    """Parquet files as the Hugging Face hub stores data sets of pictures, with columns image {bytes} and label.

    Args:
        shards: the files, in order.

    Raises:
        DataError: a damaged file.
        MissingPackageError: pyarrow is not installed.
    """

    dense = False

    def __init__(self, shards: list[Path]) -> None:
        parquet = _parquet()
        self.stamp = "|".join(f"{s.resolve()}:{s.stat().st_size}" for s in shards)
        self._shards = shards
        try:
            self._count = sum(parquet.ParquetFile(s).metadata.num_rows for s in shards)
        except ValueError as error:  # of pyarrow, for what is no parquet file
            raise DataError(f"{shards[0].parent} holds a damaged parquet file: {error}") from error

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        parquet = _parquet()
        for shard in self._shards:
            for row in parquet.read_table(shard, columns=["image", "label"]).to_pylist():
                with open_picture(io.BytesIO(row["image"]["bytes"]), f"a photo in {shard.name}") as photo:
                    rgb = photo.convert("RGB")
                yield rgb, int(row["label"])


class ClassFolders:
    """A folder of pictures for each class, as torchvision reads it: classes in the order of their names.

    Args:
        folder: holds the folders of the classes.

    Raises:
        DataError: no folder with a picture.
    """

    dense = False

    def __init__(self, folder: Path) -> None:
        from torchvision.datasets import ImageFolder

        try:
            files = ImageFolder(str(folder))
        except FileNotFoundError as error:
            raise DataError(f"{folder} is no folder of pictures by class: {error}") from error
        self.classes, self._samples = files.classes, files.samples
        self.stamp = _stamp(Path(path) for path, _ in self._samples)

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        for path, label in self._samples:
            with open_picture(Path(path), path) as photo:
                rgb = photo.convert("RGB")
            yield rgb, label


class LabelMaps:
    """Photos in images/ and label maps in labels/, paired by the stems of their names.

    Args:
        folder: holds the two folders.

    Raises:
        DataError: a photo without a label map, or one of another size.
    """

    dense = True

    def __init__(self, folder: Path) -> None:
        from simpool_viz.evaluation.datasets import pair_files

        self._pairs = pair_files(folder / "images", folder / "labels")
        self.stamp = _stamp(path for pair in self._pairs for path in pair)

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[tuple[Image.Image, Image.Image]]:
        for image, label in self._pairs:
            with open_picture(image, str(image)) as photo, open_picture(label, str(label)) as classes:
                if photo.size != classes.size:
                    raise DataError(
                        f"{label} is {classes.size} pixels and its photo {photo.size}; a label map is of its photo's "
                        "size"
                    )
                pair = photo.convert("RGB"), Image.fromarray(np.asarray(classes).astype(np.uint8))
            yield pair


def _stamp(paths: Iterator[Path]) -> str:
    listing = "|".join(f"{path.resolve()}:{path.stat().st_size}" for path in paths)
    return hashlib.sha256(listing.encode()).hexdigest()
