"""CNNs of torchvision by the names and shapes of their tensors: DenseNet, EfficientNet, MobileNet, RegNet and VGG.

Its ResNets are timm's, and its ViTs and ConvNeXts are read by timm's layers (see torchvision.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from simpool_viz.checkpoints.formats.hints import Hints
from simpool_viz.checkpoints.formats.parts import Parts, count_of
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import IMAGENET_MEAN, IMAGENET_STD
from simpool_viz.modeling.torchvision_cnn import TorchvisionCNN

HINTS = Hints("torchvision's weights", mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bilinear")
# Tensors that the models of a family have side by side, and the beginning of their names in torchvision.
SIGNS = {
    "densenet": ("features.conv0.weight", "features.norm5.weight"),
    "efficientnet": ("features.0.0.weight", "features.1.0.block.0.0.weight"),
    "mobilenet_v2": ("features.0.0.weight", "features.1.conv.0.0.weight"),
    "mobilenet_v3": ("features.0.0.weight", "features.1.block.0.0.weight"),
    "regnet": ("stem.0.weight", "trunk_output.block1.block1-0.f.a.0.weight"),
    "vgg": ("features.0.weight", "classifier.0.weight"),
}
# Where the classifier stands; None: hidden layers stand before it.
CLASSIFIER = {"densenet": "classifier", "efficientnet": "classifier.1", "mobilenet_v2": "classifier.1", "regnet": "fc"}
_HEAD = r"(classifier|fc)((?:\.\d+)*)\.(weight|bias)"


def family_of(state: Mapping[str, Tensor]) -> str:
    """A key of `SIGNS` for the tensors of a torchvision CNN; "" for others.

    Args:
        state: tensors by name, without prefixes.
    """
    found = next((family for family, signs in SIGNS.items() if all(sign in state for sign in signs)), "")
    return "" if found == "vgg" and state["features.0.weight"].ndim != 4 else found


def recognise_torchvision(state: Mapping[str, Tensor]) -> Parts:
    """Build the parts of a torchvision CNN.

    Args:
        state: tensors by torchvision's names, also by those of DenseNets before torchvision 0.3.

    Raises:
        CheckpointError: no model of the family has tensors of these shapes.
    """
    family = family_of(state)
    state, outputs = _plain(dict(state), family)
    name, model = _regnet(state, outputs) if family == "regnet" else _listed(state, family, outputs)
    if not outputs:
        setattr(model, "fc" if family == "regnet" else "classifier", nn.Identity())
    backbone = TorchvisionCNN(model)
    pooling, norm, head = backbone.parts()
    names = {key: f"backbone.model.{key}" for key in state}
    return Parts(state, f"torchvision's {name}", backbone, pooling, norm, head, names, [])


def _plain(state: dict[str, Tensor], family: str) -> tuple[dict[str, Tensor], int]:
    """The tensors with the classifier where torchvision has it, and the number of its outputs, 0 for none."""
    old = r"(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))"
    if family == "densenet":
        state = {re.sub(old, r"\1\2", key): value for key, value in state.items()}
    heads = [m[1] + m[2] for key in state if (m := re.fullmatch(_HEAD, key)) and m[3] == "weight"]
    plain = CLASSIFIER.get(family)
    if plain and len(heads) == 1:
        (head,) = heads
        state = {
            f"{plain}.{m[3]}" if (m := re.fullmatch(_HEAD, key)) and m[1] + m[2] == head else key: value
            for key, value in state.items()
        }
        heads = [plain]
    return state, len(state[f"{max(heads, key=_number)}.weight"]) if heads else 0


def _number(head: str) -> int:
    """The number of a layer in a sequence."""
    last = head.rpartition(".")[2]
    return int(last) if last.isdigit() else 0


def _listed(state: Mapping[str, Tensor], family: str, outputs: int) -> tuple[str, Any]:
    """The model of a family whose tensors have these shapes, but for the classifier, and its name."""
    from torchvision.models import get_model

    shapes = _compared(state)
    for name in _names(family):
        if _shapes(name).items() == shapes.items():
            return name, get_model(name, weights=None, num_classes=outputs or 1)
    raise CheckpointError(
        f"none of torchvision's models {', '.join(_names(family))} has tensors of its shapes; load the model itself in "
        "Python, load_checkpoint(model)"
    )


@lru_cache(maxsize=64)
def _names(family: str) -> tuple[str, ...]:
    import torchvision

    return tuple(torchvision.models.list_models(torchvision.models, include=f"{family}*"))


@lru_cache(maxsize=64)
def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's tensors, without its classifier."""
    from torchvision.models import get_model

    with torch.device("meta"):
        return _compared(get_model(name, weights=None).state_dict())


def _compared(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes by which a model is known: not its classifier's, nor the counters that files of 2017 lack."""
    skipped = rf"{_HEAD}|.*num_batches_tracked"
    return {key: tuple(value.shape) for key, value in state.items() if not re.fullmatch(skipped, key)}


def _regnet(state: Mapping[str, Tensor], outputs: int) -> tuple[str, Any]:
    """A RegNet by the shapes of its tensors: its stages can have any depths and widths."""
    from torchvision.models.regnet import BlockParams, RegNet

    depths, widths, groups, bottlenecks = [], [], [], []
    for stage in range(1, 5):
        prefix = f"trunk_output.block{stage}.block{stage}-"
        depths.append(count_of(state, prefix))
        width, inner = len(state[f"{prefix}0.f.c.0.weight"]), len(state[f"{prefix}0.f.a.0.weight"])
        widths.append(width)
        groups.append(state[f"{prefix}0.f.b.0.weight"].shape[1])
        bottlenecks.append(inner / width)
    kind = "Y" if "trunk_output.block1.block1-0.f.se.fc1.weight" in state else "X"
    params = BlockParams(depths, widths, groups, bottlenecks, [2] * 4, 0.25 if kind == "Y" else None)
    model = RegNet(params, num_classes=outputs or 1, stem_width=len(state["stem.0.weight"]))
    return f"RegNet{kind} of {'-'.join(map(str, depths))} blocks, {widths[0]} to {widths[-1]} channels", model
