"""The guided tour: stops that fit what there is, the same in Python, on the command line and on its page."""

from __future__ import annotations

import numpy as np

from simpool_viz import load_checkpoint, record
from simpool_viz.board.ready_made import available
from simpool_viz.board.tour import STOPS, stop_board, stops
from simpool_viz.bundled import bundled_folder
from simpool_viz.maps.registry import OWN, map_methods
from simpool_viz.maps.request import parse_maps


def test_every_method_of_the_five_papers_has_a_stop_that_says_what_does_not_show() -> None:
    assert [stop.name for stop in STOPS] == ["cls", "simpool", "ggem", "life", "spatial_entropy", "dense_rollout"]
    for stop in STOPS:
        assert {r.name for r in parse_maps(stop.maps)} <= {OWN, *map_methods()} and len(stop.limitations) > 40
        for part in (stop.title, stop.text, stop.observation, stop.limitations):
            assert part in stop.markdown


def test_stops_are_offered_where_their_checkpoints_are() -> None:
    assert stops(available()) == list(STOPS), "the bundled checkpoints serve the whole tour"
    assert [stop.name for stop in stops({"vit_cls", "vit_simpool"})] == ["cls", "simpool"] and stops(()) == []


def test_board_of_a_stop_has_the_maps_of_the_plain_calls() -> None:
    stop = next(stop for stop in STOPS if stop.name == "simpool")
    board = stop_board(stop)
    assert [(row.checkpoint, row.request.name) for row in board.rows] == [
        ("vit_cls", "cls"),
        ("vit_simpool", "pooling"),
    ]
    expected = record(load_checkpoint("vit_simpool"), bundled_folder("assets") / stop.photo).map("simpool").fused()
    np.testing.assert_allclose(board.rows[1].mask.weights, expected, atol=1e-6)
