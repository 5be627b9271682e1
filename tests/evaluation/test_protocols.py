"""The table of the protocols: each figure as the plain definitions give it, with its baselines and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from simpool_viz import record
from simpool_viz.board.board import Settings
from simpool_viz.evaluation.datasets import DataSet
from simpool_viz.evaluation.protocols import PROTOCOLS, evaluate_protocols, protocols_table
from simpool_viz.images import read_picture
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.boxes import box_curves, iou_of_box, level_boxes, object_boxes, resized_boxes
from simpool_viz.scores.localization import centre_prior, energy, iou_at_best_threshold
from simpool_viz.scores.references import read_reference
from simpool_viz.scores.results import DRAWS
from simpool_viz.scores.threshold_curves import scaled_map
from tests.evaluation.datasets.trees import pairs_of
from tests.oracles.masks import bilinear, largest


def test_every_figure_is_that_of_the_definitions(data: DataSet, resnet: Encoder) -> None:
    methods = evaluate_protocols(data, [resnet], [MapRequest("pooling")], Settings(size=48))
    assert [m.label for m in methods] == ["small_simpool: Pooling attention", "centre prior", "whole picture"]
    rows = protocols_table(data, methods).rows
    curves, hits, best, inside, truth, steps = [], [], [], [], [], []
    for image, mask in pairs_of(data):
        recording = record(resnet, image, 48)
        attention, reference = recording.map("pooling"), read_reference(mask, recording.picture.size)
        (true_box,) = object_boxes(reference)
        scaled = scaled_map(attention.weights[0])
        curves.append(box_curves(level_boxes(scaled), resized_boxes(true_box[None], reference.size, (224, 224))))
        (box,) = attention.mask("mass", 0.6, largest=True).boxes
        assert attention.mask("mass", 0.6, largest=True).grid.sum() == largest(attention.mask("mass", 0.6).grid).sum()
        hits.append(iou_of_box(box, true_box[None]) >= 0.5)
        size = reference.size
        rows_of, columns = ((2 * np.arange(224) + 1) * side // 448 for side in (size[1], size[0]))
        truth.append(reference.objects[np.ix_(rows_of, columns)].ravel())
        steps.append(np.floor(1000 * scaled).ravel())
        full = bilinear(attention.weights[0], *size)
        best.append(iou_at_best_threshold(full, reference)[0])
        inside.append(energy(full, reference))
    each = np.stack(curves)  # (n, 2, 255)
    wanted = {f"max_box_acc_{100 * t:.0f}": (each[:, 0] >= t).mean(0).max() for t in (0.3, 0.5, 0.7)}
    wanted["max_box_acc_v2"] = np.mean(list(wanted.values()))
    wanted |= {"max_box_acc": (each[:, 1] >= 0.5).mean(0).max(), "corloc": np.mean(hits)}
    wanted["pxap"] = average_precision_score(np.concatenate(truth), np.concatenate(steps))
    wanted |= {"iou_at_best_threshold": np.mean(best), "energy": np.mean(inside)}
    for name, value in wanted.items():
        assert rows[0][name][0] == pytest.approx(value, abs=2e-5), name  # type: ignore[index]
    assert set(rows[0]) == {"map", *PROTOCOLS, "max_box_acc_v2_above_prior", "pxap_above_prior"}


def test_baselines_have_the_box_of_the_picture_and_the_share_of_the_object(data: DataSet, resnet: Encoder) -> None:
    methods = evaluate_protocols(data, [resnet], [], Settings(size=48))
    _, prior, whole = protocols_table(data, methods).rows
    references = [read_reference(mask, read_picture(image).size) for image, mask in pairs_of(data)]
    shares = [float(r.objects.mean()) for r in references]
    boxes = [iou_of_box((0, 0, *r.size), object_boxes(r)) for r in references]
    assert whole["pxap"][0] == pytest.approx(np.mean(shares), abs=0.01)  # type: ignore[index]
    assert whole["corloc"][0] == np.mean([b >= 0.5 for b in boxes])  # type: ignore[index]
    assert whole["energy"][0] == pytest.approx(np.mean(shares), abs=1e-5)  # type: ignore[index]
    assert prior["pxap_above_prior"] is None
    assert whole["pxap_above_prior"][0] == pytest.approx(whole["pxap"][0] - prior["pxap"][0], abs=2e-5)  # type: ignore[index]
    inside = [energy(centre_prior(r.size), r) for r in references]
    assert prior["energy"][0] == pytest.approx(np.mean(inside), abs=1e-5)  # type: ignore[index]


def test_intervals_are_of_photos_drawn_again_with_the_threshold_chosen_anew(data: DataSet, resnet: Encoder) -> None:
    methods = evaluate_protocols(data, [resnet], [], Settings(size=48))
    own, n = methods[0], len(pairs_of(data))
    boxes = own.boxes
    table = protocols_table(data, methods)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    accuracies = []
    for times in drawn:
        again = np.repeat(boxes, times, axis=0)
        accuracies.append(np.mean([again[:, i].mean(0).max() for i in range(3)]))
    low, high = np.percentile(accuracies, [2.5, 97.5])
    assert table.rows[0]["max_box_acc_v2"][1:] == pytest.approx([low, high], abs=2e-5)  # type: ignore[index]
