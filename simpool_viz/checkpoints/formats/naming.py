"""From the names of another program to timm's: an origin is a table of names, and this file applies it.

In a table "{i}" stands for the number of a block, and a name for a tensor of that name or for all that a module of that
name holds (`.weight`, `.bias`, and the statistics of a batch norm).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from simpool_viz.checkpoints.formats.hints import Hints
from simpool_viz.errors import CheckpointError

State = dict[str, Tensor]
_PARTS = "weight|bias|running_mean|running_var|num_batches_tracked"
IN_A_ROW = ("cls_token", "reg_token", "register_tokens", "pos_embed")  # (1, n, D) in timm, with any axes elsewhere


@dataclass(frozen=True)
class Naming:
    """The names of one origin.

    Attributes:
        title: of the origin, for the report.
        signs: names that a state dict of this origin has, and no other.
        names: theirs -> timm's.
        fused: timm's -> theirs that it is made of, one after another.
        dropped: pattern of their names -> the reason why they are not used.
        hints: what the origin implies.
        unless: names that a state dict of this origin does not have.
        finish: changes the renamed state dict in place, where a tensor is to be cut or turned.
    """

    title: str
    signs: tuple[str, ...]
    names: Mapping[str, str]
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    hints: Hints = field(default_factory=Hints)
    unless: tuple[str, ...] = ()
    finish: Callable[[State], None] | None = None

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a state dict is of this origin."""
        if any(_pattern(sign).fullmatch(key) for sign in self.unless for key in state):
            return False
        return all(any(_pattern(sign).fullmatch(key) for key in state) for sign in self.signs)

    def translate(self, state: Mapping[str, Tensor]) -> tuple[State, dict[str, str]]:
        """Rename the tensors of a state dict; those of names that the table does not hold keep them.

        Args:
            state: of this origin.

        Returns:
            The tensors by timm's names, and the tensors that are not used, with the reason.

        Raises:
            CheckpointError: a part of a fused tensor is missing.
        """
        found: State = {}
        parts: dict[str, dict[int, Tensor]] = {}
        dropped: dict[str, str] = {}
        fused = {theirs: (ours, n) for ours, row in self.fused.items() for n, theirs in enumerate(row)}
        table = [(_pattern(theirs), theirs) for theirs in [*self.names, *fused]]
        for key, value in state.items():
            reason = next((why for start, why in self.dropped.items() if re.match(start, key)), "")
            match, theirs = next(((m, name) for p, name in table if (m := p.fullmatch(key))), (None, ""))
            if reason:
                dropped[key] = reason
            elif match is None:
                found[key] = value
            elif theirs in fused:
                ours, n = fused[theirs]
                parts.setdefault(_filled(ours, match), {})[n] = value
            else:
                ours = _filled(self.names[theirs], match)
                found[ours] = value.reshape(1, -1, value.shape[-1]) if ours in IN_A_ROW and value.ndim else value
        for ours, row in parts.items():
            wanted = next(theirs for name, theirs in self.fused.items() if _pattern(name).fullmatch(ours))
            if len(row) != len(wanted):
                raise CheckpointError(
                    f"{ours} is made of {', '.join(wanted)}, and {len(wanted) - len(row)} are missing"
                )
            found[ours] = torch.cat([row[n] for n in range(len(wanted))])
        if self.finish is not None:
            self.finish(found)
        return found, dropped


def _pattern(name: str) -> re.Pattern[str]:
    """(number of the block, what follows the name)."""
    return re.compile(re.escape(name).replace(re.escape("{i}"), r"(?P<i>\d+)") + rf"(?P<rest>\.({_PARTS})|)")


def _filled(name: str, match: re.Match[str]) -> str:
    given = match.groupdict()
    return name.replace("{i}", given.get("i") or "") + given["rest"]
