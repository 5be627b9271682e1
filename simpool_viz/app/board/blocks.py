"""The maps of every block and head as data for JavaScript: one payload, small enough for thumbnails."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from simpool_viz.app.board.component import grid_payload
from simpool_viz.board.every_head import why_no_blocks
from simpool_viz.board.inspection import Lens
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.recording import Recording

SIDE = 32  # cells of the longer side of a thumbnail, at most: a finer map is averaged over areas


def thumbnail(weights: np.ndarray, unit: str) -> dict[str, Any]:
    """A map as in `grid_payload`, its scale that of all its cells, its grid at most `SIDE` cells long.

    Args:
        weights: (h, w) float32.
        unit: of the map.
    """
    payload = grid_payload(weights, unit)
    factor = SIDE / max(weights.shape)
    if factor >= 1:
        return payload
    height, width = (max(1, round(side * factor)) for side in weights.shape)
    small = cv2.resize(weights, (width, height), interpolation=cv2.INTER_AREA)
    encoded = base64.b64encode(np.ascontiguousarray(small, "<f4").tobytes()).decode()
    return {**payload, "grid": [height, width], "weights": encoded}


def blocks_payload(
    recording: Recording, question: str, lens: Lens, maps: Sequence[AttentionMap] | None
) -> dict[str, Any] | None:
    """What the browser needs of all blocks and heads.

    Args:
        recording: that is inspected.
        question: that is asked.
        lens: its options.
        maps: from `every_head`, where they are wanted; else only how many there are is sent.

    Returns:
        None where the question is not one that each of several blocks answers.
    """
    depth = len(recording.blocks)
    if depth < 2 or why_no_blocks(recording, question):
        return None
    payload: dict[str, Any] = {"depth": depth, "heads": recording.blocks[-1].query.shape[0], "cells": []}
    if maps is not None:
        payload["cells"] = [
            {"block": block, "head": head, **thumbnail(weights, one.unit)}
            for block, one in enumerate(maps)
            for head, weights in enumerate(one.weights)
        ]
        payload["block"] = lens.block % depth
        payload["fusion"] = lens.fusion
    return payload
