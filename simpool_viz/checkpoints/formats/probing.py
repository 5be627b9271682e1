"""Heads of efficient-probing's code: `0.*` pooling, `1.*` BatchNorm, `2.*` linear, on the backbone of their training.

The released code trains them on tokens before or after the backbone's final norm, depending on how it loaded the
backbone, and with or without the class token among the patches. The settings of the training, where the file holds
them, say so; nothing else does.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from simpool_viz.checkpoints.filling import fill
from simpool_viz.checkpoints.formats.containers import Weights
from simpool_viz.checkpoints.formats.parts import LoadOptions
from simpool_viz.checkpoints.formats.recognise import Report
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import Encoder, Facts, is_transformer
from simpool_viz.modeling.pooling import Pooled, Pooling, Tokens, create_pooling

BEFORE, AFTER = "before_norm", "after_norm"
# How the released code loads a backbone: names and flags for which its tokens come after the final norm. What is left
# runs through its own ViT, which never applies that norm; SimMIM's is not known.
NORMED_NAMES = ("capi", "dinov2", "dinov3", "aimv2", "franca")
NORMED_FLAGS = ("timm", "radio", "openclip")
NORMED_LOADERS = ("hub", "capi", "dinov3", "aimv2", "franca", "timm", "radio", "openclip")
ABMILP = "0.attention_pred"


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
    if "2.weight" not in state:
        raise CheckpointError(f"{facts.name}: 2.weight, the classifier of a probing head, is missing")
    notes: list[str] = []
    pooling = _pooling(state, base.dim, weights.args, settings, facts.name, notes)
    norm = nn.BatchNorm1d(pooling.out_dim, affine=False, eps=1e-6) if "1.running_mean" in state else None
    head = nn.Linear(pooling.out_dim, state["2.weight"].shape[0])
    learned = nn.ModuleDict({"0": pooling, "1": norm or nn.Identity(), "2": head})
    fill(learned, state, facts.name, {key: key for key in state})
    learned.eval().requires_grad_(False)
    facts = dataclasses.replace(
        base.facts, name=facts.name, title=facts.title, classes=facts.classes, source=facts.source, accuracy=""
    )
    backbone = base.backbone
    if is_transformer(backbone) and _reads(weights.args, settings, facts.name, notes) == BEFORE:
        backbone = without_norm(backbone)
    if _features(weights.args).endswith("_all") and weights.args.get("abmilp_content") != "patch":
        if not base.has_class_token:
            raise CheckpointError(f"{facts.name} reads the class token, and {base.facts.name} has none")
        pooling = with_class_token(pooling)
        notes.append("it reads the class token with the patches, so its map sums to less than 1 over the patches")
    encoder = Encoder(backbone, pooling, norm=norm, head=head, facts=dataclasses.replace(facts, base=base.facts.name))
    what = f"a probing head on the backbone of {base.facts.name}"
    count = sum(value.numel() for value in state.values() if value.is_floating_point())
    return encoder.eval(), Report(
        facts.name, "probing head", what, pooling.title, count, len(state), notes=tuple(notes)
    )


def _features(args: Mapping[str, Any]) -> str:
    return str(args.get("cls_features") or "")


def _reads(args: Mapping[str, Any], settings: LoadOptions, source: str, notes: list[str]) -> str:
    """Whether the head was trained on tokens before or after the final norm."""
    if settings.tokens not in ("", BEFORE, AFTER):
        raise CheckpointError(f"{source}: tokens= is {BEFORE} or {AFTER}, not {settings.tokens!r}")
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

    def forward(self, tokens: Tokens) -> Pooled:
        joint = torch.cat([tokens.prefix[:, :1], tokens.patches], dim=1)
        pooled: Pooled = super().forward(Tokens(joint, (1, joint.shape[1]), tokens.prefix[:, :0]))  # type: ignore[misc]
        rows = [None if part is None else part[..., 1:] for part in (pooled.weights, pooled.scores)]
        return Pooled(pooled.vector, *rows)


def with_class_token(pooling: Pooling) -> Pooling:
    """The pooling, from now on over the class token and the patches."""
    own = type(pooling)
    pooling.__class__ = type(own.__name__, (_ClassTokenToo, own), {})
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
    signs = ("0.cls_token", f"{ABMILP}.0.weight", "0.wq.weight")
    width = next((state[key].shape[-1] for key in signs if key in state), dim)
    if width != dim:
        raise CheckpointError(
            f"{source} is a head for features of {width} channels, and the backbone has {dim}; choose the one it was "
            "trained on"
        )
    if f"{ABMILP}.0.weight" in state:
        return _abmilp(state, dim, args, source, notes)
    if "0.wq.weight" in state and "0.norm_patches.weight" in state:
        return create_pooling("simpool", dim, gamma=None)  # the released code gives it none
    if "0.cls_token" in state and "0.k.weight" in state:
        told = args.get("num_heads")
        heads = settings.num_heads or (told if isinstance(told, int) and told > 0 else None)
        pooling = create_pooling("aim", dim, num_heads=heads)
        if heads is None:
            notes.append(f"{pooling.num_heads} heads are assumed, which no tensor determines; else say num_heads=")
        return pooling
    if "0.cls_token" in state and "0.v.weight" in state:
        return create_pooling(
            "ep", dim, num_queries=state["0.cls_token"].shape[1], d_out=dim // state["0.v.weight"].shape[0]
        )
    raise CheckpointError(
        f"{source} is a probing head of another kind than EP, AIM, ABMILP and SimPool: its pooling holds "
        f"{', '.join(list(state)[:6])}"
    )


def _abmilp(state: Mapping[str, Tensor], dim: int, args: Mapping[str, Any], source: str, notes: list[str]) -> Pooling:
    layers = len([key for key in state if key.startswith(f"{ABMILP}.") and key.endswith(".weight")])
    attended = "none"
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
