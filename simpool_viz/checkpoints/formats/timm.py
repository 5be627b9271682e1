"""Checkpoints named "timm:<tag>": any supported timm model, with its own pooling, norm, head and preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import NormMlpClassifierHead
from torch import nn

from simpool_viz.checkpoints.formats.preparation import config_of, imagenet_classes
from simpool_viz.errors import CheckpointError, DownloadError, SimpoolError
from simpool_viz.modeling.encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Encoder,
    Facts,
    check_backbone,
    has_class_attention,
    is_transformer,
)
from simpool_viz.modeling.layers.head_layers import HiddenLayer, NormOfVector, PointwiseLinear, TwoHeads
from simpool_viz.modeling.pooling import Pooling, create_pooling
from simpool_viz.modeling.pooling.own import BothTokens, OwnHead
from simpool_viz.modeling.spec import check_backbone_options, create_backbone
from simpool_viz.settings import Positive, check_arguments


def load_timm(tag: str, *, pretrained: bool = True, size: Positive | None = None, **kwargs: Any) -> Encoder:
    """Load a timm model as an encoder.

    Args:
        tag: as in `timm.create_model`.
        pretrained: fetch its weights from the Hugging Face hub (or its cache); random weights otherwise.
        size: shorter side in pixels at which its maps are best; by default that of its training.
        kwargs: for `timm.create_model`, such as depth.

    Raises:
        CheckpointError: an unknown tag, an unsupported family, or options that do not fit.
        DownloadError: weights that cannot be fetched.
        OptionError: an option of another kind than the model takes.
    """
    asked, tag = tag, quick_variant(tag)
    form = f"timm:{tag}: {{}}= takes"
    check_arguments(load_timm, {"pretrained": pretrained, "size": size}, form)
    check_backbone_options(tag, kwargs, form)
    try:
        model = create_backbone(tag, pretrained=pretrained, **kwargs)
    except SimpoolError:
        raise
    except TypeError as error:
        raise CheckpointError(f"timm:{tag} does not take these options: {', '.join(kwargs)} ({error})") from error
    except Exception as error:  # the hub client's own errors, of several libraries
        if kwargs and not pretrained:
            options = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
            raise CheckpointError(
                f"timm:{tag} cannot be built with {options} ({type(error).__name__}: {error})"
            ) from error
        if not pretrained:
            raise
        cause = f"{type(error).__name__}: {str(error).strip().partition('. ')[0]}"
        raise DownloadError(
            f"the weights of timm:{tag} could not be fetched from the Hugging Face hub ({cause}); "
            "check the network, or choose a bundled checkpoint"
        ) from error
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {}) or {}
    facts = Facts(
        name=f"timm:{asked}",
        title=tag,
        size=size or int(config.get("input_size", (3, 224, 224))[-1]),
        mean=_three(config.get("mean", IMAGENET_MEAN)),
        std=_three(config.get("std", IMAGENET_STD)),
        classes=imagenet_classes(int(getattr(model, "num_classes", 0))),
        source=f"timm {config.get('hf_hub_id') or tag}" + ("" if pretrained else ", random weights"),
        license=str(config.get("license") or "see the model card"),
    )
    return encoder_from_timm(model, facts).eval().requires_grad_(False)


def _three(values: Sequence[float]) -> tuple[float, ...]:
    """A mean or deviation for three channels, also where a model of one channel has one."""
    return tuple(values) * (3 if len(values) == 1 else 1)


def quick_variant(tag: str) -> str:
    """The tag whose model has QuickGELU, where a tag's weights were trained with it; else the tag itself.

    timm has both for OpenAI's weights, and notes at the plain one that its results differ.

    Args:
        tag: as in `timm.create_model`.
    """
    import timm

    config = config_of(tag)
    if config is None or not any("QuickGELU" in str(note) for note in notes_of(config)):
        return tag
    quick = f"{config.architecture.replace('_clip_', '_clip_quickgelu_')}.{config.tag}"
    return quick if timm.is_model(quick) and quick in timm.list_pretrained(f"{quick.partition('.')[0]}.*") else tag


def notes_of(config: Any) -> tuple[str, ...]:
    """The notes of a timm configuration, an object or a table."""
    notes = config.get("notes") if isinstance(config, dict) else getattr(config, "notes", None)
    return (notes,) if isinstance(notes, str) else tuple(str(note) for note in notes or ())


def encoder_from_timm(model: Any, facts: Facts) -> Encoder:
    """Split a complete timm model into backbone, pooling, norm and head; its logits stay the same.

    Args:
        model: with the weights that the encoder is to have.
        facts: name, preprocessing and classes.

    Raises:
        CheckpointError: an unsupported family, or a pooling inside the model that this project does not have.
    """
    check_backbone(model)
    if type(model).__name__ == "VisionTransformerDistilled":
        heads = TwoHeads(model.head, model.head_dist) if model.num_classes else None
        return Encoder(model, BothTokens(model.num_features), head=heads, facts=facts)
    norm: nn.Module | None = None
    head: nn.Module | None
    if is_transformer(model):
        pooling, norm, head = _transformer_pooling(model), model.fc_norm, model.head
    elif has_class_attention(model):
        pooling, head = _transformer_pooling(model), model.head
    else:
        pooling, norm, head = _split_feature_map(model)
    if isinstance(head, nn.Identity):
        head = None
    return Encoder(model, pooling, norm=norm, head=head, facts=facts)


# Between pooling and classifier these have a convolution, a norm or none, and a non-linearity.
_HIDDEN = ("GhostNet", "MobileNetV3", "RepGhostNet")

# The head of these is no mean of positions with layers after it, or has layers of its own kind.
_OWN_HEADS = ("HighPerfGpuNet", "MetaNeXt", "VGG")


def _split_feature_map(model: Any) -> tuple[Pooling, nn.Module | None, nn.Module]:
    """Pooling, norm and head of a model whose backbone gives a map of features."""
    top: Any = getattr(model, "head", None)
    family = type(model).__name__
    classifier = _as_linear(top.fc if family == "VisionTransformerSAM" else model.get_classifier())
    if family in _OWN_HEADS:
        return OwnHead(model, classifier), None, classifier
    pools = [getattr(model, "global_pool", None), getattr(top, "global_pool", None)]
    chosen = next((pool for pool in pools if isinstance(pool, nn.Module)), pools[0])
    pooling = _pooling_of(str(getattr(chosen, "pool_type", chosen)), model.num_features)
    if isinstance(top, NormMlpClassifierHead):
        if isinstance(top.pre_logits, nn.Identity):
            return pooling, NormOfVector(top.norm), classifier
        return pooling, HiddenLayer([top.norm], top.pre_logits), classifier
    if family in _HIDDEN:
        parts = [getattr(model, name, None) for name in ("conv_head", "norm_head", "act2")]
        return pooling, HiddenLayer([part for part in parts if part is not None]), classifier
    return pooling, None, classifier


def _as_linear(classifier: nn.Module) -> nn.Module:
    return PointwiseLinear(classifier) if isinstance(classifier, nn.Conv2d) else classifier


def _transformer_pooling(model: Any) -> Pooling:
    kind = model.global_pool or ("token" if getattr(model, "cls_token", None) is not None else "avg")
    if kind == "map":
        return create_pooling("latent", model.num_features, module=model.attn_pool)
    names = {"token": "cls", "avg": "gap", "max": "max"}
    if kind not in names or getattr(model, "pool_include_prefix", False):
        described = f"{kind!r} over prefix tokens too" if kind in names else repr(kind)
        raise CheckpointError(f"the model pools by {described}, which is not among {', '.join(names)}, map")
    return create_pooling(names[kind], model.num_features)


def _pooling_of(kind: str, width: int) -> Pooling:
    kind, names = kind or "avg", {"avg": "gap", "max": "max"}
    if kind not in names:
        raise CheckpointError(f"the model pools by {kind!r}, which is not among {', '.join(names)}")
    return create_pooling(names[kind], width)
