"""CUB-200-2011: birds with masks, or with a box each where the masks are not unpacked.

Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011. A mask says how many of five people took a pixel for bird;
half of them are enough. Boxes are x, y, width, height.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets.kinds import DataSetKind, register_data_set
from simpool_viz.evaluation.datasets.samples import Absent, BoxList, GreyMask, Sample, Truth

_SPLITS = {"train": "1", "test": "0"}


def _rows(path: Path) -> dict[str, list[str]]:
    """The lines of a file, "ID WORD ...", by id."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return {words[0]: words[1:] for words in lines if len(words) > 1}


def _open_birds(folder: Path, split: str) -> list[Sample]:
    split = split or "test"
    if split not in (*_SPLITS, "all"):
        raise OptionError(f"CUB-200-2011 has no split {split!r}; choose --split test, train or all")
    paths, parts = _rows(folder / "images.txt"), _rows(folder / "train_test_split.txt")
    truth = _by_mask(folder) if (folder / "segmentations").is_dir() else _by_box(folder)
    return [
        Sample(words[0], folder / "images" / words[0], truth(number, words[0]))
        for number, words in paths.items()
        if split == "all" or parts.get(number) == [_SPLITS[split]]
    ]


def _by_mask(folder: Path) -> Callable[[str, str], Truth]:
    return lambda number, path: GreyMask((folder / "segmentations" / path).with_suffix(".png"))


def _by_box(folder: Path) -> Callable[[str, str], Truth]:
    file = folder / "bounding_boxes.txt"
    boxes = _rows(file)

    def truth(number: str, path: str) -> Truth:
        try:
            x, y, width, height = map(float, boxes[number])
        except (KeyError, ValueError):
            return Absent(f"{file} has no box of four numbers for {number}, {path}")
        return BoxList(((x, y, x + width, y + height),))

    return truth


register_data_set(
    DataSetKind(
        "cub",
        "CUB-200-2011",
        "images/, images.txt, train_test_split.txt, and segmentations/ or bounding_boxes.txt",
        (("images",), ("images.txt",), ("train_test_split.txt",), ("segmentations", "bounding_boxes.txt")),
        _open_birds,
        ("CUB_200_2011",),
        has_splits=True,
    )
)
