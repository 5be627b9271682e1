"""The bundled checkpoints, which can be loaded by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints.bundle import (
    CONFIG,
    WEIGHTS,
    build_described,
    fault_of_weights,
    read_config,
)
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.outline import outlined
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
        """Whether its weights are installed whole, and those of the checkpoint with its backbone, stem or trunk."""
        return not self.fault

    @property
    def fault(self) -> str:
        """Why it cannot be loaded, "" where it can as far as the files tell without their tensors being read."""
        lender = self.facts.base or self.facts.stem or self.facts.trunk or self.folder.name
        if fault := fault_of_weights(self.folder):
            return fault
        return f"it needs {lender}: {fault}" if (fault := fault_of_weights(self.folder.parent / lender)) else ""

    def outline(self, backbone: nn.Module | None = None) -> Encoder:
        """Build the encoder without weights, on PyTorch's "meta" device: enough to list the maps that it has.

        Args:
            backbone: of another outline of the same `EncoderSpec.backbone_key`; made anew where None.

        Raises:
            CheckpointError: its description is of no encoder that can be built.
        """
        with outlined():
            return build_described(self.folder, self.spec, self.facts, backbone).eval().requires_grad_(False)


def bundled_names(dense: bool = False) -> list[str]:
    """Names of the bundled checkpoints with installed weights that have a head, except heads on another's backbone.

    Args:
        dense: whether to list those with dense heads rather than the classifiers.
    """
    having = [entry for entry in catalogue().values() if entry.available and not entry.is_head]
    return [entry.name for entry in having if entry.spec.num_classes and entry.spec.dense == dense]


def catalogue() -> dict[str, Entry]:
    """Every bundled checkpoint by name, in the order of their folders, but those whose description is damaged.

    Examples:
        >>> from simpool_viz import catalogue
        >>> entry = catalogue()["resnet_gap"]
        >>> entry.facts.title, entry.available, entry.is_head
        ('ResNet, GAP', True, False)
    """
    entries, _ = _read_all()
    return entries


def damaged_descriptions() -> dict[str, str]:
    """What is wrong with the descriptions that are damaged or missing, by the name of the folder."""
    _, faults = _read_all()
    return faults


def whole() -> tuple[dict[str, Entry], dict[str, str]]:
    """The bundled checkpoints whose files are whole, as far as that can be said before their tensors are read.

    Returns:
        Entries by name; and for the others the name of the folder and a sentence that says what is damaged or missing,
        without the paths of this machine.
    """
    entries, faults = _read_all()
    broken = {name: fault for name, entry in entries.items() if (fault := entry.fault)}
    faults |= {entries[name].folder.name: fault for name, fault in broken.items()}
    return {name: entry for name, entry in entries.items() if name not in broken}, faults


def outlines_of(entries: Mapping[str, Entry]) -> tuple[dict[str, Encoder], dict[str, str]]:
    """Build checkpoints without weights, one backbone for all that are alike.

    Args:
        entries: by name.

    Returns:
        Their outlines by name; and the faults of those that cannot be built, as `whole` gives them.
    """
    found: dict[str, Encoder] = {}
    faults: dict[str, str] = {}
    backbones: dict[str, nn.Module] = {}  # many are alike, and to build them is most of an outline
    for name, entry in entries.items():
        try:
            found[name] = entry.outline(backbones.get(entry.spec.backbone_key))
        except CheckpointError as error:
            faults[entry.folder.name] = _without_folder(error, entry.folder)
        else:
            backbones[entry.spec.backbone_key] = found[name].backbone
    return found, faults


def usable() -> tuple[dict[str, tuple[Entry, Encoder]], dict[str, str]]:
    """The bundled checkpoints that can be used, with their outlines, and the faults of the others, as in `whole`."""
    entries, faults = whole()
    outlines, more = outlines_of(entries)
    return {name: (entries[name], outline) for name, outline in outlines.items()}, faults | more


def _read_all() -> tuple[dict[str, Entry], dict[str, str]]:
    """The bundled checkpoints whose description is whole, by name, and the faults of the others, by folder."""
    entries: dict[str, Entry] = {}
    faults: dict[str, str] = {}
    for folder in sorted(path for path in bundled_folder("models").iterdir() if path.is_dir()):
        if not (folder / CONFIG).exists() and not (folder / WEIGHTS).exists():
            continue
        try:
            entry = Entry(folder, *read_config(folder))
        except CheckpointError as error:
            faults[folder.name] = _without_folder(error, folder)
        else:
            entries[entry.name] = entry
    return entries, faults


def _without_folder(error: CheckpointError, folder: Path) -> str:
    return str(error).replace(f"{folder.parent}{os.sep}", "")
