"""From tensors to an encoder: what architecture and pooling a state dict is, by its names and shapes.

Nothing is left at its random start: each tensor of the encoder is filled from one of the file, and each tensor of the
file is used or dropped for a reason that is told.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from simpool_viz.checkpoints import cnns, vits
from simpool_viz.checkpoints.containers import Weights
from simpool_viz.checkpoints.parts import Parts, Settings
from simpool_viz.encoder import Encoder, Facts

OPTIONS = {
    "weights": "which entry of a training checkpoint: teacher, student, state_dict, state_dict_ema, model, model_ema",
    "arch": "the timm tag of the backbone, where it is not recognised by its tensors",
    "num_heads": "of a ViT whose heads are not 64 channels wide",
    "gamma": "SimPool's exponent, which no state dict holds; none for no exponent",
    "pos_embed": "how a ViT's position embedding is resized: timm or dino",
    "size": "shorter side in pixels at which its maps are best",
    "backbone": "the checkpoint on whose backbone a probing head goes",
}


@dataclass(frozen=True)
class Report:
    """What was recognised in a file.

    used: number of tensors used; dropped: number of tensors by the reason why they are not; notes: what was assumed.
    """

    source: str
    container: str
    architecture: str
    pooling: str
    parameters: int
    used: int
    dropped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """As sentences."""
        told = [f"{self.source}: {self.architecture} with {self.pooling}, {self.parameters:,} parameters ({self.container})"]
        told.append(f"{self.used} tensors used" + "".join(f"; {count} dropped: {why}" for why, count in self.dropped.items()))
        return told + list(self.notes)


def build_encoder(weights: Weights, facts: Facts, settings: Settings) -> tuple[Encoder, Report]:
    """The encoder that a state dict belongs to, filled with it, in float32 and evaluation mode.

    Raises:
        ValueError: it is not recognised, or tensors are missing, left over or of another shape.
    """
    parts = _recognise(weights, settings, facts.name)
    for name in parts.ignored:
        weights.dropped[name] = parts.ignored[name]
    encoder = Encoder(parts.backbone, parts.pooling, norm=parts.norm, head=parts.head, facts=facts)
    state = {k: v for k, v in weights.state.items() if k not in parts.ignored}
    assign(encoder, state, parts.names, facts.name)
    encoder.eval().requires_grad_(False)
    report = Report(
        source=facts.name,
        container=f"{weights.family} checkpoint, entry {weights.where}" if weights.where else "plain state dict",
        architecture=parts.architecture,
        pooling=encoder.pooling.title,
        parameters=sum(p.numel() for p in encoder.parameters()),
        used=len(state),
        dropped=dict(Counter(weights.dropped.values())),
        notes=tuple(parts.notes),
    )
    return encoder, report


def _recognise(weights: Weights, settings: Settings, source: str) -> Parts:
    state = weights.state
    if settings.arch:
        return cnns.named(settings.arch, weights, settings)
    if "patch_embed.proj.weight" in state and any(k.startswith("blocks.0.attn.qkv.") for k in state):
        return vits.recognise(weights, settings, source)
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        return cnns.resnet(weights, settings)
    if "downsample_layers.0.0.weight" in state or ("stem.0.weight" in state and "stages.0.blocks.0.conv_dw.weight" in state):
        return cnns.convnext(weights, settings)
    some = ", ".join(list(state)[:5])
    raise ValueError(
        f"{source} is not recognised as a ViT, ResNet or ConvNeXt by its tensors ({some}, ...); name a model of timm with arch="
    )


def assign(encoder: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str], source: str) -> None:
    """Copy `state` into `encoder`, every tensor or none.

    Args:
        names: key of the file -> key of the encoder.

    Raises:
        ValueError: names every tensor of the file that is missing, not known, or of another shape.
    """
    own = encoder.state_dict()
    given = {names[key]: key for key in state if key in names}
    back = {target: key for key, target in names.items()}
    shared = {own[k].data_ptr() for k in given if k in own}  # a model of timm holds its head itself, and the encoder holds it too
    missing = [k for k in own if k not in given and own[k].data_ptr() not in shared and not k.endswith("num_batches_tracked")]
    faults = [f"{back.get(k, k.removeprefix('backbone.'))} is missing" for k in missing]
    faults += [f"{key} is not known" for key in state if names.get(key) not in own]
    shapes = ((key, tuple(state[key].shape), tuple(own[k].shape)) for k, key in given.items() if k in own)
    faults += [f"{key} has shape {found}, not {wanted}" for key, found, wanted in shapes if math.prod(found) != math.prod(wanted)]
    if faults:
        more = f" (and {len(faults) - 8} more)" if len(faults) > 8 else ""
        raise ValueError(f"{source} does not fit the model it was recognised as: {'; '.join(faults[:8])}{more}")
    with torch.no_grad():
        encoder.load_state_dict(own | {k: state[key].reshape(own[k].shape).to(own[k].dtype) for k, key in given.items()})
