"""The command `inspect`: what is found, and the answer to a question."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simpool_viz import load_checkpoint, record
from tests import made_files as made
from tests.helpers import run_command, save_small


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


def test_inspect_drops_low_weights_from_roll_outs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], vit_file: Path
) -> None:
    arguments = ["-c", vit_file, "--device", "cpu", "--ask", "cls", "--discard", 0.9, "-o", tmp_path / "out"]
    status, _, err = run_command(capsys, "inspect", photos["wide"], *arguments)
    assert status == 0, err
    recording = record(load_checkpoint(vit_file, device="cpu"), photos["wide"])
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        (name,) = [key for key in maps if "rollout" in key and not key.endswith(".mask")]
        assert "discard=0.9" in name
        assert np.array_equal(maps[name], recording.map("rollout", discard=0.9).weights)
    arguments[-3] = 1
    status, _, err = run_command(capsys, "inspect", photos["wide"], *arguments, "--overwrite")
    assert status != 0 and "the share that is discarded lies in [0, 1), not 1" in err


def test_the_exponents_of_gem_are_a_plot_beside_the_answer(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    gem = save_small(tmp_path / "gem", "gem")
    for folder, expected in ((gem, True), (checkpoints["gap"], False)):
        out = tmp_path / f"out_{folder.name}"
        options = ["-c", folder, "--device", "cpu", "--ask", "class", "-o", out]
        status, _, err = run_command(capsys, "inspect", photos["wide"], *options)
        assert status == 0, err
        assert (out / "exponents.png").is_file() == expected
