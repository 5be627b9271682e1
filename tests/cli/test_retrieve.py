"""The command `retrieve`: its tables, the features that it keeps, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from simpool_viz.evaluation import pooled_features
from simpool_viz.scores.results import read_results
from tests.helpers import run_command


def test_one_forward_gives_a_table_of_poolings_and_other_scores_need_none(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    checkpoints: dict[str, Path],
    shapes: Path,
) -> None:
    out, kept = tmp_path / "out", tmp_path / "results.json"
    command = ["retrieve", shapes, "-c", checkpoints["simpool"], "-c", checkpoints["gap"], "--device", "cpu", "-o", out]
    command += ["--train", 60, "--val", 30, "--sweep", "--groups", "1,4", "--powers", "1,3"]
    status, text, err = run_command(capsys, *command, "--results", kept, "--name", "small")
    assert status == 0, err
    assert "small_simpool has no class token, so cls is left out." in err
    assert f"**{shapes.name}**, 30 held-out photos, 60 training photos" in text
    tables = read_results(kept).tables
    assert list(tables) == [f"small/{shapes.name}/{name}" for name in ("checkpoints", "small_gap", "small_simpool")]
    rows = [row["features"] for row in tables[f"small/{shapes.name}/small_simpool"].rows]
    assert rows == [
        f"small_simpool: {label}"
        for label in ("own, SimPool", "gap", "max", "gem", "gem:p=1", "gem:p=3")
    ] + ["small_simpool: ggem:groups=1, p chosen", "small_simpool: ggem:groups=4, p chosen"]  # fmt: skip
    both = tables[f"small/{shapes.name}/checkpoints"]
    assert [row["features"] for row in both.rows] == ["small_simpool: own, SimPool", "small_gap: own, GAP"]
    assert both.command.startswith("simpool-viz retrieve ") and "results.json" not in both.command
    assert str(out) not in both.command.split(" ")
    same = tables[f"small/{shapes.name}/small_gap"]
    assert same.row("small_gap: gem")["knn"] == same.row("small_gap: gem:p=3")["knn"]
    assert {path.name for path in out.iterdir()} >= {"tables.md", "results.json", "checkpoints.csv", "small_gap.csv"}

    def forward(*_: object) -> None:
        raise AssertionError("nothing is left to compute")

    monkeypatch.setattr(pooled_features, "forward_shared", forward)
    status, text, err = run_command(capsys, *command, "--scores", "knn")
    assert status == 0, err
    assert "k-NN" in text and "mAP@all" not in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-p", "simpool"], "'simpool' must be trained first"),
        (["--groups", "1,2"], "add --sweep, or leave them out"),
        (["--sweep", "--powers", "0.5,2"], "exponents of 1 to 50"),
        (["--sweep", "--groups", "1,a"], "numbers with commas between them, as 1,2,6, not '1,a'"),
        (["--train", "0"], "the number of photos too"),
        (["--batch", "0"], "the batch must be positive"),
        (["--precision", "half"], "a precision is auto, float32, bfloat16 or float16, not 'half'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shapes: Path, options: list[str], sentence: str
) -> None:
    status, _, err = run_command(capsys, "retrieve", shapes, "-c", "nothing_of_this_name", "-o", tmp_path, *options)
    assert status == 2 and sentence in err
    status, _, err = run_command(capsys, "retrieve", tmp_path, "-c", "nothing_of_this_name", "-o", tmp_path)
    assert status == 2 and "holds no train-*.parquet" in err
