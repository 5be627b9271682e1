"""The bundled checkpoints, which can be loaded by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from simpool_viz.checkpoints.bundle import CONFIG, WEIGHTS, bundled_folder, read_config
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.spec import EncoderSpec


@dataclass(frozen=True)
class Entry:
    """A bundled checkpoint.

    Attributes:
        folder: of its files.
        spec: how the encoder is built.
        facts: preprocessing, classes, accuracy and origin.
    """

    folder: Path
    spec: EncoderSpec
    facts: Facts

    @property
    def name(self) -> str:
        """The name with which `load_checkpoint` loads it."""
        return self.facts.name

    @property
    def is_head(self) -> bool:
        """Whether it is a head on another checkpoint's frozen backbone; defaults leave those out."""
        return bool(self.facts.base)

    @property
    def available(self) -> bool:
        """Whether its weights are installed, and those of the checkpoint that holds its backbone, stem or trunk."""
        lender = self.facts.base or self.facts.stem or self.facts.trunk or self.folder.name
        return all((folder / WEIGHTS).is_file() for folder in (self.folder, self.folder.parent / lender))

    def outline(self) -> Encoder:
        """Build the encoder without weights, on PyTorch's "meta" device: enough to list the maps that it has."""
        with torch.device("meta"):
            return self.spec.build(self.facts).eval().requires_grad_(False)


def bundled_names(dense: bool = False) -> list[str]:
    """Names of the bundled checkpoints with installed weights that have a head, except heads on another's backbone.

    Args:
        dense: whether to list those with dense heads rather than the classifiers.
    """
    having = [entry for entry in catalogue().values() if entry.available and not entry.is_head]
    return [entry.name for entry in having if entry.spec.num_classes and entry.spec.dense == dense]


def catalogue() -> dict[str, Entry]:
    """Every bundled checkpoint by name, in the order of their folders.

    Examples:
        >>> from simpool_viz import catalogue
        >>> entry = catalogue()["resnet_gap"]
        >>> entry.facts.title, entry.available, entry.is_head
        ('ResNet, GAP', True, False)
    """
    folders = sorted(path.parent for path in bundled_folder("models").glob(f"*/{CONFIG}"))
    entries = [Entry(folder, *read_config(folder)) for folder in folders]
    return {entry.name: entry for entry in entries}
