"""Precision and device: where the forward runs, and in what precision maps, means and statistics are computed whatever
its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from simpool_viz.errors import OptionError

# PyTorch has an exception of its own for memory only on CUDA; of other devices the text is the one sign. It is the only
# place where this package reads an exception's text.
_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")


@contextmanager
def enough_memory(advice: str = "choose a smaller size, or the device cpu") -> Iterator[None]:
    """Turn the lack of memory, on any device, into a sentence. Also a decorator.

    Args:
        advice: what to do about it.

    Raises:
        OptionError: what runs inside needs more memory than there is.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OptionError(f"the device ran out of memory; {advice}") from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
        raise OptionError(f"the device ran out of memory; {advice}") from error


def choose_device(wanted: str = "auto") -> tuple[torch.device, torch.dtype]:
    """Device and precision of the forward: half precision on a GPU, float32 elsewhere.

    Args:
        wanted: "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        OptionError: an unknown device, or one this machine does not have.
    """
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
    return device, torch.float16 if device.type == "cuda" else torch.float32


def wide(x: Tensor) -> Tensor:
    """x in float32, or as it is where it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def identical(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of one shape, precision and device and hold the same numbers."""
    return (
        one.shape == other.shape and one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    )
