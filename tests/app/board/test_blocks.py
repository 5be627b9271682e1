"""All heads of all blocks as one payload."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from PIL import Image

from simpool_viz import Lens, record
from simpool_viz.app.board.blocks import SIDE, blocks_payload, thumbnail
from simpool_viz.board.every_head import every_head
from simpool_viz.maps.scale import scale_of
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import make_photo, small_vit


def weights(cell: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(cell["weights"]), "<f4").reshape(cell["grid"])


def test_every_cell_is_sent_with_its_place(resnet: Encoder) -> None:
    recording, lens = (
        record(small_vit(), Image.fromarray(make_photo(150, 90))),
        Lens(at=(20.0, 70.0), block=1, fusion=2),
    )
    maps = every_head(recording, "token", lens)
    sent = blocks_payload(recording, "token", lens, maps)
    assert sent is not None
    assert (sent["depth"], sent["heads"]) == (len(maps), len(maps[0].names)) and (sent["block"], sent["fusion"]) == (
        1,
        2,
    )
    places = [(cell["block"], cell["head"]) for cell in sent["cells"]]
    assert places == [(b, h) for b in range(len(maps)) for h in range(len(maps[0].names))]
    for cell in sent["cells"]:
        assert np.array_equal(weights(cell), maps[cell["block"]].weights[cell["head"]])
    unasked = blocks_payload(recording, "token", lens, None)
    assert unasked == {"depth": len(maps), "heads": len(maps[0].names), "cells": []}
    assert blocks_payload(recording, "class", lens, None) is None
    assert blocks_payload(record(resnet, Image.fromarray(make_photo(91, 60))), "token", lens, None) is None


def test_a_fine_map_is_averaged_over_areas_and_keeps_its_scale() -> None:
    fine = np.random.default_rng(0).random((40, 2 * SIDE)).astype(np.float32)
    fine /= fine.sum()
    small, scale = thumbnail(fine, "uniform"), scale_of(fine, "uniform")
    assert small["grid"] == [20, SIDE] and small["scale"] == [scale.low, scale.high] and small["factor"] == fine.size
    assert np.allclose(weights(small), fine.reshape(20, 2, SIDE, 2).mean((1, 3)), atol=1e-8)
    coarse = thumbnail(fine[:10, :SIDE], "uniform")
    assert np.array_equal(weights(coarse), fine[:10, :SIDE])
