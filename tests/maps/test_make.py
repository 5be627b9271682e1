"""Several maps of one recording: those that go alike through the blocks do it once, and each is as it is alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from simpool_viz import record
from simpool_viz.maps import make
from tests.helpers import PHOTO, random_vit

WAYS: list[dict[str, Any]] = [
    {},
    {"residual": 0.1},
    {"residual": 0.9},
    {"first": 1},
    {"first": 1, "residual": 0.9},
    {"fusion": "max"},
    {"fusion": "min"},
]


@pytest.mark.parametrize(("name", "options"), [("rollout", {}), ("dense_rollout", {"soft": True})])
def test_roll_outs_that_differ_in_one_option_are_made_each_in_its_own_way(
    monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]
) -> None:
    recording = record(random_vit(), PHOTO, 96)
    requests = [(name, options | way) for way in WAYS]
    alone = [recording.map(asked, **how).weights for asked, how in requests]
    for one, other in itertools.combinations(alone, 2):
        assert np.abs(one - other).max() > 0.01 * one.max(), "maps that are alike could be taken for each other"
    ways: list[tuple[Any, ...]] = []
    original = make.roll_out

    def counted(weights: Any, blocks: Any, **how: Any) -> Any:
        ways.append((len(weights), *sorted(how.items())))
        return original(weights, blocks, **how)

    monkeypatch.setattr(make, "roll_out", counted)
    together = recording.maps([*requests, ("rollout", {"residual": 0.1}), ("cls", {})])
    assert len(ways) == len(set(ways)) == len(WAYS), "each way once"
    assert sorted(count for count, *_ in ways) == [1] * (len(WAYS) - 1) + [2], "two of residual 0.1 went together"
    for found, expected in zip(together, alone, strict=False):
        np.testing.assert_allclose(found.weights, expected, rtol=1e-5, atol=1e-9)
