"""One block's attention as its queries and keys: any row of the matrix follows from them, and none is stored."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from simpool_viz.precision import wide


@dataclass(frozen=True)
class Attention:
    """One captured call: what it takes to compute any row of softmax(q k^T scale + bias).

    query: (H, Nq, d), key: (H, N, d), bias: (H or 1, Nq, N) added to the logits, or None.
    """

    query: Tensor
    key: Tensor
    bias: Tensor | None
    scale: float

    def logits(self, rows: slice | Tensor) -> Tensor:
        """Scores before the softmax of some query rows: (H, n, N), float32."""
        scores = wide(self.query[:, rows]) @ wide(self.key).transpose(1, 2) * self.scale
        return scores if self.bias is None else scores + wide(self.bias[:, rows])

    def rows(self, rows: slice | Tensor) -> Tensor:
        """Attention of some query rows: (H, n, N), each summing to 1, float32."""
        return self.logits(rows).softmax(dim=-1)
