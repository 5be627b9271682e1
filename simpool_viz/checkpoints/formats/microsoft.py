"""The names of Microsoft's own files: Swin's and BEiT's."""

from __future__ import annotations

import re

from simpool_viz.checkpoints.formats.naming import Naming, State

INDEX = "says which relative position two tokens have, which their grid determines"


def _joined_later(state: State) -> None:
    """The original joins tokens at the end of a stage, timm at the beginning of the next; timm's head holds a pooling
    too."""
    found: State = {}
    for key, value in state.items():
        name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", key)
        found[re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)] = value
    state.clear()
    state.update(found)


SWIN = Naming(
    "Microsoft's Swin",
    ("patch_embed.proj", "layers.0.downsample.reduction", "layers.{i}.blocks.0.attn.relative_position_bias_table"),
    {},
    dropped={r".*\.relative_position_index$": INDEX, r".*\.attn_mask$": "keeps windows apart at one size of picture"},
    finish=_joined_later,
)
BEIT = Naming(
    "Microsoft's BEiT",
    ("patch_embed.proj", "blocks.{i}.attn.relative_position_index"),
    {},
    dropped={r".*\.relative_position_index$": INDEX},
)
BEIT_SHARED = Naming(
    "Microsoft's BEiT before fine-tuning",
    ("patch_embed.proj", "rel_pos_bias.relative_position_index"),
    {},
    dropped=BEIT.dropped,
)
NAMINGS = (SWIN, BEIT, BEIT_SHARED)
