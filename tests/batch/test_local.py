"""A folder as a whole: every picture's maps are those it has alone, bad ones are told and skipped, and a run goes on
where it stopped."""

from __future__ import annotations

import copy
import csv
import dataclasses
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simpool_viz import record
from simpool_viz.batch import boards, local
from simpool_viz.batch.boards import Job, batches_of_one_shape, make_boards
from simpool_viz.batch.local import run, run_settings
from simpool_viz.batch.lock import locked
from simpool_viz.batch.preparing import Fault, Prepared
from simpool_viz.batch.writing import Journal
from simpool_viz.board.board import Settings, make_board
from simpool_viz.checkpoints.load import share_backbones
from simpool_viz.cli.main import main
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.drawing.render import render_row, row_scales
from simpool_viz.errors import DataError
from simpool_viz.maps.request import parse_map
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import make_photo, prepare_shape, prepared, save_small, small_resnet

SIZES = [(91, 60), (64, 100), (91, 60), (120, 60), (64, 100), (90, 60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos of three shapes, one below another folder, and three files that are no pictures."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "below").mkdir()
    for i, (width, height) in enumerate(SIZES):
        Image.fromarray(make_photo(width, height, seed=i)).save(
            folder / ("below" if i == 5 else ".") / f"photo {i}.png"
        )
    (folder / "empty.jpg").touch()
    (folder / "cut.png").write_bytes((folder / "photo 0.png").read_bytes()[:900])
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes((folder / "photo 0.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def out(folder: Path, job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("batch") / "out"
    report = run(job, [folder], out, DrawingStyle(smooth=True), pictures="png", batch=2, workers=1)
    assert report.done == 6 and report.earlier == 0 and {f.key for f in report.faults} == {"empty.jpg", "cut.png"}
    return out


KEYS = [*(f"photo {i}.png" for i in range(5)), "below/photo 5.png"]


ROWS = ["small_simpool.pooling", "timm_vit_tiny_patch16_224.cls", "timm_vit_tiny_patch16_224.rollout"]


def test_maps_and_masks_are_those_of_each_picture_alone(folder: Path, out: Path, resnet: Encoder, vit: Encoder) -> None:
    for key in KEYS:
        with np.load(out / "maps" / f"{key}.npz", allow_pickle=False) as maps:
            assert set(maps.files) == {*ROWS, *(f"{name}.mask" for name in ROWS)}
            for name, encoder in zip(ROWS, (resnet, vit, vit), strict=True):
                alone = record(encoder, folder / key, 64).map(name.rpartition(".")[2])
                np.testing.assert_allclose(maps[name], alone.weights, rtol=1e-3, atol=1e-7)
                assert maps[f"{name}.mask"].shape == alone.geometry.grid


def test_pictures_are_those_of_an_export(folder: Path, out: Path, resnet: Encoder) -> None:
    board = make_board([folder / KEYS[1]], [resnet], ["pooling"], Settings(size=64))
    drawn = render_row(board, board.rows[0], row_scales(board, DrawingStyle())[0], DrawingStyle(smooth=True))
    for kind, wanted in zip(("overlay", "mask"), drawn, strict=True):
        with Image.open(out / "pictures" / f"{KEYS[1]}.{ROWS[0]}.{kind}.png") as image:
            assert (np.abs(np.asarray(image).astype(int) - wanted) > 8).mean() < 0.01
    names = {str(p.relative_to(out / "pictures")) for p in (out / "pictures").rglob("*.png")}
    assert names == {f"{key}.{row}.{kind}.png" for key in KEYS for row in ROWS for kind in ("overlay", "mask")}


def test_scores_and_manifest_tell_of_every_picture_and_fault(out: Path) -> None:
    with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [t["picture"] for t in table] == [key for key in sorted(KEYS) for _ in ROWS]
    assert {t["map"] for t in table} == {"pooling", "cls", "rollout"} and all(float(t["coverage"]) > 0 for t in table)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["checkpoints"][0] == "small_simpool" and manifest["maps"] == ["pooling", "cls", "rollout"]
    assert [p["key"] for p in manifest["pictures"]] == sorted(KEYS) and manifest["pictures"][0]["rows"][0][
        "name"
    ] == ROWS[0]
    assert {f["key"]: f["sentence"].split()[-1] for f in manifest["faults"]}["empty.jpg"] == "bytes)"
    assert len(manifest["skipped"]) == 3, "the ResNet has neither cls nor rollout, the ViT no pooling attention"


def test_a_run_goes_on_where_it_was_interrupted(
    folder: Path, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    original = local.write

    def failing(board: Any, *args: Any) -> Any:
        written.append(board.pictures[0].name)
        if len(written) == 4:
            raise OSError("no space left on device")
        return original(board, *args)

    monkeypatch.setattr(local, "write", failing)
    with pytest.raises(OSError, match="no space left"):
        run(job, [folder], tmp_path / "out", pictures="none", batch=2, workers=1)
    done = Journal(tmp_path / "out", run_settings(job, DrawingStyle(), "none")).done
    assert 1 <= len(done) <= 5 and not (tmp_path / "out" / "manifest.json").exists()
    with (tmp_path / "out" / "journal.jsonl").open("a") as file:
        file.write('{"key": "photo')  # as a machine that went off leaves it
    monkeypatch.setattr(
        local, "write", lambda board, *args: written.append(board.pictures[0].name) or original(board, *args)
    )
    written.clear()
    report = run(job, [folder], tmp_path / "out", pictures="none", batch=2, workers=1)
    assert report.done == 6 and report.earlier == len(done) and set(written) == set(KEYS) - set(done)
    assert (tmp_path / "out" / "manifest.json").exists() and not (tmp_path / "out" / "pictures").exists()
    assert not list((tmp_path / "out").rglob("*.part"))


def test_what_an_earlier_run_left_in_disorder_is_told(folder: Path, job: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(job, [folder], out, pictures="none", workers=1)
    with (out / "journal.jsonl").open("a") as file:
        file.write("{}\n")
    (out / ".running.json").write_text('{"process": 7, "computer": "ada", "started": "2026-01-01 00:00:00"}')
    report = run(job, [folder], out, pictures="none", workers=1)
    assert report.done == report.earlier == 6
    assert report.notes == [
        "an earlier run did not come to its end (process 7 on ada, started 2026-01-01 00:00:00); this one goes on",
        f"{out / 'journal.jsonl'} had 1 damaged line; what no other line tells is made again",
    ]


def test_a_folder_that_another_run_holds_is_left_as_it_is(folder: Path, job: Job, tmp_path: Path) -> None:
    with locked(tmp_path / "out"), pytest.raises(DataError, match="another run writes to"):
        run(job, [folder], tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / "journal.jsonl").exists()


def test_an_output_folder_that_vanishes_is_one_sentence_and_stays_gone(
    folder: Path, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, out = local.write, tmp_path / "out"

    def vanishing(board: Any, *args: Any) -> Any:
        shutil.rmtree(out, ignore_errors=True)
        return original(board, *args)

    monkeypatch.setattr(local, "write", vanishing)
    with pytest.raises(DataError, match="out is gone, which was there when its run began; start the run again"):
        run(job, [folder], out, pictures="none", batch=2, workers=1)
    assert not out.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_names_that_are_no_text_or_too_long_are_rows_as_others(job: Job, tmp_path: Path) -> None:
    folder, out, photo = tmp_path / "photos", tmp_path / "out", make_photo(64, 100)
    folder.mkdir()
    long = "a" * 251 + ".png"
    for name in (b"caf\xe9.png", b"caf\xff.png", b"bad\xff.png", long.encode()):
        Image.fromarray(photo).save(tmp_path / "photo.png")
        shutil.copy(tmp_path / "photo.png", os.fsencode(folder) + b"/" + name)
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.png")).write_bytes(b"no picture")
    report = run(job, [folder], out, pictures="png", workers=1)
    assert report.done == 3 and [fault.key for fault in report.faults] == [r"bad\udcff.png"]
    table = (out / "scores.csv").read_text(encoding="utf-8")
    assert all(name in table for name in (r"caf\udce9.png", r"caf\udcff.png", long))
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    for picture in manifest["pictures"]:
        assert (out / "maps" / f"{picture['files']}.npz").is_file()
    assert run(job, [folder], out, pictures="png", workers=1).earlier == 3


def test_a_path_that_is_too_long_is_one_row_with_its_reason(
    folder: Path, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = local.write

    def refusing(board: Any, *args: Any) -> Any:
        if board.pictures[0].name == KEYS[1]:
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        return original(board, *args)

    monkeypatch.setattr(local, "write", refusing)
    report = run(job, [folder], tmp_path / "out", pictures="none", workers=1)
    assert report.done == 5
    assert {f.sentence for f in report.faults if f.key == KEYS[1]} == {
        f"{KEYS[1]} has a path that is too long below the output folder"
    }


def test_a_folder_of_other_settings_or_of_something_else_is_left_alone(
    folder: Path, out: Path, job: Job, tmp_path: Path
) -> None:
    with pytest.raises(FileExistsError, match="a run with other settings"):
        run(job, [folder], out, pictures="jpeg")
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is no earlier run"):
        run(job, [folder], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["diary.txt"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pictures": "webp"}, "jpeg, png or none"),
        ({"batch": 0}, "must be positive"),
        ({"workers": 0}, "must be positive"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    folder: Path, job: Job, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run(job, [folder], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_job_that_gives_no_map_says_why(folder: Path, resnet: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its backbone is a CNN"):
        run(Job([resnet], [parse_map("cls")], Settings(size=64)), [folder], tmp_path / "out", workers=1)


def test_batches_are_of_one_shape_and_no_picture_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "WAITING", 16 * prepared("any", (4, 5)).nbytes)
    shapes = [(4, 4) if i % 2 else (4, 5) for i in range(9)] + [(3, n) for n in range(1, 20)]
    read = [prepared(str(i), s) for i, s in enumerate(shapes)] + [Fault("bad", "why")]
    faults: list[Fault] = []
    batches = list(batches_of_one_shape(iter(read), 2, faults))
    assert sorted(one.key for b in batches for one in b) == sorted(str(i) for i in range(len(shapes)))
    assert all(len({one.shape for one in b}) == 1 and len(b) <= 2 for b in batches) and len(faults) == 1
    first_lone = next(n for n, b in enumerate(batches) if b[0].shape[0][0] == 3)
    consumed = sum(map(len, batches[:first_lone])) + 16
    assert consumed < len(shapes), "a rare shape left before the end, when as much as 16 pictures waited"


@pytest.mark.parametrize("batch", [2, 3])
def test_pictures_that_wait_have_few_bytes_however_many_shapes(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture has a shape of its own, or its shape comes back too seldom to fill a batch."""
    limit = 20 * prepared("largest", (2, 201)).nbytes
    monkeypatch.setattr(boards, "WAITING", limit)
    for shapes in (200, 60 // batch):
        came: list[Prepared] = []

        def arrive(shapes: int = shapes, came: list[Prepared] = came) -> Iterator[Prepared]:
            for i in range(200):
                came.append(prepared(str(i), (2, 2 + i % shapes)))
                yield came[-1]

        left: list[Prepared] = []
        most = 0
        for one in batches_of_one_shape(arrive(), batch, []):
            left += one
            assert len(one) <= batch
            if len(came) < 200:
                most = max(most, sum(p.nbytes for p in came) - sum(p.nbytes for p in left))
        assert (0.9 * limit if shapes == 200 else 0) < most <= limit
        assert sorted(p.key for p in left) == sorted(p.key for p in came) and len(came) == 200


def test_the_most_frequent_of_the_waiting_shapes_goes_first_where_too_many_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boards, "WAITING", 10 * prepared("any", (4, 20)).nbytes)
    grids = [(2, 2), (3, 3), (2, 2), *((4, n) for n in range(2, 40))]
    first = next(batches_of_one_shape((prepared(str(i), grid) for i, grid in enumerate(grids)), 3, []))
    assert [one.key for one in first] == ["0", "2"]


def test_heads_on_one_backbone_share_the_forward_of_a_batch(resnet: Encoder) -> None:
    base, head = small_resnet("gap", "base"), small_resnet("simpool", "base+a", seed=1)
    head.backbone, head.facts = copy.deepcopy(base.backbone), dataclasses.replace(head.facts, base="base")
    encoders = share_backbones([base, resnet, head])
    job = Job(encoders, [parse_map("contribution")], Settings(size=64))
    assert job.groups == [[0, 2], [1]]
    calls: list[int] = []
    original: Callable[..., Any] = base.backbone.forward_features
    base.backbone.forward_features = lambda x: (calls.append(len(x)), original(x))[1]
    try:
        batch = [prepare_twice(i) for i in range(3)]
        boards = make_boards(job, batch)
    finally:
        del base.backbone.forward_features
    assert (
        calls == [3] and [[r.checkpoint for r in b.rows] for b in boards] == [["base", "small_simpool", "base+a"]] * 3
    )


def prepare_twice(seed: int) -> Prepared:
    pixels, geometry, inputs = prepare_shape((4, 6))
    return Prepared(str(seed), pixels, geometry * 2, inputs * 2)


def test_command_writes_tells_faults_and_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_small(tmp_path / "checkpoint")
    arguments = [
        "batch",
        str(folder),
        "-c",
        str(checkpoint),
        "-o",
        str(tmp_path / "out"),
        "--device",
        "cpu",
        "--batch",
        "4",
        "--workers",
        "1",
    ]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith("6 pictures in") and "2 left out;" in out and "left out: empty.jpg is empty (0 bytes)" in err
    assert (tmp_path / "out" / "pictures" / "below" / f"photo 5.png.{ROWS[0]}.overlay.jpg").is_file()
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("0 pictures in")
    assert main([*arguments, "--mask", "otsu"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main(["batch", str(tmp_path / "none"), "-o", str(tmp_path / "x"), "-c", str(checkpoint)]) == 2
