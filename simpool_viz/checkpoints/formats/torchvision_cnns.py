"""CNNs of torchvision by the names and shapes of their tensors: DenseNet, EfficientNet, GoogLeNet, MNASNet, MobileNet,
RegNet, ShuffleNet and VGG.

Its ResNets are timm's, and its ViTs and ConvNeXts are read by timm's layers (see torchvision.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from simpool_viz.checkpoints.formats.hints import Hints
from simpool_viz.checkpoints.formats.parts import Parts, count_of
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import IMAGENET_MEAN, IMAGENET_STD
from simpool_viz.modeling.outline import outlined
from simpool_viz.modeling.torchvision_cnn import TorchvisionCNN

HINTS = Hints("torchvision's weights", mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bilinear")
# Tensors that the models of a family have side by side, and the beginning of their names in torchvision.
SIGNS = {
    "densenet": ("features.conv0.weight", "features.norm5.weight"),
    "efficientnet": ("features.0.0.weight", "features.1.0.block.0.0.weight"),
    "googlenet": ("conv1.conv.weight", "inception3a.branch1.conv.weight"),
    "mnasnet": ("layers.0.weight", "layers.8.0.layers.0.weight"),
    "mobilenet_v2": ("features.0.0.weight", "features.1.conv.0.0.weight"),
    "mobilenet_v3": ("features.0.0.weight", "features.1.block.0.0.weight"),
    "regnet": ("stem.0.weight", "trunk_output.block1.block1-0.f.a.0.weight"),
    "shufflenet_v2": ("conv1.0.weight", "stage2.0.branch1.0.weight"),
    "vgg": ("features.0.weight", "classifier.0.weight"),
}
# Where the classifier stands; None: hidden layers stand before it.
CLASSIFIER = {
    "densenet": "classifier",
    "efficientnet": "classifier.1",
    "googlenet": "fc",
    "mnasnet": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "regnet": "fc",
    "shufflenet_v2": "fc",
}
AUXILIARY = "a classifier in the middle, which training alone uses"
INPUT_OF_GOOGLENET = (
    "weights of torchvision's GoogLeNet were trained with a mean and std of 0.5, others mostly with ImageNet's: say "
    "mean=0.5&std=0.5 for the former"
)
_BLOCKS_OF_VGG = 5  # each ends with a pooling, so that a token has 32 pixels
_HEAD = r"(classifier|fc)((?:\.\d+)*)\.(weight|bias)"


def family_of(state: Mapping[str, Tensor]) -> str:
    """A key of `SIGNS` for the tensors of a torchvision CNN; "" for others.

    Args:
        state: tensors by name, without prefixes.
    """
    found = next((family for family, signs in SIGNS.items() if all(sign in state for sign in signs)), "")
    if found == "vgg" or (not found and _is_bare_vgg(state)):
        return "vgg" if state["features.0.weight"].shape[1:] == (3, 3, 3) else ""
    return found


def _is_bare_vgg(state: Mapping[str, Tensor]) -> bool:
    """Whether there are the convolutions of a VGG and nothing else."""
    return "features.0.weight" in state and all(re.match(r"features\.\d+\.\w+$", key) for key in state)


def auxiliary(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The tensors of a GoogLeNet that training alone uses, with the reason."""
    return {key: AUXILIARY for key in state if re.match(r"aux[12]\.", key)}


def recognise_torchvision(state: Mapping[str, Tensor]) -> Parts:
    """Build the parts of a torchvision CNN.

    Args:
        state: tensors by torchvision's names, also by those of DenseNets before torchvision 0.3.

    Raises:
        CheckpointError: no model of the family has tensors of these shapes.
    """
    family = family_of(state)
    state, outputs = _plain(dict(state), family)
    if family in ("regnet", "vgg"):
        name, model = (_regnet if family == "regnet" else _vgg)(state, outputs)
    else:
        name, model = _listed(state, family, outputs)
    if not outputs:
        setattr(model, CLASSIFIER.get(family, "classifier").partition(".")[0], nn.Identity())
    backbone = TorchvisionCNN(model)
    pooling, norm, head = backbone.parts()
    names = {key: f"backbone.model.{key}" for key in state}
    notes = [INPUT_OF_GOOGLENET] if family == "googlenet" else []
    return Parts(state, f"torchvision's {name}", backbone, pooling, norm, head, names, notes)


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
            return name, get_model(name, weights=None, num_classes=outputs or 1, **_options(name))
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

    with outlined():
        return _compared(get_model(name, weights=None, **_options(name)).state_dict())


def _options(name: str) -> dict[str, Any]:
    """Of GoogLeNet, whose random start takes a minute."""
    return {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}


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


def _vgg(state: Mapping[str, Tensor], outputs: int) -> tuple[str, Any]:
    """A VGG by the shapes of its tensors: its convolutions can be of any number and width.

    Raises:
        CheckpointError: its layers are not those of a VGG.
    """
    from torchvision.models.vgg import VGG, make_layers

    weights = [key for key in state if re.fullmatch(r"features\.\d+\.weight", key) and state[key].ndim == 4]
    convs = sorted(int(key.split(".")[1]) for key in weights)
    normed = "features.1.running_mean" in state
    layers: list[str | int] = []
    for this, following in zip(convs, [*convs[1:], convs[-1] + 100], strict=True):
        layers.append(len(state[f"features.{this}.weight"]))
        if following - this > 2 + normed:  # a convolution, its norm and a ReLU; then a pooling
            layers.append("M")
    widths = [state[f"classifier.{n}.weight"] for n in (0, 3, 6) if f"classifier.{n}.weight" in state]
    if layers.count("M") != _BLOCKS_OF_VGG or len(widths) not in (0, 3) or any(w.ndim != 2 for w in widths):
        raise CheckpointError(
            f"its layers are not those of a VGG, which has {_BLOCKS_OF_VGG} blocks of convolutions and a classifier of "
            "three layers; load the model itself in Python, load_checkpoint(model)"
        )
    with outlined():  # its first linear layer alone has 400 MB, and gives way to that of the file
        model = VGG(nn.Identity(), num_classes=1, init_weights=False)
    model.features = make_layers(layers, normed)  # type: ignore[arg-type]
    for number, width in zip((0, 3, 6), widths, strict=False):
        model.classifier[number] = nn.Linear(width.shape[1], width.shape[0])
    depth = len(convs) + 3
    return f"VGG{depth}{' with batch norms' if normed else ''} of {layers[0]} to {layers[-2]} channels", model
