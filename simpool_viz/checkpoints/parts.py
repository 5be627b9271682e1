"""What the recognisers of architectures share: the parts of an encoder, the settings, and SimPool's tensors by their suffix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from simpool_viz.pooling import Pooling, create_pooling

UNSET: Any = object()


@dataclass(frozen=True)
class Settings:
    """Options of a load, see `formats.OPTIONS`. gamma: UNSET where the file is to say it."""

    arch: str = ""
    num_heads: int = 0
    gamma: Any = UNSET
    pos_embed: str = ""
    size: int = 0


@dataclass
class Parts:
    """An encoder before its weights.

    names: key of the file -> key of the encoder. ignored: keys of the file that are not used, with the reason.
    """

    architecture: str
    backbone: nn.Module
    pooling: Pooling
    norm: nn.Module | None
    head: nn.Module | None
    names: dict[str, str]
    ignored: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


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


def find_simpool(state: Mapping[str, Tensor], source: str) -> SimPoolTensors | None:
    """SimPool's tensors by their suffix: `norm_patches.*`, `wq.weight`, `wk.weight`, `beta`; timm's `norm.*`, `q.weight`, `k.weight`.

    Raises:
        ValueError: more than one of a kind, or a part of them.
    """
    ours = {s: _ending(state, s) for s in ("norm_patches.weight", "norm_patches.bias", "wq.weight", "wk.weight")}
    timm = False
    if not any(ours.values()):
        roots = [key.removesuffix("q.weight") for key in _ending(state, "q.weight") if f"{key.removesuffix('q.weight')}k.weight" in state]
        if not roots:
            return None
        timm = True
        parts = {"norm_patches.weight": "norm.weight", "norm_patches.bias": "norm.bias", "wq.weight": "q.weight", "wk.weight": "k.weight"}
        ours = {own: [root + name for root in roots if root + name in state] for own, name in parts.items()}
    for suffix, keys in ours.items():
        if len(keys) != 1:
            found = f"it has {len(keys)}: {', '.join(keys[:4])}" if keys else "it has none"
            raise ValueError(f"{source} has parts of SimPool, so it needs exactly one tensor {suffix}, and {found}")
    names = {keys[0]: suffix for suffix, keys in ours.items()}
    (query,) = ours["wq.weight"]
    prefix = query.removesuffix("q.weight" if timm else "wq.weight")
    betas = [key for key in _ending(state, "beta") if key == f"{prefix}beta"]
    names |= {key: "beta" for key in betas}
    return SimPoolTensors(names, state[query].shape[0], bool(betas), timm, prefix)


def _ending(state: Mapping[str, Tensor], suffix: str) -> list[str]:
    """Keys that are `suffix` or end in it after a dot; the blocks of a backbone are none of them."""
    return [
        k for k in state if (k == suffix or k.endswith(f".{suffix}")) and not k.startswith(("blocks.", "layer", "stages.", "attn_pool."))
    ]


def gamma_of(weights: Any, settings: Settings, simpool: SimPoolTensors, is_vit: bool) -> tuple[float | None, list[str]]:
    """SimPool's exponent and what was assumed: as asked for, else as the training script's settings say."""
    if settings.gamma is not UNSET:
        return settings.gamma, []
    args, teacher = weights.args, weights.where == "teacher"
    if args.get("mode") == "simpool":
        if is_vit and teacher:  # the teacher of the released code ignores args.gamma
            return (1.25 if simpool.beta else None), [f"gamma {'1.25' if simpool.beta else 'none'}, as the released teacher has it"]
        if args.get("gamma") is not None:
            return float(args["gamma"]), [f"gamma {float(args['gamma']):g}, from the training's settings"]
        return None, ["gamma none, from the training's settings"]
    return None, [
        "gamma is not told by the file and taken as none, which changes vectors but no map; say gamma= if it was trained with one"
    ]
