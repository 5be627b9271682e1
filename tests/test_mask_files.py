"""Masks in the forms of other tools, read back with pycocotools and Pillow."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from simpool_viz.errors import OptionError
from simpool_viz.mask_files import NamedMask, coco_annotations, mask_of_runs, png_of, polygons, run_lengths

RNG = np.random.default_rng(0)
Y, X = np.mgrid[:47, :61]
DISC = (Y - 20) ** 2 + (X - 33) ** 2 < 15**2
MASKS = {
    "noise": RNG.random((47, 61)) < 0.5,
    "disc": DISC,
    "ring": DISC & ((Y - 20) ** 2 + (X - 33) ** 2 > 6**2),
    "two parts": DISC | ((Y > 40) & (X < 9)),
    "touching corners": np.kron(np.eye(4), np.ones((5, 7))) > 0,
    "at the edges": (Y < 9) | (X > 50),
    "one pixel": (Y == 46) & (X == 60),
    "all": np.ones((47, 61), bool),
    "first pixel": (Y == 0) & (X == 0),
}


def rasterized(outlines: list[list[float]], shape: tuple[int, ...]) -> np.ndarray:
    return coco.decode(coco.merge(coco.frPyObjects(outlines, *shape))) > 0


@pytest.mark.parametrize("name", MASKS)
def test_png_is_binary_and_of_the_masks_size(name: str) -> None:
    with Image.open(io.BytesIO(png_of(MASKS[name]))) as image:
        assert image.mode == "L" and image.format == "PNG"
        assert np.array_equal(np.asarray(image), 255 * MASKS[name])


@pytest.mark.parametrize("name", [*MASKS, "none"])
def test_run_lengths_are_pycocotools(name: str) -> None:
    mask = MASKS.get(name, np.zeros((5, 3), bool))
    runs = json.loads(json.dumps(run_lengths(mask)))
    assert sum(runs["counts"]) == mask.size
    assert np.array_equal(coco.decode(coco.frPyObjects(runs, *mask.shape)) > 0, mask)
    assert np.array_equal(mask_of_runs(**runs), mask)


def test_runs_that_do_not_fill_the_picture_are_refused() -> None:
    for counts in ([], [3], [7, -1], [3, 4]):
        with pytest.raises(OptionError, match="mask of 3 x 2 pixels add up to 6"):
            mask_of_runs([2, 3], counts)


@pytest.mark.parametrize("name", ["disc", "two parts", "at the edges", "all", "touching corners"])
def test_polygons_enclose_the_mask(name: str) -> None:
    mask, outlines = MASKS[name], polygons(MASKS[name])
    drawn = rasterized(outlines, mask.shape)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.97
    assert len(outlines) == {"two parts": 2}.get(name, 1)
    for outline in outlines:
        xs, ys = outline[::2], outline[1::2]
        assert min(xs) >= 0 and max(xs) <= mask.shape[1] and min(ys) >= 0 and max(ys) <= mask.shape[0]


def test_polygons_of_a_rectangle_are_its_edges_and_holes_are_filled() -> None:
    box = (Y >= 10) & (Y < 20) & (X >= 5) & (X < 40)
    (outline,) = polygons(box)
    assert (min(outline[::2]), max(outline[::2])) == (5, 40)
    assert (min(outline[1::2]), max(outline[1::2])) == (10, 20) and len(outline) <= 16
    (ring,) = polygons(MASKS["ring"])
    (disc,) = polygons(DISC)
    assert ring == disc


@pytest.mark.parametrize("as_polygons", [True, False])
def test_annotations_are_a_coco_file(as_polygons: bool, tmp_path: pytest.TempPathFactory) -> None:
    pictures = [("cat.jpg", (61, 47)), ("dog.png", (3, 5))]
    masks = [
        NamedMask(MASKS["two parts"], 0, {"map": "cls"}),
        NamedMask(np.zeros((5, 3), bool), 1, {"map": "cls"}),
        NamedMask(np.ones((5, 3), bool), 1, {"map": "pooling"}),
    ]
    path = tmp_path / "coco.json"  # type: ignore[operator]
    path.write_text(json.dumps(coco_annotations(pictures, masks, as_polygons=as_polygons)))
    read = COCO(str(path))
    assert [read.imgs[i]["file_name"] for i in (1, 2)] == ["cat.jpg", "dog.png"]
    assert sorted(read.anns) == [1, 3], "an empty mask has no annotation"
    first = read.anns[1]
    assert first["image_id"] == 1 and first["map"] == "cls" and first["area"] == MASKS["two parts"].sum()
    assert first["bbox"] == [0, 6, 48, 41]
    decoded = read.annToMask(first) > 0
    agreed = (decoded & MASKS["two parts"]).sum() / (decoded | MASKS["two parts"]).sum()
    assert agreed > 0.97 if as_polygons else agreed == 1
    assert read.anns[3]["bbox"] == [0, 0, 3, 5]
