"""Heads that give class scores to every token, for segmentation, in a file with their backbone or in one of their own.

Read are linear layers and 1 x 1 convolutions, alone or several in a row, with batch norms: the linear decoder of
Segmenter (`decoder.head`), the heads of DINOv2's segmentation (`decode_head.bn`, `decode_head.conv_seg`), and those of
transformers models with a linear classifier of patches (`classifier.classifier`). What is around them, pyramids and
mask transformers, mixes tokens, so that no token would have scores of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from simpool_viz.checkpoints.formats.containers import DENSE
from simpool_viz.checkpoints.formats.parts import LoadOptions, Parts
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.layers.head_layers import TokenBatchNorm
from simpool_viz.modeling.pooling import create_pooling

BETWEEN = {"relu": nn.ReLU, "gelu": nn.GELU}
WHOLE = "the classifier of the whole picture, in whose place stands the head on every token"
EPS = 1e-5  # of PyTorch's batch norms


@dataclass(frozen=True)
class _Layer:
    """A layer of a head: its name in the file, and the channels that it reads and writes."""

    name: str
    reads: int
    writes: int
    norm: bool


def dense_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a head on tokens, as `find_weights` names them.

    Args:
        state: of a file.
    """
    return {key: value for key, value in state.items() if key.startswith(DENSE)}


def outputs_of(state: Mapping[str, Tensor]) -> int:
    """Number of classes of the head on tokens in a file; 0 where there is none, or none that is read."""
    layers = _layers(dense_tensors(state))
    return layers[-1].writes if isinstance(layers, list) and layers else 0


def put_on(parts: Parts, own: Mapping[str, Tensor], settings: LoadOptions) -> None:
    """Give the parts of an encoder the head on tokens that their file holds, where it can be read; else say why not.

    Args:
        parts: changed in place.
        own: the tensors of the head, from `dense_tensors`.
        settings: options: `between`.

    Raises:
        CheckpointError: `between` is no activation that is known.
    """
    width = int(parts.backbone.num_features)  # type: ignore[arg-type]
    head = read_dense_head(own, width, settings)
    if isinstance(head, str):
        parts.dropped |= dict.fromkeys(own, head)
        return
    module, names = head
    replaced = [key for key, target in parts.names.items() if target.startswith(("head.", "norm."))]
    parts.dropped |= {key: WHOLE for key in replaced if key in parts.state}
    parts.state = {key: value for key, value in parts.state.items() if key not in replaced} | dict(own)
    parts.names = {key: target for key, target in parts.names.items() if key not in replaced}
    parts.names |= {key: f"head.{target}" for key, target in names.items()}
    parts.head, parts.dense, parts.norm = module, True, None
    if parts.pooling.out_dim != width:  # two class tokens beside each other, for a classifier
        parts.pooling = create_pooling("gap", width)
    parts.notes.append("its head gives class scores to every patch token, after the final norm")


Head = tuple[nn.Module, dict[str, str]]


def read_dense_head(own: Mapping[str, Tensor], dim: int, settings: LoadOptions) -> Head | str:
    """Make a head on tokens.

    Args:
        own: its tensors by name.
        dim: channels of the tokens that it reads.
        settings: options: `between`.

    Returns:
        The head, still without its weights, and the key of the file -> key of the head; or the reason why it is not
        read.

    Raises:
        CheckpointError: `between` is no activation that is known.
    """
    layers = _layers(own)
    if isinstance(layers, str):
        return layers
    if layers[0].reads != dim:
        return (
            f"its head reads {layers[0].reads} channels, and the backbone gives {dim}; heads on the tokens of several "
            "blocks, or on a class token beside each patch, are not read"
        )
    linear = [layer for layer in layers if not layer.norm]
    if settings.between and settings.between not in BETWEEN:
        raise CheckpointError(f"between= is {' or '.join(BETWEEN)}, not {settings.between!r}")
    if len(linear) > 1 and not settings.between:
        options = " or ".join(f"between={name}" for name in BETWEEN)
        return f"a head of {len(linear)} layers on every token, and no tensor says what is between them: say {options}"
    modules: list[nn.Module] = []
    names: dict[str, str] = {}
    for layer in layers:
        if layer in linear[1:]:
            modules.append(BETWEEN[settings.between]())
        names |= {
            key: f"{len(modules)}.{key.rpartition('.')[2]}" for key in own if key.rpartition(".")[0] == layer.name
        }
        biased = f"{layer.name}.bias" in own
        modules.append(
            TokenBatchNorm(layer.reads, eps=EPS, affine=biased)
            if layer.norm
            else nn.Linear(layer.reads, layer.writes, bias=biased)
        )
    if len(modules) == 1:
        return modules[0], {key: name.partition(".")[2] for key, name in names.items()}
    return nn.Sequential(*modules), names


def _layers(own: Mapping[str, Tensor]) -> list[_Layer] | str:
    """The layers of a head in the order in which they run, or the reason why it is not read."""
    layers: list[_Layer] = []
    for name in sorted(dict.fromkeys(key.rpartition(".")[0] for key in own), key=_place):
        weight = own.get(f"{name}.weight")
        if f"{name}.running_mean" in own:
            width = len(own[f"{name}.running_mean"])
            layers.append(_Layer(name, width, width, True))
        elif weight is not None and (weight.ndim == 2 or (weight.ndim == 4 and weight.shape[2:] == (1, 1))):
            layers.append(_Layer(name, weight.shape[1], weight.shape[0], False))
        else:
            return "a segmentation head that mixes tokens, so that no token has scores of its own; linear ones are read"
    if layers[-1:] and layers[-1].norm and len(layers) > 1:
        layers.insert(0, layers.pop())  # mmsegmentation names the norm after the convolution that reads it
    follow = all(one.writes == two.reads for one, two in pairwise(layers))
    if not layers or layers[-1].norm or not follow:
        return "a segmentation head whose layers do not follow one another"
    return layers


def _place(name: str) -> tuple[int, ...]:
    """Where a layer stands, by the numbers in its name; names without numbers are equal, so that the file's order
    counts."""
    return tuple(int(number) for number in re.findall(r"\d+", name))
