"""The command `compare`: what it writes, in which order, and what it refuses before anything is loaded."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simpool_viz import load_checkpoint, record
from simpool_viz.cli.main import main
from simpool_viz.masks import DEFAULT_CUT
from tests.helpers import make_photo, run_command


def test_compare_writes_a_folder_with_the_maps_of_the_python_call_and_the_scores(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    status, out, _ = run_command(
        capsys, "compare", photos["wide"], photos["tall"], "-c", checkpoints["simpool"],
        "-c", checkpoints["gap"], "-o", tmp_path / "out",
        "--reference", photos["wide mask"], "--reference", photos["tall mask"], "--mask", "area:0.2",
        "--device", "cpu", "--smooth",
        "-m", "pooling", "-m", "contribution",
    )  # fmt: skip
    assert status == 0
    assert f"6 maps in {tmp_path / 'out'}; open {tmp_path / 'out' / 'board.png'}" in out
    assert "note: small gap has no Pooling attention map: " in out
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 12 and (tmp_path / "out" / "board.png").is_file()
    weights = record(load_checkpoint(checkpoints["simpool"], device="cpu"), photos["tall"]).map("simpool").weights
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        assert np.array_equal(maps["tall.small_simpool.pooling"], weights)
    with (tmp_path / "out" / "scores.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [t["checkpoint"] for t in table].count("centre prior") == 2 and all(0 <= float(t["iou"]) <= 1 for t in table)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"]["mask"] == "area:0.2" and manifest["look"]["smooth"] and manifest["device"] == "cpu"


def test_compare_shows_each_checkpoints_own_map_where_none_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    both = ["-c", checkpoints["simpool"], "-c", checkpoints["gap"]]
    status, out, _ = run_command(capsys, "compare", photos["wide"], *both, "-o", tmp_path / "out", "--device", "cpu")
    rows = json.loads((tmp_path / "out" / "manifest.json").read_text())["rows"]
    assert status == 0 and "note:" not in out
    assert [(r["checkpoint"], r["map"]) for r in rows] == [("small_simpool", "pooling"), ("small_gap", "contribution")]


def test_compare_takes_maps_with_options_size_and_look(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    status, _, err = run_command(
        capsys, "compare", photos["wide"], "-c", checkpoints["simpool"], "-m", "contribution:classes=square+circle",
        "-m", "simpool",
        "-o", tmp_path / "out", "--size", 40, "--colours", "gray", "--opacity", 0.25,
        "--shared-scale", "--largest", "--device", "cpu",
        "--fusion", "-1",
    )  # fmt: skip
    assert status == 0, err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [r["map"] for r in manifest["rows"]] == ["contribution:classes=square+circle", "simpool"]
    assert manifest["rows"][0]["maps"] == ["square", "circle"] and manifest["rows"][0]["input_size"] == [64, 40]
    assert manifest["look"] == {"colours": "gray", "opacity": 0.25, "smooth": True, "shared_scale": True, "boxes": True}
    cut = dataclasses.asdict(dataclasses.replace(DEFAULT_CUT, largest=True))
    expected = {"size": 40, "mask": "default", "largest": True, "fusion": -1, "smoothing": None, "smooth": None}
    expected |= {"refine": "", "faithfulness": 0}
    assert manifest["settings"] == {**expected, "cut": cut}


def test_compare_keeps_two_photos_of_one_stem_apart(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    for number, name in enumerate(("cat.png", "cat.bmp")):
        Image.fromarray(make_photo(seed=number)).save(tmp_path / name)
    arguments = [
        "compare",
        tmp_path / "cat.png",
        tmp_path / "cat.bmp",
        "-c",
        checkpoints["simpool"],
        "-o",
        tmp_path / "out",
    ]
    assert run_command(capsys, *arguments, "--device", "cpu")[0] == 0
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        first, second = (maps[f"cat_{i}.small_simpool.pooling"] for i in (0, 1))
    assert not np.array_equal(first, second)


def test_compare_replaces_an_earlier_result_only_with_overwrite(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    arguments = ["compare", photos["wide"], "-c", checkpoints["gap"], "-o", tmp_path / "out", "--device", "cpu"]
    assert run_command(capsys, *arguments)[0] == 0
    made = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    status, _, err = run_command(capsys, *arguments)
    assert status == 2 and "add --overwrite to replace it" in err
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == made
    assert run_command(capsys, *arguments, "--overwrite")[0] == 0
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns > made


def test_compare_refuses_an_occupied_folder_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.txt").touch()
    monkeypatch.setattr(
        "simpool_viz.checkpoints.load.load_checkpoint", lambda *_, **__: pytest.fail("a checkpoint was loaded")
    )
    status, _, err = run_command(capsys, "compare", photos["wide"], "-o", tmp_path)
    assert (
        status == 2
        and "already exists and is not empty" in err
        and [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    )


def test_without_any_bundled_checkpoint_one_must_be_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simpool_viz.checkpoints.catalogue.catalogue", dict)
    status, _, err = run_command(capsys, "compare", photos["wide"], "-o", tmp_path / "out")
    assert status == 2 and "no checkpoint is bundled" in err


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


def test_reference_is_a_box_or_chosen_labels_of_a_trimap(
    tmp_path: Path, photos: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    width, height = Image.open(photos["wide"]).size
    trimap = np.full((height, width), 2, np.uint8)
    trimap[10:40, 20:60] = 1
    Image.fromarray(trimap).save(tmp_path / "trimap.png")
    words = ["compare", str(photos["wide"]), "-c", "resnet_simpool", "--size", "64"]
    box = ["--reference", "20,10,60,40", "-o", str(tmp_path / "box")]
    ids = ["--reference", str(tmp_path / "trimap.png"), "--object-ids", "1", "-o", str(tmp_path / "ids")]
    assert main([*words, *box]) == 0 and main([*words, *ids]) == 0
    scores = [(tmp_path / name / "scores.csv").read_text().splitlines() for name in ("box", "ids")]
    columns = scores[0][0].split(",")
    ious = [dict(zip(columns, lines[1].split(","), strict=True))["iou"] for lines in scores]
    assert ious[0] == ious[1] != ""
    assert main([*words, "--reference", str(tmp_path / "trimap.png"), "-o", str(tmp_path / "none")]) == 2
    assert "leaves no background: its values are 1, 2" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    with pytest.raises(SystemExit):
        main([*words, *ids, "--object-ids", "one"])
    assert "whole numbers with commas between them, as 1,2, not 'one'" in capsys.readouterr().err


def test_compare_makes_a_board_again_and_writes_figures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photos: dict[str, Path], checkpoints: dict[str, Path]
) -> None:
    first, again, source = tmp_path / "first", tmp_path / "again", checkpoints["simpool"]
    status, _, err = run_command(
        capsys, "compare", photos["wide"], "-c", source, "-o", first, "--mask", "mass:0.3", "--no-boxes",
        "--figure", "svg,pdf", "--columns", "one", "--captions", "coverage", "--keep-sources", "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    assert {p.name for p in first.glob("figure.*")} == {"figure.svg", "figure.pdf"}
    assert (
        ">mask " in (first / "figure.svg").read_text() and "Pooling attention" not in (first / "figure.svg").read_text()
    )
    manifest = first / "manifest.json"
    status, out, err = run_command(capsys, "compare", "--from", manifest, "-c", source, "-o", again, "--device", "cpu")
    assert status == 0, err
    assert "nothing differs: 1 maps and masks are equal bit for bit" in out
    assert json.loads((again / "manifest.json").read_text())["look"] == json.loads(manifest.read_text())["look"]
    status, out, _ = run_command(
        capsys,
        "compare",
        photos["tall"],
        "--from",
        manifest,
        "-c",
        source,
        "-o",
        again,
        "--overwrite",
        "--device",
        "cpu",
    )
    assert status == 0 and "differs: the photo wide.png has other pixels" in out and "nothing differs" not in out


def test_what_compare_cannot_repeat_or_draw_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, sentence in (
        (["--from", tmp_path, "--mask", "mean"], "--from takes these from the manifest; leave out --mask"),
        ([], "name at least one photo, or an earlier result with --from"),
        (["cat.jpg", "--figure", "eps"], "--figure writes pdf, svg or png, not 'eps'"),
        (["cat.jpg", "--figure", "--captions", "title"], "captions are checkpoint"),
    ):
        status, _, err = run_command(capsys, "compare", *words, "-o", tmp_path / "out")
        assert status == 2 and sentence in err
