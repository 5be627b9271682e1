"""The registry of poolings: a new one is one class and one line, and options that cannot be are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from simpool_viz.cli.main import main
from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.pooling import Pooling, create, create_pooling, register_pooling
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.recording import record
from tests.helpers import CHANNELS


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("how", {"weight": "cubed"}, "HOW: weight is 'squared' or 'norm', not 'cubed'"),
        ("otk", {"k": 0}, "OTK: k is the number of references, at least 1, not 0"),
        ("otk", {"eps": 0.0}, "OTK: eps is positive and sinkhorn at least 1, not 0.0 and 100"),
        ("otk", {"sinkhorn": 0}, "OTK: eps is positive and sinkhorn at least 1, not 0.1 and 0"),
        ("kmeans", {"k": 0}, "k-means: k is the number of centres, at least 1, not 0"),
        ("kmeans", {"steps": 0}, "k-means: steps is at least 1, not 0"),
        ("slot", {"k": -1}, "Slot Attention: k is the number of slots, at least 1, not -1"),
        ("slot", {"steps": 0}, "Slot Attention: steps is at least 1, not 0"),
        ("se", {"reduction": 0}, "the reduction of a gate's hidden layer is at least 1, not 0"),
        ("cbam", {"reduction": 0}, "the reduction of a gate's hidden layer is at least 1, not 0"),
        ("cbam", {"kernel": 4}, "CBAM: kernel is an odd side of a square of positions, not 4"),
        ("cbam", {"kernel": -1}, "CBAM: kernel is an odd side of a square of positions, not -1"),
        ("ge", {"extent": -1}, "Gather-Excite: extent is 0 for the whole picture or a number of positions, not -1"),
        ("cait", {"num_heads": 5}, "CaiT: 12 channels do not split into 5 heads; choose num_heads to divide 12"),
        ("cait", {"num_heads": 0}, "CaiT: 12 channels do not split into 0 heads; choose num_heads to divide 12"),
        ("cait", {"layers": 0}, "CaiT: layers is at least 1, not 0"),
        ("ep", {"d_out": 5}, "efficient probing: d_out divides the width 12, which 5 does not"),
        ("ep", {"d_out": 0}, "efficient probing: d_out divides the width 12, which 0 does not"),
        (
            "ep",
            {"num_queries": 5},
            "efficient probing: 12 values do not split into 5 slices; choose num_queries to divide them",
        ),
        (
            "ep",
            {"num_queries": 4, "d_out": 2},
            "efficient probing: 6 values do not split into 4 slices; choose num_queries to divide them",
        ),
        ("aim", {"num_heads": 7}, "AIM: 12 channels do not split into 7 heads; choose num_heads to divide 12"),
        ("abmilp", {"depth": 0}, "ABMILP: depth is at least 1 and activation one of tanh, relu, not 0 and 'tanh'"),
        (
            "abmilp",
            {"activation": "gelu"},
            "ABMILP: depth is at least 1 and activation one of tanh, relu, not 2 and 'gelu'",
        ),
    ],
)
def test_options_that_cannot_be_are_refused_in_a_sentence(name: str, options: dict[str, object], sentence: str):
    with pytest.raises(ValueError) as refusal:
        create_pooling(name, CHANNELS, **options)
    assert str(refusal.value) == sentence


def test_a_toy_pooling_appears_everywhere(capsys: pytest.CaptureFixture[str]):
    from simpool_viz.app.compare import ComparePage
    from simpool_viz.app.store import EncoderStore

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


def test_a_new_pooling_is_one_class_and_one_line():
    from simpool_viz.modeling.pooling.create import _POOLINGS as registered

    class Median(Pooling):
        name, title = "toy_median", "Median"

        def readout(self, u: torch.Tensor) -> torch.Tensor:
            return u[:, 0]

    register_pooling(Median)
    try:
        assert isinstance(create_pooling("toy_median", CHANNELS), Median)
        with pytest.raises(ValueError, match="name of its own"):
            register_pooling(Median)
    finally:
        registered.pop("toy_median")
    with pytest.raises(ValueError, match="no pooling is called"):
        create_pooling("toy_median", CHANNELS)
