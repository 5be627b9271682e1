"""Starting a training from another checkpoint's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from simpool_viz.checkpoints.bundle import base_folder, load_bundle
from simpool_viz.errors import TrainingError
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.layers.stem import STEM


@dataclass(frozen=True)
class Start:
    """told: what was taken and what begins anew, in a sentence. stages: of the checkpoint's own training.

    stem: the checkpoint whose first blocks are the stem now, "" where there is none or it was not taken whole.
    """

    told: str
    stages: tuple[str, ...]
    stem: str


def start_from(encoder: Encoder, name: str, folder: Path) -> Start:
    """Copy into `encoder` every tensor that the checkpoint has under the same name in the same shape; a ResNet's also
    into its stem.

    A module is taken whole or not at all: no bias comes without its weight.

    Args:
        name: of a bundled checkpoint, or of one beside `folder`.
        folder: where the training writes.

    Raises:
        CheckpointError, TrainingError: no such checkpoint, or nothing of its backbone fits.
    """
    other = load_bundle(base_folder(folder, name))
    own, given = encoder.state_dict(), other.state_dict()
    given |= {
        STEM + key.removeprefix("backbone."): value for key, value in given.items() if key.startswith("backbone.")
    }
    misfits = {_module(key) for key, value in own.items() if key not in given or given[key].shape != value.shape}
    taken = {key: given[key] for key in own if _module(key) not in misfits}
    if not any(key.startswith("backbone.") for key in taken):
        raise TrainingError(
            f"init_from: nothing of the backbone of {name} has the names and shapes of this recipe's; choose another"
        )
    with torch.no_grad():
        encoder.load_state_dict(own | taken)
    new = [key for key in own if key not in taken]
    parts = sorted({".".join(key.split(".")[: 2 if key.startswith("backbone.") else 1]) for key in new})
    told = f"started from `{name}`: {len(taken)} tensors taken" + (
        f"; new are {', '.join(parts)} ({len(new)})" if new else ""
    )
    whole = encoder.has_stem and all(key in taken for key in own if key.startswith(STEM))
    lender = other.facts.stem if other.has_stem else other.facts.base or name
    return Start(told, other.facts.stages or (f"those of {name}",), lender if whole else "")


def _module(key: str) -> str:
    """What a tensor goes with: its module's others, or itself alone where it is a token or a table of positions."""
    return key if key.endswith(("_token", "pos_embed")) else key.rpartition(".")[0]
