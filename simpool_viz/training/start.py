"""Starting a training from another checkpoint's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from simpool_viz.checkpoints.bundle import base_folder, load_bundle
from simpool_viz.encoder import Encoder


@dataclass(frozen=True)
class Start:
    """told: what was taken and what begins anew, in a sentence. stages: of the checkpoint's own training."""

    told: str
    stages: tuple[str, ...]


def start_from(encoder: Encoder, name: str, folder: Path) -> Start:
    """Copy into `encoder` every tensor that the checkpoint has under the same name in the same shape.

    Args:
        name: of a bundled checkpoint, or of one beside `folder`.
        folder: where the training writes.

    Raises:
        ValueError: no such checkpoint, or nothing of its backbone fits.
    """
    other = load_bundle(base_folder(folder, name))
    own, given = encoder.state_dict(), other.state_dict()
    taken = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    if not any(key.startswith("backbone.") for key in taken):
        raise ValueError(f"init_from: nothing of the backbone of {name} has the names and shapes of this recipe's; choose another")
    with torch.no_grad():
        encoder.load_state_dict(own | taken)
    new = [key for key in own if key not in taken]
    parts = sorted({".".join(key.split(".")[: 2 if key.startswith("backbone.") else 1]) for key in new})
    told = f"started from `{name}`: {len(taken)} tensors taken" + (f"; new are {', '.join(parts)} ({len(new)})" if new else "")
    return Start(told, other.facts.stages or (f"those of {name}",))
