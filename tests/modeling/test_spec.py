"""A description cannot reach for other weights."""

from __future__ import annotations

import pytest

from simpool_viz.modeling.encoder import Facts
from simpool_viz.modeling.spec import EncoderSpec


@pytest.mark.parametrize("option", ["pretrained", "checkpoint_path", "pretrained_cfg_overlay"])
def test_a_description_cannot_reach_for_other_weights(option: str) -> None:
    spec = EncoderSpec("resnet18", "gap", 3, {option: "anything"})
    with pytest.raises(ValueError, match=f"may not hold {option}"):
        spec.build(Facts("x"))
