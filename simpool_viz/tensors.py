"""Device and precision of the forward pass, and the wider precision in which maps and statistics are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from simpool_viz.errors import OptionError

# PyTorch has an exception class for lack of memory on CUDA alone; on other devices only the message shows it.
# This is the only place where this package inspects the message of an exception.
_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")


@contextmanager
def enough_memory(advice: str = "choose a smaller size, or the device cpu") -> Iterator[None]:
    """A context, or decorator, that turns lack of memory on any device into an `OptionError`.

    Args:
        advice: what the user can do about it, the end of the message.

    Raises:
        OptionError: the code inside needs more memory than the device has.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OptionError(f"the device ran out of memory; {advice}") from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
        raise OptionError(f"the device ran out of memory; {advice}") from error


PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def choose_device(
    wanted: str = "auto", precision: str = "auto", *, exact_enough: bool = False
) -> tuple[torch.device, torch.dtype]:
    """Device and precision of the forward pass. Statistics and roll-outs stay in float32 (`wide`).

    Args:
        wanted: "auto", "cpu", "cuda", "cuda:1" or "mps"; "auto" takes CUDA, then MPS, then the CPU.
        precision: one of `PRECISIONS`; "auto" takes float16 on a CUDA device, bfloat16 on a processor that computes in
            it where that is exact enough, and float32 on others.
        exact_enough: whether a checkpoint's maps and masks in bfloat16 are those in float32 but for what does not show.

    Returns:
        The device and the dtype of parameters and inputs.

    Raises:
        OptionError: an unknown device or precision, or a device that this machine does not have.
    """
    if precision not in PRECISIONS:
        raise OptionError(f"a precision is {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, not {precision!r}")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise OptionError(f"no device is called {wanted!r}; there are auto, cpu, cuda, cuda:0, ... and mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"{wanted} is not here: PyTorch sees {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise OptionError("mps is not here: this is no Apple GPU, or PyTorch was built without it; use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise OptionError(f"device {wanted!r} is not supported; use auto, cpu, cuda or mps")
    if precision != "auto":
        dtype: torch.dtype = getattr(torch, precision)
        return device, dtype
    if device.type == "cuda":
        return device, torch.float16
    half = device.type == "cpu" and exact_enough and computes_bfloat16(device)
    return device, torch.bfloat16 if half else torch.float32


def precision_name(dtype: torch.dtype) -> str:
    """Its name as in `PRECISIONS`."""
    return str(dtype).removeprefix("torch.")


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is worth computing in on a device: a GPU of Ampere or later, a processor with AVX-512.

    Elsewhere it is emulated, at a tenth of the speed of float32 or less.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512")


def wide(x: Tensor) -> Tensor:
    """The tensor in float32, or unchanged where it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def identical(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape, dtype, device and values."""
    return (
        one.shape == other.shape and one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    )
