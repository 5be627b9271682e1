"""Every map and pooling explains itself where it is met: two sentences, a formula, a paper."""

from __future__ import annotations

import re
from pathlib import Path

from simpool_viz import make_board, map_methods, poolings
from simpool_viz.board.explain import explain_map, explain_pooling, explain_row
from simpool_viz.modeling.encoder import Encoder


def test_every_map_and_every_pooling_has_two_sentences_a_formula_and_a_paper() -> None:
    explanations = [explain_map(name) for name in map_methods()] + [explain_pooling(name) for name in poolings()]
    for e in explanations:
        assert len(re.findall(r"[.!?](?=\s|$)", e.summary)) == 2, e.title
        assert e.formula and e.paper, e.title


def test_a_row_explains_its_map_then_its_pooling(photos: dict[str, Path], resnet: Encoder, resnet_gap: Encoder) -> None:
    rows = make_board([photos["wide"]], [resnet, resnet_gap], ["pooling", "contribution", "kmeans"]).rows
    assert [[e.title for e in explain_row(row)] for row in rows] == [
        ["Pooling attention", "SimPool pooling"],
        ["Contribution", "SimPool pooling"],
        ["k-means of the features", "SimPool pooling"],
        ["Contribution", "GAP pooling"],
        ["k-means of the features", "GAP pooling"],
    ]
