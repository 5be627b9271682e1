"""Made-up photos with labels, in the form in which training reads real ones."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

CLASSES = ("circle", "square", "triangle")
COLOURS = {"circle": (230, 60, 60), "square": (60, 230, 60), "triangle": (60, 60, 230)}


def shape_photo(kind: str, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """A coloured shape, as wide as high, somewhere on a noisy ground."""
    image = Image.fromarray(rng.integers(80, size=(height, width, 3), dtype=np.uint8))
    r = int(min(width, height) * 0.3)
    x, y = (int(rng.integers(r, side - r)) for side in (width, height))
    draw = ImageDraw.Draw(image)
    if kind == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), COLOURS[kind])
    elif kind == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), COLOURS[kind])
    else:
        draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], COLOURS[kind])
    return image


def write_parquet(folder: Path, split: str, photos: list[tuple[Image.Image, int]], shards: int = 1) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = []
    for image, label in photos:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG" if image.mode == "RGB" else "PNG")
        rows.append({"image": {"bytes": buffer.getvalue(), "path": "a.jpg"}, "label": label, "source": "made up"})
    folder.mkdir(exist_ok=True, parents=True)
    for i in range(shards):
        parquet.write_table(
            pyarrow.Table.from_pylist(rows[i::shards]), folder / f"{split}-{i:05}-of-{shards:05}.parquet"
        )
    (folder / "classes.json").write_text(json.dumps(list(CLASSES)))
