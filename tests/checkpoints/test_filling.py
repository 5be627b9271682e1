"""One strict loader: exactly the model's own tensors, or another program's under its names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from simpool_viz.checkpoints.filling import faults_of, fill


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).half()


def test_own_tensors_are_copied_in_the_precision_of_the_model() -> None:
    state = {key: torch.rand_like(value.float()).to(value.dtype) for key, value in model().state_dict().items()}
    filled = model()
    fill(filled, {key: value.float() for key, value in state.items()}, "here")
    assert all(torch.equal(value, state[key]) for key, value in filled.state_dict().items())
    assert filled[0].weight.dtype == torch.float16


def test_without_names_everything_is_exact() -> None:
    state = model().state_dict()
    state["0.bias"] = state["0.bias"][None]
    state["extra"] = state.pop("1.num_batches_tracked")
    filled = model()
    before = {key: value.clone() for key, value in filled.state_dict().items()}
    with pytest.raises(ValueError, match=r"here does not fit its encoder: 1\.num_batches_tracked is missing; extra is"):
        fill(filled, state, "here")
    assert "0.bias has shape (1, 2), not (2,)" in faults_of(filled, state)
    assert all(torch.equal(value, before[key]) for key, value in filled.state_dict().items()), "every tensor or none"


def test_other_names_may_leave_counters_and_axes_of_one() -> None:
    own = model().state_dict()
    names = {key.replace("0.", "fc.").replace("1.", "bn."): key for key in own}
    state = {key: own[target].float() + 1 for key, target in names.items() if "batches" not in target}
    state["fc.weight"] = state["fc.weight"][:, :, None, None]
    filled = model()
    fill(filled, state, "file", names)
    assert torch.equal(filled[0].weight, (own["0.weight"].float() + 1).half())
    del state["bn.bias"]
    state["fc.bias"], state["odd"] = torch.zeros(3), torch.zeros(1)
    assert faults_of(filled, state, names) == [
        "bn.bias is missing",
        "odd is not known",
        "fc.bias has shape (3,), not (2,)",
    ]
    with pytest.raises(ValueError, match=r"file does not fit the model it was recognised as: bn\.bias is missing"):
        fill(filled, state, "file", names)
