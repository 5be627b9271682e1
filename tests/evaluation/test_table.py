"""Evaluation: pairs of photos and masks, one value per photo and map, bootstrap intervals, and the table with its
baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simpool_viz import load_checkpoint, make_board, record
from simpool_viz.board.board import Settings
from simpool_viz.cli.main import main
from simpool_viz.evaluation.datasets import DataSet, open_data_set, set_of_pairs
from simpool_viz.evaluation.passes import Pace
from simpool_viz.evaluation.table import Method, evaluate, localization_table
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.localization import jaccard, score_baselines, score_map
from simpool_viz.scores.references import read_reference
from simpool_viz.scores.results import interval
from simpool_viz.training.data import load_photos
from simpool_viz.training.measure import find_correct
from tests.evaluation.datasets.trees import pairs_of
from tests.helpers import disc, make_mask_set, small_resnet, table_column

CONTRIBUTION = MapRequest("contribution", {"classes": ["square"]})
ALONE = Pace(batch=1)  # a photo of a batch differs from one alone in the last digits of its map


def test_every_figure_is_that_of_the_python_calls_per_photo(data: DataSet, resnet: Encoder) -> None:
    settings = Settings(size=48, mask="area:0.3", largest=True)
    methods = evaluate(data, [resnet], [MapRequest("pooling"), CONTRIBUTION], settings, ALONE)
    assert [m.label for m in methods] == [
        "small_simpool: Pooling attention",
        "small_simpool: Contribution (class square)",
        "centre prior",
        "whole picture",
    ]
    for i, (image, mask_file) in enumerate(pairs_of(data)):
        recording = record(resnet, image, 48)
        reference = read_reference(mask_file, recording.picture.size)
        for method, request in zip(methods, (MapRequest("pooling"), CONTRIBUTION), strict=False):
            attention = recording.map(request.name, **request.options)
            wanted = score_map(attention.mask("area", 0.3, largest=True), reference)
            for figure in ("iou", "iou_at_true_area", "pointing"):
                assert method.figures[figure][i] == wanted[figure]
            assert method.figures["spatial_entropy"][i] == pytest.approx(attention.entropy()[0], rel=1e-5, abs=1e-6)
        for method in methods[2:]:
            wanted = score_baselines(reference)[method.label]
            assert method.figures["iou_at_true_area"][i] == wanted["iou_at_true_area"]
            assert method.figures["spatial_entropy"][i] == pytest.approx(0, abs=1e-12), "one part, or none"


def test_without_maps_each_checkpoint_is_scored_by_its_own(data: DataSet, resnet: Encoder, resnet_gap: Encoder) -> None:
    methods = evaluate(data, [resnet, resnet_gap], [], Settings())
    assert [m.label for m in methods[:-2]] == ["small_simpool: Pooling attention", "small_gap: Contribution"]
    assert all(len(m.figures["iou"]) == len(pairs_of(data)) for m in methods)


def test_maps_that_differ_in_options_and_checkpoints_of_one_name_are_told_apart(data: DataSet) -> None:
    runs = [small_resnet("simpool", "run", seed) for seed in (0, 1)]
    requests = [MapRequest("contribution", {"classes": [c]}) for c in ("circle", "square")]
    methods = evaluate(data, runs, requests, Settings())[:-2]
    assert [m.label for m in methods] == ["run: Contribution (class circle)", "run: Contribution (class square)"] * 2
    assert all(len(m.figures["iou"]) == len(pairs_of(data)) for m in methods)
    areas = {tuple(m.figures["iou_at_true_area"]) for m in methods}
    assert len(areas) == 4, "four different maps"


def test_map_that_no_checkpoint_has_is_told(data: DataSet, resnet: Encoder) -> None:
    with pytest.raises(ValueError, match=r"none of these checkpoints has any of these maps\. .*CNN"):
        evaluate(data, [resnet], [MapRequest("cls")], Settings())


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


def test_table_carries_the_baselines_and_differences_paired_by_photo(data: DataSet) -> None:
    rng = np.random.default_rng(1)
    prior = rng.random(4)
    figures = {name: rng.random(4) for name in ("iou", "jaccard", "jaccard_best", "spatial_entropy")}
    figures["pointing"] = np.array([1.0, 0, 1, 1])
    mine = Method("mine", figures | {"iou_at_true_area": prior + np.array([0.1, 0.1, 0.1, 0.1])})
    nan = np.full(4, np.nan)
    baseline = Method("centre prior", figures | {"iou_at_true_area": prior, "spatial_entropy": nan})
    table = localization_table(data, [mine, baseline], Settings(mask="otsu")).markdown()
    assert table.startswith("**discs**, 4 photos\n")
    assert table_column(table, "above the centre prior") == {"mine": "+0.100 [+0.100, +0.100]", "centre prior": ""}
    assert table_column(table, "above the first row") == {"mine": "", "centre prior": "-0.100 [-0.100, -0.100]"}
    assert (
        table_column(table, "pointing")["mine"].startswith("0.750 [")
        and table_column(table, "spatial entropy")["centre prior"] == ""
    )
    mean, low, high = interval(figures["iou"])
    assert table_column(table, "IoU of mask (otsu)")["mine"] == f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def test_a_photo_without_a_value_is_left_out_of_its_column_alone(data: DataSet) -> None:
    figures = {name: np.array([0.1, 0.2, 0.3, 0.6]) for name in ("iou", "iou_at_true_area", "pointing", "jaccard_best")}
    figures |= {"jaccard": np.array([0.2, np.nan, 0.4, 0.6]), "spatial_entropy": np.full(4, np.nan)}
    (row,) = localization_table(data, [Method("centre prior", figures)], Settings()).rows
    assert row["jaccard"][0] == pytest.approx(0.4) and row["iou"][0] == pytest.approx(0.3)  # type: ignore[index]
    assert row["spatial_entropy"] is None


def test_table_of_an_evaluation_is_whole(data: DataSet, resnet: Encoder) -> None:
    renamed = data.renamed("four discs")
    table = localization_table(renamed, evaluate(data, [resnet], [], Settings()), Settings()).markdown()
    assert table.splitlines()[0] == "**four discs**, 4 photos" and "nan" not in table
    assert list(table_column(table, "map")) == ["small_simpool: Pooling attention", "centre prior", "whole picture"]
    assert table_column(table, "pointing")["whole picture"].startswith("1.000")


def test_instances_are_the_references_where_a_set_has_them(tmp_path: Path, resnet: Encoder) -> None:
    folder = make_mask_set(tmp_path / "discs")
    (folder / "instances").mkdir()
    for image in (folder / "images").iterdir():
        with Image.open(image) as photo:
            labels = disc(*photo.size).astype(np.uint8)
        labels[:, : labels.shape[1] * 6 // 10] *= 3  # two halves of the disc, two objects
        Image.fromarray(labels).save(folder / "instances" / f"{image.stem}.png")
    data = open_data_set(folder)
    assert all(mask.parent.name == "instances" for _, mask in pairs_of(data))
    assert len(read_reference(pairs_of(data)[0][1]).instances) == 2
    own, prior, _ = evaluate(data, [resnet], [], Settings(size=48), ALONE)
    for i, (image, mask) in enumerate(pairs_of(data)):
        attention = record(resnet, image, 48).map("pooling")
        assert own.figures["jaccard"][i] == jaccard(attention.mask("mass", 0.6).grid[None], read_reference(mask))[0]
    assert (own.figures["jaccard_best"] >= own.figures["jaccard"]).all() and not np.isnan(
        prior.figures["jaccard"]
    ).any()


def test_command_line_prints_top_1_and_refuses_other_classes(
    shapes: Path, data: DataSet, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str], vit: Encoder
) -> None:
    folder, small = str(pairs_of(data)[0][0].parent.parent), str(checkpoints["gap"])
    assert main(["evaluate", folder, "--photos", str(shapes), "-c", small, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    encoder = load_checkpoint(small, device="cpu")
    right = find_correct([encoder], load_photos(shapes, "val", Path(folder) / "cache"), [encoder.facts.size])[0].numpy()
    assert f"{100 * right.mean():.1f} [" in table_column(out.split("**discs**")[0], "top-1 (%)")[encoder.facts.name]
    assert "**discs**, 4 photos" in out
    with_other = ["evaluate", folder, "--photos", str(shapes), "-c", "resnet_gap", "--device", "cpu"]
    assert main(with_other) == 2 and "resnet_gap knows other classes" in capsys.readouterr().err


def test_table_and_board_give_one_figure_for_a_photo_reference_and_mask(data: DataSet, resnet: Encoder) -> None:
    for settings in (Settings(size=48), Settings(size=48, mask="mass:0.6"), Settings(size=48, largest=True)):
        for image, mask in pairs_of(data):
            one = set_of_pairs("one", [(image, mask)])
            method = evaluate(one, [resnet], [MapRequest("pooling")], settings)[0]
            references = {0: read_reference(mask)}
            (row,) = make_board([image], [resnet], ["pooling"], settings, references).rows
            for name in ("iou", "iou_at_true_area", "pointing"):
                assert method.figures[name][0] == row.scores[name]
