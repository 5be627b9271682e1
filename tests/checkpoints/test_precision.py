"""The precision of a forward: asked for, or allowed by what was measured; it is told with every map and board."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import precision as measurement
from simpool_viz import load_checkpoint, record
from simpool_viz.board.board import make_board
from simpool_viz.checkpoints import precision
from simpool_viz.checkpoints.load import load_checkpoints
from simpool_viz.cli.main import main
from simpool_viz.images import read_picture
from simpool_viz.repeat import repeat_board
from simpool_viz.scores.results import read_results
from tests.helpers import make_photo


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in place of models/, with no results yet."""
    monkeypatch.setattr(precision, "bundled_folder", lambda _: tmp_path)
    precision.exact_in_bfloat16.cache_clear()
    yield tmp_path / "results.json"
    precision.exact_in_bfloat16.cache_clear()


def save_photo(path: Path, width: int, height: int) -> Path:
    Image.fromarray(make_photo(width, height)).save(path, quality=95)
    return path


def of(name: str, **how: str) -> torch.dtype:
    return next(load_checkpoint(name, device="cpu", **how).parameters()).dtype


def test_a_checkpoint_is_computed_in_the_precision_that_is_asked_for() -> None:
    photo = make_photo(64, 48)
    maps = {
        p: record(load_checkpoint("resnet_simpool", device="cpu", precision=p), photo) for p in ("float32", "bfloat16")
    }
    exact, half = (one.map("simpool").weights for one in maps.values())
    assert exact.dtype == half.dtype == np.float32 and half.sum() == pytest.approx(1, abs=0.02)
    assert 0 < np.abs(exact - half).max() < 0.3 * exact.max()
    assert {one.logits.dtype for one in maps.values() if one.logits is not None} == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize(
    ("taken", "capability", "dtype"),
    [("yes", "AVX512", torch.bfloat16), ("no", "AVX512", torch.float32), ("yes", "AVX2", torch.float32)],
)
def test_auto_takes_bfloat16_for_what_was_measured_to_be_exact_enough(
    results: Path, monkeypatch: pytest.MonkeyPatch, taken: str, capability: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    table = {"rows": [{"checkpoint": "resnet_simpool", "taken": taken}]}
    results.write_text(json.dumps({"tables": {precision.TABLE: table}}))
    assert of("resnet_simpool") == dtype and of("resnet_gap") == torch.float32
    assert of("resnet_simpool", precision="float32") == torch.float32


@pytest.mark.parametrize("content", [None, "no such thing", "[]", '{"tables": {"precision/cpu": {"rows": [3]}}}'])
def test_without_results_auto_stays_in_float32(
    results: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    if content is not None:
        results.write_text(content)
    assert of("resnet_simpool") == torch.float32


def test_the_measurement_tells_equals_from_others_and_is_what_auto_reads(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    photos = [read_picture(make_photo(64, 48))]
    one = load_checkpoint("resnet_simpool", device="cpu")
    assert measurement.compare(one, one, photos) == (0.0, 1.0)
    difference, iou = measurement.compare(one, load_checkpoint("resnet_gap+simpool", device="cpu"), photos)
    assert difference > 0.05 and iou < 0.98
    monkeypatch.setattr(measurement, "bundled_folder", lambda _: results.parent)
    save_photo(results.parent / "photo.jpg", 64, 48)
    limits = {"LARGEST_DIFFERENCE": 1.0, "LEAST_IOU": 0.0}  # that everything keeps
    for limit, value in limits.items():
        monkeypatch.setattr(measurement, limit, value)
    given = ["-c", "resnet_simpool", "--rounds", "1", "--results", str(results)]
    assert measurement.main(given) == 0
    (row,) = read_results(results).table(precision.TABLE).rows
    assert row["taken"] == "yes" and 0 < float(row["difference"]) < 0.3  # type: ignore[arg-type]
    precision.exact_in_bfloat16.cache_clear()  # a process reads it once
    assert of("resnet_simpool") == torch.bfloat16
    monkeypatch.setattr(measurement, "LARGEST_DIFFERENCE", 1e-6)
    assert measurement.main(given) == 0
    precision.exact_in_bfloat16.cache_clear()
    assert of("resnet_simpool") == torch.float32


def test_captions_manifest_and_a_repeated_board_tell_the_precision(tmp_path: Path) -> None:
    photo = save_photo(tmp_path / "photo.png", 64, 48)
    encoders = load_checkpoints(["resnet_simpool"], device="cpu", precision="bfloat16")
    (row,) = make_board([str(photo)], encoders, ["pooling"]).rows
    assert row.precision == "bfloat16" and any(" in bfloat16, map" in line for line in row.lines)
    out = tmp_path / "out"
    given = ["compare", str(photo), "-c", "resnet_simpool", "-m", "pooling", "-o", str(out), "--device", "cpu"]
    assert main([*given, "--precision", "bfloat16"]) == 0
    about = json.loads((out / "manifest.json").read_text())
    assert about["checkpoints"][0]["precision"] == "bfloat16"
    again = repeat_board(out / "manifest.json", [photo], device="cpu", precision="float32")
    assert "resnet_simpool was computed in bfloat16 and is in float32" in again.differences
    same = repeat_board(out / "manifest.json", [photo], device="cpu", precision="bfloat16")
    assert not same.differences


def test_an_unknown_precision_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = save_photo(tmp_path / "photo.png", 64, 48)
    given = ["compare", str(photo), "-c", "resnet_simpool", "-o", str(tmp_path / "out"), "--precision", "half"]
    assert main(given) != 0 and "a precision is auto, float32, bfloat16 or float16" in capsys.readouterr().err
