"""Finds the weights in the file of a training script: its entry, without prefixes and without tensors of training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from simpool_viz.checkpoints.formats.parts import check_axes
from simpool_viz.checkpoints.reading import check_tensor
from simpool_viz.errors import CheckpointError

MOST_TENSORS = 10_000  # of a model; the deepest that are published have some 3,000


@dataclass(frozen=True)
class Weights:
    """The weights of a model.

    Attributes:
        state: tensors by their names in the model.
        family: kind of training script: "self-supervised", "supervised", "deit", "probe" or "plain".
        where: entry of the file that holds them; "" where they are the whole content.
        args: settings of the training script, where the file holds them.
        dropped: tensors that are not used, with the reason.
    """

    state: dict[str, Tensor]
    family: str
    where: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)


def find_weights(content: Any, source: str, which: str = "") -> Weights:
    """Find the weights in the content of a checkpoint.

    Args:
        content: from `read_file`.
        source: name of the file, for errors.
        which: another entry than the usual one, such as "student".

    Raises:
        CheckpointError: no weights, no such entry, or a tensor whose axes do not fit its layer.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{source} holds a {type(content).__name__}, not a table of tensors; it is no checkpoint of a model"
        )
    family, entry = _container(content, source)
    if which:
        if not isinstance(content.get(which), Mapping):
            raise CheckpointError(f"{source} holds no weights called {which!r}; it holds {_some(content)}")
        entry = which
    table: Any = content[entry] if entry else content
    if not isinstance(table, Mapping) or not table:
        raise CheckpointError(f"{source}: its entry {entry!r} is no table of tensors")
    if len(table) > MOST_TENSORS:
        raise CheckpointError(f"{source} holds {len(table):,} tensors; at most {MOST_TENSORS:,} are read as one model")
    state = {_name(key, source): check_tensor(key, value, source) for key, value in table.items()}
    state = _strip(state, "module.")
    if family == "self-supervised":
        state = _strip(state, "backbone.", others="head.")
    dropped = {key: reason for key in state for reason in [_why_dropped(key, family)] if reason}
    args = _settings(content.get("args")) if entry else {}
    if family in ("supervised", "deit") and any(re.fullmatch(r"0\..+", key) for key in state) and "2.weight" in state:
        family = "probe"
    kept = {k: v for k, v in state.items() if k not in dropped}
    check_axes(kept, source)
    return Weights(kept, family, entry, args, dropped)


def _container(content: Mapping[Any, Any], source: str) -> tuple[str, str]:
    """(family, entry that holds the weights)."""
    if "saved_module" in content:
        if content["saved_module"] not in ("head", "classifier"):
            raise CheckpointError(
                f"{source} holds the module {content['saved_module']!r} of an efficient-probing run, not its head; use "
                "the run's head file"
            )
        return "probe", "model"
    for entries, family in (
        (("teacher", "student"), "self-supervised"),
        (("state_dict_ema", "state_dict"), "supervised"),
    ):
        for entry in entries:
            if isinstance(content.get(entry), Mapping):
                return family, entry
    if isinstance(content.get("model"), Mapping):
        return "deit", "model"
    if any(isinstance(value, Tensor) for value in content.values()):
        return "plain", ""
    raise CheckpointError(f"{source} holds no weights that are known: it holds {_some(content)}")


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


def _strip(state: dict[str, Tensor], prefix: str, others: str = "") -> dict[str, Tensor]:
    """Remove a prefix that all keys have, except those that start with `others`."""
    if not any(key.startswith(prefix) for key in state):
        return state
    if not all(key.startswith(prefix) or (others and key.startswith(others)) for key in state):
        return state
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _why_dropped(key: str, family: str) -> str:
    if family == "self-supervised" and key.startswith("head."):
        return "projection head of the self-supervised training"
    if ".aux_bn." in key or key.startswith("aux_bn."):
        return "second half of split batch norm, used in training only"
    if key == "mask_token":
        return "stands for masked patches in training only"
    return ""


def _settings(args: Any) -> dict[str, Any]:
    if isinstance(args, Mapping):
        return dict(args)
    return dict(vars(args)) if hasattr(args, "__dict__") else {}
