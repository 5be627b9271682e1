"""A CNN of torchvision as a backbone: it keeps its own layers, and gives its features before they are averaged."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from simpool_viz.modeling.pooling import Pooling, create_pooling
from simpool_viz.modeling.pooling.own import OwnHead

FAMILIES = (
    *("DenseNet", "EfficientNet", "GoogLeNet", "MNASNet", "MobileNetV2", "MobileNetV3", "RegNet", "ShuffleNetV2"),
    "VGG",
)
# Layers one after another whose last output is the features, of models that do not hold them as `features`.
_LAYERS = {
    "GoogLeNet": (
        *("conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3", "inception4a"),
        *("inception4b", "inception4c", "inception4d", "inception4e", "maxpool4", "inception5a", "inception5b"),
    ),
    "MNASNet": ("layers",),
    "RegNet": ("stem", "trunk_output"),
    "ShuffleNetV2": ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),
}


class TorchvisionCNN(nn.Module):
    """The features (B, D, h, w) of a torchvision model, at a stride of 32 pixels.

    Args:
        model: of one of `FAMILIES`; it is used, not copied, and its activations no longer work in place, since they
            would overwrite the features of the layer before, which Grad-CAM may show.

    Attributes:
        num_features: width D.
        feature_info: name, width and stride of the features, as timm's models have it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        for module in model.modules():
            if getattr(module, "inplace", False):
                module.inplace = False
        family = type(model).__name__
        first = next((m for m in _head(model).modules() if isinstance(m, nn.Linear)), None)
        if family == "VGG":
            self.num_features = int([m for m in model.features if isinstance(m, nn.Conv2d)][-1].out_channels)
        elif first is None:  # its classifier was removed
            norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
            self.num_features = int(norms[-1].num_features) if norms else 512
        else:
            self.num_features = int(first.in_features)
        self.feature_info = [{"num_chs": self.num_features, "reduction": 32, "module": "model"}]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D, H / 32, W / 32)."""
        model: Any = self.model
        family = type(model).__name__
        features: Tensor = model._transform_input(x) if family == "GoogLeNet" else x
        for name in _LAYERS.get(family, ("features",)):
            features = getattr(model, name)(features)
        return features.relu() if family == "DenseNet" else features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The layers of VGG's head: (B, D, h, w) -> (B, K), or where `pre_logits` is set the inputs of the last one."""
        model: Any = self.model
        hidden = model.avgpool(x).flatten(1)
        out: Tensor = (model.classifier[:-1] if pre_logits else model.classifier)(hidden)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """The model's own logits: (B, 3, H, W) -> (B, K)."""
        logits: Tensor = self.model(x)
        return logits

    def parts(self) -> tuple[Pooling, nn.Module | None, nn.Linear | None]:
        """Pooling, the layers between pooling and head (None for none), and the classifier (None for none)."""
        linear = [m for m in _head(self.model).modules() if isinstance(m, nn.Linear)]
        if not linear:
            return create_pooling("gap", self.num_features), None, None
        if type(self.model).__name__ == "VGG":
            return OwnHead(self, linear[-1]), None, linear[-1]
        hidden = nn.Sequential(*list(self.model.classifier)[:-1]) if len(linear) > 1 else None
        return create_pooling("gap", self.num_features), hidden, linear[-1]


def _head(model: Any) -> nn.Module:
    head: nn.Module = model.fc if hasattr(model, "fc") else model.classifier
    return head
