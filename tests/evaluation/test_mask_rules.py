"""The table of mask rules: every figure is that of the plain calls, and the best rule comes first."""

from __future__ import annotations

import numpy as np
import pytest

from simpool_viz import record
from simpool_viz.board.board import Settings
from simpool_viz.cli.main import main
from simpool_viz.evaluation.cut_masks import CUTS, Cut, cut_masks
from simpool_viz.evaluation.datasets import DataSet
from simpool_viz.evaluation.mask_rules import CutScores, compare_cuts
from simpool_viz.maps.request import MapRequest
from simpool_viz.masks import DEFAULT_CUT, DINO_CUT, make_mask
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.localization import iou, score_baselines
from simpool_viz.scores.references import read_reference
from tests.evaluation.datasets.trees import pairs_of
from tests.helpers import small_resnet

FIRST = (Cut("mass", 0.6, 0.0, False), Cut("mean", None, 1.0, True), Cut("area", 0.25, 0.5, False))


def test_every_figure_is_that_of_the_plain_calls_and_the_best_comes_first(data: DataSet, resnet: Encoder) -> None:
    table = compare_cuts(data, [resnet], [MapRequest("pooling")], Settings(size=48)).by_cut(None)
    (column,) = [c.name for c in table.columns[2:]]
    assert column == "small_simpool: Pooling attention" and len(table.rows) == len(CUTS) + 2
    for cut in FIRST:
        values = []
        for image, mask in pairs_of(data):
            recording = record(resnet, image, 48)
            reference = read_reference(mask, recording.picture.size)
            attention = recording.map("pooling")
            drawn = attention.mask(cut.rule, cut.amount, largest=cut.largest, smoothing=cut.smoothing)
            values.append(iou(drawn.pixels(size=reference.size), reference))
        assert table.row(cut.label)[column][0] == pytest.approx(np.mean(values), abs=1e-5)
    means = [row["mean"] for row in table.rows[:-2]]
    assert means == sorted(means, reverse=True)
    assert {row["mask"] for row in table.rows[-2:]} == {"centre prior", "whole picture"}
    prior = [
        score_baselines(read_reference(mask, record(resnet, image, 48).picture.size)) for image, mask in pairs_of(data)
    ]
    expected = np.mean([p["centre prior"]["iou"] for p in prior])
    assert table.row("centre prior")[column][0] == pytest.approx(expected, abs=1e-5)


def test_each_map_is_told_whether_its_default_mask_beats_both_baselines(data: DataSet) -> None:
    scores = compare_cuts(data, [small_resnet("simpool", "run", seed) for seed in (0, 1)], [], Settings(size=48))
    table = scores.by_map()
    assert [row["map"] for row in table.rows] == [*scores.of_maps]
    for row, own in zip(table.rows, scores.of_maps.values(), strict=True):
        default = own[DEFAULT_CUT.label]
        assert row["iou"][0] == pytest.approx(default.mean(), abs=1e-5)
        lows = []
        for name in ("centre prior", "whole picture"):
            assert row[name][0] == pytest.approx((default - own[name]).mean(), abs=1e-5)
            lows.append(row[name][1])
        assert row["beats"] == ("yes" if min(lows) > 0 else "no")
        best = max((cut.label for cut in CUTS), key=lambda label: own[label].mean())
        assert (row["best"], row["best_iou"][0]) == (best, pytest.approx(own[best].mean(), abs=1e-5))


def test_a_mask_that_is_the_reference_beats_both() -> None:
    perfect = {cut.label: np.ones(8) for cut in CUTS}
    worse = {cut.label: np.full(8, 0.3) for cut in CUTS}
    plain = {"centre prior": np.full(8, 0.4), "whole picture": np.full(8, 0.2)}
    table = CutScores("set", {"good": perfect | plain, "bad": worse | plain}, tuple(plain)).by_map()
    assert [row["beats"] for row in table.rows] == ["yes", "no"]


def test_checkpoints_of_one_name_are_told_apart(data: DataSet) -> None:
    table = compare_cuts(
        data, [small_resnet("simpool", "run", seed) for seed in (0, 1)], [], Settings(size=48)
    ).by_cut()
    assert [c.name for c in table.columns[2:]] == ["run: Pooling attention (0)", "run: Pooling attention (1)"]
    row = table.rows[0]
    assert row["mean"] == pytest.approx(
        (row["run: Pooling attention (0)"][0] + row["run: Pooling attention (1)"][0]) / 2, abs=1e-5
    )


def test_shared_work_gives_the_masks_of_each_cut_alone(resnet: Encoder, data: DataSet) -> None:
    attention = record(resnet, pairs_of(data)[0][0], 48).map("pooling")
    for cut, pixels in cut_masks(attention.fused(), (50, 37)):
        alone = make_mask(attention.fused(), attention.geometry, cut)
        assert np.array_equal(pixels, alone.pixels(size=(50, 37))), cut.label


def test_the_best_stand_beside_the_default_and_dinos(data: DataSet, resnet: Encoder) -> None:
    table = compare_cuts(data, [resnet], [MapRequest("pooling")], Settings(size=48)).by_cut(2)
    labels = [row["mask"] for row in table.rows]
    assert {DEFAULT_CUT.label, DINO_CUT.label, "centre prior", "whole picture"} <= set(labels) and len(labels) <= 6
    whole = compare_cuts(data, [resnet], [MapRequest("pooling")], Settings(size=48)).by_cut(None)
    assert labels[:2] == [row["mask"] for row in whole.rows[:2]]


def test_labels_name_each_cut() -> None:
    assert [cut.label for cut in FIRST] == [
        "mass:0.6",
        "mean, smoothed by 1, largest component",
        "area:0.25, smoothed by 0.5",
    ]
    assert len({cut.label for cut in CUTS}) == len(CUTS)


def test_command_prints_the_table(data: DataSet, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(pairs_of(data)[0][0].parent.parent)
    assert main(["evaluate", folder, "--rules", "-c", "resnet_simpool", "--size", "64", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "IoU of the mask" in out and "| mass:0.6 |" in out and "mean of the maps" in out
    assert "the default mask of each map" in out
