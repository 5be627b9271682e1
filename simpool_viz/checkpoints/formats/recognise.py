"""From tensors to an encoder: recognises architecture and pooling by the names and shapes in a state dict.

No weight stays at its random start: each tensor of the encoder is filled from one of the file, and each tensor of the
file is used, or dropped for a reason that the report gives.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping

import timm
from torch import Tensor

from simpool_viz.checkpoints.filling import faults_of, fill, refuse
from simpool_viz.checkpoints.formats import cnns, other_vits, torchvision_cnns, vits
from simpool_viz.checkpoints.formats.containers import Weights
from simpool_viz.checkpoints.formats.dense import dense_tensors, put_on
from simpool_viz.checkpoints.formats.parts import LoadOptions, Parts, find_simpool
from simpool_viz.checkpoints.formats.preparation import OTHER_TRAINERS
from simpool_viz.checkpoints.formats.report import Report
from simpool_viz.errors import CheckpointError, SimpoolError
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.outline import outlined

# Beginnings of names, and what to do about files that have them.
TIMMS = "timm has this model under names of its own: load timm:<tag>, or a file of that with arch="
UNSHOWN = {
    (r"lora_[AB]\.",): "it is an adapter; merge it into its model (merge_and_unload in peft) and save that",
    (r"features\.1\.0\.attn\.relative_position_bias_table",): TIMMS,
    (r"blocks\.0\.layers\.0\.layers\.MBconv",): TIMMS,
    (r"cls_attn_blocks\.0\.",): "XCiT attends between channels, not between tokens, so it has no attention to show",
    (r"_flat_param$",): (
        "it is one process's part of a training in shards (FSDP), whose tensors lie in a row; save the full state dict "
        "(FullStateDictConfig, or dcp_to_torch_save of torch.distributed) and load that"
    ),
    (r"features\.\d+\.squeeze\.weight",): "SqueezeNet averages class scores, not features; no map here shows that",
    (r"Conv2d_1a_3x3\.",): "Inception's layers are not padded to the picture, so its features have no exact places",
    (r"features\.10\.weight", r"classifier\.1\.weight"): (
        "AlexNet's first layers are not padded to the picture, so its features have no exact places"
    ),
    (r"encoder\.layers\.0\.blocks\.0\.attention\.self",): TIMMS,
    (r"encoder\.stages\.\d+\.layers\.0\.",): TIMMS,
    (r"encoder\.layer\.\d+\.lambda_1",): TIMMS,
}
SAM_TAGS = {768: "samvit_base_patch16", 1024: "samvit_large_patch16", 1280: "samvit_huge_patch16"}  # by width


def build_encoder(weights: Weights, facts: Facts, settings: LoadOptions) -> tuple[Encoder, Report]:
    """Build the encoder that a state dict belongs to, with its weights.

    Args:
        weights: of the file.
        facts: name, preprocessing and classes.
        settings: options that the tensors do not determine.

    Returns:
        The encoder, in float32 and evaluation mode, and the report.

    Raises:
        CheckpointError: the architecture is not recognised, or tensors are missing, left over or of another shape.
    """
    with outlined():  # no memory is taken before the file is known to fit
        trial = _parts(dataclasses.replace(weights, state=dict(weights.state)), settings, facts.name)
        refuse(faults_of(trial.encoder(facts), trial.state, trial.names), facts.name)
    parts = _parts(weights, settings, facts.name)
    encoder = parts.encoder(facts)
    fill(encoder, parts.state, facts.name, parts.names)
    encoder.eval().requires_grad_(False)
    report = Report(
        source=facts.name,
        container=f"{weights.family} checkpoint, entry {weights.where}" if weights.where else "plain state dict",
        architecture=parts.architecture,
        pooling=encoder.pooling.title,
        parameters=sum(p.numel() for p in encoder.parameters()),
        used=len(parts.state),
        dropped=dict(Counter((weights.dropped | parts.dropped).values())),
        notes=(*weights.notes, *parts.notes),
    )
    return encoder, report


def _parts(weights: Weights, settings: LoadOptions, source: str) -> Parts:
    """The parts of the model; every fault becomes a sentence that names the file."""
    try:
        own = dense_tensors(weights.state)
        rest = {key: value for key, value in weights.state.items() if key not in own}
        parts = _recognise(dataclasses.replace(weights, state=rest) if own else weights, settings)
        if parts is not None and own:
            put_on(parts, own, settings)
    except KeyError as error:
        raise CheckpointError(f"{source}: {error.args[0]} is missing") from None
    except SimpoolError as error:
        raise CheckpointError(f"{source}: {error}") from error
    except (ValueError, IndexError, TypeError, RuntimeError, ArithmeticError, AssertionError) as error:
        # A file may hold any shapes, and the builders of timm and PyTorch raise many kinds of errors for odd ones.
        raise CheckpointError(
            f"{source}: its tensors contradict one another, so no model can be built for them ({error})"
        ) from error
    if parts is None:
        some = ", ".join(list(weights.state)[:5])
        raise CheckpointError(
            f"{source} is not recognised as a ViT or a CNN by its tensors ({some}, ...); {_advice(weights.state)}"
        )
    return parts


def _advice(state: Mapping[str, Tensor]) -> str:
    """What to do with tensors that are not recognised."""
    for signs, says in UNSHOWN.items():
        if all(any(re.search(rf"(^|\.){sign}", key) for key in state) for sign in signs):
            return says
    if {key for key in state} <= {"weight", "bias"}:
        return "it is a single layer; load the model that it belongs to"
    return "name a model of timm with arch="


def _as_its_trainer_wrote(weights: Weights, settings: LoadOptions) -> Parts | None:
    """The model that timm's trainer names in the file, where the tensors are those of that model; else None.

    The name says what no tensor does, such as heads, QuickGELU and blurred strides.
    """
    tag, args = weights.hints.trained, weights.args
    if not timm.is_model(tag) or any(args.get(key) for key in OTHER_TRAINERS) or find_simpool(weights.state):
        return None
    if settings.num_heads or settings.pos_embed or settings.grid:
        return None
    try:
        with outlined():
            trial = cnns.named(tag, weights, settings)
            faults = faults_of(trial.encoder(Facts(tag)), trial.state, trial.names)
    except (SimpoolError, ValueError, LookupError, TypeError, RuntimeError, AssertionError):
        return None  # a trainer that changed the model
    return None if faults else cnns.named(tag, weights, settings)


def _recognise(weights: Weights, settings: LoadOptions) -> Parts | None:
    """The parts; None where the tensors' names are of no known family. Errors do not name the file."""
    state = weights.state
    if settings.arch or weights.hints.arch:
        return cnns.named((settings.arch or weights.hints.arch).removeprefix("timm:"), weights, settings)
    if parts := _as_its_trainer_wrote(weights, settings):
        return parts

    def has(*starts: str) -> bool:
        return all(any(key.startswith(start) for key in state) for start in starts)

    if "blocks.0.attn.rel_pos_h" in state and "neck.0.weight" in state:
        width = state["neck.0.weight"].shape[1]
        if width not in SAM_TAGS:
            raise CheckpointError(f"no encoder of SAM has {width} channels; name it as a model of timm with arch=")
        return cnns.named(SAM_TAGS[width], weights, settings)
    if family := other_vits.family_of_vit(state):
        return other_vits.recognise_vit(family, weights, settings)
    if has("patch_embed.proj.", "blocks.0.attn.qkv.") and not has("cls_attn_blocks."):
        return vits.recognise(weights, settings)
    if has("bn1.", "layer1.0."):
        return cnns.resnet(weights, settings)
    if torchvision_cnns.family_of(state) and not has("stages.0."):
        return torchvision_cnns.recognise_torchvision(state)
    if has("downsample_layers.0.", "stages.0.") or has("stem.0.", "stages.0.blocks.0.conv_dw."):
        return cnns.convnext(weights, settings)
    if timm.is_model(weights.hints.trained):
        return cnns.named(weights.hints.trained, weights, settings)
    return None
