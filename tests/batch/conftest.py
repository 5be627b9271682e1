"""One job of two encoders."""

from __future__ import annotations

import pytest

from simpool_viz.batch.boards import Job
from simpool_viz.board.board import Settings
from simpool_viz.maps.request import parse_map
from simpool_viz.modeling.encoder import Encoder


@pytest.fixture(scope="module")
def job(resnet: Encoder, vit: Encoder) -> Job:
    return Job([resnet, vit], [parse_map(m) for m in ("pooling", "cls", "rollout")], Settings(size=64))
