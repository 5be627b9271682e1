"""Evaluation: pairs of photos and masks, one value per photo and map, bootstrap intervals, and the table with its
baselines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simpool_viz import load_checkpoint, record
from simpool_viz.board.board import Settings
from simpool_viz.cli.main import main
from simpool_viz.evaluation.classification import Classified, classification_table
from simpool_viz.evaluation.datasets import MaskSet, open_mask_set
from simpool_viz.evaluation.table import Method, evaluate, interval, to_markdown
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.localization import Reference, jaccard, read_reference, score_baselines, score_map
from simpool_viz.training.data import load_photos
from simpool_viz.training.measure import find_correct
from tests.conftest import disc, make_photo, small_resnet

SIZES = [(91, 60), (64, 100), (80, 50), (50, 81)]
CONTRIBUTION = MapRequest("contribution", {"classes": ["square"]})


def make_set(folder: Path) -> Path:
    """Photos of discs with their masks; one mask of another size and format than its photo."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for i, (width, height) in enumerate(SIZES):
        Image.fromarray(make_photo(width, height, i)).save(folder / "images" / f"{i}.jpg")
        scale, suffix = (2, "bmp") if i == 2 else (1, "png")
        Image.fromarray((255 * disc(scale * width, scale * height)).astype(np.uint8)).save(
            folder / "masks" / f"{i}.{suffix}"
        )
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MaskSet:
    return open_mask_set(make_set(tmp_path_factory.mktemp("sets") / "discs"))


# --- data sets
# -----------------------------------------------------------------------------------------------------------------


def test_photos_and_masks_are_paired_by_stem_in_the_order_of_names(data: MaskSet) -> None:
    assert data.name == "discs"
    assert [(i.name, m.name) for i, m in data.pairs] == [
        ("0.jpg", "0.png"),
        ("1.jpg", "1.png"),
        ("2.jpg", "2.bmp"),
        ("3.jpg", "3.png"),
    ]


def test_hidden_files_and_spare_masks_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_set(tmp_path / "discs")
    (tmp_path / "discs" / "images" / ".DS_Store").touch()
    (tmp_path / "discs" / "images" / "thumbnails").mkdir()
    (tmp_path / "discs" / "masks" / "spare.png").touch()
    monkeypatch.chdir(tmp_path / "discs")
    found = open_mask_set(Path("."))
    assert len(found.pairs) == 4 and found.name == "discs"


def test_folder_that_is_no_mask_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold the folders images/ and masks/"):
        open_mask_set(tmp_path)
    make_set(tmp_path / "discs")
    (tmp_path / "discs" / "masks" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"masks holds no mask for 1\.jpg"):
        open_mask_set(tmp_path / "discs")
    for kind in ("images", "masks"):
        (tmp_path / "empty" / kind).mkdir(parents=True)
    with pytest.raises(ValueError, match="images holds no image"):
        open_mask_set(tmp_path / "empty")


# --- figures
# --------------------------------------------------------------------------------------------------------------------


def test_every_figure_is_that_of_the_python_calls_per_photo(data: MaskSet, resnet: Encoder) -> None:
    settings = Settings(size=48, mask="area:0.3", largest=True)
    methods = evaluate(data, [resnet], [MapRequest("pooling"), CONTRIBUTION], settings)
    assert [m.label for m in methods] == [
        "small_simpool: Pooling attention",
        "small_simpool: Contribution (class square)",
        "centre prior",
        "whole picture",
    ]
    for i, (image, mask_file) in enumerate(data.pairs):
        reference, recording = read_reference(mask_file), record(resnet, image, 48)
        for method, request in zip(methods, (MapRequest("pooling"), CONTRIBUTION), strict=False):
            attention = recording.map(request.name, **request.options)
            wanted = score_map(attention.mask("area", 0.3, largest=True), reference)
            for figure in ("iou", "iou_at_true_area", "pointing"):
                assert method.figures[figure][i] == wanted[figure]
            assert method.figures["spatial_entropy"][i] == attention.entropy()[0]
        for method in methods[2:]:
            wanted = score_baselines(reference)[method.label]
            assert method.figures["iou_at_true_area"][i] == wanted["iou_at_true_area"] and np.isnan(
                method.figures["spatial_entropy"][i]
            )


def test_without_maps_each_checkpoint_is_scored_by_its_own(data: MaskSet, resnet: Encoder, resnet_gap: Encoder) -> None:
    methods = evaluate(data, [resnet, resnet_gap], [], Settings())
    assert [m.label for m in methods[:-2]] == ["small_simpool: Pooling attention", "small_gap: Contribution"]
    assert all(len(m.figures["iou"]) == len(data.pairs) for m in methods)


def test_maps_that_differ_in_options_and_checkpoints_of_one_name_are_told_apart(data: MaskSet) -> None:
    runs = [small_resnet("simpool", "run", seed) for seed in (0, 1)]
    requests = [MapRequest("contribution", {"classes": [c]}) for c in ("circle", "square")]
    methods = evaluate(data, runs, requests, Settings())[:-2]
    assert [m.label for m in methods] == ["run: Contribution (class circle)", "run: Contribution (class square)"] * 2
    assert all(len(m.figures["iou"]) == len(data.pairs) for m in methods)
    areas = {tuple(m.figures["iou_at_true_area"]) for m in methods}
    assert len(areas) == 4, "four different maps"


def test_map_that_no_checkpoint_has_is_told(data: MaskSet, resnet: Encoder) -> None:
    with pytest.raises(ValueError, match=r"none of these checkpoints has any of these maps\. .*CNN"):
        evaluate(data, [resnet], [MapRequest("cls")], Settings())


# --- intervals and the table
# -----------------------------------------------------------------------------------------------------


def test_interval_holds_the_mean_in_95_per_cent_of_its_bootstraps() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.1, 400)
    mean, low, high = interval(values)
    assert mean == pytest.approx(values.mean())
    error = values.std() / 20
    assert low == pytest.approx(mean - 1.96 * error, abs=0.2 * error) and high == pytest.approx(
        mean + 1.96 * error, abs=0.2 * error
    )
    assert interval(values) == (mean, low, high), "the same every time"
    assert interval(np.full(7, 0.3)) == pytest.approx((0.3, 0.3, 0.3))


def column(table: str, name: str) -> dict[str, str]:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    return {row[0]: row[rows[0].index(name)] for row in rows[2:]}


def test_table_carries_the_baselines_and_differences_paired_by_photo(data: MaskSet) -> None:
    rng = np.random.default_rng(1)
    prior = rng.random(4)
    figures = {name: rng.random(4) for name in ("iou", "jaccard", "jaccard_best", "spatial_entropy")}
    figures["pointing"] = np.array([1.0, 0, 1, 1])
    mine = Method("mine", figures | {"iou_at_true_area": prior + np.array([0.1, 0.1, 0.1, 0.1])})
    nan = np.full(4, np.nan)
    baseline = Method("centre prior", figures | {"iou_at_true_area": prior, "spatial_entropy": nan})
    table = to_markdown(data, [mine, baseline], Settings(mask="otsu"))
    assert table.startswith("**discs**, 4 photos\n")
    assert column(table, "above the centre prior") == {"mine": "+0.100 [+0.100, +0.100]", "centre prior": ""}
    assert column(table, "above the first row") == {"mine": "", "centre prior": "-0.100 [-0.100, -0.100]"}
    assert (
        column(table, "pointing")["mine"].startswith("0.750 [")
        and column(table, "spatial entropy")["centre prior"] == ""
    )
    mean, low, high = interval(figures["iou"])
    assert column(table, "IoU of mask otsu")["mine"] == f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def test_table_of_an_evaluation_is_whole(data: MaskSet, resnet: Encoder) -> None:
    renamed = dataclasses.replace(data, name="four discs")
    table = to_markdown(renamed, evaluate(data, [resnet], [], Settings()), Settings())
    assert table.splitlines()[0] == "**four discs**, 4 photos" and "nan" not in table
    assert list(column(table, "map")) == ["small_simpool: Pooling attention", "centre prior", "whole picture"]
    assert column(table, "pointing")["whole picture"].startswith("1.000")


# --- DINO's Jaccard and the objects of a photo
# ---------------------------------------------------------------------------------


def nearest(grid: np.ndarray, side: int) -> np.ndarray:
    """By loops: the cell whose area holds the pixel's centre."""
    h, w = grid.shape
    return np.array(
        [[grid[int((y + 0.5) * h / side), int((x + 0.5) * w / side)] for x in range(side)] for y in range(side)]
    )


def test_jaccard_is_dinos_protocol_written_out() -> None:
    rng = np.random.default_rng(3)
    labels = np.zeros((30, 40), np.int64)
    labels[3:12, 5:20], labels[15:28, 22:39], labels[:, :2] = 1, 7, 255
    reference = Reference((labels != 0) & (labels != 255), labels == 255, labels)
    masks = rng.random((3, 6, 8)) < 0.4
    assert len(reference.instances) == 2
    per_object = []
    for number in (1, 7):
        truth, void = nearest(labels == number, 48), nearest(labels == 255, 48)
        scores = []
        for mask in masks:
            shown = nearest(mask, 48)
            scores.append((shown & truth & ~void).sum() / ((shown | truth) & ~void).sum())
        per_object.append(scores)
    own, best = jaccard(masks, reference, side=48)
    assert own == pytest.approx(np.mean([scores[0] for scores in per_object]))
    assert best == pytest.approx(np.mean([max(scores) for scores in per_object])) and best > own


def test_instances_are_the_references_where_a_set_has_them(tmp_path: Path, resnet: Encoder) -> None:
    folder = make_set(tmp_path / "discs")
    (folder / "instances").mkdir()
    for image in (folder / "images").iterdir():
        with Image.open(image) as photo:
            labels = disc(*photo.size).astype(np.uint8)
        labels[:, : labels.shape[1] * 6 // 10] *= 3  # two halves of the disc, two objects
        Image.fromarray(labels).save(folder / "instances" / f"{image.stem}.png")
    data = open_mask_set(folder)
    assert all(mask.parent.name == "instances" for _, mask in data.pairs)
    assert len(read_reference(data.pairs[0][1]).instances) == 2
    own, prior, _ = evaluate(data, [resnet], [], Settings(size=48))
    for i, (image, mask) in enumerate(data.pairs):
        attention = record(resnet, image, 48).map("pooling")
        assert own.figures["jaccard"][i] == jaccard(attention.mask("mass", 0.6).grid[None], read_reference(mask))[0]
    assert (own.figures["jaccard_best"] >= own.figures["jaccard"]).all() and not np.isnan(
        prior.figures["jaccard"]
    ).any()


# --- top-1
# ---------------------------------------------------------------------------------------------------------------------


def test_table_of_accuracies_pairs_the_differences_by_photo() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(400) < 0.7
    better = first | (rng.random(400) < 0.2)
    rows = [Classified(small_resnet("gap", "a"), first), Classified(small_resnet("simpool", "b"), better)]
    table = classification_table(rows, "made up, held out")
    assert table.startswith("**made up, held out**, 400 photos\n")
    gained = (better.astype(float) - first) * 100
    mean, low, high = interval(gained)
    assert column(table, "against a (points)") == {"a": "", "b": f"+{mean:.1f} [+{low:.1f}, +{high:.1f}]"}
    assert low > 0 and column(table, "top-1 (%)")["a"].startswith(f"{100 * first.mean():.1f} [")
    assert column(table, "pooling") == {"a": "GAP", "b": "SimPool"}


def test_command_line_prints_top_1_and_refuses_other_classes(
    shapes: Path, data: MaskSet, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str], vit: Encoder
) -> None:
    folder, small = str(data.pairs[0][0].parent.parent), str(checkpoints["gap"])
    assert main(["evaluate", folder, "--photos", str(shapes), "-c", small, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    encoder = load_checkpoint(small, device="cpu")
    right = find_correct([encoder], load_photos(shapes, "val", Path(folder) / "cache"), [encoder.facts.size])[0].numpy()
    assert f"{100 * right.mean():.1f} [" in column(out.split("**discs**")[0], "top-1 (%)")[encoder.facts.name]
    assert "**discs**, 4 photos" in out
    with_other = ["evaluate", folder, "--photos", str(shapes), "-c", "resnet_gap", "--device", "cpu"]
    assert main(with_other) == 2 and "resnet_gap knows other classes" in capsys.readouterr().err
