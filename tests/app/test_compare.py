"""The Compare page without a browser: checkpoints in memory, and whose reference mask a photo gets."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from simpool_viz.app import compare as module
from simpool_viz.app.compare import MOST_PHOTOS, ComparePage, EncoderStore, example_photos, reference_of
from simpool_viz.checkpoints.bundle import bundled_folder
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import make_photo, small_resnet

EXAMPLE = bundled_folder("assets") / "chelsea.jpg"


# --- checkpoints in memory
# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is loaded, of a catalogue of five small checkpoints; "a+b" is a head on the backbone of "a"."""
    names: list[str] = []

    def load(name: str, device: str) -> Encoder:
        names.append(name)
        encoder = small_resnet(name="a" if name == "a+b" else name)
        encoder.facts = dataclasses.replace(encoder.facts, name=name, base="a" if name == "a+b" else "")
        return encoder

    monkeypatch.setattr(module, "catalogue", lambda: dict.fromkeys(("a", "b", "c", "d", "a+b")))
    monkeypatch.setattr(module, "load_checkpoint", load)
    return names


def test_store_drops_the_checkpoint_that_was_asked_for_longest_ago(loads: list[str]) -> None:
    store = EncoderStore("cpu", limit=3)
    first = {name: store.get(name) for name in ("a", "b", "c")}
    assert store.get("a") is first["a"] and loads == ["a", "b", "c"], "each is loaded once"
    store.get("d")
    assert list(store._loaded) == ["c", "a", "d"], "b was asked for longest ago"
    assert store.get("a") is first["a"] and store.get("c") is first["c"] and len(loads) == 4
    assert store.get("b") is not first["b"] and loads == ["a", "b", "c", "d", "b"]
    for name in ("a", "b", "c", "d", "a", "b", "c", "d"):
        store.get(name)
        assert len(store._loaded) <= 3 and next(reversed(store._loaded)) == name


def test_store_keeps_eight_checkpoints_unless_told_otherwise(loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(i) for i in range(12)]
    monkeypatch.setattr(module, "catalogue", lambda: dict.fromkeys(names))
    store = EncoderStore("cpu")
    for name in names:
        store.get(name)
    assert list(store._loaded) == names[-8:] and loads == names


def test_heads_in_the_store_share_the_backbone_of_their_base(loads: list[str]) -> None:
    store = EncoderStore("cpu")
    base, head, other = store.get("a"), store.get("a+b"), store.get("b")
    assert head.backbone is base.backbone is not other.backbone


# --- references
# --------------------------------------------------------------------------------------------------------------------


def test_every_example_photo_has_its_reference_wherever_it_lies(tmp_path: Path) -> None:
    for example in example_photos():
        copy = Path(shutil.copy(example, tmp_path / example.name))  # as an upload lies elsewhere
        with Image.open(example) as photo:
            for path in (example, copy):
                found = reference_of(str(path))
                assert found is not None and found.size == photo.size


def test_photo_that_is_only_called_like_an_example_has_no_reference(tmp_path: Path) -> None:
    photo = tmp_path / EXAMPLE.name
    Image.fromarray(make_photo(451, 300)).save(photo)  # of the example's very size
    assert reference_of(str(photo)) is None
    changed = bytearray(EXAMPLE.read_bytes())
    changed[len(changed) // 2] ^= 1
    photo.write_bytes(changed)
    stamp = EXAMPLE.stat()
    os.utime(photo, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert reference_of(str(photo)) is None, "one bit differs, in a file of one size, name and date"
    assert reference_of(str(tmp_path / "other.jpg")) is None


def test_scores_stand_beside_the_example_and_not_beside_a_photo_of_its_name(tmp_path: Path) -> None:
    page, photo = ComparePage(EncoderStore("cpu")), tmp_path / EXAMPLE.name
    Image.fromarray(make_photo(451, 300)).save(photo)
    *_, last = page.run(str(EXAMPLE), ["resnet_gap"], ["contribution"], 64, photos=[str(photo)])
    own, others = last.board.rows
    assert own.scores and not others.scores


def test_more_photos_than_are_compared_at_once_are_refused(tmp_path: Path) -> None:
    page, photo = ComparePage(EncoderStore("cpu")), tmp_path / "photo.png"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(photo)
    with pytest.raises(gr.Error, match=rf"{MOST_PHOTOS + 1} photos were given; at most {MOST_PHOTOS}"):
        list(page.run(str(photo), ["resnet_gap"], ["contribution"], 64, photos=[str(photo)] * MOST_PHOTOS))
    first = next(page.run(str(photo), ["resnet_gap"], ["contribution"], 64, photos=[str(photo)] * (MOST_PHOTOS - 1)))
    assert len(first.board.pictures) == MOST_PHOTOS
