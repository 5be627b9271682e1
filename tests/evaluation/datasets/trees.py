"""Made-up trees of data sets with known answers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from simpool_viz.evaluation.datasets import DataSet
from simpool_viz.scores.references import Reference
from tests.helpers import make_photo

SIZE = (40, 24)  # (W, H)


def rectangle(x0: int, y0: int, x1: int, y1: int, value: int = 1, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W) uint8, `value` inside a half-open box."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[y0:y1, x0:x1] = value
    return mask


def save_photo(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_photo(*size, len(path.name))).save(path, "JPEG")


def save_mask(path: Path, mask: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image = image.convert("P")
        image.putdata(mask.ravel().tolist())
        image.putpalette([value for i in range(256) for value in (i, 255 - i, 90)])
    image.save(path)


def file_bytes(array: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def write_list(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_xml(path: Path, *boxes: tuple[int, int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = "".join(
        f"<object><name>cat</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
        "</object>"
        for x0, y0, x1, y1 in boxes
    )
    path.write_text(f"<annotation><size><width>40</width><height>24</height></size>{objects}</annotation>")


def references(data: DataSet, *object_ids: int) -> dict[str, Reference]:
    return {sample.key: sample.reference(object_ids=object_ids) for sample in data.samples}


def pairs_of(data: DataSet) -> list[tuple[Path, Path]]:
    """(image, mask) files of a set of pairs."""
    return [(Path(str(sample.photo)), sample.truth.file) for sample in data.samples]  # type: ignore[attr-defined]
