"""Archives that are no checkpoints of PyTorch: numpy's `.npz`, which is read, and TorchScript, which is refused."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simpool_viz.errors import CheckpointError


def read_npz(path: Path) -> dict[str, Tensor]:
    """Read an `.npz` file of numbers, without executing anything in it.

    Args:
        path: of the file.

    Returns:
        The arrays by name.

    Raises:
        CheckpointError: it is damaged or compressed, or holds anything but numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        size = sum(entry.file_size for entry in entries)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or size > path.stat().st_size:
            raise CheckpointError(
                f"{path.name} is compressed and unpacks to {size / 2**20:,.0f} MB; it was not opened. If you trust it, "
                "save its arrays with numpy.savez, which does not compress"
            )
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(_plain(arrays[name])) for name in arrays.files}
    except CheckpointError:
        raise
    except Exception as error:  # of damaged bytes, numpy raises whatever they lead to
        cause = str(error).strip().partition("\n")[0][:120]
        raise CheckpointError(
            f"{path.name} is damaged, or holds more than numbers ({cause}); download it again"
        ) from error


def _plain(array: np.ndarray) -> np.ndarray:
    """Numbers in a form that PyTorch has; bfloat16, which numpy lacks, is stored as two bytes without a type."""
    if array.dtype == np.dtype("V2"):
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(array)


def refuse_torchscript(path: Path, names: Sequence[str]) -> None:
    """Refuse an archive of TorchScript or torch.export, which holds a program beside its tensors.

    Args:
        path: of a zip archive.
        names: of its entries.

    Raises:
        CheckpointError: it is one.
    """
    if any(name.endswith(("/archive_format", "serialized_exported_program.json")) for name in names):
        raise CheckpointError(
            f"{path.name} is a program of torch.export with its weights, and programs of others are not run here. If "
            "you trust it, save torch.export.load(...).state_dict as .safetensors and load that"
        )
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise CheckpointError(
            f"{path.name} is TorchScript, a program with its weights, and programs of others are not run here. If you "
            "trust it, save torch.jit.load(...).state_dict() as .safetensors and load that"
        )
