"""See where vision models look, and how that changes with their pooling.

from simpool_viz import load_checkpoint, record
recording = record(load_checkpoint("resnet_simpool"), "cat.jpg")
attention = recording.map("simpool")     # AttentionMap: .weights (M, h, w), .names, .fused() (h, w)
mask = attention.mask("mass", 0.6)       # ObjectMask: .grid, .pixels(), .boxes
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Loaded at first use, so that `simpool-viz --help` need not import torch.
_HOMES = {
    "load_checkpoint": "checkpoints",
    "catalogue": "checkpoints",
    "record": "recording",
    "record_batch": "recording",
    "Recording": "recording",
    "AttentionMap": "attention_map",
    "ObjectMask": "masks",
    "map_methods": "attention_map",
    "mask_rules": "masks",
    "poolings": "pooling",
    "make_board": "board",
    "export_board": "export",
    "read_picture": "images",
}
__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604

if TYPE_CHECKING:
    from simpool_viz.attention_map import AttentionMap as AttentionMap, map_methods as map_methods
    from simpool_viz.board import make_board as make_board
    from simpool_viz.checkpoints import catalogue as catalogue, load_checkpoint as load_checkpoint
    from simpool_viz.export import export_board as export_board
    from simpool_viz.images import read_picture as read_picture
    from simpool_viz.masks import ObjectMask as ObjectMask, mask_rules as mask_rules
    from simpool_viz.pooling import poolings as poolings
    from simpool_viz.recording import Recording as Recording, record as record, record_batch as record_batch


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'simpool_viz' has no attribute {name!r}")
    return getattr(importlib.import_module(f"simpool_viz.{_HOMES[name]}"), name)
