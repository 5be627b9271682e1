"""Channel gates of a backbone (SE and the like): the factors of its channels, captured by hooks during one forward."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from simpool_viz.capture.hooks import HookScope


@dataclass(frozen=True)
class ChannelGate:
    """One channel gate's values for one picture.

    Attributes:
        name: of the module.
        values: (C,), the factor of each channel.
        features: (N, C) in row-major order of positions, to which the gate was applied; kept only for the last gate,
            where its grid is that of the tokens, else None.
    """

    name: str
    values: Tensor
    features: Tensor | None


def gated_modules(backbone: nn.Module) -> dict[str, nn.Module]:
    """Modules with a child named `gate` without parameters, as timm's SE, ESE, ECA and CBAM and this package's have.

    It runs with every forward, for which `named_modules` would be slow: it goes through a generator for each level.
    """
    found: dict[str, nn.Module] = {}
    seen: set[nn.Module] = set()
    waiting: list[tuple[str, nn.Module]] = [("", backbone)]
    while waiting:
        name, module = waiting.pop()
        if module in seen:  # it stands in two places
            continue
        seen.add(module)
        gate = module._modules.get("gate")
        if gate is not None and not list(gate.parameters()):
            found[name] = module
        holders = [(child, m) for child, m in module._modules.items() if m is not None and m._modules]
        waiting += [(f"{name}.{child}" if name else child, m) for child, m in reversed(holders)]
    return found


class GateCapture(HookScope):
    """A context that captures the values of every channel gate, and the features before the last one.

    It acts on forwards of the thread that entered it.

    Attributes:
        modules: the gated modules of the backbone by name.
        calls: (name, values (B, C)) in the order of the forward.
        features: (B, C, h, w) before the last gate, or None.
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
            assert isinstance(module.gate, nn.Module), "gated_modules returns only modules with one"
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
