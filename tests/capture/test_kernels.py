"""The fused kernels' outputs and log-sum-exps against float64, and what is asked of the CUDA ones, seen on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from simpool_viz.capture.kernels import cpu_kernel, efficient_kernel, find_kernel, flash_kernel
from tests.helpers import Operator, attention_and_lse, put_operator

CPU = torch.device("cpu")


CUDA = torch.device("cuda")


def operands(
    heads: int = 3, rows: int = 7, tokens: int = 11, size: int = 5, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, heads, n, size, generator=generator).to(dtype) for n in (rows, tokens, tokens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("size", "tokens"), [(1, 1), (5, 11), (64, 300), (65, 33)])
def test_cpu_kernel_gives_attention_and_its_log_sum_exp(
    size: int, tokens: int, biased: bool, dtype: torch.dtype
) -> None:
    query, key, value = operands(tokens=tokens, size=size, dtype=dtype)
    bias = torch.randn(1, 3, 7, tokens, dtype=dtype) if biased else None
    assert find_kernel(CPU, dtype, size, biased) is cpu_kernel
    for found, wanted in zip(
        cpu_kernel(query, key, value, bias, 0.3), attention_and_lse(query, key, value, bias, 0.3), strict=True
    ):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_kernels_are_chosen_by_device_precision_and_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert find_kernel(CUDA, torch.float16, 64, False) is flash_kernel
    assert find_kernel(CUDA, torch.bfloat16, 64, True) is efficient_kernel
    assert find_kernel(CUDA, torch.float32, 65, False) is efficient_kernel
    assert find_kernel(CUDA, torch.float16, 264, False) is efficient_kernel
    assert find_kernel(torch.device("mps"), torch.float32, 64, False) is None
    assert find_kernel(CUDA, torch.float64, 64, False) is None and find_kernel(CPU, torch.int8, 64, False) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert find_kernel(CUDA, torch.float16, 64, False) is efficient_kernel


@pytest.mark.parametrize("size", [5, 8, 65])
@pytest.mark.parametrize("biased", [False, True])
def test_efficient_kernel_keeps_the_operators_rules_and_cuts_its_padding(
    monkeypatch: pytest.MonkeyPatch, size: int, biased: bool
) -> None:
    query, key, value = operands(size=size)
    bias = torch.randn(1, 1, 7, 11, dtype=torch.float64) if biased else None
    put_operator(monkeypatch, "_scaled_dot_product_efficient_attention", operator := Operator(True, 32))
    out, lse = efficient_kernel(query, key, value, bias, 0.3)
    for found, wanted in zip((out, lse), attention_and_lse(query, key, value, bias, 0.3), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert operator.calls == 1


@pytest.mark.parametrize("size", [5, 8])
def test_flash_kernel_pads_heads_and_refuses_a_bias(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    query, key, value = operands(size=size, dtype=torch.bfloat16)
    put_operator(monkeypatch, "_scaled_dot_product_flash_attention", Operator(False, 1))
    out, lse = flash_kernel(query, key, value, None, 0.3)
    wanted = attention_and_lse(query, key, value, None, 0.3)
    torch.testing.assert_close(out.double(), wanted[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(lse.double(), wanted[1], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="takes no bias"):
        flash_kernel(query, key, value, torch.zeros(1, 1, 7, 11), 0.3)
