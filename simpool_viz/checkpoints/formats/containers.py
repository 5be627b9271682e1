"""Finds the weights in the file of a training script: its entry, without prefixes and without tensors of training."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from simpool_viz.checkpoints.formats import clip, flax, meta, microsoft, torchvision, torchvision_cnns, transformers
from simpool_viz.checkpoints.formats.flax import as_torch
from simpool_viz.checkpoints.formats.hints import Hints, names_of, read_hints
from simpool_viz.checkpoints.formats.parts import check_axes
from simpool_viz.checkpoints.formats.prefixes import (
    choose_prefix,
    prefixes_of,
    take,
    unwrap,
    with_plain_head,
    without_deep_head,
    without_hidden_layer,
)
from simpool_viz.checkpoints.reading import check_tensor
from simpool_viz.errors import CheckpointError

# Names of heads on every token, each of a part of a model; what is found gets the first of them.
DENSE = "decode_head."
DENSE_NAMES = (
    r"(?:.*\.)?(decode_head|decoder\.head|classifier\.classifier|seg(?:mentation|menter)?_(?:head|classifier))\."
)
AUXILIARY = r"(?:.*\.)?(auxiliary_head|aux_head)\."
DECODERS = r"(?:.*\.)?(\w*decoder|decoder_\w+|neck|fpn)\."
LARGEST_SIDE = 2048  # pixels of a training's pictures
MOST_TENSORS = 10_000  # of a model; the deepest that are published have some 3,000
NAMINGS = (*transformers.NAMINGS, *torchvision.NAMINGS, *meta.NAMINGS, *microsoft.NAMINGS, *flax.NAMINGS, *clip.NAMINGS)
OTHER_ENTRIES = (
    *("model_ema", "ema", "model_state_dict", "model_state", "state", "net", "network", "weights", "params", "module"),
    *("target_encoder", "encoder", "backbone"),  # I-JEPA evaluates the first of them
)
# Of ResNets for CIFAR, as their trainers normalise it.
CIFAR = Hints(
    "CIFAR-10, since it is a ResNet for CIFAR", mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.201), size=32
)
SETTINGS = ("args", "meta", "hyper_parameters")  # the last are Lightning's
CLASSES = ("class_to_idx", "idx_to_class", "classes", "class_names", "label_names", "id2label")


@dataclass(frozen=True)
class Weights:
    """The weights of a model.

    Attributes:
        state: tensors by their names in timm's model.
        family: kind of training script: "self-supervised", "supervised", "deit", "lightning", "training" or "plain";
            "probe" and "dense" for heads without a backbone, of a probing and on every token.
        where: entry of the file that holds them; "" where they are the whole content.
        args: settings of the training script, where the file holds them.
        dropped: tensors that are not used, with the reason.
        hints: what the file or its origin says of the model.
        notes: what was done to the names, a sentence each.
    """

    state: dict[str, Tensor]
    family: str
    where: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    hints: Hints = field(default_factory=Hints)
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of values of its floating-point tensors."""
        return sum(value.numel() for value in self.state.values() if value.is_floating_point())


def find_weights(content: Any, source: str, which: str = "", hints: Hints | None = None) -> Weights:
    """Find the weights in the content of a checkpoint.

    Args:
        content: from `read_file`.
        source: name of the file, for errors.
        which: another entry than the usual one, such as "student", or a part of the names of one of several models.
        hints: what accompanies the file.

    Raises:
        CheckpointError: no weights, no such entry, or a tensor whose axes do not fit its layer.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{source} holds a {type(content).__name__}, not a table of tensors; it is no checkpoint of a model"
        )
    hints = (hints or Hints()).over(_own_hints(content, source)).over(meta.hints_of_name(source))
    family, entry = _container(content, source)
    inner = which
    if which and isinstance(content.get(which), Mapping):
        entry, inner = which, ""
    table: Any = content[entry] if entry else content
    if not isinstance(table, Mapping) or not table:
        raise CheckpointError(f"{source}: its entry {entry!r} is no table of tensors")
    if len(table) > MOST_TENSORS:
        raise CheckpointError(f"{source} holds {len(table):,} tensors; at most {MOST_TENSORS:,} are read as one model")
    entries = {_name(key, source): value for key, value in table.items() if entry or not _is_note(key, value)}
    state = {key: check_tensor(key, value, source) for key, value in entries.items()}
    args = _settings(next((content[key] for key in SETTINGS if key in content), None)) if entry else {}
    hints = hints.over(_hints_of_training(content, args, source)) if entry else hints
    if family in ("supervised", "deit", "lightning", "training") and _is_probe(state):
        family = "probe"
    if family == "probe":
        state = _strip(state, "module.")
        check_axes(state, source)
        return Weights(state, family, entry, args, {}, hints)
    return _of_model(state, source, inner, Weights({}, family, entry, args, {}, hints), content)


def _of_model(
    state: dict[str, Tensor], source: str, which: str, weights: Weights, content: Mapping[Any, Any]
) -> Weights:
    """The weights of a model by timm's names, without prefixes and parts of its training."""
    notes: list[str] = []
    hints, family = weights.hints, weights.family
    if any("/" in key for key in state):
        state, heads = as_torch(state)
        hints = hints.over(Hints(num_heads=heads))
    state, wrapped = unwrap(state)
    state, dense, dropped_heads = _split_dense(state)
    if not state:
        check_axes(dense, source)
        return dataclasses.replace(weights, state=dense, family="dense", dropped=dropped_heads)
    prefixes = prefixes_of(state)
    if which and not any(which in prefix.split(".") or which == prefix.rstrip(".") for prefix in prefixes):
        raise CheckpointError(f"{source} holds no weights called {which!r}; it holds {_some(content)}")
    prefix = choose_prefix(prefixes, which, source) if prefixes and (which or prefixes != [""]) else ""
    removed = ", ".join(part for part in (wrapped, prefix) if part and part != "module.")
    if removed and family != "self-supervised":
        notes.append(f"the prefix {removed} is taken from its names")
    whole = state
    state, dropped = take(state, prefix, prefixes)
    dropped |= dropped_heads
    if {"base_encoder", "momentum_encoder"} & set(prefix.split(".")) and _width(state) == 384:
        hints = hints.over(Hints(num_heads=12))  # MoCo v3's ViT-S
    if "layer1.0.conv1.weight" in state and state.get("conv1.weight", Tensor()).shape[1:] == (3, 3, 3):
        hints = hints.over(CIFAR)
    if family == "self-supervised":
        head = [key for key in state if key.startswith("head.")]
        dropped |= dict.fromkeys(head, "projection head of the self-supervised training")
        state = {key: value for key, value in state.items() if key not in head}
    naming = next((naming for naming in NAMINGS if naming.fits(state)), None)
    if naming is not None:
        state, others = naming.translate(state)
        dropped |= others
        hints = hints.over(naming.hints)
        notes.append(f"read by the names of {naming.title}")
        if naming is clip.VIT:
            act, note = clip.activation(whole, weights.hints.act)
            hints, notes = hints.over(Hints(act=act)), [*notes, note]
    if torchvision_cnns.family_of(state):
        hints = hints.over(torchvision_cnns.HINTS)
        if torchvision_cnns.family_of(state) == "googlenet":
            dropped |= torchvision_cnns.auxiliary(state)
        notes.append("read by the names of torchvision's CNNs")
    elif prefixes:
        for without in (without_hidden_layer, without_deep_head):
            state, left_out = without(state)
            dropped |= left_out
        state = with_plain_head(state)
    dropped |= {key: reason for key in state for reason in [_why_dropped(key)] if reason}
    kept = {k: v for k, v in state.items() if k not in dropped}
    if len(kept) == 0:
        kept = whole
    kept = kept | dense
    check_axes(kept, source)
    return dataclasses.replace(weights, state=kept, dropped=dropped, hints=hints, notes=tuple(notes))


def _split_dense(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """The tensors of a model, those of a head on every token, whose names then begin with `DENSE`, and those of heads
    that are not read, with the reason."""
    own = {key: match for key in state if (match := re.match(DENSE_NAMES, key))}
    if any(match[1] == "classifier.classifier" for match in own.values()) and not any(
        state[key].ndim == 4 for key in own
    ):
        return state, {}, {}  # a classifier of pictures in a training's module of that name
    dense = {DENSE + key[match.end() :]: state[key] for key, match in own.items()}
    if not own or len(dense) != len(own):
        return state, {}, {}
    rest = {key: value for key, value in state.items() if key not in own}
    left_out = {key: "a second head, used in training only" for key in rest if re.match(AUXILIARY, key)}
    rest = {key: value for key, value in rest.items() if key not in left_out}
    if decoder := [key for key in rest if re.match(DECODERS, key)]:
        left_out |= dict.fromkeys((*decoder, *own), "a head on what a decoder makes of the tokens, not on the tokens")
        return {key: value for key, value in rest.items() if key not in left_out}, {}, left_out
    return rest, dense, left_out


def _width(state: Mapping[str, Tensor]) -> int:
    return state["patch_embed.proj.weight"].shape[0] if "patch_embed.proj.weight" in state else 0


def _is_probe(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of a pooling, a norm and a linear layer in a row, or of the last two."""
    names = {key.removeprefix("module.") for key in state}
    if names == {"0.running_mean", "0.running_var", "0.num_batches_tracked", "1.weight", "1.bias"}:
        return True
    return "2.weight" in names and any(name.startswith("0.") for name in names)


def _container(content: Mapping[Any, Any], source: str) -> tuple[str, str]:
    """(family, entry that holds the weights)."""
    if "saved_module" in content:
        if content["saved_module"] not in ("head", "classifier"):
            raise CheckpointError(
                f"{source} holds the module {content['saved_module']!r} of an efficient-probing run, not its head; use "
                "the run's head file"
            )
        return "probe", "model"
    lightning = any(isinstance(key, str) and key.startswith("pytorch-lightning") for key in content)
    for entries, family in (
        (("teacher", "student"), "self-supervised"),
        (("state_dict_ema", "state_dict"), "lightning" if lightning else "supervised"),
        (("model",), "deit"),
        (OTHER_ENTRIES, "training"),
    ):
        for entry in entries:
            if isinstance(content.get(entry), Mapping) and _has_tensors(content[entry]):
                return family, entry
    if any(isinstance(value, Tensor) for value in content.values()):
        return "plain", ""
    for entries, family in (
        (("teacher", "student"), "self-supervised"),
        (("state_dict_ema", "state_dict"), "supervised"),
        (("model",), "deit"),
    ):
        for entry in entries:
            if isinstance(content.get(entry), Mapping):
                return family, entry
    raise CheckpointError(f"{source} holds no weights that are known: it holds {_some(content)}")


def _has_tensors(table: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in table.values())


def _is_note(key: Any, value: Any) -> bool:
    """Whether an entry beside the tensors of a plain state dict is a remark, such as an epoch or the classes."""
    return key in (*CLASSES, "epoch", "version", "arch", "args") and not isinstance(value, Tensor)


def _own_hints(content: Mapping[Any, Any], source: str) -> Hints:
    """The classes that a file names itself."""
    for key in CLASSES:
        if content.get(key) and isinstance(content[key], (Mapping, list, tuple)):
            return Hints(f"{source}'s {key}", classes=names_of(content[key], f"{source}: {key}"))
    return Hints()


def _hints_of_training(content: Mapping[Any, Any], args: Mapping[str, Any], source: str) -> Hints:
    """What a trainer's settings say of its pictures, as timm's writes them, and the name of the model."""
    name = content.get("arch") if "version" in content else None  # timm's trainer writes both
    table: dict[str, Any] = {"trained": name} if isinstance(name, str) and name else {}
    for key in ("mean", "std"):
        value = args.get(key)
        if isinstance(value, (list, tuple)) and len(value) == 3 and all(_is_share(v) for v in value):
            table[key] = tuple(float(v) for v in value)
    sizes = (args.get(key) for key in ("img_size", "image_size", "input_size"))
    sides = [size[-1] if isinstance(size, (list, tuple)) and size else size for size in sizes]
    if found := [side for side in sides if isinstance(side, int) and 0 < side <= LARGEST_SIDE]:
        table["size"] = found[0]
    for key in [key for key in CLASSES if args.get(key)]:
        with suppress(CheckpointError):  # settings of that name may mean something else
            table["classes"] = names_of(args[key], source)
    if isinstance(args.get("interpolation"), str):
        table["interpolation"] = args["interpolation"]
    if args.get("pos_embed") in ("timm", "dino"):  # as our own training writes it; of others it means something else
        table["pos_embed"] = args["pos_embed"]
    try:
        return read_hints(table | {"source": "the settings of its training"}, source)
    except CheckpointError:  # of another trainer, whose settings mean something else
        return Hints()


def _is_share(value: Any) -> bool:
    """Whether a mean or deviation is one of values in [0, 1], and not in [0, 255]."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _some(content: Mapping[Any, Any]) -> str:
    keys = [key if _is_text(key) else f"a {type(key).__name__}" for key in content]
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "") if keys else "nothing"


def _is_text(key: Any) -> bool:
    """Whether a key can be shown: pickles also hold half characters, which no page takes, and tuples without end."""
    return isinstance(key, str) and not any("\ud800" <= sign <= "\udfff" for sign in key)


def _name(key: Any, source: str) -> str:
    if not _is_text(key):
        raise CheckpointError(f"{source}: the name of a tensor is no text that can be shown; the file is damaged")
    return str(key)


def _strip(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove a prefix that all keys have."""
    if not all(key.startswith(prefix) for key in state):
        return state
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _why_dropped(key: str) -> str:
    if ".aux_bn." in key or key.startswith("aux_bn."):
        return "second half of split batch norm, used in training only"
    if key in ("mask_token", "masked_embed"):  # iBOT's has the other name
        return "stands for masked patches in training only"
    if key.startswith("lm_head."):
        return "predicts what stands in masked patches, in training only"
    return ""


def _settings(args: Any) -> dict[str, Any]:
    if isinstance(args, Mapping):
        return dict(args)
    return dict(vars(args)) if hasattr(args, "__dict__") else {}
