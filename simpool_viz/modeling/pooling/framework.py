"""The generic pooling framework of SimPool (Psomas et al., ICCV 2023, section 3).

Every pooling is a few steps of one recipe. Features X (N tokens of width D) meet a state U (k vectors):

    Q = phi_Q(U)   K = phi_K(X)   S = s(K, Q)   A = h(S)          A: k rows of weights over the N positions
    V = phi_V(X)   Z = f^-1(A f(V))   X <- phi_X(X)   U <- phi_U(Z)

A method is a subclass of `Pooling` that overrides the slots in which it differs and nothing else, so that it reads
like its row of the paper's table, which it carries as `row`. The base class is global average pooling: no similarity,
uniform weights, mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from simpool_viz.errors import CheckpointError, MapError
from simpool_viz.modeling.pooling.means import ArithmeticMean, GeneralisedMean
from simpool_viz.tensors import wide


@dataclass(frozen=True)
class Tokens:
    """Features of a batch, as every pooling takes them.

    Attributes:
        patches: (B, N, D), row-major over the grid.
        grid: (h, w) with h * w == N.
        prefix: (B, P, D), the class, distillation and register tokens in the order of the backbone; P may be 0.
    """

    patches: Tensor
    grid: tuple[int, int]
    prefix: Tensor

    @classmethod
    def from_feature_map(cls, features: Tensor) -> Tokens:
        """Tokens of a convolutional feature map (B, D, h, w)."""
        h, w = features.shape[-2:]
        patches = features.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h*w, D)
        return cls(patches, (h, w), patches[:, :0])

    @classmethod
    def from_sequence(cls, sequence: Tensor, grid: tuple[int, int], num_prefix_tokens: int) -> Tokens:
        """Tokens of a transformer's sequence (B, P + N, D).

        Raises:
            CheckpointError: the sequence length is not P + h * w.
        """
        expected = num_prefix_tokens + grid[0] * grid[1]
        if sequence.ndim != 3 or sequence.shape[1] != expected:
            raise CheckpointError(
                f"the backbone gave tokens of shape {tuple(sequence.shape)}, but {num_prefix_tokens} prefix tokens "
                f"and a grid of {grid[0]} x {grid[1]} make {expected}"
            )
        return cls(sequence[:, num_prefix_tokens:], grid, sequence[:, :num_prefix_tokens])


@dataclass(frozen=True)
class Pooled:
    """The result of a pooling.

    Attributes:
        vector: (B, D'), the picture's representation.
        weights: (B, M, N), the weights A of the last step over the positions; None where the method has none of
            its own.
        scores: (B, M, N), the scores S before h; None where the method has no similarity.
    """

    vector: Tensor
    weights: Tensor | None
    scores: Tensor | None


@dataclass(frozen=True)
class TableRow:
    """A method's row of the framework's table (SimPool paper, table 1).

    Attributes:
        k: number of vectors of the state.
        u0: initial state U0.
        query: phi_Q.
        key: phi_K.
        similarity: s.
        attention: h.
        value: phi_V.
        mean: f.
        update: phi_X and phi_U. In every slot "-" stands for none.
    """

    k: str = "1"
    u0: str = "-"
    query: str = "-"
    key: str = "-"
    similarity: str = "-"
    attention: str = "1/N"
    value: str = "X"
    mean: str = "mean"
    update: str = "-"


GROUPS = {
    1: "simple pooling",
    2: "iterative clustering",
    3: "feature re-weighting",
    4: "transformers",
    5: "SimPool",
    6: "attention probes, beyond the table",
}


class Pooling(nn.Module):
    """One instance of the framework; by itself, global average pooling.

    Args:
        dim: width D of the tokens.

    Attributes:
        name: under which it is registered.
        title: for tables and pages.
        group: of the paper's table, a key of `GROUPS`.
        paper: the source.
        summary: two sentences.
        formula: in Unicode.
        row: of the paper's table.
        attentive: whether the weights differ between positions, so that they make a map.
        learned: whether those weights need training; an attentive pooling without can be tried on any checkpoint.
        part: name of one of several rows of weights ("head", "slot").
        sliced: whether each row of weights gathers its own slice of the channels, as heads do, or all of them.
        unit: of its maps, as in `AttentionMap`.
        fusion: of its maps, as in `AttentionMap`.
        iterations: number of steps.
        fused_calls: number of calls of the fused attention kernel that the pooling itself makes.
        has_channel_gate: whether `channel_gate` gives one.
        additive: whether the vector is a sum of contributions of single tokens, up to `offset()`.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    group: ClassVar[int] = 1
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    row: ClassVar[TableRow] = TableRow()
    attentive: ClassVar[bool] = False
    learned: ClassVar[bool] = False
    part: ClassVar[str] = "query"
    sliced: ClassVar[bool] = False
    unit: ClassVar[str] = "uniform"
    fusion: ClassVar[str] = "mean"
    fused_calls: ClassVar[int] = 0
    has_channel_gate: bool = False
    additive: ClassVar[bool] = True
    iterations: int = 1

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.mean: GeneralisedMean = ArithmeticMean()

    @property
    def out_dim(self) -> int:
        """Width D' of the vector."""
        return self.dim

    # --- the slots of the framework -------------------------------------------------------------------------------

    def normalise(self, x: Tensor) -> Tensor:
        """The norm that keys and values share: (B, N, D) -> (B, N, D)."""
        return x

    def init(self, tokens: Tokens) -> Tensor:
        """The initial state U0 (B, k, n)."""
        return tokens.patches.mean(dim=1, keepdim=True)

    def query(self, u: Tensor) -> Tensor:
        """phi_Q: (B, k, n) -> (B, k, d)."""
        return u

    def key(self, x: Tensor) -> Tensor:
        """phi_K: (B, N, D) -> (B, N, d)."""
        return x

    def similarity(self, query: Tensor, key: Tensor) -> Tensor | None:
        """s: (B, k, d), (B, N, d) -> scores S (B, k, N); None for a method without a similarity."""
        return None

    def attention(self, scores: Tensor | None, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """h: scores (B, k, N) -> weights A (B, k, N), at least float32; 1 / N each where there are no scores."""
        if scores is None:
            return x.new_full(
                (x.shape[0], 1, x.shape[1]), 1.0 / x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32)
            )
        return wide(scores).softmax(dim=-1)

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        """phi_V: (B, N, D) -> (B, N, D')."""
        return x

    def gather(self, weights: Tensor, value: Tensor) -> Tensor:
        """Z = f^-1(A f(V)): weights (B, k, N), values (B, N, D') -> (B, k, D').

        Where `sliced`, weights (B, H, N) -> (B, 1, D'): each row gathers its own slice of the channels.
        """
        if not self.sliced:
            return self.mean(weights, value)
        z = self.mean(_rows_as_batch(weights), _slices_as_batch(value, weights.shape[1]))  # (B * H, 1, D' / H)
        return z.reshape(len(value), 1, -1)

    def update(self, z: Tensor, u: Tensor, weights: Tensor) -> Tensor:
        """phi_U: the next state from Z (B, k, D'), the present one and the weights that made Z."""
        return z

    def update_features(self, x: Tensor) -> Tensor:
        """phi_X: the features of the next step."""
        return x

    def readout(self, u: Tensor) -> Tensor:
        """The vector (B, D') from the last state (B, k, D')."""
        return u[:, 0]

    # --- the recipe -----------------------------------------------------------------------------------------------

    def step(self, raw: Tensor, u: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """One step from features X and state U: the next X and U, and the weights and scores of the step."""
        x, q = self.normalise(raw), self.query(u)
        scores = self.similarity(q, self.key(x))
        weights = self.attention(scores, x, grid)
        z = self.gather(weights, self.value(x, q, grid))
        return self.update_features(raw), self.update(z, u, weights), weights, scores

    def forward(self, tokens: Tokens) -> Pooled:
        """Pool a batch.

        Args:
            tokens: features (B, N, D) with their grid and prefix.

        Returns:
            The vector (B, D') with the weights and scores of the last step.
        """
        raw, u, weights, scores = tokens.patches, self.init(tokens), None, None
        for _ in range(self.iterations):
            raw, u, weights, scores = self.step(raw, u, tokens.grid)
        return Pooled(self.readout(u), weights, scores)

    # --- for maps -------------------------------------------------------------------------------------------------

    def contribution(self, tokens: Tokens, pooled: Pooled) -> Tensor:
        """The contribution of each position to each channel of f^-1(A f(V)).

        Args:
            tokens: as pooled.
            pooled: the result.

        Returns:
            (B, N, D'), whose sum over the positions is the pooled vector less `offset()`.

        Raises:
            MapError: the method's vector is not a sum over positions.
        """
        weights = pooled.weights
        if not self.additive or weights is None:
            raise MapError(
                f"{self.title}: the vector is not a sum of what single tokens give, so there is no contribution map"
            )
        value = self.value(self.normalise(tokens.patches), self.query(self.init(tokens)), tokens.grid)
        if not self.sliced:
            return self.mean.contribution(weights, value)[:, 0]
        heads = weights.shape[1]
        given = self.mean.contribution(_rows_as_batch(weights), _slices_as_batch(value, heads))  # (B * H, 1, N, D' / H)
        return given.reshape(len(value), heads, *given.shape[2:]).transpose(1, 2).flatten(2)

    def offset(self) -> Tensor | float:
        """The scalar that is added to every channel after the sum over positions (SimPool's beta)."""
        return 0.0

    def channel_gate(self, tokens: Tokens) -> Tensor | None:
        """The gate (B, D) with which the method multiplies the channels of all positions alike, or None."""
        return None


def _rows_as_batch(weights: Tensor) -> Tensor:
    """(B, H, N) -> (B * H, 1, N)."""
    return weights.reshape(-1, 1, weights.shape[-1])


def _slices_as_batch(value: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B * H, N, D / H), slices contiguous."""
    return value.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)
