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
    "load_checkpoint": "checkpoints.load",
    "catalogue": "checkpoints.catalogue",
    "record": "recording",
    "record_batch": "recording",
    "Recording": "recording",
    "AttentionMap": "maps.attention_map",
    "ObjectMask": "masks",
    "map_methods": "maps.registry",
    "mask_rules": "masks",
    "poolings": "modeling.pooling",
    "make_board": "board.board",
    "export_board": "export",
    "read_picture": "images",
    "Lens": "board.inspection",
    "agreement": "board.comparison",
    "arrange": "board.comparison",
    "difference": "board.comparison",
    "facts_of": "board.inspection",
    "inspect": "board.inspection",
    "segment": "board.segmentation",
}
__all__ = [
    "AttentionMap",
    "Lens",
    "ObjectMask",
    "Recording",
    "__version__",
    "agreement",
    "arrange",
    "catalogue",
    "difference",
    "export_board",
    "facts_of",
    "inspect",
    "load_checkpoint",
    "make_board",
    "map_methods",
    "mask_rules",
    "poolings",
    "read_picture",
    "record",
    "record_batch",
    "segment",
]

if TYPE_CHECKING:
    from simpool_viz.board.board import make_board
    from simpool_viz.board.comparison import agreement, arrange, difference
    from simpool_viz.board.inspection import Lens, facts_of, inspect
    from simpool_viz.board.segmentation import segment
    from simpool_viz.checkpoints.catalogue import catalogue
    from simpool_viz.checkpoints.load import load_checkpoint
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
