"""A model in memory, of timm, torchvision or transformers, as an encoder; the model itself stays as it is."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timm.layers import Format
from torch import nn

from simpool_viz.checkpoints.formats import torchvision_cnns
from simpool_viz.checkpoints.formats.containers import Weights, find_weights
from simpool_viz.checkpoints.formats.hints import Hints, hints_of, read_hints
from simpool_viz.checkpoints.formats.parts import read_load_options
from simpool_viz.checkpoints.formats.preparation import prepare_facts
from simpool_viz.checkpoints.formats.recognise import build_encoder
from simpool_viz.checkpoints.formats.report import Report
from simpool_viz.checkpoints.formats.timm import encoder_from_timm, notes_of
from simpool_viz.errors import CheckpointError, OptionError
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.torchvision_cnn import FAMILIES, TorchvisionCNN


def load_module(module: nn.Module, name: str = "", **options: Any) -> tuple[Encoder, Report]:
    """Make an encoder of a model in memory, with a copy of its weights.

    Args:
        module: of timm, torchvision or transformers, or any whose tensors bear the names of these.
        name: of the encoder; by default that of the model's class.
        options: those of `parts.LoadOptions`.

    Returns:
        The encoder, in float32 and evaluation mode, and the report.

    Raises:
        CheckpointError: it is not recognised or of an unsupported family.
        OptionError: an option that does not exist, or a value that it does not take.
    """
    module = _unwrapped(module)
    name = name or type(module).__name__
    settings = read_load_options(options, name)
    if settings.weights or settings.backbone or settings.tokens:
        raise OptionError(f"{name}: weights=, backbone= and tokens= are for files, and this is a model in memory")
    if isinstance(module, Encoder):
        return module, _report(module, "encoder in memory", [])
    if type(module).__module__.startswith("timm.") and not settings.arch:
        return _of_timm(module, name, options)
    if _is_of_torchvision(module):
        return _of_torchvision(module, name, options)
    if not settings.arch and (inside := _inside(module)):
        return _of_wrapped(module, inside, name, options)
    configs: Iterator[Any] = (getattr(part, "config", None) for part in module.modules())
    table: Any = next((config.to_dict() for config in configs if hasattr(config, "to_dict")), {})
    hints = hints_of(table, {}) if isinstance(table, dict) else Hints()
    hints = hints.over(Hints(num_heads=_heads_of(module), act=_act_of(module), model_args=_dilation_of(module)))
    state = {key: value.detach().cpu() for key, value in module.state_dict().items()}
    weights = find_weights(state, name, "", hints)
    facts, notes = prepare_facts(Path(name), name, settings, weights, {})
    encoder, report = build_encoder(weights, facts, settings)
    return encoder, dataclasses.replace(report, container="model in memory", notes=(*report.notes, *notes))


def _heads_of(module: nn.Module) -> int:
    """The number of heads that the attention of a ViT in memory has; 0 where none says it."""
    found = (getattr(part, "num_heads", 0) for part in module.modules())
    return next((heads for heads in found if isinstance(heads, int) and not isinstance(heads, bool) and heads > 0), 0)


def _act_of(module: nn.Module) -> str:
    """QuickGELU, where a ViT in memory has layers of that name; "" for others, whose usual activation is theirs."""
    return "quick_gelu" if any("QuickGELU" in type(part).__name__ for part in module.modules()) else ""


def _dilation_of(module: nn.Module) -> dict[str, Any]:
    """timm's `output_stride` of a ResNet in memory whose last stages are dilated and keep their grid; {} for others."""
    layers = dict(module.named_modules())
    first = next((name for name in layers if re.fullmatch(r"(.*\.)?layer4\.0\.downsample\.0", name)), "")
    shortcuts: list[Any] = [layers.get(first.replace("layer4", f"layer{i}")) for i in (2, 3, 4)]
    if not first or not all(isinstance(layer, nn.Conv2d) for layer in shortcuts):
        return {}
    stride = 4 * math.prod(layer.stride[0] for layer in shortcuts)
    return {} if stride == 32 else {"output_stride": stride}


def _unwrapped(module: nn.Module) -> nn.Module:
    """A model without what compilation and parallel training put around it."""
    inner = getattr(module, "_orig_mod", None)
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = module.module
    return _unwrapped(inner) if isinstance(inner, nn.Module) else module


def _is_of_torchvision(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torchvision.") and type(module).__name__ in FAMILIES


def _inside(module: nn.Module) -> str:
    """Where the one model of timm, or CNN of torchvision, stands in another module, as in backbone; "" for none."""
    found = [
        name
        for name, part in module.named_modules()
        if name and (_is_of_torchvision(part) or isinstance(getattr(part, "pretrained_cfg", None), dict))
    ]
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    return outer[0] if len(outer) == 1 else ""


def _of_wrapped(module: nn.Module, inside: str, name: str, options: dict[str, Any]) -> tuple[Encoder, Report]:
    """A model of timm or torchvision inside another module, with the linear layer beside it as its classifier."""
    part = module.get_submodule(inside)
    make = _of_torchvision if _is_of_torchvision(part) else _of_timm
    layers = [
        (where, layer)
        for where, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and not where.startswith(f"{inside}.")
    ]
    encoder, report = make(part, name, {key: value for key, value in options.items() if key != "classes"})
    notes = [f"the model is its part {inside}"]
    fits = len(layers) == 1 and layers[0][1].in_features == encoder.dim and encoder.head is None
    if fits:
        head = copy.deepcopy(layers[0][1]).float().cpu()
        settings = read_load_options(options, name)
        facts, _ = prepare_facts(Path(name), name, settings, Weights({"head.weight": head.weight}, "plain"), {})
        facts = dataclasses.replace(encoder.facts, classes=facts.classes)
        encoder = Encoder(encoder.backbone, encoder.pooling, norm=encoder.norm, head=head, facts=facts)
        encoder.eval().requires_grad_(False)
        notes.append(f"its layer {layers[0][0]} is taken to read what {inside} gives")
    elif layers:
        notes.append(f"its layers {', '.join(where for where, _ in layers[:4])} are left out: no single one fits")
    fresh = _report(encoder, report.container, [*notes, *report.notes])
    return encoder, fresh


def _of_timm(module: nn.Module, name: str, options: dict[str, Any]) -> tuple[Encoder, Report]:
    """A timm model keeps its own layers, which no state dict describes whole."""
    unknown = [key for key in ("num_heads", "gamma", "pos_embed") if key in options]
    if unknown:
        raise OptionError(f"{name}: {', '.join(unknown)} are for files; a model of timm brings its own")
    settings = read_load_options(options, name)
    if not hasattr(module, "get_classifier"):
        raise CheckpointError(
            f"{name} of timm gives features of several stages (features_only=True); build the model without that"
        )
    model: Any = copy.deepcopy(module).float().cpu()
    take_any_size(model)
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    table = {key: config[key] for key in ("mean", "std", "interpolation", "license") if config.get(key)}
    tag = ".".join(part for part in (config.get("architecture"), config.get("tag")) if part)
    if config.get("input_size"):
        table["size"] = config["input_size"][-1]
    hints = read_hints(table | {"source": f"timm's {tag or name}"}, name)
    head = {"head.weight": model.get_classifier().weight} if isinstance(model.get_classifier(), nn.Linear) else {}
    facts, notes = prepare_facts(Path(name), tag or name, settings, Weights(head, "plain", hints=hints), {})
    encoder = encoder_from_timm(model, dataclasses.replace(facts, title=tag or name)).eval().requires_grad_(False)
    return encoder, _report(encoder, "model in memory", [*notes, *notes_of(config)])


def _of_torchvision(module: nn.Module, name: str, options: dict[str, Any]) -> tuple[Encoder, Report]:
    """A CNN of torchvision keeps its own layers, also those that no list of models has."""
    settings = read_load_options(options, name)
    backbone = TorchvisionCNN(copy.deepcopy(module).float().cpu())
    pooling, norm, head = backbone.parts()
    weights = Weights({} if head is None else {"head.weight": head.weight}, "plain", hints=torchvision_cnns.HINTS)
    facts, notes = prepare_facts(Path(name), name, settings, weights, {})
    encoder = Encoder(backbone, pooling, norm=norm, head=head, facts=facts).eval().requires_grad_(False)
    return encoder, _report(encoder, "model in memory", notes)


def take_any_size(model: Any) -> None:
    """Let a timm ViT take pictures of any size, as `dynamic_img_size=True` does when it is made.

    Args:
        model: changed in place.
    """
    embed: Any = getattr(model, "patch_embed", None)
    if getattr(model, "dynamic_img_size", None) is False and type(embed).__name__ == "PatchEmbed":
        model.dynamic_img_size = True
        embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format.NHWC


def _report(encoder: Encoder, container: str, notes: list[str]) -> Report:
    what = f"{type(encoder.backbone).__name__} of {encoder.dim} channels" + (
        f" and {encoder.depth} blocks" if encoder.depth else ""
    )
    count = sum(parameter.numel() for parameter in encoder.parameters())
    used = len(encoder.state_dict())
    if not count:
        raise CheckpointError(f"{encoder.facts.name} has no weights")
    return Report(encoder.facts.name, container, what, encoder.pooling.title, count, used, notes=tuple(notes))
