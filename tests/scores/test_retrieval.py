"""k-NN, retrieval and linear probe against scikit-learn, torchmetrics and cases whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP

from simpool_viz.errors import DataError
from simpool_viz.scores import retrieval
from simpool_viz.scores.retrieval import (
    classify_by_neighbours,
    classify_by_probe,
    neighbour_votes,
    retrieve_each,
    unit_vectors,
)


def clouds(count: int, seed: int = 0, spread: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 6) around one of four directions, and which; neither is sorted."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(4, size=count) * 10 + 3
    return np.eye(6)[(classes - 3) // 10] + spread * rng.normal(size=(count, 6)), classes


def test_votes_are_those_of_dinos_released_code() -> None:
    (known, classes), (queries, _) = clouds(90), clouds(31, seed=1)
    train, test = (torch.nn.functional.normalize(torch.tensor(one), dim=1) for one in (known, queries))
    numbers = torch.tensor((classes - 3) // 10)
    distances, indices = (test @ train.T).topk(20, largest=True, sorted=True)  # eval_knn.py
    one_hot = torch.nn.functional.one_hot(numbers[indices], 4).double()
    expected = (one_hot * (distances / 0.07).exp()[..., None]).sum(1)
    found = neighbour_votes((test @ train.T).numpy(), numbers.numpy(), 20, 0.07)
    np.testing.assert_allclose(found, expected.numpy())
    assert (classify_by_neighbours(known, classes, queries) == expected.argmax(1).numpy() * 10 + 3).all()


def test_temperature_decides_whether_one_near_neighbour_beats_two_far_ones() -> None:
    known, classes = np.array([[1, 0.05], [1, 0.9], [0.9, 1]]), np.array([5, 2, 2])
    query = np.array([[1.0, 0.0]])
    assert classify_by_neighbours(known, classes, query, temperature=0.07).tolist() == [5]
    assert classify_by_neighbours(known, classes, query, temperature=10).tolist() == [2]
    assert classify_by_neighbours(known, classes, query, k=1, temperature=10).tolist() == [5]
    with pytest.raises(DataError, match="needs training photos, and there is none"):
        classify_by_neighbours(known[:0], classes[:0], query)


def test_lengths_do_not_matter_and_zeros_stay() -> None:
    (known, classes), (queries, _) = clouds(60), clouds(20, seed=2)
    scale = np.random.default_rng(0).uniform(0.1, 50, (60, 1))
    same = classify_by_neighbours(known * scale, classes, queries * 7)
    assert (same == classify_by_neighbours(known, classes, queries)).all()
    assert unit_vectors(np.array([[0, 0], [3, 4]])).tolist() == [[0, 0], [pytest.approx(0.6), pytest.approx(0.8)]]


def test_retrieval_of_a_case_by_hand() -> None:
    angles = np.radians([0, 10, 25, 45, 90])
    vectors, classes = np.stack([np.cos(angles), np.sin(angles)], 1), np.array([0, 1, 0, 1, 2])
    found = retrieve_each(vectors, classes, ranks=(1, 2))
    # From 0 degrees: 1, 0, 1, 2. From 10: 0, 0, 1, 2. From 25: 1, 1, 0, 2. From 45: 0, 1, 0, 2. From 90 none is alike.
    assert found.average_precision.tolist() == [1 / 2, 1 / 3, 1 / 3, 1 / 2, pytest.approx(np.nan, nan_ok=True)]
    assert found.recall[1][:4].tolist() == [0, 0, 0, 0] and found.recall[2][:4].tolist() == [1, 0, 0, 1]
    assert np.isnan([found.recall[1][4], found.recall[2][4]]).all()
    with pytest.raises(DataError, match="two photos of some class"):
        retrieve_each(vectors[2:], classes[2:])


@pytest.mark.parametrize("chunk", [512, 7])
def test_retrieval_is_that_of_scikit_learn_and_torchmetrics(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(retrieval, "_CHUNK", chunk)
    vectors, classes = clouds(57)
    found = retrieve_each(vectors, classes)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    queries, scores, alike = [], [], []
    for i, unit in enumerate(units):
        others = np.arange(57) != i
        cosines, hits = units[others] @ unit, classes[others] == classes[i]
        assert found.average_precision[i] == pytest.approx(average_precision_score(hits, cosines))
        queries += [i] * 56
        scores.append(cosines)
        alike.append(hits)
    # torchmetrics leaves out what has a score of 0 or less.
    given = torch.tensor(np.concatenate(scores)) + 2, torch.tensor(np.concatenate(alike))
    mean = RetrievalMAP()(*given, indexes=torch.tensor(queries))
    assert found.average_precision.mean() == pytest.approx(float(mean), abs=1e-6)
    for k in (1, 5, 10):
        hit_rate = RetrievalHitRate(top_k=k)(*given, indexes=torch.tensor(queries))
        assert found.recall[k].mean() == pytest.approx(float(hit_rate), abs=1e-6)


def test_features_that_are_all_alike_are_not_helped_by_photos_that_stand_by_class() -> None:
    classes = np.repeat(np.arange(10), 20)
    found = retrieve_each(np.ones((200, 3)), classes)
    chance = 19 / 199
    assert found.average_precision.mean() == pytest.approx(chance, abs=0.05)
    assert found.recall[1].mean() < 0.25
    assert retrieve_each(np.eye(10)[classes], classes).average_precision.min() == 1


def test_probe_is_scikit_learns_with_the_strength_that_classifies_held_out_photos_best() -> None:
    (known, classes), (queries, truth) = clouds(200), clouds(80, seed=3)
    queries = queries * [1, 1, 1, 1, 100, 1] + 3
    known = known * [1, 1, 1, 1, 100, 1] + 3
    found, strength = classify_by_probe(known, classes, queries, strengths=(1e-6, 0.05))
    assert strength == 0.05, "with the other all weights are near 0"
    mean, deviation = known.mean(0), known.std(0)
    expected = LogisticRegression(C=0.05, max_iter=1000).fit((known - mean) / deviation, classes)
    assert (found == expected.predict((queries - mean) / deviation)).mean() > 0.98
    assert (found == truth).mean() > 0.45, "of four classes"
    assert classify_by_probe(known, classes, queries, strengths=(1e-6,))[1] == 1e-6


def test_probe_needs_two_classes() -> None:
    vectors, _ = clouds(20)
    with pytest.raises(DataError, match="two classes at least"):
        classify_by_probe(vectors, np.zeros(20), vectors)
