"""PxAP and the maximal F-beta against scikit-learn and torchmetrics, with void and pictures that are not square."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, fbeta_score
from torchmetrics.functional.classification import binary_average_precision

from simpool_viz.scores.references import Reference
from simpool_viz.scores.threshold_curves import (
    count_steps,
    maximal_f_beta,
    pixel_average_precision,
    precision_recall_curves,
    scaled_map,
)
from tests.oracles.masks import bilinear

SIDE = 30


def one_photo(seed: int, shape: tuple[int, int] = (SIDE, SIDE)) -> tuple[np.ndarray, Reference]:
    rng = np.random.default_rng(seed)
    objects = rng.random(shape) < 0.3
    void = (rng.random(shape) < 0.1) & ~objects
    return scaled_map(rng.random((5, 7)), SIDE), Reference(objects, void)


def test_a_map_is_enlarged_bilinearly_and_brought_to_the_unit_interval() -> None:
    weights = np.random.default_rng(0).random((5, 7)) - 3
    large = bilinear(weights, SIDE, SIDE)
    assert np.allclose(scaled_map(weights, SIDE), (large - large.min()) / (large.max() - large.min()))
    assert (scaled_map(np.full((4, 6), 0.3)) == 0).all() and scaled_map(weights).shape == (224, 224)


def test_pxap_is_the_average_precision_of_all_pixels_of_the_set() -> None:
    photos = [one_photo(seed) for seed in range(3)]
    counts = sum(count_steps(scaled, reference) for scaled, reference in photos)
    truth = np.concatenate([reference.objects[~reference.void] for _, reference in photos])
    steps = np.concatenate([np.floor(1000 * scaled)[~reference.void] for scaled, reference in photos])
    found = float(pixel_average_precision(np.asarray(counts)))
    assert found == pytest.approx(average_precision_score(truth, steps))
    other = binary_average_precision(torch.from_numpy(steps / 1000), torch.from_numpy(truth.astype(int)))
    assert found == pytest.approx(float(other), abs=1e-5)
    each = np.stack([count_steps(*photo) for photo in photos])
    own = [average_precision_score(r.objects[~r.void], np.floor(1000 * s)[~r.void]) for s, r in photos]
    assert pixel_average_precision(each) == pytest.approx(own)


def test_maximal_f_beta_is_the_best_of_every_threshold_on_averaged_curves() -> None:
    photos = [one_photo(seed) for seed in range(3)]
    curves = precision_recall_curves(np.stack([count_steps(*photo) for photo in photos])).mean(0)
    tried = []
    for k in range(0, 1001):
        pairs = []
        for scaled, reference in photos:
            mask, counted = np.floor(1000 * scaled) >= k, ~reference.void
            hits = (mask & reference.objects).sum()
            pairs.append((hits / (mask & counted).sum(), hits / reference.objects.sum()))
        precision, recall = np.mean(pairs, axis=0)
        tried.append(1.3 * precision * recall / (0.3 * precision + recall) if recall else 0)
    assert float(maximal_f_beta(curves)) == pytest.approx(max(tried))
    scaled, reference = photos[0]
    own = precision_recall_curves(count_steps(scaled, reference))
    counted = ~reference.void
    by_sklearn = [
        fbeta_score(reference.objects[counted], np.floor(1000 * scaled)[counted] >= k, beta=0.3**0.5)
        for k in range(0, 1001, 20)
    ]
    f = 1.3 * own[0] * own[1] / (0.3 * own[0] + own[1]).clip(1e-12)
    assert f[::20] == pytest.approx(by_sklearn) and float(maximal_f_beta(own)) == pytest.approx(f.max())


def test_a_reference_of_any_shape_is_brought_to_the_map_by_nearest_pixel() -> None:
    scaled, reference = one_photo(0, (45, 71))
    rows, columns = (np.floor((np.arange(SIDE) + 0.5) * size / SIDE).astype(int) for size in (45, 71))
    small = Reference(reference.objects[np.ix_(rows, columns)], reference.void[np.ix_(rows, columns)])
    counts = count_steps(scaled, reference)
    assert (counts == count_steps(scaled, small)).all() and counts.sum() == (~small.void).sum()


def test_a_constant_map_has_the_share_of_the_object_and_a_perfect_one_has_all() -> None:
    _, reference = one_photo(1)
    share = reference.objects.sum() / (~reference.void).sum()
    constant = count_steps(np.zeros((SIDE, SIDE)), reference)
    assert float(pixel_average_precision(constant)) == pytest.approx(share)
    perfect = count_steps(reference.objects.astype(float), reference)
    assert float(pixel_average_precision(perfect)) == 1 and float(
        maximal_f_beta(precision_recall_curves(perfect))
    ) == pytest.approx(1)
