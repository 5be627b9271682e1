"""One block's attention as its queries and keys: any row of the matrix follows from them, and none is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from simpool_viz.errors import MapError
from simpool_viz.tensors import wide


@dataclass(frozen=True)
class Attention:
    """One captured call: what it takes to compute any row of softmax(q k^T scale + bias).

    query: (H, Nq, d), key: (H, N, d), bias: (H or 1, Nq, N) added to the logits, or None.
    lse: (H, Nq), the log-sum-exp of each row of logits as the fused kernel gave it, or None where none ran.
    """

    query: Tensor
    key: Tensor
    bias: Tensor | None
    scale: float
    lse: Tensor | None = None

    def logits(self, rows: slice | Tensor) -> Tensor:
        """Scores before the softmax of some query rows: (H, n, N), float32."""
        scores = (wide(self.query[:, rows]) * self.scale) @ wide(self.key).transpose(1, 2)
        return scores if self.bias is None else scores.add_(wide(self.bias[:, rows]))

    def rows(self, rows: slice | Tensor) -> Tensor:
        """Attention of some query rows: (H, n, N), each summing to 1, float32."""
        return self.logits(rows).softmax(dim=-1)


class Blocks(Sequence[Attention]):
    """The attention of a checkpoint's blocks, from first to last; what no requested map needed was not kept, and asking
    for it says so.

    Args:
        kept: one entry per block, None where it was not kept.
        name: of the checkpoint.
    """

    def __init__(self, kept: Sequence[Attention | None], name: str) -> None:
        self._kept, self._name = tuple(kept), name

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: Any) -> Any:
        """The attention of a block, negative indices counting from the last, or a tuple of them for a slice.

        Raises:
            MapError: it was not kept.
            IndexError: no such block.
        """
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        attention = self._kept[index]
        if attention is None:
            told = f"{self._name}: the attention of block {index % len(self)} was not kept"
            raise MapError(f"{told}, because no map asked for at the recording needs it; record with keep=None")
        return attention

    @property
    def kept(self) -> tuple[int, ...]:
        """The numbers of the blocks that are here."""
        return tuple(i for i, attention in enumerate(self._kept) if attention is not None)
