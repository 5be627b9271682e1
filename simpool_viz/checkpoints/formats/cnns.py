"""Recognises ResNets (ImageNet's and CIFAR's, in torchvision's and timm's naming, also with SPE) and ConvNeXts.

ConvNeXts are known in the names of the original and of timm. Models of other families are built by their name in timm.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import timm
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from simpool_viz.checkpoints.formats import vits
from simpool_viz.checkpoints.formats.containers import Weights
from simpool_viz.checkpoints.formats.parts import LoadOptions, Parts, SimPoolTensors, count_of, find_simpool, gamma_of
from simpool_viz.checkpoints.formats.prefixes import HEADS, choose_prefix, rank, take
from simpool_viz.checkpoints.formats.preparation import config_of
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.cifar_resnet import CifarResNet
from simpool_viz.modeling.layers.spe import insert_spe
from simpool_viz.modeling.pooling import Pooling, create_pooling
from simpool_viz.modeling.spec import create_backbone

LARGEST_ARGUMENT, DEEPEST = 16_384, 256  # of a model that config.json describes, since building one takes time
_SPE = re.compile(r"(layer\d+\.\d+)\.(w1|b1|w2|b2|p)$")


def resnet(weights: Weights, settings: LoadOptions) -> Parts:
    """Build the parts of a ResNet of basic or bottleneck blocks with GAP or SimPool.

    Args:
        weights: of the file.
        settings: options that the tensors do not determine, such as `gamma`.

    Raises:
        CheckpointError: SimPool in parts, or a stem or a stage of another kind.
    """
    state = dict(weights.state)
    if "conv1.weight" not in state and any(key.startswith("conv1.") for key in state):
        raise CheckpointError(
            "its stem is one of several convolutions, as of timm's ResNet-D; name it as a model of timm with arch="
        )
    bottleneck = any(re.match(r"layer1\.0\.(conv|bn)3\.", key) for key in state)
    stages = [count_of(state, f"layer{i}.") for i in _stages(state)]
    widths = tuple(state[f"layer{i}.0.conv1.weight"].shape[0] for i in _stages(state))
    channels, groups = widths, 1
    if bottleneck:
        channels = tuple(state[f"layer{i}.0.conv3.weight"].shape[0] // Bottleneck.expansion for i in _stages(state))
        groups = widths[0] // state["layer1.0.conv2.weight"].shape[1]
    base_width = 64 * widths[0] // (channels[0] * groups)
    block: Any = Bottleneck if bottleneck else BasicBlock
    stem = tuple(state["conv1.weight"].shape)
    backbone: nn.Module
    if len(stages) == 3 and stem[1:] == (3, 3, 3) and groups == 1 and base_width == 64:
        backbone = CifarResNet(block, stages, channels, stem[0])
        depth = sum(stages) * (3 if bottleneck else 2) + 2
        kind = f"CIFAR ResNet-{depth}"
    elif len(stages) == 4 and stem in ((64, 3, 7, 7), (64, 1, 7, 7)):
        backbone = ResNet(
            block,
            tuple(stages),  # type: ignore[arg-type]
            num_classes=0,
            in_chans=stem[1],
            channels=channels,
            cardinality=groups,
            base_width=base_width,
            output_stride=weights.hints.model_args.get("output_stride", 32),
        )
        kind = "ResNeXt" if groups > 1 else "Wide ResNet" if base_width > 64 else "ResNet"
        if weights.hints.model_args.get("output_stride"):
            kind = f"dilated {kind}"
    else:
        raise CheckpointError(
            f"conv1.weight has shape {stem} and there are {len(stages)} stages; recognised are ResNets like "
            "ImageNet's, with (64, 3, 7, 7) and 4, and like CIFAR's, with (16, 3, 3, 3) and 3. Name it as a model of "
            "timm with arch="
        )
    names = {key: f"backbone.{key}" for key in state}
    if any(_SPE.match(key) for key in state):
        insert_spe(backbone)
        spe = [key for key in backbone.state_dict() if ".se." in key]
        names |= {key.replace(".se.", "."): f"backbone.{key}" for key in spe}
        kind += " with SPE"
    what = f"{kind} of {'-'.join(map(str, stages))} {'bottleneck' if bottleneck else 'basic'} blocks"
    return _finish(what, backbone, weights, settings, names, "fc", None)


def _stages(state: dict[str, Tensor]) -> list[int]:
    return sorted({int(key[5]) for key in state if re.match(r"layer\d\.", key)})


def convnext(weights: Weights, settings: LoadOptions) -> Parts:
    """Build the parts of a ConvNeXt with GAP or SimPool and the norm between pooling and head.

    Args:
        weights: of the file.
        settings: options that the tensors do not determine, such as `gamma`.

    Raises:
        CheckpointError: SimPool in parts, or layers of another kind.
    """
    own = {_convnext_name(key): key for key in weights.state}
    state = {name: weights.state[key] for name, key in own.items()}
    original = any(key.startswith("downsample_layers.") for key in weights.state)
    stages = range(count_of(state, "stages."))
    depths = [count_of(state, f"stages.{i}.blocks.") for i in stages]
    dims = []
    for name in (f"stages.{i}.blocks.0.conv_dw.weight" for i in stages):
        if name not in state:
            raise CheckpointError(f"{_original_name(name) if original else name} is missing")
        dims.append(state[name].shape[0])
    scaled = any(key.endswith(".gamma") for key in state)
    second = any(".mlp.grn." in key for key in state)
    stem = state.get("stem.0.weight")
    backbone: Any = ConvNeXt(
        in_chans=1 if stem is not None and stem.shape[1:2] == (1,) else 3,
        depths=tuple(depths),
        dims=tuple(dims),
        num_classes=0,
        ls_init_value=1e-6 if scaled else None,
        use_grn=second,
    )
    backbone.head = nn.Identity()
    names = {_original_name(name) if original else name: f"backbone.{name}" for name in backbone.state_dict()}
    names |= {key: f"backbone.{name}" for name, key in own.items()}
    norms = ("norm", "head.norm", "norm_output")
    norm = next((p for p in norms if {f"{p}.weight", f"{p}.bias"} & set(weights.state)), None)
    what = f"ConvNeXt{' V2' if second else ''} of {'-'.join(map(str, depths))} blocks, {dims[0]} to {dims[-1]} channels"
    head = "head.fc" if {"head.fc.weight", "head.fc.bias"} & set(weights.state) else "head"
    return _finish(what, backbone, weights, settings, names, head, norm)


def _convnext_name(key: str) -> str:
    """Translate the original name of a tensor into timm's; names that are timm's already are kept."""
    key = re.sub(r"^downsample_layers\.0\.", "stem.", key)
    key = re.sub(r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample.", key)
    key = re.sub(r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2.", key)
    key = key.replace(".grn.gamma", ".mlp.grn.weight").replace(".grn.beta", ".mlp.grn.bias")
    return re.sub(r"\.pwconv([12])\.", r".mlp.fc\1.", key.replace(".dwconv.", ".conv_dw."))


def _original_name(name: str) -> str:
    """Translate timm's name of a tensor into the original one."""
    name = re.sub(
        r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1.", re.sub(r"^stem\.", "downsample_layers.0.", name)
    )
    name = name.replace(".mlp.grn.weight", ".grn.gamma").replace(".mlp.grn.bias", ".grn.beta")
    return re.sub(r"\.mlp\.fc([12])\.", r".pwconv\1.", name.replace(".blocks.", ".").replace(".conv_dw.", ".dwconv."))


def _finish(
    what: str,
    backbone: nn.Module,
    weights: Weights,
    settings: LoadOptions,
    names: dict[str, str],
    head: str,
    norm: str | None,
) -> Parts:
    """Add pooling, norm and head to a CNN."""
    simpool = find_simpool(weights.state)
    dim = int(backbone.num_features)  # type: ignore[arg-type]
    pooling, notes = _pooling(weights, settings, simpool, dim)
    if simpool is not None:
        names |= {key: f"pooling.{name}" for key, name in simpool.names.items()}
    if norm is not None:
        names |= {f"{norm}.{part}": f"norm.{part}" for part in ("weight", "bias")}
    classifier = vits.linear_head(dict(weights.state), head, names)
    return Parts(
        weights.state, what, backbone, pooling, nn.LayerNorm(dim, eps=1e-6) if norm else None, classifier, names, notes
    )


def _pooling(
    weights: Weights, settings: LoadOptions, simpool: SimPoolTensors | None, dim: int
) -> tuple[Pooling, list[str]]:
    if simpool is None:
        return create_pooling("gap", dim), []
    gamma, notes = gamma_of(weights, settings, simpool, is_vit=False)
    return simpool.create(gamma), notes


def named(tag: str, weights: Weights, settings: LoadOptions) -> Parts:
    """Build a timm model by its tag, with its own pooling or SimPool in the place of it.

    Args:
        tag: timm's name of the model.
        weights: of the file, in timm's naming.
        settings: options that the tensors do not determine, such as `gamma`.

    Raises:
        CheckpointError: an unknown tag, a family that is not supported, or options that the tag answers.
    """
    from simpool_viz.checkpoints.formats.timm import encoder_from_timm
    from simpool_viz.modeling.encoder import Encoder, Facts

    if settings.num_heads or settings.pos_embed:
        option = "num_heads" if settings.num_heads else "pos_embed"
        raise CheckpointError(f"{option}= is for ViTs that are read by their tensors; timm's {tag} brings its own")
    asked, (tag, own_notes) = tag, _with_activation(tag, weights, settings)
    why = "asked for" if settings.arch else "config.json says" if weights.hints.arch else "its trainer wrote"
    args = _model_args(weights, settings)
    heads = {f"{name}.weight" for name in ("head", "fc", "head.fc", *_classifiers(tag))}
    if settings.grid and "patch_embed.proj.weight" in weights.state:
        args["img_size"] = tuple(n * weights.state["patch_embed.proj.weight"].shape[-1] for n in settings.grid)

    def built(state: dict[str, Tensor]) -> Encoder:
        classes = max((v.shape[0] for k, v in state.items() if k in heads), default=0)
        return encoder_from_timm(create_backbone(tag, **{**args, "num_classes": classes}), Facts(tag))

    encoder = built(weights.state)
    state, dropped, renamed = _in_timms_names(tag, encoder.backbone.state_dict(), weights.state)
    if renamed:
        weights, encoder = dataclasses.replace(weights, state=state), built(state)
    model, simpool = encoder.backbone, find_simpool(weights.state)
    own = model.state_dict()
    scales = vits.layer_scales_of_deit(weights.state) if "blocks.0.ls1.gamma" in own else {}
    names = {key: f"backbone.{scales.get(key, key)}" for key in weights.state if scales.get(key, key) in own}
    pooling, norm, notes = (
        encoder.pooling,
        encoder.norm,
        [*renamed, f"built as timm's {asked}, as {why}", *own_notes],
    )
    if simpool is not None:
        pooling, gamma_notes = _pooling(weights, settings, simpool, encoder.dim)
        notes += gamma_notes
        names |= {key: f"pooling.{name}" for key, name in simpool.names.items()}
    return Parts(state, f"timm {tag}", model, pooling, norm, encoder.head, names, notes, dropped)


def _in_timms_names(
    tag: str, own: Mapping[str, Tensor], state: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """The tensors of a timm model that stands behind a prefix, or whose classifier is the last of several layers.

    Args:
        tag: timm's name of the model.
        own: tensors of the model by timm's names, with or without a classifier.
        state: of the file.

    Returns:
        The tensors by timm's names, those that are left out, with the reason, and what was done, a sentence each.

    Raises:
        CheckpointError: there are several such models.
    """
    first, classifiers = next(iter(own)), _classifiers(tag)
    dropped: dict[str, str] = {}
    notes: list[str] = []
    if first not in state:
        prefixes = sorted({key.removesuffix(first) for key in state if key.endswith(f".{first}")}, key=rank)
        if not prefixes:
            return state, {}, []
        prefix = choose_prefix(prefixes, "", "it")
        state, dropped = take(state, prefix, prefixes)
        notes.append(f"the prefix {prefix} is taken from its names")
    layer = re.compile(rf"({'|'.join(map(re.escape, classifiers))}|{HEADS})((?:\.\d+)*)\.(?:weight|bias)")
    found = {key: m[1] + m[3] for key in state if key not in own and (m := layer.fullmatch(key))}
    linear = {name for key, name in found.items() if key.endswith(".weight") and state[key].ndim in (2, 4)}
    if len(classifiers) == 1 and len(linear) == 1 and linear != set(classifiers):
        (name,) = linear
        state = {
            f"{classifiers[0]}.{key.rpartition('.')[2]}" if found.get(key) == name else key: value
            for key, value in state.items()
        }
        notes.append(f"its classifier is {name}")
    return state, dropped, notes


def _classifiers(tag: str) -> tuple[str, ...]:
    """The names of a timm model's classifiers."""
    named_there = getattr(config_of(tag), "classifier", None) or ()
    return (named_there,) if isinstance(named_there, str) else tuple(named_there)


def _with_activation(tag: str, weights: Weights, settings: LoadOptions) -> tuple[str, list[str]]:
    """The model to build for a tag, which has QuickGELU where its weights were trained with it, and timm's notes."""
    from simpool_viz.checkpoints.formats.timm import notes_of, quick_variant

    hints = weights.hints
    full = tag if settings.arch or not hints.tag or "." in tag else f"{tag}.{hints.tag}"
    notes = list(notes_of(config_of(full)) if settings.arch else hints.notes)
    quick = quick_variant(full)
    if quick != full:
        return quick.partition(".")[0], [f"built as {quick}, since its weights were trained with QuickGELU", *notes]
    variant = tag.replace("_clip_", "_clip_quickgelu_")
    if "." not in full and variant != tag and "quickgelu" not in tag and timm.is_model(variant):
        notes.append(
            f"its MLPs have GELU, as {tag} has; for weights of OpenAI, which were trained with QuickGELU, name the "
            f"tag, as in arch={tag}.openai"
        )
    return tag, notes


def _model_args(weights: Weights, settings: LoadOptions) -> dict[str, Any]:
    """The arguments with which timm saved the model; those that fetch anything are not for a file of others.

    Raises:
        CheckpointError: one of them fetches.
    """
    given = {} if settings.arch else weights.hints.model_args
    fetching = [key for key in given if key.startswith("pretrained") or key in ("checkpoint_path", "cache_dir")]
    if fetching:
        raise CheckpointError(f"its model_args may not hold {', '.join(fetching)}: weights come from the file itself")
    numbers = [
        number for value in given.values() for number in (value if isinstance(value, (list, tuple)) else [value])
    ]
    if any(isinstance(number, (int, float)) and number > LARGEST_ARGUMENT for number in numbers):
        raise CheckpointError(f"its model_args hold numbers beyond {LARGEST_ARGUMENT:,}, which no published model has")
    if any(
        isinstance(n, (int, float)) and n > DEEPEST for key in ("depth", "depths", "layers") for n in _row(given, key)
    ):
        raise CheckpointError(f"its model_args ask for more than {DEEPEST} blocks, which no published model has")
    return {key: value for key, value in given.items() if key not in ("num_classes", "dynamic_img_size")}


def _row(given: dict[str, Any], key: str) -> list[Any]:
    value = given.get(key, [])
    return list(value) if isinstance(value, (list, tuple)) else [value]
