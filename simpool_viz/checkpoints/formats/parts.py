"""What the recognisers of architectures share: the parts of an encoder, the settings, and SimPool's tensors by their
suffix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.pooling import Pooling, create_pooling

UNSET: Any = object()
AXES = {  # of the tensors from whose shapes a model's sizes are read
    r"(.*\.)?(conv\d|dwconv|conv_dw)\.weight|patch_embed\.proj\.weight": 4,
    r"(0\.)?cls_token|reg_token|register_tokens|pos_embed": 3,
    r"(.*\.)?(wq|wk|q|k)\.weight|blocks\.\d+\.mlp\.fc1\.weight": 2,
    r"(head|fc|head\.fc|2|0\.v|0\.attention_pred\.0)\.weight": 2,
    r"(head|fc|head\.fc)\.bias": 1,
}


@dataclass(frozen=True)
class LoadOptions:
    """Options of a load, see `formats.OPTIONS`. gamma: UNSET where the file is to say it."""

    arch: str = ""
    num_heads: int = 0
    gamma: Any = UNSET
    pos_embed: str = ""
    size: int = 0


@dataclass
class Parts:
    """An encoder before its weights.

    state: the tensors of the file. names: key of the file -> key of the encoder.
    """

    state: Mapping[str, Tensor]
    architecture: str
    backbone: nn.Module
    pooling: Pooling
    norm: nn.Module | None
    head: nn.Module | None
    names: dict[str, str]
    notes: list[str] = field(default_factory=list)

    def encoder(self, facts: Facts) -> Encoder:
        """Put together, as random as its parts are."""
        return Encoder(self.backbone, self.pooling, norm=self.norm, head=self.head, facts=facts)


@dataclass(frozen=True)
class SimPoolTensors:
    """Where SimPool's tensors lie in a file: key of the file -> key of the pooling. prefix: "" for older uploads."""

    names: dict[str, str]
    dim: int
    beta: bool
    timm: bool
    prefix: str

    def create(self, gamma: float | None) -> Pooling:
        """The pooling itself, with random weights."""
        if self.timm:
            return create_pooling("simpool", self.dim, gamma=gamma, beta=self.beta, min="channel", eps=1e-5)
        return create_pooling("simpool", self.dim, gamma=gamma, beta=self.beta)


def find_simpool(state: Mapping[str, Tensor]) -> SimPoolTensors | None:
    """SimPool's tensors by their suffix: `norm_patches.*`, `wq.weight`, `wk.weight`, `beta`; timm's `norm.*`,
    `q.weight`, `k.weight`.

    Raises:
        CheckpointError: more than one of a kind, or a part of them.
    """
    ours = {s: _ending(state, s) for s in ("norm_patches.weight", "norm_patches.bias", "wq.weight", "wk.weight")}
    timm = False
    if not any(ours.values()):
        roots = [
            key.removesuffix("q.weight")
            for key in _ending(state, "q.weight")
            if f"{key.removesuffix('q.weight')}k.weight" in state
        ]
        if not roots:
            return None
        timm = True
        parts = {
            "norm_patches.weight": "norm.weight",
            "norm_patches.bias": "norm.bias",
            "wq.weight": "q.weight",
            "wk.weight": "k.weight",
        }
        ours = {own: [root + name for root in roots if root + name in state] for own, name in parts.items()}
    for suffix, keys in ours.items():
        if len(keys) != 1:
            found = f"it has {len(keys)}: {', '.join(keys[:4])}" if keys else "it has none"
            raise CheckpointError(f"it has parts of SimPool, so it needs exactly one tensor {suffix}, and {found}")
    names = {keys[0]: suffix for suffix, keys in ours.items()}
    (query,) = ours["wq.weight"]
    prefix = query.removesuffix("q.weight" if timm else "wq.weight")
    betas = [key for key in _ending(state, "beta") if key == f"{prefix}beta"]
    names |= {key: "beta" for key in betas}
    return SimPoolTensors(names, state[query].shape[0], bool(betas), timm, prefix)


def _ending(state: Mapping[str, Tensor], suffix: str) -> list[str]:
    """Keys that are `suffix` or end in it after a dot; the blocks of a backbone are none of them."""
    return [
        k
        for k in state
        if (k == suffix or k.endswith(f".{suffix}")) and not k.startswith(("blocks.", "layer", "stages.", "attn_pool."))
    ]


def gamma_of(
    weights: Any, settings: LoadOptions, simpool: SimPoolTensors, is_vit: bool
) -> tuple[float | None, list[str]]:
    """SimPool's exponent and what was assumed: as asked for, else as the training script's settings say."""
    if settings.gamma is not UNSET:
        return settings.gamma, []
    args, teacher = weights.args, weights.where == "teacher"
    if args.get("mode") == "simpool":
        if is_vit and teacher:  # the teacher of the released code ignores args.gamma
            return (1.25 if simpool.beta else None), [
                f"gamma {'1.25' if simpool.beta else 'none'}, as the released teacher has it"
            ]
        if args.get("gamma") is not None:
            return float(args["gamma"]), [f"gamma {float(args['gamma']):g}, from the training's settings"]
        return None, ["gamma none, from the training's settings"]
    return None, [
        "gamma is not told by the file and taken as none, which changes vectors but no map; say gamma= if it was "
        "trained with one"
    ]


def check_axes(state: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors from which no size can be read.

    Raises:
        CheckpointError: one of them has another number of axes than its kind has, or holds nothing.
    """
    for key, value in state.items():
        axes = next((axes for names, axes in AXES.items() if re.fullmatch(names, key)), value.ndim)
        if value.ndim != axes or value.numel() == 0:
            raise CheckpointError(
                f"{source}: {key} has shape {tuple(value.shape)}, where {axes} axes of at least 1 are expected"
            )


def count_of(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many parts are numbered after `prefix`, such as "blocks.".

    Raises:
        CheckpointError: there is a gap among the numbers.
    """
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in state if key.startswith(prefix)}
    gap = next((n for n in range(len(numbers)) if str(n) not in numbers), None)
    if gap is not None:
        raise CheckpointError(f"{prefix}{gap} is missing")
    return len(numbers)
