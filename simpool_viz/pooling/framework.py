"""The generic pooling framework of SimPool (Psomas et al., ICCV 2023, section 3).

Every pooling is a few steps of one recipe. Features X (N tokens of width D) meet a state U (k vectors):

    Q = phi_Q(U)   K = phi_K(X)   S = s(K, Q)   A = h(S)          A: k rows of weights over the N positions
    V = phi_V(X)   Z = f^-1(A f(V))   X <- phi_X(X)   U <- phi_U(Z)

A method is a subclass of `Pooling` that overrides the slots in which it differs and nothing else, so that it reads
like its row of the paper's table. The base class is global average pooling: no similarity, uniform weights, mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from simpool_viz.pooling.means import ArithmeticMean, GeneralisedMean
from simpool_viz.precision import wide


@dataclass(frozen=True)
class Tokens:
    """Features of a batch, as every pooling takes them.

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
            ValueError: the sequence length is not P + h * w.
        """
        expected = num_prefix_tokens + grid[0] * grid[1]
        if sequence.ndim != 3 or sequence.shape[1] != expected:
            raise ValueError(
                f"the backbone gave tokens of shape {tuple(sequence.shape)}, but {num_prefix_tokens} prefix tokens "
                f"and a grid of {grid[0]} x {grid[1]} make {expected}"
            )
        return cls(sequence[:, num_prefix_tokens:], grid, sequence[:, :num_prefix_tokens])


@dataclass(frozen=True)
class Pooled:
    """What a pooling returns.

    vector: (B, D'), the picture's representation.
    weights: (B, M, N), the weights A of the last step over the positions; None where the method has none of its own.
    scores: (B, M, N), the scores S before h; None where the method has no similarity.
    """

    vector: Tensor
    weights: Tensor | None
    scores: Tensor | None


class Pooling(nn.Module):
    """One instance of the framework; by itself, global average pooling.

    Args:
        dim: width D of the tokens.

    Class attributes say what the lists show: `name` (how it is asked for), `title`, `group` (of the paper's table),
    `paper`, `summary` (two sentences), and `attentive`: whether the weights tell positions apart, that is, whether
    a map of them is worth looking at; `fused_calls`: how many calls of the fused attention kernel the pooling makes
    itself; `additive`: whether the vector is a sum of what single tokens give, up to `offset()`.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    group: ClassVar[int] = 1
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    attentive: ClassVar[bool] = False
    iterations: ClassVar[int] = 1
    fused_calls: ClassVar[int] = 0
    additive: ClassVar[bool] = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.mean: GeneralisedMean = ArithmeticMean()

    # --- the slots of the framework -------------------------------------------------------------------------------

    def normalise(self, x: Tensor) -> Tensor:
        """The norm that keys and values share. (B, N, D) -> (B, N, D)."""
        return x

    def init(self, tokens: Tokens) -> Tensor:
        """U0 (B, k, n)."""
        return tokens.patches.mean(dim=1, keepdim=True)

    def query(self, u: Tensor) -> Tensor:
        """phi_Q: (B, k, n) -> (B, k, d)."""
        return u

    def key(self, x: Tensor) -> Tensor:
        """phi_K: (B, N, D) -> (B, N, d)."""
        return x

    def similarity(self, query: Tensor, key: Tensor) -> Tensor | None:
        """s: scores S (B, k, N), or None for a method that compares nothing."""
        return None

    def attention(self, scores: Tensor | None, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """h: weights A (B, k, N). Without scores, 1 / N each."""
        if scores is None:
            return x.new_full((x.shape[0], 1, x.shape[1]), 1.0 / x.shape[1])
        return wide(scores).softmax(dim=-1)

    def value(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """phi_V: (B, N, D) -> (B, N, D')."""
        return x

    def update(self, z: Tensor, u: Tensor) -> Tensor:
        """phi_U: the next state from Z (B, k, D') and the present one."""
        return z

    def update_features(self, x: Tensor) -> Tensor:
        """phi_X: the features of the next step."""
        return x

    def readout(self, u: Tensor) -> Tensor:
        """The vector (B, D') from the last state (B, k, D')."""
        return u[:, 0]

    # --- the recipe -----------------------------------------------------------------------------------------------

    def forward(self, tokens: Tokens) -> Pooled:
        """Pool a batch.

        Args:
            tokens: features (B, N, D) with their grid and prefix.
        """
        raw, u, weights, scores = tokens.patches, self.init(tokens), None, None
        for _ in range(self.iterations):
            x = self.normalise(raw)
            scores = self.similarity(self.query(u), self.key(x))
            weights = self.attention(scores, x, tokens.grid)
            z = self.mean(weights, self.value(x, tokens.grid))
            raw, u = self.update_features(raw), self.update(z, u)
        return Pooled(self.readout(u), weights, scores)

    def contribution(self, tokens: Tokens, pooled: Pooled) -> Tensor:
        """What each position gives to each channel of f^-1(A f(V)).

        Returns:
            (B, N, D'), whose sum over the positions is the pooled vector less `offset()`.

        Raises:
            ValueError: the method's vector is not a sum over positions.
        """
        if pooled.weights is None or pooled.weights.shape[1] != 1:
            raise ValueError(f"{self.title}: the vector is not a sum of what single tokens give, so there is no contribution map")
        value = self.value(self.normalise(tokens.patches), tokens.grid)
        return self.mean.contribution(pooled.weights, value)[:, 0]

    def offset(self) -> Tensor | float:
        """What the method adds to every channel after the sum over positions (SimPool's beta)."""
        return 0.0
