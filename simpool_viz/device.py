"""The one place where the device is chosen."""

from __future__ import annotations

import torch


def choose_device(wanted: str = "auto") -> tuple[torch.device, torch.dtype]:
    """Device and precision of the forward: half precision on a GPU, float32 elsewhere.

    Args:
        wanted: "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        ValueError: an unknown device, or one this machine does not have.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ValueError(f"no device is called {wanted!r}; there are auto, cpu, cuda, cuda:0, ... and mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"{wanted} is not here: PyTorch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("mps is not here: this is no Apple GPU, or PyTorch was built without it; use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device {wanted!r} is not supported; use auto, cpu, cuda or mps")
    return device, torch.float16 if device.type == "cuda" else torch.float32
