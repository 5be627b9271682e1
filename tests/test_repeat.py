"""A board made again from its manifest: equal where nothing changed, and each kind of change is told."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpool_viz import CheckpointError, OptionError, Settings, arrange, export_board, load_checkpoints, make_board
from simpool_viz.board.board import Board
from simpool_viz.cli.main import main
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.repeat import Asked, python_snippet, read_manifest, repeat_board, shell_snippet
from simpool_viz.scores.references import read_reference

SETTINGS = Settings(size=64, mask="mass:0.35", smoothing=0.5, largest=True, smooth=True)
STYLE = DrawingStyle("viridis", 0.45, shared_scale=True, boxes=False)


@pytest.fixture
def exported(tmp_path: Path, photos: dict[str, Path], checkpoints: dict[str, Path]) -> tuple[Board, Path, list[str]]:
    names = [str(checkpoints["simpool"]), str(checkpoints["gap"])]
    encoders = load_checkpoints(names, device="cpu")
    references = {0: read_reference(photos["wide mask"]), 1: read_reference(photos["tall mask"])}
    made = make_board([photos["wide"], photos["tall"]], encoders, ["own", "contribution"], SETTINGS, references)
    board = arrange(made, "map", "coverage:lowest")
    return board, export_board(board, tmp_path / "made", STYLE, encoders=encoders, sources=True), names


def edit(folder: Path, **changes: Any) -> None:
    about = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(about | changes))


def same_arrays(one: Path, other: Path) -> bool:
    with np.load(one / "maps.npz") as a, np.load(other / "maps.npz") as b:
        return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_same_machine_makes_the_same_board(exported: tuple[Board, Path, list[str]]) -> None:
    board, folder, names = exported
    again = repeat_board(folder / "manifest.json", checkpoints=names, device="cpu")
    assert again.differences == [] and again.compared == len(board.rows) == 6
    assert again.board.settings == SETTINGS and again.style == STYLE
    for one, other in zip(board.rows, again.board.rows, strict=True):
        assert one.title == other.title and one.scores == other.scores
        assert np.array_equal(one.mask.pixels(), other.mask.pixels())


def test_what_differs_is_told(exported: tuple[Board, Path, list[str]], photos: dict[str, Path]) -> None:
    _, folder, names = exported
    versions = read_manifest(folder)["versions"]
    edit(folder, versions=versions | {"torch": "1.0"}, device="cuda:0")
    swapped = repeat_board(folder, checkpoints=names[::-1], device="cpu").differences
    assert f"torch was 1.0 and is {versions['torch']}" in swapped and "the device was cuda:0 and is cpu" in swapped
    assert "the checkpoint small_simpool has other weights" in swapped
    other = repeat_board(folder, [photos["wide mask"], photos["tall"]], names, device="cpu").differences
    assert "the photo wide.png has other pixels" in other and "the photo tall.png has other pixels" not in other
    assert any(line.startswith("wide.small_gap.contribution differs by up to") for line in other)
    (folder / "maps.npz").unlink()
    found = repeat_board(folder, checkpoints=names, device="cpu")
    assert (
        found.compared == 0
        and "maps.npz is not beside the manifest, so the maps were not compared" in found.differences
    )


def test_what_cannot_be_repeated_is_refused(exported: tuple[Board, Path, list[str]], photos: dict[str, Path]) -> None:
    _, folder, names = exported
    with pytest.raises(CheckpointError, match="with -c, in this order: small_simpool, small_gap"):
        repeat_board(folder, device="cpu")
    with pytest.raises(OptionError, match=r"has 2 checkpoints .*, and 1 were given"):
        repeat_board(folder, checkpoints=names[:1], device="cpu")
    with pytest.raises(OptionError, match=r"has 2 photos \(wide.png, tall.png\), and 1 were given"):
        repeat_board(folder, [photos["wide"]], names, device="cpu")
    (folder / "photos" / "wide.png").unlink()
    with pytest.raises(OptionError, match=r"the photo wide.png is not beside the manifest"):
        repeat_board(folder, checkpoints=names, device="cpu")
    edit(folder, format=2)
    with pytest.raises(OptionError, match="has format 2, and this version reads format 1"):
        read_manifest(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(OptionError, match=r"is no manifest.json of a board"):
        read_manifest(folder)


def test_the_snippets_make_the_same_arrays_in_the_exported_folder(
    exported: tuple[Board, Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    board, folder, names = exported
    asked = Asked(names, ["own", "contribution"], "map", "coverage:lowest")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # on the processor, as the export was made
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    (folder / "again.py").write_text(python_snippet(board, STYLE, asked))
    subprocess.run([sys.executable, "again.py"], cwd=folder, check=True, env=environment)
    first = read_manifest(folder / "board")
    assert same_arrays(folder, folder / "board") and first["look"] == read_manifest(folder)["look"]
    assert first["settings"] == read_manifest(folder)["settings"] and first["rows"] == read_manifest(folder)["rows"]
    (folder / "board").rename(folder / "by_python")
    monkeypatch.chdir(folder)
    assert main(shlex.split(shell_snippet(board, STYLE, asked))[1:]) == 0
    assert same_arrays(folder, folder / "board")
    assert read_manifest(folder / "board")["rows"] == first["rows"]
    assert read_manifest(folder / "board")["look"] == first["look"]
