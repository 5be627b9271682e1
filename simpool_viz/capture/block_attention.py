"""The attention of one block as its queries and keys, from which any row of the matrix is computed when needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from simpool_viz.errors import MapError
from simpool_viz.tensors import wide


@dataclass(frozen=True)
class Attention:
    """One captured attention call of one picture: the operands of softmax(query key^T scale + bias).

    Attributes:
        query: (H, Nq, d) for H heads and Nq query tokens.
        key: (H, N, d) for N key tokens.
        bias: (H or 1, Nq, N) added to the logits, or None.
        scale: factor of the logits, usually 1 / sqrt(d).
        lse: (H, Nq), the log-sum-exp of each row of logits from the fused kernel, or None where no such kernel ran.
        skip: whether a skip connection leads past the attention; False for the last block of SAR's `nosn`.
        skip_share: scalar, how much of the sum of skip connection and attention is the skip connection, as
            `skip_shares` measures it; None where none was measured or the block does not show its sum.
    """

    query: Tensor
    key: Tensor
    bias: Tensor | None
    scale: float
    lse: Tensor | None = None
    skip: bool = True
    skip_share: Tensor | None = None

    def logits(self, rows: slice | Tensor) -> Tensor:
        """Scores before the softmax of n query rows: (H, n, N) float32 (float64 of a float64 model)."""
        scores = (wide(self.query[:, rows]) * self.scale) @ wide(self.key).transpose(1, 2)
        return scores if self.bias is None else scores.add_(wide(self.bias[:, rows]))

    def rows(self, rows: slice | Tensor) -> Tensor:
        """Attention of n query rows, each of which sums to 1: (H, n, N) float32 (float64 of a float64 model)."""
        return self.logits(rows).softmax(dim=-1)

    def row_tiles(self, entries: int) -> Iterator[slice]:
        """The query rows in slices of n, so that (H, n, N) has at most so many entries, but one row at least."""
        heads, count, _ = self.query.shape
        step = max(1, entries // (heads * self.key.shape[1]))
        for start in range(0, count, step):
            yield slice(start, min(start + step, count))


@dataclass(frozen=True)
class MeanAttention:
    """The attention of one block of one picture as its mean over the heads, all that a roll-out by the mean needs.

    Attributes:
        matrix: (N, N), each row of which sums to 1.
        skip: as in `Attention`.
        skip_share: as in `Attention`.
    """

    matrix: Tensor
    skip: bool = True
    skip_share: Tensor | None = None


class Blocks(Sequence[Attention]):
    """The attention of a checkpoint's blocks, from first to last.

    Only blocks that a requested map needs are kept; access to another raises a `MapError`.

    Args:
        kept: one entry per block, None where nothing of it was kept.
        name: the checkpoint's, for messages.
        by_mean: whether a block may also be returned as a `MeanAttention`.
    """

    def __init__(self, kept: Sequence[Attention | MeanAttention | None], name: str, by_mean: bool = False) -> None:
        self._kept, self._name, self._by_mean = tuple(kept), name, by_mean

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: Any) -> Any:
        """The attention of a block, negative indices counted from the last, or a tuple for a slice.

        Raises:
            MapError: the block was not kept, or as its mean alone.
            IndexError: no such block.
        """
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        attention = self._kept[index]
        if isinstance(attention, Attention) or (self._by_mean and attention is not None):
            return attention
        what = "was kept as its mean over the heads alone, since the maps requested at the recording need no more"
        if attention is None:
            what = "was not kept, because no map requested at the recording needs it"
        raise MapError(f"{self._name}: the attention of block {index % len(self)} {what}; record with keep=None")

    @property
    def kept(self) -> tuple[int, ...]:
        """The numbers of the blocks whose queries and keys were kept."""
        return tuple(i for i, attention in enumerate(self._kept) if isinstance(attention, Attention))

    @property
    def means(self) -> dict[int, MeanAttention]:
        """The blocks that were kept as their mean over the heads, by number."""
        return {i: attention for i, attention in enumerate(self._kept) if isinstance(attention, MeanAttention)}

    def named(self, name: str) -> Blocks:
        """The same blocks, under the name of another checkpoint that shares them."""
        return Blocks(self._kept, name, self._by_mean)

    def then(self, later: Blocks) -> Blocks:
        """These blocks, followed by later ones of the same checkpoint."""
        return Blocks((*self._kept, *later._kept), later._name, self._by_mean)

    def averaged(self) -> Sequence[Attention | MeanAttention]:
        """The same blocks for who takes the mean over the heads: also those that were kept as that alone."""
        return Blocks(self._kept, self._name, by_mean=True)
