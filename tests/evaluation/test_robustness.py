"""Scores on changed backgrounds beside the original ones: paired by photo, and right where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simpool_viz.batch.boards import Job
from simpool_viz.batch.preparing import Fault
from simpool_viz.board.board import Settings
from simpool_viz.errors import DataError
from simpool_viz.evaluation.datasets import DataSet
from simpool_viz.evaluation.datasets.backgrounds import with_backgrounds
from simpool_viz.evaluation.datasets.samples import Absent
from simpool_viz.evaluation.passes import Pace
from simpool_viz.evaluation.robustness import BackgroundScores, backgrounds_table, evaluate_backgrounds
from simpool_viz.evaluation.table import evaluate
from simpool_viz.scores.results import interval
from tests.helpers import small_resnet

HERE = Pace(4, 0)


def test_each_background_is_scored_as_a_data_set_of_its_own(data: DataSet) -> None:
    job = Job([small_resnet()], (), Settings())
    found = evaluate_backgrounds(data, job, ["mixed", "only_foreground"], HERE)
    assert [one.label for one in found] == ["small_simpool: Pooling attention", "centre prior", "whole picture"]
    for kind in ("original", "mixed", "only_foreground"):
        one = data if kind == "original" else with_backgrounds(data, kind)
        expected = evaluate(one, job.encoders, (), Settings(), HERE)
        for own, method in zip(found, expected, strict=True):
            assert own.values[kind].tolist() == method.figures["iou_at_true_area"].tolist()
    assert (found[0].values["mixed"] != found[0].values["original"]).any()
    for baseline in found[1:]:
        assert (baseline.values["mixed"] == baseline.values["original"]).all(), "which sees no background"


def test_a_photo_that_fails_on_one_background_is_left_out_of_all(data: DataSet) -> None:
    samples = list(data.samples)
    samples[1] = replace(samples[1], truth=Absent("1.jpg has no mask"))
    faults: list[Fault] = []
    job = Job([small_resnet()], (), Settings())
    found = evaluate_backgrounds(DataSet("discs", "pairs", samples), job, ["mixed"], HERE, faults=faults)
    partner = next(one.key for one in with_backgrounds(data, "mixed").samples if one.other[0] == samples[1].key)
    assert {fault.key for fault in faults} == {samples[1].key, partner} and len(faults) == 2
    assert {len(values) for one in found for values in one.values.values()} == {2}
    whole = evaluate_backgrounds(data, job, ["mixed"], HERE)[0]
    kept = [number for number, one in enumerate(samples) if one.key not in (samples[1].key, partner)]
    for kind, values in found[0].values.items():
        assert values == pytest.approx(whole.values[kind][kept], abs=1e-4)
    title = backgrounds_table(DataSet("discs", "pairs", samples), found).title
    assert title == "**discs**, 2 photos, 2 left out: changed backgrounds"
    alone = DataSet("discs", "pairs", [samples[0], samples[1]])
    with pytest.raises(DataError, match="none of the photos of discs mixed can be scored"):
        evaluate_backgrounds(alone, job, ["mixed"], HERE)


def test_changes_are_paired_by_photo(data: DataSet) -> None:
    original = np.linspace(0.1, 0.9, 40)
    changed = original - 0.1 + 0.01 * np.random.default_rng(0).normal(size=40)
    table = backgrounds_table(data, [BackgroundScores("a: map", {"original": original, "blurred": changed})])
    assert [column.name for column in table.columns] == ["map", "original", "blurred", "blurred_change"]
    assert table.row("a: map")["blurred_change"] == pytest.approx(interval(changed - original), abs=1e-5)
    low, high = table.row("a: map")["blurred_change"][1:]
    assert high - low < 0.01 and high < 0
