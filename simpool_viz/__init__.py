"""Attention maps of vision models with different poolings.

    from simpool_viz import load_checkpoint, record
    recording = record(load_checkpoint("resnet_simpool"), "cat.jpg")
    attention = recording.map("simpool")     # AttentionMap: .weights (M, h, w), .names, .fused() (h, w)
    mask = attention.mask()                  # ObjectMask: .grid, .pixels(), .boxes

These names are the public interface; everything else may change between versions.

| name | what it is |
|---|---|
| `load_checkpoint`, `load_checkpoints`, `catalogue` | a model from a name or a file, several models that share backbones, and the bundled ones |
| `record`, `record_batch`, `Recording` | one forward pass on one or several pictures, from which every map is computed |
| `AttentionMap`, `ObjectMask` | the results of `Recording.map` and of `AttentionMap.mask` |
| `map_methods`, `mask_rules`, `poolings` | the registered maps, rules and poolings by name |
| `make_board`, `Board`, `Settings`, `export_board` | maps of pictures x checkpoints with masks and scores, and their export as a folder |
| `arrange`, `agreement`, `difference` | a board in another order, the IoU between its masks, one map minus another |
| `inspect`, `Lens`, `facts_of`, `segment` | the maps of one token, block or class of a recording, its other data, and its segmentation |
| `write_batch`, `read_batch` | maps, masks and figures of many pictures as parquet files, and their rows as arrays |
| `read_picture` | any picture file, PIL image or array as upright RGB |
| `SimpoolError` | an input or a request that does not fit. Its kinds: `PictureError`, `CheckpointError`, `DownloadError`, `MapError`, `AbsentClassError`, `OptionError`, `DataError`, `TrainingError`, `DivergedError`, `MissingPackageError` |
"""  # noqa: E501 (rows of a table cannot be broken)

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Imported at first use, so that `simpool-viz --help` does not import torch.
_HOMES = {
    "AbsentClassError": "errors",
    "AttentionMap": "maps.attention_map",
    "Board": "board.board",
    "CheckpointError": "errors",
    "DataError": "errors",
    "DivergedError": "errors",
    "DownloadError": "errors",
    "Lens": "board.inspection",
    "MapError": "errors",
    "MissingPackageError": "errors",
    "ObjectMask": "masks",
    "OptionError": "errors",
    "PictureError": "errors",
    "Recording": "recording",
    "Settings": "board.board",
    "SimpoolError": "errors",
    "TrainingError": "errors",
    "agreement": "board.comparison",
    "arrange": "board.comparison",
    "catalogue": "checkpoints.catalogue",
    "difference": "board.comparison",
    "export_board": "export",
    "facts_of": "board.inspection",
    "inspect": "board.inspection",
    "load_checkpoint": "checkpoints.load",
    "load_checkpoints": "checkpoints.load",
    "make_board": "board.board",
    "map_methods": "maps.registry",
    "mask_rules": "masks",
    "poolings": "modeling.pooling",
    "read_batch": "batch.reader",
    "read_picture": "images",
    "record": "recording",
    "record_batch": "recording",
    "segment": "board.segmentation",
    "write_batch": "batch.rows",
}
__all__ = [
    "AbsentClassError",
    "AttentionMap",
    "Board",
    "CheckpointError",
    "DataError",
    "DivergedError",
    "DownloadError",
    "Lens",
    "MapError",
    "MissingPackageError",
    "ObjectMask",
    "OptionError",
    "PictureError",
    "Recording",
    "Settings",
    "SimpoolError",
    "TrainingError",
    "__version__",
    "agreement",
    "arrange",
    "catalogue",
    "difference",
    "export_board",
    "facts_of",
    "inspect",
    "load_checkpoint",
    "load_checkpoints",
    "make_board",
    "map_methods",
    "mask_rules",
    "poolings",
    "read_batch",
    "read_picture",
    "record",
    "record_batch",
    "segment",
    "write_batch",
]

if TYPE_CHECKING:
    from simpool_viz.batch.reader import read_batch
    from simpool_viz.batch.rows import write_batch
    from simpool_viz.board.board import Board, Settings, make_board
    from simpool_viz.board.comparison import agreement, arrange, difference
    from simpool_viz.board.inspection import Lens, facts_of, inspect
    from simpool_viz.board.segmentation import segment
    from simpool_viz.checkpoints.catalogue import catalogue
    from simpool_viz.checkpoints.load import load_checkpoint, load_checkpoints
    from simpool_viz.errors import (
        AbsentClassError,
        CheckpointError,
        DataError,
        DivergedError,
        DownloadError,
        MapError,
        MissingPackageError,
        OptionError,
        PictureError,
        SimpoolError,
        TrainingError,
    )
    from simpool_viz.export import export_board
    from simpool_viz.images import read_picture
    from simpool_viz.maps.attention_map import AttentionMap
    from simpool_viz.maps.registry import map_methods
    from simpool_viz.masks import ObjectMask, mask_rules
    from simpool_viz.modeling.pooling import poolings
    from simpool_viz.recording import Recording, record, record_batch


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'simpool_viz' has no attribute {name!r}")
    return getattr(importlib.import_module(f"simpool_viz.{_HOMES[name]}"), name)
