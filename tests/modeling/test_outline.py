"""An outline has a model's parts and shapes, takes no memory, and nothing is drawn for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.modeling.outline import outlined


@pytest.mark.parametrize(
    "name", ["resnet_simpool", "resnet_spe_gap", "vit_life_simpool", "resnet_gap+slot", "camvid_vit"]
)
def test_outline_has_the_parts_and_shapes_of_the_model(name: str) -> None:
    entry = catalogue()[name]
    before = torch.get_rng_state()
    outline = entry.outline()
    assert torch.equal(torch.get_rng_state(), before)
    whole = entry.spec.build(entry.facts)
    assert {key: value.shape for key, value in outline.state_dict().items()} == {
        key: value.shape for key, value in whole.state_dict().items()
    }
    assert all(value.is_meta for value in outline.state_dict().values())
    assert [type(module) for module in outline.modules()] == [type(module) for module in whole.modules()]


def test_tensors_elsewhere_are_drawn_within_it_too() -> None:
    here = torch.zeros(3, device="cpu")
    with outlined():
        nn.init.constant_(here, 2.0)
        layer = nn.Linear(2, 2)
        nn.init.constant_(layer.weight, 2.0)
    assert here.tolist() == [2.0] * 3 and layer.weight.is_meta and layer.weight.shape == (2, 2)
