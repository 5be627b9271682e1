"""Heads of efficient-probing's code: `0.*` pooling, `1.*` BatchNorm, `2.*` linear, on the backbone of their training.

Linear probes have no pooling: `0.*` BatchNorm, `1.*` linear.

The released code trains them on tokens before or after the backbone's final norm, depending on how it loaded the
backbone, and with or without the class token among the patches. The settings of the training, where the file holds
them, say so; nothing else does.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simpool_viz.checkpoints.filling import fill
from simpool_viz.checkpoints.formats.containers import Weights
from simpool_viz.checkpoints.formats.parts import LoadOptions
from simpool_viz.checkpoints.formats.report import Report
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import Encoder, Facts, is_transformer
from simpool_viz.modeling.pooling import Pooled, Pooling, Tokens, create_pooling
from simpool_viz.modeling.pooling.released import released_pooling

BEFORE, AFTER = "before_norm", "after_norm"
# How the released code loads a backbone: names and flags for which its tokens come after the final norm. What is left
# runs through its own ViT, which never applies that norm; SimMIM's is not known.
NORMED_NAMES = ("capi", "dinov2", "dinov3", "aimv2", "franca")
NORMED_FLAGS = ("timm", "radio", "openclip")
NORMED_LOADERS = ("hub", "capi", "dinov3", "aimv2", "franca", "timm", "radio", "openclip")
ABMILP = "0.attention_pred"
# Tensors whose last axis is the width of the features, one for each kind of head.
WIDTHS = (
    "0.cls_token",
    f"{ABMILP}.0.weight",
    "0.wq.weight",
    "0.norm_patches.weight",
    "0.latent",
    "0.query_tokens",
    "0.query_token",
    "0.img_queries",
    "0.pos_embed",
    "0.dino_block.norm1.weight",
)
PROJECTED = ("openclip", "radio")  # loaders whose "_all" heads read other tokens than the backbone's


def build_probe(weights: Weights, base: Encoder | None, facts: Facts, settings: LoadOptions) -> tuple[Encoder, Report]:
    """Put a probing head on the backbone of another encoder.

    Args:
        weights: of the head.
        base: the encoder with the backbone that the head was trained on.
        facts: name and classes of the head.
        settings: options that the tensors do not determine: `tokens`, `num_heads`.

    Returns:
        The encoder, in evaluation mode, and the report.

    Raises:
        CheckpointError: no backbone, one of another width, a head of another kind, or one of which it is not known
            whether it reads tokens before or after the final norm.
    """
    if base is None:
        raise CheckpointError(
            f"{facts.name} is a probing head without a backbone; name the checkpoint it was trained on with backbone="
        )
    state = {re.sub(r"^0\.attention_predictor\.", "0.attention_pred.", key): v for key, v in weights.state.items()}
    if "0.running_mean" in state and "1.weight" in state:
        return _linear_probe(weights, state, base, facts, settings)
    if "2.weight" not in state:
        raise CheckpointError(f"{facts.name}: 2.weight, the classifier of a probing head, is missing")
    notes: list[str] = []
    pooling = _pooling(state, base.dim, weights.args, settings, facts.name, notes)
    norm = nn.BatchNorm1d(pooling.out_dim, affine=False, eps=1e-6) if "1.running_mean" in state else None
    head = nn.Linear(pooling.out_dim, state["2.weight"].shape[0])
    learned = nn.ModuleDict({"0": pooling, "1": norm or nn.Identity(), "2": head})
    fill(learned, state, facts.name, {key: key for key in state})
    learned.eval().requires_grad_(False)
    backbone = _backbone(base, weights.args, settings, facts.name, notes)
    if _features(weights.args).endswith("_all") and weights.args.get("abmilp_content") != "patch":
        pooling = _over_all(pooling, base, weights.args, facts.name, notes)
    return on_backbone(
        "probing head", weights, base, Encoder(backbone, pooling, norm=norm, head=head, facts=facts), notes
    )


def _linear_probe(
    weights: Weights, state: dict[str, Tensor], base: Encoder, facts: Facts, settings: LoadOptions
) -> tuple[Encoder, Report]:
    """A linear probe, `0.*` BatchNorm and `1.*` linear, of the class token or of the mean of the patches."""
    features = _features(weights.args)
    notes: list[str] = []
    if features not in ("cls", "pos", "gap"):
        raise CheckpointError(
            f"{facts.name} is a linear probe of {features or 'features that it does not name'}; those of the class "
            "token (cls_features=cls) and of the mean of the patches (pos) are read"
        )
    if features == "cls" and not base.has_class_token:
        raise CheckpointError(f"{facts.name} reads the class token, and {base.facts.name} has none")
    if features == "cls" and weights.args.get("timm") and base.num_prefix_tokens > 1:
        raise CheckpointError(
            f"{facts.name} reads the mean of the class token and the registers, for which there is no map"
        )
    pooling = create_pooling("cls" if features == "cls" else "gap", base.dim)
    norm = nn.BatchNorm1d(base.dim, affine=False, eps=1e-6)
    head = nn.Linear(base.dim, state["1.weight"].shape[0])
    learned = nn.ModuleDict({"0": norm, "1": head})
    fill(learned, state, facts.name, {key: key for key in state})
    learned.eval().requires_grad_(False)
    backbone = _backbone(base, weights.args, settings, facts.name, notes)
    return on_backbone(
        "probing head", weights, base, Encoder(backbone, pooling, norm=norm, head=head, facts=facts), notes
    )


def on_backbone(
    kind: str, weights: Weights, base: Encoder, encoder: Encoder, notes: Sequence[str]
) -> tuple[Encoder, Report]:
    """A head on the backbone of another encoder, with the preprocessing of that, and the report.

    Args:
        kind: of the head, for the report.
        weights: of the head.
        base: the encoder whose backbone it is.
        encoder: with the head, whose facts have its name, title, classes and source.
        notes: assumptions, a sentence each.

    Returns:
        The encoder, in evaluation mode, and the report.
    """
    own = encoder.facts
    encoder.facts = dataclasses.replace(
        base.facts,
        name=own.name,
        title=own.title,
        classes=own.classes,
        source=own.source,
        accuracy="",
        base=base.facts.name,
    )
    what, count = f"a {kind} on the backbone of {base.facts.name}", len(weights.state)
    report = Report(own.name, kind, what, encoder.pooling.title, weights.parameters, count, notes=tuple(notes))
    return encoder.eval(), report


def _backbone(
    base: Encoder, args: Mapping[str, Any], settings: LoadOptions, source: str, notes: list[str]
) -> nn.Module:
    """The base's backbone, without its final norm where the head was trained before it."""
    if is_transformer(base.backbone) and _reads(args, settings, source, notes) == BEFORE:
        return without_norm(base.backbone)
    return base.backbone


def _over_all(pooling: Pooling, base: Encoder, args: Mapping[str, Any], source: str, notes: list[str]) -> Pooling:
    """The pooling of an "_all" head: over the class token, as its loader gives it, and the patches."""
    if any(args.get(flag) or args.get("loader") == flag for flag in PROJECTED):
        raise CheckpointError(
            f"{source} reads tokens that open_clip or RADIO projects together with their summary, which a backbone "
            "here does not give; a head of patch tokens alone (without _all) is read"
        )
    if str(args.get("model")).startswith("aimv2"):
        return pooling  # whose wrapper gives the patches alone, since AIMv2 has no class token
    if not base.has_class_token:
        raise CheckpointError(f"{source} reads the class token, and {base.facts.name} has none")
    averaged = base.num_prefix_tokens > 1 and bool(args.get("timm") or args.get("loader") == "timm")
    what = "the mean of the class token and the registers" if averaged else "the class token"
    notes.append(f"it reads {what} with the patches, so its map sums to less than 1 over the patches")
    return with_class_token(pooling, averaged)


def _features(args: Mapping[str, Any]) -> str:
    return str(args.get("cls_features") or "")


def _reads(args: Mapping[str, Any], settings: LoadOptions, source: str, notes: list[str]) -> str:
    """Whether the head was trained on tokens before or after the final norm."""
    check_tokens(settings, source)
    if settings.tokens:
        return settings.tokens
    model, loader = str(args.get("model") or ""), args.get("loader")
    if model and not args.get("simmim") and loader != "simmim":
        normed = (
            model.startswith(NORMED_NAMES) or any(args.get(flag) for flag in NORMED_FLAGS) or loader in NORMED_LOADERS
        )
        notes.append(f"tokens {'after' if normed else 'before'} the final norm, as its training loaded {model}")
        return AFTER if normed else BEFORE
    raise CheckpointError(
        f"{source} does not say whether it was trained on tokens before or after the backbone's final norm, on which "
        f"its map depends: say tokens={BEFORE} (efficient-probing's own ViT: MAE, DINO, iBOT, MoCo v3, I-JEPA) or "
        f"tokens={AFTER} (its loaders of torch.hub, timm and open_clip)"
    )


def check_tokens(settings: LoadOptions, source: str) -> None:
    """Make sure that the option `tokens` says before or after the final norm, or nothing.

    Raises:
        CheckpointError: it says something else.
    """
    if settings.tokens not in ("", BEFORE, AFTER):
        raise CheckpointError(f"{source}: tokens= is {BEFORE} or {AFTER}, not {settings.tokens!r}")


def without_norm(backbone: nn.Module) -> nn.Module:
    """A ViT without its final norm, which shares all else with the one given.

    Args:
        backbone: stays as it is.
    """
    bare = copy.copy(backbone)
    bare._modules = dict(backbone._modules)  # a shallow copy shares the table of its parts
    bare.norm = nn.Identity()
    return bare


class _ClassTokenToo:
    """Mixed into a pooling: the class token is one more position, whose weight no map shows."""

    additive = False  # over the patches alone
    averaged = False  # whether it is the mean of all prefix tokens, as in efficient-probing's wrapper of timm

    def forward(self, tokens: Tokens) -> Pooled:
        first = tokens.prefix.mean(1, keepdim=True) if self.averaged else tokens.prefix[:, :1]
        joint = torch.cat([first, tokens.patches], dim=1)
        pooled: Pooled = super().forward(Tokens(joint, (1, joint.shape[1]), tokens.prefix[:, :0]))  # type: ignore[misc]
        rows = [None if part is None else part[..., 1:] for part in (pooled.weights, pooled.scores)]
        return Pooled(pooled.vector, *rows)


def with_class_token(pooling: Pooling, averaged: bool = False) -> Pooling:
    """The pooling, from now on over the class token and the patches.

    Args:
        pooling: changed in place.
        averaged: whether the mean of the class token and the registers stands for the class token.
    """
    own = type(pooling)
    pooling.__class__ = type(own.__name__, (_ClassTokenToo, own), {"averaged": averaged})
    return pooling


def _pooling(
    state: dict[str, Tensor],
    dim: int,
    args: Mapping[str, Any],
    settings: LoadOptions,
    source: str,
    notes: list[str],
) -> Pooling:
    """The pooling that the tensors `0.*` belong to."""
    width = next((state[key].shape[-1] for key in WIDTHS if key in state), dim)
    if width != dim:
        raise CheckpointError(
            f"{source} is a head for features of {width} channels, and the backbone has {dim}; choose the one it was "
            "trained on"
        )
    if f"{ABMILP}.0.weight" in state:
        return _abmilp(state, dim, args, source, notes)
    if "0.wq.weight" in state and "0.norm_patches.weight" in state:
        return create_pooling("simpool", dim, gamma=None)  # the released code gives it none
    told = args.get("num_heads")
    heads = settings.num_heads or (told if isinstance(told, int) and told > 0 else 0)
    if "0.cls_token" in state and "0.k.weight" in state:
        pooling = create_pooling("aim", dim, num_heads=heads or None)
    elif "0.cls_token" in state and "0.v.weight" in state:
        return create_pooling(
            "ep", dim, num_queries=state["0.cls_token"].shape[1], d_out=dim // state["0.v.weight"].shape[0]
        )
    else:
        own = {key.removeprefix("0."): value for key, value in state.items() if key.startswith("0.")}
        found = released_pooling(own, dim, heads)
        if found is None:
            raise CheckpointError(
                f"{source} is a probing head of another kind than efficient-probing's: its pooling holds "
                f"{', '.join(list(state)[:6])}"
            )
        pooling = found
    if not heads and pooling.name in ("aim", "probe_jepa"):
        notes.append(f"{pooling.num_heads} heads are assumed, which no tensor determines; else say num_heads=")
    return pooling


def _abmilp(state: Mapping[str, Tensor], dim: int, args: Mapping[str, Any], source: str, notes: list[str]) -> Pooling:
    layers = len([key for key in state if key.startswith(f"{ABMILP}.") and key.endswith(".weight")])
    attended = "none"
    if "0.pos_embed" in state:
        raise CheckpointError(f"{source} adds places to its scores (abmilp_cond=pe), which is not read")
    if "0.self_attn.qkv.weight" in state:
        attended = str(args.get("abmilp_sa") or "both")
        if not args.get("abmilp_sa"):
            notes.append("its self-attention is taken to act on scores and values, as is usual; the file does not say")
    activation = str(args.get("abmilp_act") or "tanh")
    if layers > 1 and not args.get("abmilp_act"):
        notes.append("its activation is taken to be tanh; the file does not say")
    if args.get("abmilp_content") == "patch" and not _features(args).endswith("_all"):
        raise CheckpointError(
            f"{source} leaves out its first patch (abmilp_content=patch without _all), which no map shows"
        )
    return create_pooling("abmilp", dim, depth=layers, activation=activation, self_attention=attended)
