"""What can be loaded by name: the checkpoints that travel with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from simpool_viz.checkpoints.bundle import CONFIG, WEIGHTS, bundled_folder, read_config
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.spec import EncoderSpec


@dataclass(frozen=True)
class Entry:
    """A bundled checkpoint: its folder, description and facts; `available` is whether its weights are here, and those
    of the one
    that holds its backbone or stem."""

    folder: Path
    spec: EncoderSpec
    facts: Facts

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def is_head(self) -> bool:
        """Whether it is a head on another checkpoint's frozen backbone; nothing takes those unless they are asked
        for."""
        return bool(self.facts.base)

    @property
    def available(self) -> bool:
        lender = self.facts.base or self.facts.stem or self.folder.name
        return all((folder / WEIGHTS).is_file() for folder in (self.folder, self.folder.parent / lender))

    def outline(self) -> Encoder:
        """The encoder without its weights (on PyTorch's "meta" device): enough to ask which maps it has, and made in no
        time."""
        with torch.device("meta"):
            return self.spec.build(self.facts).eval().requires_grad_(False)


def bundled_names(dense: bool = False) -> list[str]:
    """The bundled checkpoints whose weights are here and that are no heads on another's backbone.

    Args:
        dense: those with dense heads; else the classifiers.
    """
    having = [entry for entry in catalogue().values() if entry.available and not entry.is_head]
    return [entry.name for entry in having if entry.spec.dense == dense]


def catalogue() -> dict[str, Entry]:
    """Every bundled checkpoint by name, in the order of their folders."""
    folders = sorted(path.parent for path in bundled_folder("models").glob(f"*/{CONFIG}"))
    entries = [Entry(folder, *read_config(folder)) for folder in folders]
    return {entry.name: entry for entry in entries}
