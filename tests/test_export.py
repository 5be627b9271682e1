"""The exported folder: what is in it, that its maps are those of Python bit by bit, and that it appears whole or not at
all."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pycocotools.coco import COCO

from simpool_viz import __version__, export, export_board, make_board, record
from simpool_viz.board.board import Board, Settings
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.drawing.render import LONGEST, render_board, render_row, row_scales
from simpool_viz.export import check_target, row_name, row_names
from simpool_viz.images import Picture
from simpool_viz.maps.scale import scale_of
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.localization import score_baselines
from simpool_viz.scores.references import read_reference
from simpool_viz.timing import Profile
from tests.helpers import make_photo, small_resnet


@pytest.fixture(scope="module")
def board(photos: dict[str, Path], resnet: Encoder, resnet_gap: Encoder) -> Board:
    references = {1: read_reference(photos["tall mask"])}
    maps = ["pooling", "contribution:classes=square"]
    return make_board(
        [photos["wide"], photos["tall"]], [resnet, resnet_gap], maps, Settings(mask="area:0.3"), references
    )


NAMES = [
    f"{photo}.{row}"
    for photo in ("wide", "tall")
    for row in (
        "small_simpool.pooling",
        "small_simpool.contribution_classes=square",
        "small_gap.contribution_classes=square",
    )
]


@pytest.fixture(scope="module")
def folder(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    assert export_board(board, out, DrawingStyle("viridis", 0.5), device="cpu", pictures="png") == out
    return out


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


# --- what is in it
# --------------------------------------------------------------------------------------------------------------


def test_folder_holds_the_board_two_pictures_per_row_maps_scores_and_manifest(folder: Path) -> None:
    pictures = {f"{name}.{kind}.png" for name in NAMES for kind in ("overlay", "mask", "binary")}
    tables = {"masks_polygons.json", "masks_rle.json", "scores.csv", "manifest.json"}
    assert {p.name for p in folder.iterdir()} == pictures | {"board.png", "maps.npz"} | tables
    assert [p.name for p in folder.parent.iterdir()] == ["out"], "nothing is left beside it"
    assert folder.stat().st_mode & 0o777 == 0o755


def test_maps_are_the_raw_weights_of_the_python_call_and_masks_their_grids(
    folder: Path, board: Board, photos: dict[str, Path], resnet: Encoder
) -> None:
    with np.load(folder / "maps.npz", allow_pickle=False) as maps:
        assert set(maps.files) == {*NAMES, *(f"{name}.mask" for name in NAMES)}
        for name, row in zip(NAMES, board.rows, strict=True):
            assert maps[name].dtype == np.float32 and np.array_equal(maps[name], row.attention.weights)
            assert maps[f"{name}.mask"].dtype == bool and np.array_equal(maps[f"{name}.mask"], row.mask.grid)
        weights = record(resnet, photos["tall"]).map("simpool").weights
        assert np.array_equal(maps["tall.small_simpool.pooling"], weights) and weights.shape == (1, 12, 8)


def test_masks_leave_as_binary_pictures_and_annotations_at_the_size_of_their_photo(folder: Path, board: Board) -> None:
    for kind in ("polygons", "rle"):
        read = COCO(str(folder / f"masks_{kind}.json"))
        assert [image["file_name"] for image in read.dataset["images"]] == [p.name for p in board.pictures]
        for note, name, row in zip(read.dataset["annotations"], NAMES, board.rows, strict=True):
            mask = row.mask.pixels()
            drawn = read.annToMask(note) > 0
            assert note["name"] == name and drawn.shape == board.pictures[row.picture].rgb.shape[:2]
            assert kind == "polygons" or np.array_equal(drawn, mask)
            with Image.open(folder / f"{name}.binary.png") as image:
                assert np.array_equal(np.asarray(image), 255 * mask)


def test_pictures_are_what_render_row_draws(folder: Path, board: Board) -> None:
    style = DrawingStyle("viridis", 0.5)
    for name, row, scale in zip(NAMES, board.rows, row_scales(board, style), strict=True):
        for kind, drawn in zip(("overlay", "mask"), render_row(board, row, scale, style), strict=True):
            with Image.open(folder / f"{name}.{kind}.png") as image:
                assert np.array_equal(np.asarray(image), drawn)
    with Image.open(folder / "board.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(render_board(board, style)))


def test_scores_are_one_line_per_row_and_baseline_of_a_photo_with_a_reference(folder: Path, board: Board) -> None:
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    figures = [
        "picture",
        "checkpoint",
        "map",
        "prediction",
        "probability",
        "coverage",
        "components",
        "spatial_entropy",
        "entropy_of",
    ]
    scores = ["iou", "iou_at_true_area", "iou_at_best_threshold", "pointing", "energy", "precision", "recall"]
    assert list(table[0]) == [*figures, "milliseconds", *scores]
    assert [(t["picture"], t["checkpoint"], t["map"]) for t in table] == [
        *((board.pictures[r.picture].name, r.checkpoint, r.request.label) for r in board.rows),
        ("tall.png", "centre prior", ""),
        ("tall.png", "whole picture", ""),
    ]
    for line, row in zip(table, board.rows, strict=False):
        assert (line["prediction"], float(line["probability"])) == (
            row.prediction[0],
            pytest.approx(row.prediction[1], abs=6e-5),
        )
        assert (
            float(line["coverage"]) == pytest.approx(row.mask.coverage, abs=6e-5)
            and int(line["components"]) == row.mask.components
        )
        assert (
            float(line["spatial_entropy"]) == pytest.approx(row.entropy, abs=6e-5)
            and line["entropy_of"] == row.entropy_of
        )
        for score in scores:
            assert (
                line[score] == ""
                if row.picture == 0
                else float(line[score]) == pytest.approx(row.scores[score], abs=6e-5)
            )
    for line, wanted in zip(table[-2:], score_baselines(board.references[1]).values(), strict=True):
        assert {s: float(line[s]) for s in scores} == pytest.approx(wanted, abs=6e-5) and line["coverage"] == ""


def test_manifest_tells_versions_settings_pictures_and_rows(folder: Path, board: Board) -> None:
    manifest = read_manifest(folder)
    assert manifest["format"] == 1 and manifest["device"] == "cpu"
    assert manifest["versions"] == {
        "simpool_viz": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    assert manifest["settings"] == {
        "size": None,
        "mask": "area:0.3",
        "largest": None,
        "fusion": None,
        "smoothing": None,
        "smooth": None,
        "refine": "",
        "faithfulness": 0,
        "cut": {"rule": "area", "amount": 0.3, "smoothing": 0.0, "largest": False, "smooth": False},
    }
    assert manifest["look"] == {
        "colours": "viridis",
        "opacity": 0.5,
        "smooth": True,
        "shared_scale": False,
        "boxes": True,
    }
    assert manifest["pictures"] == [
        {"name": name, "width": width, "height": height, "sha256": sha256(f"{width}x{height}".encode() + pixels)}
        for name, width, height, pixels in (
            ("wide.png", 91, 60, make_photo(91, 60).tobytes()),
            ("tall.png", 64, 100, make_photo(64, 100).tobytes()),
        )
    ]
    assert manifest["checkpoints"] == [], "no encoder was given, of which there could be a digest"
    assert manifest["skipped"] == board.skipped and len(board.skipped) == 1
    assert [r["name"] for r in manifest["rows"]] == NAMES
    for told, row in zip(manifest["rows"], board.rows, strict=True):
        assert told["grid"] == list(row.attention.weights.shape[1:]) and told["input_size"] == list(row.input_size)
        assert (told["picture"], told["checkpoint"], told["map"]) == (row.picture, row.checkpoint, row.request.label)
        assert told["maps"] == list(row.attention.names) and told["note"] == row.attention.note
        assert np.array_equal(row.mask.weights >= told["level"], row.mask.grid), (
            "the mask follows from the map and its level"
        )
        assert told["boxes"] == [list(box) for box in row.mask.boxes]


# --- names
# ---------------------------------------------------------------------------------------------------------------------


def named(board: Board, *names: str) -> Board:
    """One row per name, of pictures that go by these names."""
    pictures = [Picture(board.pictures[0].rgb, name) for name in names]
    return dataclasses.replace(
        board, pictures=pictures, rows=[dataclasses.replace(board.rows[0], picture=i) for i in range(len(names))]
    )


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "a.jpg"),
        ("a.png", "a.jpg", "a_1.png", "a_0.png"),
        ("photo 1.png", "photo_1.png", "photo?1.png"),
        ("Cat.png", "cat.png"),
        ("cat.png", "Cat.png", "CAT.png"),
        ("same.png", "same.png", "same.png"),
        ("../../etc/passwd", "/abs/olute.png", "C:\\tmp\\x.png", "..", "con:\n<>|*"),
        ("x" * 250 + ".png", "x" * 251 + ".png", "ü" * 120 + ".png"),
        ("größe.png", "写真.png", ".hidden", "a.b.c.png"),
    ],
)
def test_every_row_has_files_of_its_own_in_the_folder_whatever_the_photos_are_called(
    tmp_path: Path, board: Board, names: tuple[str, ...]
) -> None:
    many = named(board, *names)
    assert len({name.casefold() for name in row_names(many)}) == len(names)
    assert [row_name(many, row) for row in many.rows] == row_names(many)
    export_board(many, tmp_path / "out")
    files = {p.name for p in (tmp_path / "out").rglob("*")}
    assert len(files) == 3 * len(names) + 6 and len({f.casefold() for f in files}) == len(files)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        assert set(maps.files) == {n for name in row_names(many) for n in (name, f"{name}.mask")}
    assert [r["name"] for r in read_manifest(tmp_path / "out")["rows"]] == row_names(many)


def test_two_checkpoints_of_one_name_and_one_map_asked_twice_do_not_overwrite_each_other(tmp_path: Path) -> None:
    """Two runs of one recipe, say, that differ in their seed."""
    runs = [small_resnet("simpool", "run", seed) for seed in (0, 1)]
    board = make_board([make_photo()], runs, ["pooling", "pooling"])
    export_board(board, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.overlay.jpg"))) == 4
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        stored = [maps[name] for name in row_names(board)]
    assert all(np.array_equal(s, r.attention.weights) for s, r in zip(stored, board.rows, strict=True))
    assert not np.array_equal(stored[0], stored[2])


# --- drawing choices
# -------------------------------------------------------------------------------------------------------------


def test_one_scale_per_row_or_one_for_all_rows_of_a_kind(board: Board) -> None:
    own = row_scales(board, DrawingStyle())
    assert own == [scale_of(r.mask.weights, r.attention.unit) for r in board.rows]
    shared = row_scales(board, DrawingStyle(shared_scale=True))
    signed = np.array([r.attention.signed for r in board.rows])
    mine, together = (np.array([s.high for s in scales]) for scales in (own, shared))
    assert signed.any() and not signed.all()
    for kind in (signed, ~signed):
        assert len(set(mine[kind])) > 1 and set(together[kind]) == {mine[kind].max()}


def test_opacity_zero_gives_back_the_photo_and_smooth_draws_other_masks(board: Board) -> None:
    row, scale = board.rows[0], row_scales(board, DrawingStyle())[0]
    plain, patches = render_row(board, row, scale, DrawingStyle(opacity=0))
    assert np.array_equal(plain, board.pictures[0].rgb)
    smooth = dataclasses.replace(row, mask=dataclasses.replace(row.mask, smooth=True))
    assert not np.array_equal(render_row(board, smooth, scale, DrawingStyle())[1], patches)


def test_large_photos_are_reduced_in_the_export_and_boxes_go_with_them(tmp_path: Path, resnet: Encoder) -> None:
    board = make_board([make_photo(1500, 900)], [resnet], ["pooling"])
    export_board(board, tmp_path / "out")
    (overlay,) = (tmp_path / "out").glob("*.overlay.jpg")
    with Image.open(overlay) as image:
        assert image.size == (LONGEST, round(900 * LONGEST / 1500))
    assert read_manifest(tmp_path / "out")["pictures"][0]["width"] == 1500
    assert max(box[2] for box in read_manifest(tmp_path / "out")["rows"][0]["boxes"]) > LONGEST, (
        "boxes are in pixels of the original"
    )


@pytest.mark.parametrize("size", [(900, 40), (40, 900), (9, 8)])
def test_elongated_and_tiny_photos_are_exported(tmp_path: Path, resnet: Encoder, size: tuple[int, int]) -> None:
    board = make_board([make_photo(*size), make_photo()], [resnet], ["pooling", "contribution"])
    assert len(list(export_board(board, tmp_path / "out", DrawingStyle(smooth=False)).glob("*.[jp]*g"))) == 13


# --- whole or not at all
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["render_board", "render_row", "_write_scores", "manifest"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failure_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(export, step, fail)
    with pytest.raises(type(error)):
        export_board(board, tmp_path / "new" / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_an_earlier_result_as_it_was(
    tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = export_board(board, tmp_path / "out")
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    monkeypatch.setattr(export, "manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_board(board, out, overwrite=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_empty_folder_is_filled(tmp_path: Path, board: Board) -> None:
    (tmp_path / "out").mkdir()
    assert (export_board(board, tmp_path / "out") / "board.png").is_file()


def test_folder_given_as_a_dot_is_filled(tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export_board(board, Path("."))
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "here" / "board.png").is_file() and [p.name for p in tmp_path.iterdir()] == ["here"]


def test_earlier_result_is_replaced_only_when_told_to(tmp_path: Path, board: Board) -> None:
    out = export_board(board, tmp_path / "out")
    (out / "stale.png").touch()
    with pytest.raises(FileExistsError, match="add --overwrite to replace it"):
        export_board(board, out)
    assert (out / "stale.png").exists()
    export_board(board, out, overwrite=True)
    assert not (out / "stale.png").exists() and (out / "board.png").is_file()


@pytest.mark.parametrize(
    "content", [None, "{}", '{"name": "my-app", "version": "1.0"}', '{"versions": null}', "no json", "[]"]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_of_something_else_is_never_touched(
    tmp_path: Path, board: Board, overwrite: bool, content: str | None
) -> None:
    """Web apps and browser extensions have a manifest.json too."""
    out = tmp_path / "project"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    if content is not None:
        (out / "manifest.json").write_text(content)
    before = sorted(out.iterdir())
    for attempt in (check_target, lambda o, w: export_board(board, o, overwrite=w)):
        with pytest.raises(FileExistsError, match="not empty; it is no earlier result, so choose another folder"):
            attempt(out, overwrite)
    assert sorted(out.iterdir()) == before and [p.name for p in tmp_path.iterdir()] == ["project"]


def test_file_in_the_place_of_the_folder_is_refused(tmp_path: Path, board: Board) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(FileExistsError, match="already exists"):
        export_board(board, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").read_text() == "a file"


def test_pictures_are_jpeg_unless_asked_otherwise_and_close_to_what_is_drawn(board: Board, tmp_path: Path) -> None:
    profile = Profile()
    folder = export_board(board, tmp_path / "out", profile=profile)
    scales = row_scales(board, DrawingStyle())
    drawn = dict(zip(("overlay", "mask"), render_row(board, board.rows[0], scales[0], DrawingStyle()), strict=True))
    for kind, wanted in drawn.items():
        with Image.open(folder / f"{NAMES[0]}.{kind}.jpg") as image:
            assert image.format == "JPEG" and np.abs(np.asarray(image).astype(int) - wanted).mean() < 12
    assert {name for name, seconds in profile.seconds.items() if seconds} == {"drawing", "encoding"}
    with pytest.raises(ValueError, match="pictures are written as jpeg or png, not 'webp'"):
        export_board(board, tmp_path / "other", pictures="webp")
    assert not (tmp_path / "other").exists()
