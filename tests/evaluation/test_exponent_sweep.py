"""The sweep of GGeM: exponents chosen group by group, from vectors of single exponents."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from simpool_viz.errors import OptionError
from simpool_viz.evaluation.exponent_sweep import ExponentSweep, choose_exponents, joined, score_sweep
from simpool_viz.evaluation.pooled_features import PooledFeatures
from simpool_viz.modeling.pooling import Tokens, create_pooling
from simpool_viz.scores.retrieval import classify_by_neighbours
from tests.helpers import make_tokens, small_resnet


def noise(count: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width))


def left_out_accuracy(vectors: np.ndarray, classes: np.ndarray) -> float:
    """Of each photo classified by all others."""
    right = 0
    for i in range(len(classes)):
        others = np.arange(len(classes)) != i
        right += classify_by_neighbours(vectors[others], classes[others], vectors[i : i + 1])[0] == classes[i]
    return right / len(classes)


def made_vectors(count: int = 60) -> tuple[dict[float, np.ndarray], np.ndarray]:
    """Three groups of two channels: the first knows the class at p = 1, the second at p = 4, the third never."""
    classes = np.arange(count) % 3
    signal = np.array([[1.0, 0.1], [0.1, 1.0], [0.7, 0.7]])[classes]
    vectors = {}
    for number, power in enumerate((1.0, 4.0)):
        parts = [abs(noise(count, 2, 10 * number + group)) * 1.5 for group in range(3)]
        parts[number] = signal + 0.3 * abs(noise(count, 2, 7 + number))
        vectors[power] = np.concatenate(parts, 1).astype(np.float32)
    return vectors, classes


def test_each_group_gets_the_exponent_that_helps_the_others() -> None:
    vectors, classes = made_vectors()
    chosen = choose_exponents(vectors, classes, 3)
    assert chosen[:2] == (1.0, 4.0)
    reached = left_out_accuracy(joined(vectors, chosen), classes)
    single = [left_out_accuracy(own, classes) for own in vectors.values()]
    assert reached > max(single) + 0.05
    # No change of one group alone is better.
    for group, power in product(range(3), vectors):
        other = tuple(power if g == group else p for g, p in enumerate(chosen))
        assert left_out_accuracy(joined(vectors, other), classes) <= reached + 1e-9
    assert choose_exponents(vectors, classes, 1) == (list(vectors)[int(np.argmax(single))],)


def test_joined_vectors_are_those_of_a_ggem_with_these_exponents() -> None:
    tokens = make_tokens(prefix=0)
    ggem = create_pooling("ggem", 12, groups=3).double()
    ggem.mean.p.data = torch.tensor([1.0, 3.0, 6.0]).double()
    vectors = {p: create_pooling("gem", 12, p=p).double()(tokens).vector.detach().numpy() for p in (1.0, 3.0, 6.0)}
    np.testing.assert_allclose(joined(vectors, (1.0, 3.0, 6.0)), ggem(tokens).vector.detach().numpy(), rtol=1e-6)


def test_with_one_exponent_the_number_of_groups_changes_nothing() -> None:
    tokens: Tokens = make_tokens()
    one, many = (create_pooling("ggem", 12, groups=groups, p=4)(tokens).vector for groups in (1, 6))
    torch.testing.assert_close(one, many)


def test_rows_of_a_sweep_tell_the_exponents_and_are_scored_with_them() -> None:
    vectors, classes = made_vectors()
    encoder, sweep = small_resnet("gap"), ExponentSweep((1, 3), (1.0, 4.0))
    assert [request.label for request in sweep.requests] == ["gem:p=1", "gem:p=4"]
    own = {request.label: vectors[p] for request, p in zip(sweep.requests, vectors, strict=True)}
    split = PooledFeatures(encoder, own, classes)
    one, three = score_sweep(split, split, sweep, ["knn"])
    assert three.label == "small_gap: ggem:groups=3, p chosen"
    assert one.details["exponents"] in ("1", "4") and three.details["exponents"].startswith("1, 4, ")
    features = joined(vectors, [float(p) for p in three.details["exponents"].split(", ")])
    found = classify_by_neighbours(features, classes, features)
    assert (three.figures["knn"] == (found == classes)).all()
    assert three.figures["knn"].mean() > one.figures["knn"].mean()
    with pytest.raises(OptionError, match="6 channels do not split into 4 groups; choose --groups that divide 6"):
        score_sweep(split, split, ExponentSweep((4,), (1.0, 4.0)))


@pytest.mark.parametrize(
    ("groups", "powers"), [((), (1.0,)), ((1,), ()), ((0,), (1.0,)), ((1,), (0.5,)), ((1,), (60.0,))]
)
def test_what_cannot_be_swept_is_refused(groups: tuple[int, ...], powers: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="a sweep needs numbers of groups of at least 1, and exponents of 1 to 50"):
        ExponentSweep(groups, powers)
