"""Scores of features as a table: paired differences, photos without a partner, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from simpool_viz.errors import OptionError
from simpool_viz.evaluation.pooled_features import PooledFeatures
from simpool_viz.evaluation.representation import (
    FEATURE_FIGURES,
    FeatureScores,
    FeatureSplits,
    representation_table,
    score_poolings,
    score_splits,
)
from simpool_viz.scores.results import interval
from simpool_viz.scores.retrieval import classify_by_neighbours, classify_by_probe, retrieve_each
from tests.helpers import small_resnet


def splits(spread: float = 0.8) -> FeatureSplits:
    rng = np.random.default_rng(0)
    known, asked = np.arange(90) % 3, np.arange(40) % 3
    made = [np.eye(3)[numbers] + spread * rng.normal(size=(len(numbers), 3)) for numbers in (known, asked)]
    return FeatureSplits(made[0].astype(np.float32), known, made[1].astype(np.float32), asked)


def test_training_photos_classify_the_held_out_and_these_find_each_other() -> None:
    one = splits()
    found = score_splits("a: gap", one)
    assert list(found.figures) == list(FEATURE_FIGURES)
    knn = classify_by_neighbours(one.train, one.train_classes, one.val) == one.val_classes
    probe, strength = classify_by_probe(one.train, one.train_classes, one.val)
    retrieved = retrieve_each(one.val, one.val_classes)
    assert found.figures["knn"].tolist() == knn.tolist() and 0.5 < knn.mean() < 1
    assert found.figures["probe"].tolist() == (probe == one.val_classes).tolist()
    assert found.figures["map_all"].tolist() == retrieved.average_precision.tolist()
    assert found.figures["recall_5"].tolist() == retrieved.recall[5].tolist()
    assert found.details == {"strength": f"{strength:g}"}
    assert list(score_splits("a: gap", one, ["knn"]).figures) == ["knn"]
    with pytest.raises(OptionError, match="features have no score accuracy; there are knn, probe, retrieval"):
        score_splits("a: gap", one, ["accuracy"])


def test_differences_are_paired_by_photo() -> None:
    rng = np.random.default_rng(1)
    first = (rng.random(300) < 0.6).astype(float)
    better = np.maximum(first, rng.random(300) < 0.2)
    rows = [
        FeatureScores("a: own, GAP", {"knn": first}, {}),
        FeatureScores("a: max", {"knn": better}, {"strength": "1"}),
    ]
    table = representation_table(rows, "**made up**, 300 photos")
    assert table.title == "**made up**, 300 photos"
    assert [column.name for column in table.columns] == ["features", "knn", "knn_above_first", "strength"]
    assert table.row("a: own, GAP")["knn_above_first"] is None and table.row("a: own, GAP")["strength"] is None
    mean, low, high = interval(better - first)
    assert table.row("a: max")["knn_above_first"] == pytest.approx([mean, low, high], abs=1e-5) and low > 0
    apart = interval(better)[1] - interval(first)[2]
    assert low > apart, "an interval of two separate ones would be wider"


def test_photos_that_no_other_resembles_are_left_out_of_every_score() -> None:
    precision, knn = np.array([0.5, np.nan, 1.0, 0.25]), np.array([1.0, 1.0, 0.0, 0.0])
    row = FeatureScores("a: gap", {"knn": knn, "map_all": precision}, {})
    table = representation_table([row], "**made up**, 4 photos")
    assert table.title.endswith(", 1 left out, whose class no other held-out photo has")
    assert table.figure("a: gap", "knn") == "33.3" and table.figure("a: gap", "map_all") == "58.3"


def test_every_pooling_of_a_checkpoint_is_a_row() -> None:
    one, encoder = splits(), small_resnet("simpool", "net")
    train = PooledFeatures(encoder, {"own": one.train, "max": one.train[:, ::-1]}, one.train_classes)
    val = PooledFeatures(encoder, {"own": one.val, "max": one.val}, one.val_classes)
    own, other = score_poolings(train, val, ["knn"])
    assert (own.label, other.label) == ("net: own, SimPool", "net: max")
    assert own.figures["knn"].mean() > 0.6 > other.figures["knn"].mean()
