"""Starting a training from another checkpoint's weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simpool_viz.checkpoints.bundle import folder_beside, load_bundle
from simpool_viz.errors import TrainingError
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.layers.life import life_of_qkv
from simpool_viz.modeling.layers.stem import STEM
from simpool_viz.modeling.sharing import is_of_trunk
from simpool_viz.training.recipe import Recipe, check_patterns, factor_of


@dataclass(frozen=True)
class Start:
    """The weights with which a training starts.

    Attributes:
        summary: which tensors were copied and which are new, in a sentence.
        stages: a line for each stage of the other checkpoint's own training.
        lent: the values of `Facts.stem`, or of `Facts.trunk` and `Facts.trunk_blocks`, that say which checkpoint holds
            the tensors of stem or trunk; {} where there are none, or where they were not copied completely.
    """

    summary: str
    stages: tuple[str, ...]
    lent: dict[str, Any]


def start_from(encoder: Encoder, name: str, folder: Path, trunk_blocks: int = 0) -> Start:
    """Copy into an encoder every tensor that another checkpoint has under the same name in the same shape.

    The tensors of a ResNet are also copied into the encoder's convolutional stem, and LIFE begins as the qkv projection
    in whose place it stands. A module is copied completely or not
    at all, so that no bias comes without its weight.

    Args:
        encoder: changed in place.
        name: of a bundled checkpoint, or of one in the parent of `folder`.
        folder: to which the training writes.
        trunk_blocks: number of the first blocks that stay frozen; 0 for no trunk.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        TrainingError: there is none of this name, or nothing of its backbone fits.
    """
    home = folder_beside(folder, name)
    if home is None:
        raise TrainingError(
            f"init_from: there is no checkpoint {name!r}, bundled or in {folder.parent}; train it first, into the same "
            "folder, or start from random weights with --set init_from=null"
        )
    other = load_bundle(home)
    own, given = encoder.state_dict(), other.state_dict()
    given |= {
        STEM + key.removeprefix("backbone."): value for key, value in given.items() if key.startswith("backbone.")
    }
    given |= _enhanced(own, given)
    misfits = {_module(key) for key, value in own.items() if key not in given or given[key].shape != value.shape}
    taken = {key: given[key] for key in own if _module(key) not in misfits}
    if not any(key.startswith("backbone.") for key in taken):
        raise TrainingError(
            f"init_from: nothing of the backbone of {name} has the names and shapes of this recipe's; choose another"
        )
    with torch.no_grad():
        encoder.load_state_dict(own | taken)
    new = [key for key in own if key not in taken]
    parts = sorted({".".join(key.split(".")[: 2 if key.startswith("backbone.") else 1]) for key in new})
    summary = f"started from `{name}`: {len(taken)} tensors taken" + (
        f"; new are {', '.join(parts)} ({len(new)})" if new else ""
    )
    return Start(summary, other.facts.stages or (f"those of {name}",), _lent(encoder, other, name, taken, trunk_blocks))


def draw_as_plain(encoder: Encoder, recipe: Recipe) -> None:
    """Give an encoder the pooling and the head that the recipe's seed draws where nothing stands inside its backbone.

    What stands inside draws numbers too, so that siblings with and without it begin with other poolings, and a SimPool
    whose projections learn slowly keeps the place where it began.

    Args:
        encoder: changed in place; of the recipe.
        recipe: of the training.
    """
    torch.manual_seed(recipe.seed)
    plain = replace(recipe.encoder, inside="", inside_options={}).build(encoder.facts)
    encoder.pooling.load_state_dict(plain.pooling.state_dict())
    if encoder.head is not None and plain.head is not None:
        encoder.head.load_state_dict(plain.head.state_dict())


def scale_tensors(encoder: Encoder, scales: Mapping[str, float]) -> None:
    """Multiply tensors by factors, before anything is learned.

    Args:
        encoder: changed in place.
        scales: as `Recipe.scales`; of several patterns that fit, the last one counts.

    Raises:
        TrainingError: a pattern that no parameter has.
    """
    own = dict(encoder.named_parameters())
    check_patterns("scales", scales, [*own])
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.mul_(factor_of(scales, name))


def _enhanced(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What LIFE begins with where the other checkpoint has a plain qkv projection."""
    made: dict[str, Tensor] = {}
    for key in own:
        qkv = key.removesuffix("scale1.weight")
        fits = qkv != key and f"{qkv}weight" in given and f"{qkv}bias" in given and f"{qkv}norm.weight" not in own
        if fits and given[f"{qkv}weight"].shape[0] == 3 * own[key].shape[0]:
            tensors = life_of_qkv(given[f"{qkv}weight"], given[f"{qkv}bias"])
            made |= {qkv + name: value for name, value in tensors.items()}
    return made


def _lent(encoder: Encoder, other: Encoder, name: str, taken: Collection[str], blocks: int) -> dict[str, Any]:
    """As `Start.lent`. taken: names of the tensors that were copied."""
    facts, own = other.facts, encoder.state_dict()
    if blocks:
        within = blocks <= facts.trunk_blocks
        if facts.base or (facts.trunk and not within):  # no one checkpoint holds all of it
            return {}
        whole = all(key in taken for key in own if is_of_trunk(key, blocks))
        return {"trunk": facts.trunk if within else name, "trunk_blocks": blocks} if whole else {}
    if encoder.has_stem and all(key in taken for key in own if key.startswith(STEM)):
        return {"stem": facts.stem if other.has_stem else facts.base or name}
    return {}


def _module(key: str) -> str:
    """The module that a tensor belongs to; tokens and position embeddings stand for themselves."""
    return key if key.endswith(("_token", "pos_embed")) else key.rpartition(".")[0]
