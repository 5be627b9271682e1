"""The Oxford-IIIT Pet data set with its trimaps: 1 is the pet, 2 the background, 3 the border, which is left out.

Parkhi et al., Cats and Dogs, CVPR 2012. `object_ids` choose others, as 1,3 for the pet with its border.
"""

from __future__ import annotations

from pathlib import Path

from simpool_viz.evaluation.datasets.kinds import DataSetKind, register_data_set
from simpool_viz.evaluation.datasets.samples import LabelMap, Sample
from simpool_viz.evaluation.datasets.voc import names_of_split

PET, BORDER = 1, 3


def _open_pets(folder: Path, split: str) -> list[Sample]:
    lists = folder / "annotations"
    if split or (lists / "test.txt").is_file():
        names = names_of_split(lists, split, "test")
    else:
        names = sorted(path.stem for path in (lists / "trimaps").glob("*.png") if path.name[0] != ".")
    return [
        Sample(
            name,
            folder / "images" / f"{name}.jpg",
            LabelMap(lists / "trimaps" / f"{name}.png", objects=(PET,), void=(BORDER,)),
        )
        for name in names
    ]


register_data_set(
    DataSetKind(
        "pets",
        "the Oxford-IIIT Pet data set",
        "images/*.jpg, annotations/trimaps/*.png and perhaps annotations/test.txt",
        (("images",), ("annotations/trimaps",)),
        _open_pets,
        ("oxford-iiit-pet",),
        has_splits=True,
        object_ids="1 pet (the default), 2 background, 3 border (left out by default)",
    )
)
