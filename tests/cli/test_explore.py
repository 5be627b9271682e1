"""The command line beyond one board: ready-made comparisons, order, matrix, agreement, difference; looking into a
checkpoint."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simpool_viz import load_checkpoint, record
from simpool_viz.board.tour import STOPS
from simpool_viz.cli.main import main
from tests import made_files as made
from tests.helpers import run_command


def both(checkpoints: dict[str, Path], out: Path) -> list[object]:
    return ["-c", checkpoints["simpool"], "-c", checkpoints["gap"], "--device", "cpu", "-o", out]


def test_rows_come_in_the_order_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    maps = ["-m", "pooling", "-m", "contribution", "-m", "kmeans"]
    status, _, err = run_command(
        capsys,
        "compare",
        photos["wide"],
        *maps,
        *both(checkpoints, tmp_path / "out"),
        "--group",
        "map",
        "--sort",
        "coverage:lowest",
    )
    assert status == 0, err
    rows = json.loads((tmp_path / "out" / "manifest.json").read_text())["rows"]
    assert [r["map"] for r in rows] == ["pooling", "contribution", "contribution", "kmeans", "kmeans"]
    with (tmp_path / "out" / "scores.csv").open() as file:
        shares = [float(line["coverage"]) for line in csv.DictReader(file)]
    assert shares[1] <= shares[2] and shares[3] <= shares[4]


def test_matrix_agreement_and_differences_are_written_beside_the_board(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    arguments = [
        "--matrix",
        "--agreement",
        "--difference",
        2,
        3,
        "--difference",
        5,
        6,
        "-m",
        "pooling",
        "-m",
        "contribution",
    ]
    status, _, err = run_command(capsys, "compare", photos["wide"], photos["tall"], *both(checkpoints, out), *arguments)
    assert status == 0, err
    for name in ("matrix.png", "agreement.png", "difference_2_3.png", "difference_5_6.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 60
    assert len((out / "agreement.csv").read_text().splitlines()) == 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--difference", "1", "9"], "the board has rows 1 to 2, not 9"),
        (["--difference", "1", "2"], "so they have no difference"),
        (["--sort", "beauty"], "rows are sorted by"),
        (["--ready", "nothing"], "no ready-made comparison is called 'nothing'"),
        (["--ready", "frozen_means"], "leave out -c and -m"),
    ],
)
def test_mistakes_are_told_in_a_sentence_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    photos: dict[str, Path],
    checkpoints: dict[str, Path],
    arguments: list[str],
    says: str,
) -> None:
    status, _, err = run_command(capsys, "compare", photos["wide"], *both(checkpoints, tmp_path / "out"), *arguments)
    assert status == 2 and says in err and not (tmp_path / "out").exists()


def test_ready_made_comparison_brings_its_checkpoints_and_maps(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path]
) -> None:
    arguments = ["--ready", "trained_or_probed", "--size", 64, "--device", "cpu", "-o", tmp_path / "out"]
    status, out, err = run_command(capsys, "compare", photos["wide"], *arguments)
    assert status == 0, err
    rows = json.loads((tmp_path / "out" / "manifest.json").read_text())["rows"]
    assert {r["checkpoint"] for r in rows} == {"resnet_simpool", "resnet_gap+simpool", "resnet_gap"}
    assert "ResNet, GAP has no Pooling attention map" in out


# --- inspect
# ----------------------------------------------------------------------------------------------------


@pytest.fixture
def vit_file(tmp_path: Path) -> Path:
    torch.save(made.vit(128, 2, 4, classes=3), tmp_path / "vit.pth")
    return tmp_path / "vit.pth"


def test_inspect_tells_what_is_found_and_what_can_be_asked(
    capsys: pytest.CaptureFixture[str], photos: dict[str, Path], checkpoints: dict[str, Path], vit_file: Path
) -> None:
    status, out, err = run_command(capsys, "inspect", photos["wide"], "-c", checkpoints["gap"], "--device", "cpu")
    assert status == 0, err
    assert "grid 12 x 8, 0 attention blocks, GAP pooling" in out and "can be asked: class" in out
    assert "cannot be asked: token, since its backbone is a CNN" in out
    status, out, _ = run_command(capsys, "inspect", photos["wide"], "-c", vit_file, "--device", "cpu", "--json")
    facts = json.loads(out)
    assert (
        status == 0
        and facts["blocks"] == 2
        and facts["answers"] == ["token", "cls", "class"]
        and len(facts["classes"]) == 3
    )


def test_inspect_writes_the_answer_to_a_question(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], vit_file: Path
) -> None:
    arguments = [
        "-c",
        vit_file,
        "--device",
        "cpu",
        "--ask",
        "token",
        "--at",
        "20x30",
        "--block",
        0,
        "--fusion",
        1,
        "-o",
        tmp_path / "out",
    ]
    status, _, err = run_command(capsys, "inspect", photos["wide"], *arguments)
    assert status == 0, err
    recording = record(load_checkpoint(vit_file, device="cpu"), photos["wide"])
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        heads = maps["wide.vit.pth.token_at=20x30,block=0"]
        assert np.array_equal(heads, recording.map("token", at=(20, 30), block=0).weights)
        assert np.array_equal(
            maps["wide.vit.pth.token_at=20x30,rollout=true"], recording.map("token", at=(20, 30), rollout=True).weights
        )
    with Image.open(tmp_path / "out" / "heads.png") as picture:
        assert picture.width > picture.height


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ask", "token"], "--ask needs a folder"),
        (["--ask", "gates", "-o", "OUT"], "cannot answer 'gates'"),
        (["--ask", "token", "--at", "20", "-o", "OUT"], "a point is written at=XxY"),
        (["--ask", "cls", "--block", "7", "-o", "OUT"], "has blocks 0 to 1"),
    ],
)
def test_inspect_tells_mistakes_in_a_sentence(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    photos: dict[str, Path],
    vit_file: Path,
    arguments: list[str],
    says: str,
) -> None:
    placed = [tmp_path / "out" if a == "OUT" else a for a in arguments]
    status, _, err = run_command(capsys, "inspect", photos["wide"], "-c", vit_file, "--device", "cpu", *placed)
    assert status == 2 and says in err and not (tmp_path / "out").exists()


def test_command_writes_a_folder_for_each_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tour", "-o", str(tmp_path / "tour"), "--device", "cpu"]) == 0
    page = (tmp_path / "tour" / "README.md").read_text(encoding="utf-8")
    for number, stop in enumerate(STOPS, 1):
        assert stop.text in page and f"]({number}_{stop.name}/board.png)" in page
        assert (tmp_path / "tour" / f"{number}_{stop.name}" / "board.png").is_file()
    assert "6 stops in" in capsys.readouterr().out
    assert main(["tour", "-o", str(tmp_path / "tour")]) == 2 and "is there already" in capsys.readouterr().err
