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
__all__ = [
    "AttentionMap",
    "ObjectMask",
    "Recording",
    "__version__",
    "catalogue",
    "export_board",
    "load_checkpoint",
    "make_board",
    "map_methods",
    "mask_rules",
    "poolings",
    "read_picture",
    "record",
    "record_batch",
]

if TYPE_CHECKING:
    from simpool_viz.attention_map import AttentionMap, map_methods
    from simpool_viz.board import make_board
    from simpool_viz.checkpoints import catalogue, load_checkpoint
    from simpool_viz.export import export_board
    from simpool_viz.images import read_picture
    from simpool_viz.masks import ObjectMask, mask_rules
    from simpool_viz.pooling import poolings
    from simpool_viz.recording import Recording, record, record_batch


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'simpool_viz' has no attribute {name!r}")
    return getattr(importlib.import_module(f"simpool_viz.{_HOMES[name]}"), name)
