"""Scenes with a label per pixel: mean IoU, the mass on each class, and the command's two tables."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

from simpool_viz import record
from simpool_viz.board.segmentation import segment
from simpool_viz.checkpoints.bundle import save_bundle
from simpool_viz.cli.main import main
from simpool_viz.errors import OptionError, PictureError
from simpool_viz.evaluation.scenes import evaluate_scenes, open_scenes, scene_tables, score_scenes
from simpool_viz.scores.confusion import mean_ious
from tests.helpers import dense, dense_spec, make_photo, small_resnet


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for i in range(4):
        Image.fromarray(make_photo(96, 64, seed=i)).save(folder / "images" / f"{i}.png")
        labels = rng.integers(0, 5, (8, 12)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        labels[:9] = 5  # void
        Image.fromarray(labels).save(folder / "labels" / f"{i}.png")
    return folder


def test_mean_iou_of_scenes_is_that_of_torchmetrics_without_void(scenes: Path) -> None:
    encoder, theirs = dense(), MulticlassJaccardIndex(5, ignore_index=5)
    scores = score_scenes(encoder, open_scenes(scenes))
    for image, labels in open_scenes(scenes):
        found = segment(record(encoder, image)).pixels()
        theirs.update(torch.from_numpy(found), torch.from_numpy(np.asarray(Image.open(labels)).astype(np.int64)))
    assert float(mean_ious(scores.pixels.sum(0))) == pytest.approx(float(theirs.compute()), abs=1e-6)


def test_mass_on_a_class_is_counted_on_its_pixels(scenes: Path) -> None:
    encoder, pairs = dense(), open_scenes(scenes)
    scores = score_scenes(encoder, pairs)
    recording, labels = record(encoder, pairs[0][0]), np.asarray(Image.open(pairs[0][1])).astype(int)
    for index in segment(recording).found():
        row = recording.map("dense_rollout", classes=[index]).weights[0]
        enlarged = torch.nn.functional.interpolate(
            torch.from_numpy(row)[None, None], (64, 96), mode="bilinear", align_corners=False
        )[0, 0].numpy()
        expected = enlarged[labels == index].sum() / enlarged[labels < 5].sum()
        assert scores.mass["dense_rollout"][0, index] == pytest.approx(expected, rel=1e-4)
    assert scores.area[0].sum() == pytest.approx(1) and np.isnan(scores.mass["rollout"][0]).sum() == 5 - len(
        segment(recording).found()
    )


def test_a_folder_is_evaluated_in_one_call_as_the_command_does(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = dense()
    (row,) = evaluate_scenes([encoder], scenes, residual=0.8)
    assert np.array_equal(row.pixels, score_scenes(encoder, open_scenes(scenes), residual=0.8).pixels)
    tables, name = scene_tables([row], "made up"), row.encoder.facts.name
    assert list(tables) == ["iou", name] and "residual weight 0.8" in tables[name].title
    with pytest.raises(OptionError, match="small_simpool has no dense head"):
        evaluate_scenes([encoder, small_resnet()], scenes)


def test_a_label_map_that_cannot_be_read_is_named(scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    shutil.copytree(scenes, folder)
    path = folder / "labels" / "1.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(PictureError, match=r"the label map .*1\.png is damaged or cut off"):
        evaluate_scenes([dense()], folder)


def test_command_prints_both_tables_and_writes_the_segmentation(
    tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, photo = dense(), str(scenes / "images" / "0.png")
    encoder.facts = dataclasses.replace(encoder.facts, size=64)
    save_bundle(tmp_path / "dense", encoder, dense_spec(), "")
    source = str(tmp_path / "dense")
    assert main(["evaluate", "--scenes", str(scenes), "-c", source, "-c", source]) == 0
    told = capsys.readouterr().out
    assert (
        "| mean IoU (%) |" in told
        and "+0.0 [+0.0, +0.0]" in told
        and "mass of the map on the class's true pixels" in told
    )
    name = segment(record(encoder, photo)).names[segment(record(encoder, photo)).found()[0]]
    assert main(["inspect", photo, "-c", source, "--ask", "class", "--class", name, "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "segmentation.png").is_file() and f"class {name}: " in capsys.readouterr().out
    assert main(["evaluate", "--scenes", str(scenes), "-c", "resnet_gap"]) == 2
    assert "resnet_gap has no dense head" in capsys.readouterr().err
    assert main(["evaluate"]) == 2 and "name a folder of photos with masks" in capsys.readouterr().err
