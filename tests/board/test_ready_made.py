"""Ready-made comparisons: data that fits what there is, offered only where its checkpoints are."""

from __future__ import annotations

import pytest

from simpool_viz.board.ready_made import COMPARISONS, available, comparisons, find_comparison
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.maps.registry import OWN, map_methods
from simpool_viz.maps.request import parse_maps


def test_every_comparison_asks_for_maps_that_exist_and_one_of_its_own_checkpoints_once() -> None:
    for comparison in COMPARISONS:
        assert [r.name for r in parse_maps(comparison.maps)] == list(comparison.maps)
        assert set(comparison.maps) <= {OWN, *map_methods()}
        assert 2 <= len(comparison.checkpoints) == len(set(comparison.checkpoints))
        assert "?" in comparison.question
    assert len({c.name for c in COMPARISONS}) == len(COMPARISONS)


def test_comparisons_are_offered_where_all_their_checkpoints_are() -> None:
    vits = {"vit_cls", "vit_gap", "vit_ggem", "vit_simpool"}
    assert list(comparisons(vits)) == ["vit_poolings"] and comparisons(vits - {"vit_gap"}) == {}
    assert list(comparisons()) == [c.name for c in COMPARISONS]
    here = comparisons(available())
    assert {"frozen_heads", "frozen_means", "trained_or_probed"} <= set(here)
    assert all(catalogue()[name].available for c in here.values() for name in c.checkpoints)


def test_comparison_that_is_unknown_or_lacks_checkpoints_is_refused() -> None:
    assert find_comparison("life", {"vit_cls", "vit_life_cls", "vit_simpool", "vit_life_simpool"}).maps == (
        "own",
        "rollout",
    )
    with pytest.raises(
        ValueError, match="'life' needs vit_life_cls, vit_simpool, vit_life_simpool, which this installation"
    ):
        find_comparison("life", {"vit_cls"})
    with pytest.raises(ValueError, match="no ready-made comparison is called 'all'"):
        find_comparison("all", available())
