"""Shared by the recognisers of architectures: the parts of an encoder, options of loading, and SimPool's tensors."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from simpool_viz.errors import CheckpointError, OptionError
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.pooling import Pooling, create_pooling
from simpool_viz.settings import Number, Positive, checked, pairs_of, value_of

UNSET: Any = object()
ENTRIES = ("teacher", "student", "state_dict", "state_dict_ema", "model", "model_ema")
AXES = {  # of the tensors from whose shapes a model's sizes are read
    r"(.*\.)?(conv\d|dwconv|conv_dw)\.weight|patch_embed\.proj\.weight": 4,
    r"(0\.)?cls_token|dist_token|reg_token|register_tokens": 3,
    r"(.*\.)?(wq|wk|q|k)\.weight|blocks\.\d+\.mlp\.fc[12]\.weight": 2,
    r"(head|fc|head\.fc|2|0\.v|0\.attention_pred\.0)\.weight": 2,
    r"(head|fc|head\.fc)\.bias": 1,
}


# Beginnings of names of a backbone's blocks, among them those of CaiT's and XCiT's class attention, and of SigLIP's.
NOT_POOLING = ("blocks", "cls_attn_blocks.", "layer", "stages.", "attn_pool.")


def _path_text(given: Any) -> Any:
    return os.fspath(given) if isinstance(given, os.PathLike) else given


def _or_none(given: Any, check: ValidatorFunctionWrapHandler) -> float | None:
    try:
        return check(given)
    except ValidationError as error:
        raise PydanticCustomError("gamma", "a number or none") from error


def _three(given: Any) -> Any:
    """One number for all three colours, or three."""
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return (float(given),) * 3
    if isinstance(given, (list, tuple)) and len(given) in (0, 3):
        return tuple(given)
    raise PydanticCustomError("three", "a number, or three as in 0.5+0.5+0.5")


def _above_zero(given: tuple[float, ...]) -> tuple[float, ...]:
    if any(value <= 0 for value in given):
        raise PydanticCustomError("three", "numbers greater than 0")
    return given


def _none_or_two(given: tuple[int, ...]) -> tuple[int, ...]:
    if len(given) not in (0, 2):
        raise PydanticCustomError("two", "rows and columns, as in 16x8")
    return given


def _names_or_path(given: Any) -> Any:
    """The path of a file of names, or, in Python, the names themselves."""
    if isinstance(given, (str, os.PathLike)):
        return os.fspath(given)
    if isinstance(given, (list, tuple)) and all(isinstance(name, str) for name in given):
        return tuple(given)
    raise PydanticCustomError("classes", "a file's name, or a list of names")


Three = Annotated[tuple[Number, ...], BeforeValidator(_three)]


@dataclass(frozen=True)
class LoadOptions:
    """Options of loading a file; "", 0 and UNSET stand for those that were not given. Each has a `help` text."""

    weights: str = field(default="", metadata={"help": f"which entry of a training checkpoint: {', '.join(ENTRIES)}"})
    arch: str = field(
        default="", metadata={"help": "the timm tag of the backbone, where it is not recognised by its tensors"}
    )
    num_heads: Positive = field(default=0, metadata={"help": "of a ViT whose heads are not 64 channels wide"})
    gamma: Annotated[Number | None, WrapValidator(_or_none)] = field(
        default=UNSET, metadata={"help": "SimPool's exponent, which no state dict holds; none for no exponent"}
    )
    pos_embed: str = field(
        default="", metadata={"help": "how a ViT's position embedding is resized: timm, dino or transformers"}
    )
    grid: Annotated[tuple[Positive, ...], AfterValidator(_none_or_two)] = field(
        default=(), metadata={"help": "rows x columns of a ViT's position embedding where it is not square, as 16x8"}
    )
    size: Positive = field(default=0, metadata={"help": "shorter side in pixels at which its maps are best"})
    mean: Three = field(default=(), metadata={"help": "subtracted from RGB values in [0, 1]: 0.5 or 0.5+0.5+0.5"})
    std: Annotated[Three, AfterValidator(_above_zero)] = field(
        default=(), metadata={"help": "by which they are divided then"}
    )
    classes: Annotated[Any, BeforeValidator(_names_or_path)] = field(
        default="", metadata={"help": "a file with the names of its head's outputs, one a line or JSON"}
    )
    tokens: str = field(default="", metadata={"help": "on which a probing head was trained: before_norm or after_norm"})
    between: str = field(default="", metadata={"help": "the layers of a head on every token: relu or gelu"})
    backbone: Annotated[str, BeforeValidator(_path_text)] = field(
        default="", metadata={"help": "the checkpoint on whose backbone a probing or segmentation head goes"}
    )


_LOAD_OPTIONS = TypeAdapter(LoadOptions)
# Options whose values are names, so that none of them is taken for a number, a truth value or nothing.
_TEXTS = ("weights", "arch", "pos_embed", "backbone", "classes", "tokens", "between")


def read_load_options(options: Mapping[str, Any], source: str) -> LoadOptions:
    """Check the options of loading a file.

    Args:
        options: by name, as in Python or from `parse_options`.
        source: name of the file, for errors.

    Raises:
        OptionError: an unknown option, or a value of the wrong type or out of range.
    """
    known = dataclasses.fields(LoadOptions)
    if unknown := [key for key in options if key not in {option.name for option in known}]:
        listed = "; ".join(f"{option.name}: {option.metadata['help']}" for option in known)
        raise OptionError(f"{source}: a checkpoint file takes no option {', '.join(unknown)}. It takes {listed}")
    return checked(_LOAD_OPTIONS, dict(options), lambda fault: OptionError(f"{source}: {fault}"), "{}= takes")


def split_options(name: str) -> tuple[str, dict[str, Any]]:
    """Split a checkpoint's name from the options after its "?". The name of an existing file is not split.

    Args:
        name: such as "a.pth?gamma=2".

    Returns:
        The name alone, and the options with their types.

    Raises:
        OptionError: as in `parse_options`.
    """
    if Path(name).exists():
        return name, {}
    text, _, query = name.partition("?")
    return text, parse_options(query)


def parse_options(query: str) -> dict[str, Any]:
    """Options from the text behind the "?" of a name, "gamma=none&size=448" -> {"gamma": None, "size": 448}.

    Values are read by `settings.value_of`, except for those that are names. "%26" stands for an "&", "%25" for a "%".

    Raises:
        OptionError: one of them is not key=value, or is given twice.
    """
    pairs = pairs_of(query, "&", "a.pth?gamma=none&size=448")
    return {key: unquote(text) if key in _TEXTS else value_of(unquote(text)) for key, text in pairs.items()}


@dataclass
class Parts:
    """An encoder without its weights.

    Attributes:
        state: tensors of the file.
        architecture: a phrase that describes the backbone.
        backbone: the backbone.
        pooling: the pooling.
        norm: between pooling and head; None for none.
        head: linear classifier; None for none.
        names: key of the file -> key of the encoder.
        notes: assumptions, a sentence each.
        dropped: tensors of the file that are not used, beside those of `Weights`, with the reason.
        dense: whether the head gives class scores to every token.
    """

    state: Mapping[str, Tensor]
    architecture: str
    backbone: nn.Module
    pooling: Pooling
    norm: nn.Module | None
    head: nn.Module | None
    names: dict[str, str]
    notes: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    dense: bool = False

    def encoder(self, facts: Facts) -> Encoder:
        """Assemble the encoder, with the random weights of its parts."""
        return Encoder(self.backbone, self.pooling, norm=self.norm, head=self.head, facts=facts, dense=self.dense)


@dataclass(frozen=True)
class SimPoolTensors:
    """The tensors of SimPool in a file.

    Attributes:
        names: key of the file -> key of the pooling.
        dim: width D.
        beta: whether there is a learnable scalar that is added to the vector.
        timm: whether names and variant are those of timm's SimPool.
        prefix: of the keys; "" in older uploads.
    """

    names: dict[str, str]
    dim: int
    beta: bool
    timm: bool
    prefix: str

    def create(self, gamma: float | None) -> Pooling:
        """Make the pooling, with random weights and the exponent `gamma`."""
        if self.timm:
            return create_pooling("simpool", self.dim, gamma=gamma, beta=self.beta, min="channel", eps=1e-5)
        return create_pooling("simpool", self.dim, gamma=gamma, beta=self.beta)


def find_simpool(state: Mapping[str, Tensor]) -> SimPoolTensors | None:
    """Find the tensors of SimPool by the suffixes of their names.

    These are `norm_patches.*`, `wq.weight`, `wk.weight` and `beta`, or timm's `norm.*`, `q.weight` and `k.weight`.

    Args:
        state: tensors by name.

    Returns:
        The tensors, or None where there are none.

    Raises:
        CheckpointError: some are missing, or there are several of one kind.
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
    """Keys that are `suffix` or end in it after a dot, without those of a backbone's blocks."""
    return [k for k in state if (k == suffix or k.endswith(f".{suffix}")) and not k.startswith(NOT_POOLING)]


def gamma_of(
    weights: Any, settings: LoadOptions, simpool: SimPoolTensors, is_vit: bool
) -> tuple[float | None, list[str]]:
    """Determine SimPool's exponent, which no tensor holds, from the options or the training script's settings.

    Args:
        weights: the `containers.Weights` of the file.
        settings: the options.
        simpool: the tensors.
        is_vit: whether the backbone is a ViT.

    Returns:
        The exponent, None for no f, and the assumptions made, a sentence each.
    """
    if settings.gamma is not UNSET:
        return settings.gamma, []
    args, teacher = weights.args, weights.where == "teacher"
    if "simpool" in (args.get("mode"), args.get("gp")):
        if is_vit and teacher and args.get("mode") == "simpool":  # the teacher of the released code ignores args.gamma
            return (1.25 if simpool.beta else None), [
                f"gamma {'1.25' if simpool.beta else 'none'}, as the released teacher has it"
            ]
        if args.get("gamma") is not None:
            return float(args["gamma"]), [f"gamma {float(args['gamma']):g}, from the training's settings"]
        return None, ["gamma none, from the training's settings"]
    if simpool.beta:
        return None, [
            "gamma is not stated in the file and taken as none, though its beta exists only where there was one, so "
            "vectors and logits differ from the training's, and no map; say gamma="
        ]
    return None, [
        "gamma is not stated in the file and taken as none, which changes vectors but no map; say gamma= if it was "
        "trained with one"
    ]


def check_axes(state: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors from whose shapes no size can be read.

    Args:
        state: tensors by name.
        source: name of the file, for errors.

    Raises:
        CheckpointError: one of them has another number of axes than its kind has, or holds nothing.
    """
    for key, value in state.items():
        axes = next((axes for names, axes in AXES.items() if re.fullmatch(names, key)), value.ndim)
        pointwise = axes == 2 and value.ndim == 4 and value.shape[2:] == (1, 1)  # a convolution that is a linear layer
        if (value.ndim != axes and not pointwise) or value.numel() == 0:
            raise CheckpointError(
                f"{source}: {key} has shape {tuple(value.shape)}, where {axes} axes of at least 1 are expected"
            )


def count_of(state: Mapping[str, Tensor], prefix: str) -> int:
    """Count the parts that are numbered after a prefix.

    Args:
        state: tensors by name.
        prefix: such as "blocks.".

    Raises:
        CheckpointError: there is a gap among the numbers.
    """
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in state if key.startswith(prefix)}
    gap = next((n for n in range(len(numbers)) if str(n) not in numbers), None)
    if gap is not None:
        raise CheckpointError(f"{prefix}{gap} is missing")
    return len(numbers)
