"""The command `evaluate`: its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simpool_viz.scores.results import read_results
from tests.helpers import disc, make_mask_set, make_photo, run_command


def test_evaluate_prints_a_table_with_every_checkpoint_and_both_baselines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "discs" / folder).mkdir(parents=True)
    for i, (width, height) in enumerate([(91, 60), (64, 100), (80, 50)]):
        Image.fromarray(make_photo(width, height, i)).save(tmp_path / "discs" / "images" / f"{i}.png")
        Image.fromarray((255 * disc(width, height)).astype(np.uint8)).save(tmp_path / "discs" / "masks" / f"{i}.png")
    both = ["-c", checkpoints["simpool"], "-c", checkpoints["gap"]]
    status, out, _ = run_command(capsys, "evaluate", tmp_path / "discs", *both, "--mask", "area:0.2", "--device", "cpu")
    lines = out.splitlines()
    assert status == 0 and lines[0] == "**discs**, 3 photos"
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")] == [
        "map",
        "---",
        "small_simpool: Pooling attention",
        "small_gap: Contribution",
        "centre prior",
        "whole picture",
    ]
    assert "IoU of mask (area:0.2)" in out


def test_a_faulty_photo_or_mask_is_named_and_the_rest_is_scored(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    folder = make_mask_set(tmp_path / "discs")
    command = ["evaluate", folder, "-c", checkpoints["simpool"], "--device", "cpu"]
    Image.fromarray(np.zeros((60, 91), np.uint8)).save(folder / "masks" / "1.png")
    (folder / "images" / "3.jpg").write_bytes(b"")
    for more in ([], ["--rules"]):
        status, out, err = run_command(capsys, *command, *more)
        assert status == 0 and out.startswith("**discs**, 2 photos, 2 left out")
        left_out = sorted(line for line in err.splitlines() if line.startswith("left out: "))
        assert len(left_out) == 2 and "1.png marks no object" in left_out[0] and "3.jpg is empty" in left_out[1]
    for photo in (folder / "images").iterdir():
        photo.write_bytes(b"")
    status, out, err = run_command(capsys, *command)
    assert status == 2 and "none of the photos of discs can be scored. 0.jpg is empty" in err


def test_out_holds_rows_tables_and_plots_and_goes_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    folder, out = make_mask_set(tmp_path / "discs"), tmp_path / "out"
    command = ["evaluate", folder, "-c", checkpoints["simpool"], "--size", "48", "--device", "cpu", "-o", out]
    status, text, _ = run_command(capsys, *command, "--faithfulness", "2", "--data-set", "pairs")
    assert status == 0 and "4 photos scored, 0 of them by an earlier run" in text
    names = {"localization.csv", "protocols.csv", "faithfulness.csv", "rows.parquet", "results.json", "tables.md"}
    assert names <= {path.name for path in out.iterdir()}
    assert text.startswith((out / "tables.md").read_text().split("\n\n")[0])
    assert "--faithfulness 2" in read_results(out / "results.json").table("discs/protocols").command
    status, text, _ = run_command(capsys, *command, "--faithfulness", "2")
    assert status == 0 and "4 of them by an earlier run" in text
    status, _, err = run_command(capsys, *command)
    assert status == 2 and "holds a run with other settings" in err
    status, text, _ = run_command(capsys, *command, "--overwrite")
    assert status == 0 and "0 of them by an earlier run" in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-o", "out", "--protocols"], "--out holds the tables of DATASET as it is"),
        (["--faithfulness"], "--faithfulness needs --out"),
        (["--data-set", "vocs"], "there is no kind of data set 'vocs'"),
        (["--data-set", "cub"], "as CUB-200-2011 it lacks"),
        (["--split", "val"], "which has no splits"),
        (["--batch", "0"], "the batch must be positive"),
        (["--part", "0", "-o", "out"], "the batch must be positive, a part too"),
        (["--engine", "ray"], "--engine ray and --part need --out"),
        (["--ray-address", "ada:6379", "-o", "out"], "the address of a cluster go with --engine ray"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], sentence: str
) -> None:
    folder = make_mask_set(tmp_path / "discs")
    status, _, err = run_command(capsys, "evaluate", folder, "-c", "nothing_of_this_name", *options)
    assert status == 2 and sentence in err


def test_changed_backgrounds_are_a_table_of_their_own_in_which_the_baselines_do_not_change(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    folder, kept = make_mask_set(tmp_path / "discs"), tmp_path / "results.json"
    command = ["evaluate", folder, "-c", checkpoints["simpool"], "--device", "cpu", "--workers", "0"]
    changed = ["--backgrounds", "mixed", "--backgrounds", "no_foreground"]
    status, out, err = run_command(capsys, *command, *changed, "--results", kept)
    assert status == 0, err
    assert out.startswith("**discs**, 4 photos: changed backgrounds")
    table = read_results(kept).table("discs/backgrounds")
    assert [row["map"] for row in table.rows] == ["small_simpool: Pooling attention", "centre prior", "whole picture"]
    assert table.row("centre prior")["mixed_change"] == [0, 0, 0]
    assert table.row("small_simpool: Pooling attention")["no_foreground_change"] != [0, 0, 0]
    for more, sentence in (
        (["--backgrounds", "mix"], "no background is called 'mix'; there are mixed, "),
        ([*changed, *changed], "names one of mixed, no_foreground, mixed, no_foreground twice"),
        ([*changed, "--rules"], "ask for one of them at a time"),
        ([*changed, "-o", tmp_path / "out"], "--out holds the tables of DATASET as it is"),
    ):
        status, _, err = run_command(capsys, *command, *more)
        assert status == 2 and sentence in err


def test_protocols_are_a_table_of_their_own_with_the_baselines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    folder, kept = make_mask_set(tmp_path / "discs"), tmp_path / "results.json"
    command = ["evaluate", folder, "-c", checkpoints["simpool"], "-c", checkpoints["gap"], "--device", "cpu"]
    status, out, _ = run_command(capsys, *command, "--protocols", "--results", kept)
    assert status == 0 and out.startswith("**discs**, 4 photos: protocols of localization (%)")
    table = read_results(kept).table("discs/protocols")
    labels = ["small_simpool: Pooling attention", "small_gap: Contribution", "centre prior", "whole picture"]
    assert [row["map"] for row in table.rows] == labels and "--protocols" in table.command
    status, _, err = run_command(capsys, *command, "--protocols", "--rules")
    assert status == 2 and "ask for one of them at a time" in err
