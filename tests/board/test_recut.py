"""Masks cut anew are those of a board that was made with these settings, scores included, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simpool_viz import OptionError, Settings, make_board
from simpool_viz.board.recut import recut
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.references import read_reference

CUTS = (
    Settings(mask="mass:0.4", smoothing=0.75, largest=True, smooth=False),
    Settings(mask="otsu", smoothing=0.0, largest=False, smooth=True, refine="grabcut"),
)


@pytest.mark.parametrize("settings", CUTS, ids=("mass", "otsu, refined"))
def test_a_recut_board_is_the_board_made_with_these_settings(
    settings: Settings, photos: dict[str, Path], resnet: Encoder, resnet_gap: Encoder
) -> None:
    given = ([photos["wide"]], [resnet, resnet_gap], ["contribution"])
    references = {0: read_reference(photos["wide mask"])}
    first, wanted = make_board(*given, references=references), make_board(*given, settings, references)
    found = recut(first, settings)
    assert found.settings == wanted.settings
    assert any(not np.array_equal(a.mask.grid, b.mask.grid) for a, b in zip(first.rows, found.rows, strict=True))
    for one, other in zip(found.rows, wanted.rows, strict=True):
        assert np.array_equal(one.mask.pixels(), other.mask.pixels())
        assert one.scores == other.scores and one.refine == other.refine


def test_what_belongs_to_the_maps_stays(photos: dict[str, Path], resnet: Encoder) -> None:
    board = make_board([photos["wide"]], [resnet], ["pooling"], Settings(size=40))
    assert recut(board, Settings(size=96, mask="mean")).settings == Settings(size=40, mask="mean")
    with pytest.raises(OptionError, match="no mask rule is called 'most'"):
        recut(board, Settings(mask="most"))
