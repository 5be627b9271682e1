"""Where channel attention stands in a timm ResNet: after the last norm of each residual branch, before the add."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from simpool_viz.errors import CheckpointError


def gate_branches(backbone: Any, make: Callable[[int], nn.Module], name: str) -> None:
    """Put a channel attention into every residual branch of a timm ResNet, basic or bottleneck.

    Args:
        backbone: changed in place.
        make: the module for a number of channels.
        name: of the attention, for errors.

    Raises:
        CheckpointError: the backbone is no ResNet, or its branches hold another channel attention already.
    """
    from timm.models.resnet import BasicBlock, Bottleneck

    blocks = [module for module in backbone.modules() if isinstance(module, (BasicBlock, Bottleneck))]
    if not blocks:
        raise CheckpointError(
            f"{name} goes into the residual branches of a ResNet, and {type(backbone).__name__} has none"
        )
    if any(block.se is not None for block in blocks):
        raise CheckpointError(
            f"{name} takes the place of another channel attention, which this ResNet has; choose one without"
        )
    for block in blocks:
        norm = block.bn3 if isinstance(block, Bottleneck) else block.bn2
        block.se = make(int(norm.num_features))  # type: ignore[arg-type, assignment]
