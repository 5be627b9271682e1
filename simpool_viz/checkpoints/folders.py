"""Weights in a folder or in several files, as `save_pretrained` of transformers and timm write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simpool_viz.checkpoints.formats.hints import CONFIG, read_json
from simpool_viz.checkpoints.reading import read_file
from simpool_viz.errors import CheckpointError

WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
DESCRIBED = (*WHOLE, *INDEX)  # files whose config.json beside them is theirs


def is_folder(path: Path) -> bool:
    """Whether a folder holds weights that transformers or timm wrote, with their config.json."""
    if not (path / CONFIG).is_file() or not any((path / name).is_file() for name in DESCRIBED):
        return False
    config = read_json(path / CONFIG)
    return isinstance(config.get("architecture"), str) or isinstance(config.get("model_type"), str)


def weights_of(folder: Path) -> Path:
    """The file of weights, or their index, in a folder for which `is_folder` holds."""
    return next(folder / name for name in DESCRIBED if (folder / name).is_file())


def read_any(path: Path) -> tuple[Any, dict[str, str]]:
    """Read a checkpoint file, or the files that an index of shards names, without executing anything in them.

    Args:
        path: of the file or the index.

    Returns:
        The content, and the metadata of a `.safetensors` file ({} otherwise).

    Raises:
        CheckpointError: as in `read_file`; an index that names files outside its folder, or a shard that is missing.
    """
    if path.name not in INDEX:
        return read_file(path)
    content: dict[Any, Any] = {}
    for name in shards_of(read_json(path), path.name):
        if not (path.parent / name).is_file():
            raise CheckpointError(f"{path.name} names {name}, which is not beside it; copy or download it too")
        part, _ = read_file(path.parent / name)
        if not isinstance(part, dict):
            raise CheckpointError(f"{name} holds no table of tensors")
        content |= part
    return content, {}


def shards_of(index: dict[str, Any], source: str) -> list[str]:
    """The files that an index of shards names.

    Args:
        index: its content.
        source: its name, for errors.

    Raises:
        CheckpointError: it names none, or one outside its folder.
    """
    table = index.get("weight_map")
    names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
    if not names or any(Path(name).name != name or "\\" in name for name in names):
        raise CheckpointError(f"{source} does not name the files of the weights beside it: {json.dumps(names[:4])}")
    return names
