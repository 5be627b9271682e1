"""Composites: pixel for pixel what they are made of, the same at every time, with the photo's own reference."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simpool_viz.batch.preparing import Frame
from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets import DataSet, open_data_set
from simpool_viz.evaluation.datasets.backgrounds import BACKGROUNDS, with_backgrounds, without_objects
from simpool_viz.evaluation.datasets.samples import Absent, Sample
from simpool_viz.evaluation.scorers import read_sample

GROUNDS = {"red": (200, 20, 20), "green": (20, 180, 20), "blue": (30, 30, 190)}
OBJECT = (240, 240, 10)
SIZES = {"red": (90, 60), "green": (64, 100), "blue": (80, 50)}


def box(size: tuple[int, int]) -> np.ndarray:
    """The object (H, W) bool: a box right of the middle."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    return (x >= width * 0.5) & (x < width * 0.8) & (y >= height * 0.3) & (y < height * 0.7)


def painted(name: str) -> np.ndarray:
    rgb = np.tile(np.array(GROUNDS[name], np.uint8), (SIZES[name][1], SIZES[name][0], 1))
    rgb[box(SIZES[name])] = OBJECT
    return rgb


@pytest.fixture
def plain(tmp_path: Path) -> DataSet:
    """A yellow box on one colour each, in files without loss."""
    for folder in ("images", "masks"):
        (tmp_path / "plain" / folder).mkdir(parents=True)
    for name, size in SIZES.items():
        Image.fromarray(painted(name)).save(tmp_path / "plain" / "images" / f"{name}.png")
        Image.fromarray((255 * box(size)).astype(np.uint8)).save(tmp_path / "plain" / "masks" / f"{name}.png")
    return open_data_set(tmp_path / "plain")


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_the_object_keeps_its_pixels_and_its_reference(plain: DataSet, kind: str) -> None:
    changed = with_backgrounds(plain, kind)
    assert len(changed) == 3 and changed.name == f"plain {kind}" and changed.kind == "pairs"
    assert [sample.key for sample in changed.samples] == [sample.key for sample in plain.samples]
    for sample, original in zip(changed.samples, plain.samples, strict=True):
        picture, before = sample.picture(), original.picture()
        objects = original.reference().objects
        assert picture.rgb.shape == before.rgb.shape and picture.rgb.dtype == np.uint8
        assert (sample.reference().objects == objects).all() and picture.name == before.name
        if kind != "no_foreground":
            assert (picture.rgb[objects] == OBJECT).all()
        assert (with_backgrounds(plain, kind).samples[0].picture().rgb == changed.samples[0].picture().rgb).all()


def test_each_background_is_what_its_name_says(plain: DataSet) -> None:
    for name, sample in zip(sorted(GROUNDS), with_backgrounds(plain, "only_foreground").samples, strict=True):
        assert (sample.picture().rgb[~box(SIZES[name])] == 0).all()
    for kind in ("no_foreground", "blurred"):
        for name, sample in zip(sorted(GROUNDS), with_backgrounds(plain, kind).samples, strict=True):
            rgb = sample.picture().rgb.astype(int)
            elsewhere = rgb if kind == "no_foreground" else rgb[~box(SIZES[name])]
            assert abs(elsewhere - GROUNDS[name]).max() <= 12, f"{kind}: nothing of the object's yellow remains"


def test_mixed_gives_each_photo_the_background_of_another_without_its_object(plain: DataSet) -> None:
    given = []
    for name, sample in zip(sorted(GROUNDS), with_backgrounds(plain, "mixed").samples, strict=True):
        behind = sample.picture().rgb[~box(SIZES[name])].astype(int)
        near = [other for other, colour in GROUNDS.items() if abs(behind - colour).max() <= 12]
        assert len(near) == 1 and near[0] != name
        given.append(near[0])
    assert sorted(given) == sorted(GROUNDS), "each background is used once"
    others = {
        tuple(sample.other[0] for sample in with_backgrounds(plain, "mixed", seed=seed).samples) for seed in range(8)
    }
    assert len(others) > 1, "another seed is another order"


def test_only_the_objects_and_a_narrow_margin_are_filled() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(256, size=(400, 600, 3), dtype=np.uint8)
    objects = np.zeros((400, 600), bool)
    objects[100:200, 300:450] = True
    found = without_objects(rgb, objects)
    near = np.zeros_like(objects)
    near[90:210, 290:460] = True
    assert (found[~near] == rgb[~near]).all() and (found[objects] != rgb[objects]).any(1).mean() > 0.95
    assert not np.shares_memory(found, rgb)
    with pytest.raises(DataError, match="leave no background"):
        without_objects(rgb, np.ones_like(objects))


def test_labels_that_are_asked_for_are_what_is_cut_out(plain: DataSet, tmp_path: Path) -> None:
    labels = np.zeros((60, 90), np.uint8)
    labels[:10, :20], labels[box((90, 60))] = 3, 7
    Image.fromarray(labels).save(tmp_path / "plain" / "masks" / "red.png")
    for ids, kept in (((7,), box((90, 60))), ((3, 7), labels > 0)):
        sample = with_backgrounds(plain, "only_foreground", ids).samples[2]
        assert sample.key == "red.png" and ((sample.picture().rgb > 0).any(2) == kept).all()


def test_composites_of_tables_are_read_row_by_row_also_in_other_processes(plain: DataSet, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def png(array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        return buffer.getvalue()

    rows = [
        {"image": {"bytes": png(painted(name))}, "mask": {"bytes": png((255 * box(SIZES[name])).astype(np.uint8))}}
        for name in sorted(GROUNDS)
    ]
    (tmp_path / "table").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table" / "val.parquet")
    table = open_data_set(tmp_path / "table")
    for ours, theirs in zip(
        with_backgrounds(table, "mixed").samples, with_backgrounds(plain, "mixed").samples, strict=True
    ):
        sent = pickle.loads(pickle.dumps(ours))
        assert (sent.picture().rgb == theirs.picture().rgb).all()


def test_a_photo_that_cannot_be_composed_is_a_fault_and_says_why(plain: DataSet) -> None:
    broken = DataSet("broken", "pairs", [*plain.samples[:2], Sample("c.png", b"", Absent("c.png has no mask"))])
    changed = with_backgrounds(broken, "mixed")
    faults = {sample.key: read_sample(sample.key, sample, (Frame(64, 8),), ()) for sample in changed.samples}
    told = {key: fault.sentence for key, fault in faults.items() if hasattr(fault, "sentence")}
    assert set(told) == {"c.png", next(s.key for s in changed.samples if s.other[0] == "c.png")}
    with pytest.raises(DataError, match="plain is a single photo, and a mixed background is that of another"):
        with_backgrounds(DataSet("plain", "pairs", plain.samples[:1]), "mixed")
    with pytest.raises(OptionError, match="no background is called 'grey'; there are mixed, only_foreground"):
        with_backgrounds(plain, "grey")


def test_a_background_that_an_object_covers_is_named(tmp_path: Path) -> None:
    class Everything:
        def read(self, size: tuple[int, int], object_ids: object) -> object:
            from simpool_viz.scores.references import Reference

            return Reference(np.ones(size[::-1], bool), np.zeros(size[::-1], bool))

    file = tmp_path / "a.png"
    Image.fromarray(painted("red")).save(file)
    data = DataSet("full", "pairs", [Sample(key, file, Everything()) for key in "ab"])
    with pytest.raises(DataError, match=r"the background of b cannot be taken: its objects leave no background"):
        with_backgrounds(data, "mixed").samples[0].picture()
