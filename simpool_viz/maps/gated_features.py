"""Channel gates: the features weighted by a channel gate (SE, SPE, CBAM), and the same features without the gate.

The definition is this project's: sum_c v_c relu(x_c) with the gate v of the last gated block, and mean_c relu(x_c).
"""

from __future__ import annotations

import numpy as np
import torch

from simpool_viz.capture.channel_gates import gated_modules
from simpool_viz.capture.recorded import Recorded
from simpool_viz.errors import MapError
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.common import make_rows
from simpool_viz.maps.registry import register_map
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.tensors import wide


def _why_not(encoder: Encoder) -> str | None:
    inside = not encoder.depth and gated_modules(encoder.backbone)
    return (
        None
        if inside or encoder.pooling.has_channel_gate
        else "neither its backbone nor its pooling gates channels (SE, SPE, CBAM)"
    )


@register_map(
    "gates",
    "Channel gates",
    "Where the channels lie that the last channel gate lets through. Beside it the same features without the gate.",
    formula="mᵢ = Σ_c v_c relu(x_ic), v the gate",
    paper="Hu et al., CVPR 2018; definition of this project",
    why_not=_why_not,
)
def channel_gates(recording: Recorded) -> AttentionMap:
    """Two maps (2, h, w), "gated" and "ungated", of the features before the last gate; fused they are "gated".

    Args:
        recording: of a checkpoint whose backbone or pooling gates channels.

    Raises:
        MapError: the last gate acts on a grid other than that of the tokens.
    """
    gate = recording.gates[-1] if recording.gates else None
    if gate is None or gate.features is None:
        raise MapError(f"{recording.encoder.facts.name}: its last channel gate does not act on the grid of its tokens")
    with torch.inference_mode():
        positive = wide(gate.features).relu()  # (N, C)
        rows = torch.stack([positive @ wide(gate.values), positive.mean(1)])
    return make_rows(recording, "gates", rows, ("gated", "ungated"), unit="mean", fusion="gated")


def gates_by_depth(recording: Recorded) -> dict[str, np.ndarray]:
    """The values (C,) float32 of every gate by module name, in the order of the forward."""
    return {gate.name: gate.values.float().cpu().numpy() for gate in recording.gates}
