"""The ResNets of CIFAR: a 3 x 3 stem and three stages at strides 1, 2 and 4, for which timm has no model.

Source: He et al., Deep residual learning for image recognition, CVPR 2016, section 4.2, also with bottleneck blocks
(depth 9 n + 2), as in the released code of SPE. Tensors bear torchvision's names. Blocks are timm's, so that SPE fits
in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn


class CifarResNet(nn.Module):
    """A ResNet without max-pooling whose features (B, D, h, w) have a stride of 2^(stages - 1) pixels.

    Args:
        block: timm's `BasicBlock` or `Bottleneck`.
        layers: number of blocks of each stage.
        channels: planes of each stage; a bottleneck gives four times as many.
        stem: channels of the first convolution.

    Attributes:
        num_features: width D.
        feature_info: for each stage its name, width and stride, as timm's models have it.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int] = (18, 18, 18),
        channels: Sequence[int] = (16, 32, 64),
        stem: int = 16,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1, self.act1 = nn.BatchNorm2d(stem), nn.ReLU()
        self.feature_info: list[dict[str, Any]] = []
        width = stem
        for i, (depth, planes) in enumerate(zip(layers, channels, strict=True)):
            blocks: list[nn.Module] = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(_block(block, width, planes, stride))
                width = planes * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": width, "reduction": 2**i, "module": f"layer{i + 1}"})
        self.num_features = width

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D, H / s, W / s) at the stride s of the last stage."""
        x = self.act1(self.bn1(self.conv1(x)))
        for stage in self.feature_info:
            x = self.get_submodule(stage["module"])(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """The same as `forward_features`."""
        return self.forward_features(x)


def _block(block: type[BasicBlock] | type[Bottleneck], width: int, planes: int, stride: int) -> nn.Module:
    out, skip = planes * block.expansion, None
    if stride != 1 or width != out:
        skip = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    return block(width, planes, stride, skip)
