"""Device and precision, as they are chosen on machines that are not this one; and what makes two tensors the same."""

from __future__ import annotations

import pytest
import torch

from simpool_viz import load_checkpoint
from simpool_viz.app.store import EncoderStore
from simpool_viz.checkpoints import precision
from simpool_viz.tensors import choose_device, computes_bfloat16, identical, wide

HALF, SINGLE = torch.float16, torch.float32


def pretend(monkeypatch: pytest.MonkeyPatch, cuda: int = 0, mps: bool = False) -> None:
    """A machine with so many CUDA devices, with or without an Apple GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "wanted", "device", "dtype"),
    [
        (2, False, "auto", "cuda", HALF),
        (2, False, "cuda", "cuda", HALF),
        (2, False, "cuda:0", "cuda:0", HALF),
        (2, False, "cuda:1", "cuda:1", HALF),
        (2, False, "cpu", "cpu", SINGLE),
        (1, True, "auto", "cuda", HALF),
        (0, True, "auto", "mps", SINGLE),
        (0, True, "mps", "mps", SINGLE),
        (0, False, "auto", "cpu", SINGLE),
    ],
)
def test_precision_is_half_on_cuda_and_single_elsewhere(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, wanted: str, device: str, dtype: torch.dtype
) -> None:
    pretend(monkeypatch, cuda, mps)
    assert choose_device(wanted) == (torch.device(device), dtype)


@pytest.mark.parametrize(
    ("cuda", "wanted", "says"),
    [
        (2, "cuda:2", "cuda:2 is not here: PyTorch sees 2 CUDA devices"),
        (0, "cuda", "cuda is not here: PyTorch sees 0 CUDA devices"),
        (0, "mps", "mps is not here"),
        (0, "xpu", "'xpu' is not supported"),
        (0, "graphics card", "no device is called 'graphics card'"),
    ],
)
def test_device_that_a_machine_has_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, cuda: int, wanted: str, says: str
) -> None:
    pretend(monkeypatch, cuda)
    with pytest.raises(ValueError, match=says):
        choose_device(wanted)


def test_checkpoints_are_loaded_in_the_precision_that_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "choose_device", lambda *_, **__: (torch.device("cpu"), HALF))
    encoder = load_checkpoint("resnet_simpool")
    assert {p.dtype for p in encoder.parameters()} == {HALF}


@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16"])
def test_a_precision_that_is_asked_for_is_taken_anywhere(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    for cuda in (0, 1):
        pretend(monkeypatch, cuda)
        assert choose_device("auto", wanted)[1] == getattr(torch, wanted)
    with pytest.raises(ValueError, match="a precision is auto, float32, bfloat16 or float16, not 'half'"):
        choose_device("cpu", "half")


@pytest.mark.parametrize(
    ("cuda", "capability", "exact_enough", "dtype"),
    [
        (0, "AVX512", True, torch.bfloat16),
        (0, "AVX512", False, SINGLE),
        (0, "AVX2", True, SINGLE),  # which would emulate it
        (1, "AVX512", True, HALF),
    ],
)
def test_a_processor_computes_in_bfloat16_where_that_is_exact_enough(
    monkeypatch: pytest.MonkeyPatch, cuda: int, capability: str, exact_enough: bool, dtype: torch.dtype
) -> None:
    pretend(monkeypatch, cuda)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert choose_device("auto", exact_enough=exact_enough)[1] == dtype


def test_page_says_where_and_in_which_precision_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1)
    assert EncoderStore("auto").where() == "cuda, float16" and EncoderStore("cpu").where() == "cpu, float32"
    assert EncoderStore("cpu", "bfloat16").where() == "cpu, bfloat16"


def test_maps_are_computed_in_single_precision_at_least() -> None:
    assert [wide(torch.ones(2, dtype=d)).dtype for d in (HALF, torch.bfloat16, SINGLE)] == [SINGLE] * 3
    assert wide(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def test_identical_tensors_agree_in_numbers_shape_precision_and_device() -> None:
    one = torch.arange(6.0).reshape(2, 3)
    assert identical(one, one.clone()) and identical(one, one.T.contiguous().T), "however they lie in memory"
    changed = one.clone()
    changed[1, 2] += 1e-6
    others = {
        "another number": changed,
        "other numbers": one + 1,
        "another shape": one.reshape(3, 2),
        "another precision": one.double(),
        "another device": one.to("meta"),
    }
    assert [name for name, other in others.items() if identical(one, other) or identical(other, one)] == []


@pytest.mark.parametrize(("capability", "expected"), [("AVX512", True), ("AVX2", False), ("DEFAULT", False)])
def test_bfloat16_is_computed_where_a_processor_has_wide_registers(
    monkeypatch: pytest.MonkeyPatch, capability: str, expected: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert computes_bfloat16(torch.device("cpu")) == expected
    assert not computes_bfloat16(torch.device("mps"))
