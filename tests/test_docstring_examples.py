"""The examples in the docstrings of the calls that users meet first show what they print."""

from __future__ import annotations

import doctest
import importlib
import shutil
from pathlib import Path

import pytest

ASSETS = Path(__file__).parent.parent / "assets"
PHOTOS = {"cat.jpg": "chelsea.jpg", "street.jpg": "motorcycle.jpg", "cat_mask.png": "masks/chelsea.png"}
EXAMPLES = {
    "board.board": ["make_board"],
    "board.comparison": ["agreement", "arrange", "difference"],
    "board.inspection": ["inspect"],
    "board.segmentation": ["segment"],
    "checkpoints.catalogue": ["catalogue"],
    "checkpoints.load": ["load_checkpoint"],
    "export": ["export_board"],
    "images": ["read_picture"],
    "maps.attention_map": ["AttentionMap.entropy", "AttentionMap.fused", "AttentionMap.mask"],
    "maps.registry": ["map_methods"],
    "masks": ["ObjectMask.boxes", "ObjectMask.pixels", "mask_rules"],
    "modeling.pooling.create": ["poolings"],
    "recording": ["Recording.map", "Recording.maps", "record", "record_batch"],
    "scores.localization": ["score_map"],
    "scores.spatial_entropy": ["spatial_entropy"],
}


@pytest.mark.parametrize(("name", "calls"), EXAMPLES.items(), ids=EXAMPLES)
def test_examples_print_what_they_show(
    name: str, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for copy, photo in PHOTOS.items():
        shutil.copy(ASSETS / photo, tmp_path / copy)
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"simpool_viz.{name}")
    found = doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__)
    examples = [test for test in found if test.examples]
    assert {f"{module.__name__}.{call}" for call in calls} <= {test.name for test in examples}
    faults: list[str] = []
    for test in examples:
        test.globs = {}  # an example imports what it needs, as a user would
        doctest.DocTestRunner().run(test, out=faults.append)
    assert not faults, "".join(faults)
