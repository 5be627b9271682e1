"""A new pooling is one class and one registration: it then stands in the list, the encoder, the maps and the app's
choices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from simpool_viz.cli.main import main
from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.pooling import Pooling, create, register_pooling
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.recording import record


def test_a_toy_pooling_appears_everywhere(capsys: pytest.CaptureFixture[str]):
    from simpool_viz.app.compare import ComparePage, EncoderStore

    class Nearest(Pooling):
        name, title, attentive = "toy", "Nearest to the mean", True
        summary = "Weighs positions by how near they are to the mean. A toy."

        def similarity(self, query: Tensor, key: Tensor) -> Tensor:
            return -torch.cdist(query, key)

    before = ComparePage(EncoderStore("cpu")).maps
    register_pooling(Nearest)
    try:
        assert main(["list", "--poolings"]) == 0
        assert "\ntoy " in capsys.readouterr().out
        assert main(["list"]) == 0
        assert "Weighs positions by how near" in capsys.readouterr().out
        encoder = (
            EncoderSpec("resnet18", "toy", 3, {"channels": [8, 8, 16, 24]}, norm="batch")
            .build(Facts("toy", size=64))
            .eval()
        )
        recording = record(encoder, Image.fromarray(np.full((64, 96, 3), 90, np.uint8)))
        assert recording.map("toy").weights.shape == (1, 2, 3)
        assert recording.logits is not None and len(recording.logits) == 3
        choices = ComparePage(EncoderStore("cpu")).maps
        assert {**before, "toy": "Nearest to the mean of the features"} == choices
    finally:
        create._POOLINGS.pop("toy")
