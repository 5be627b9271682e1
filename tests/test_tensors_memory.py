"""A lack of memory is a sentence on every device; other faults of PyTorch are not taken for one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simpool_viz import make_board
from simpool_viz.errors import OptionError
from simpool_viz.tensors import enough_memory
from tests.helpers import make_photo, small_resnet


@enough_memory("take less")
def fill(count: int) -> torch.Tensor:
    return torch.empty(count)


def test_what_the_cpu_cannot_hold_is_a_sentence() -> None:
    assert fill(3).shape == (3,)
    with pytest.raises(OptionError, match="the device ran out of memory; take less"):
        fill(2**46)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError("Unable to allocate")])
def test_what_a_gpu_or_numpy_cannot_hold_is_a_sentence(error: Exception) -> None:
    with pytest.raises(OptionError, match="ran out of memory; choose a smaller size"), enough_memory():
        raise error


def test_another_fault_of_pytorch_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shape") as caught, enough_memory():
        torch.ones(2).view(3)
    assert not isinstance(caught.value, OptionError)


def test_a_forward_and_a_map_that_do_not_fit_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = small_resnet()

    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(encoder, "tokens", too_large)
    with pytest.raises(OptionError, match="ran out of memory"):
        make_board([np.asarray(make_photo())], [encoder], ["pooling"])
