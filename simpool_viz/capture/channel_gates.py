"""Channel gates inside a backbone: what modules such as SE multiply their channels by, seen by hooks during one
forward."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from simpool_viz.capture.hooks import HookScope


@dataclass(frozen=True)
class ChannelGate:
    """One gate of one picture.

    name: of the module. values: (C,), what each channel is multiplied by.
    features: (N, C), row-major, what the gate was applied to; kept for the last gate only, where its grid is the
        tokens'.
    """

    name: str
    values: Tensor
    features: Tensor | None


def gated_modules(backbone: nn.Module) -> dict[str, nn.Module]:
    """Modules that end in a parameter-free child called `gate`, as those of timm do (SE, ESE, ECA, CBAM) and as ours
    do."""
    # Quicker than getattr.
    named = ((name, module, module._modules.get("gate")) for name, module in backbone.named_modules())
    return {name: module for name, module, gate in named if isinstance(gate, nn.Module) and not list(gate.parameters())}


class GateCapture(HookScope):
    """Keeps the values of every channel gate that runs inside its `with` block, in the thread that entered it, and the
    last one's features.

    calls: (name, values (B, C)) in the order of the forward. features: (B, C, h, w) or None.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.modules = gated_modules(backbone)
        self.calls: list[tuple[str, Tensor]] = []
        self.features: Tensor | None = None

    def __enter__(self) -> GateCapture:
        self._opened: dict[str, Tensor] = {}
        self._begin()
        for name, module in self.modules.items():
            assert isinstance(module.gate, nn.Module), "gated_modules asks for one"
            self._hooks.append(module.gate.register_forward_hook(partial(self._open, name)))
            self._hooks.append(module.register_forward_hook(partial(self._apply, name)))
        return self

    def _open(self, name: str, gate: nn.Module, inputs: Any, output: Tensor) -> None:
        if self._is_mine():
            self._opened[name] = output.flatten(1)  # (B, C, 1, 1) or (B, 1, C) -> (B, C)

    def _apply(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not self._is_mine():
            return
        values, features = self._opened.pop(name), inputs[0]
        if features.ndim == 4 and values.shape == features.shape[:2]:  # else it gates positions, as half of CBAM does
            self.calls.append((name, values))
            self.features = features
