"""Group 3 of the framework's table: features re-weighted by gates computed from their mean, then averaged."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from simpool_viz.errors import OptionError
from simpool_viz.modeling.pooling.create import register_pooling
from simpool_viz.modeling.pooling.framework import Pooling, TableRow, Tokens
from simpool_viz.tensors import wide


class _Gate(nn.Module):
    """sigmoid(MLP(u)) with one hidden layer of D / reduction units: (..., D) -> (..., D)."""

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        if reduction < 1:
            raise OptionError(f"the reduction of a gate's hidden layer is at least 1, not {reduction}")
        self.fc1 = nn.Linear(dim, max(1, dim // reduction))
        self.fc2 = nn.Linear(max(1, dim // reduction), dim)

    def forward(self, u: Tensor) -> Tensor:
        return self.fc2(self.fc1(u).relu()).sigmoid()


@register_pooling
class SqueezeExcitation(Pooling):
    """Squeeze-and-Excitation (Hu et al., CVPR 2018) as a pooling: q = sigmoid(MLP(GAP(X))), V = diag(q) X, h = 1/N.

    Args:
        dim: width D.
        reduction: D / reduction hidden units.

    Raises:
        OptionError: a reduction below 1.
    """

    name, title, group = "se", "SE", 3
    paper = "Hu et al., Squeeze-and-excitation networks, CVPR 2018"
    summary = (
        "The mean of the features sets a gate for each channel. All positions have the same weight, so its maps are "
        "the channel gates."
    )
    formula = "q = sigmoid(MLP((1/N) Σᵢ xᵢ)), f = (1/N) Σᵢ q ⊙ xᵢ"
    row = TableRow("1", "GAP", "sigmoid(MLP(U))", value="diag(q) X")

    def __init__(self, dim: int, reduction: int = 16) -> None:
        super().__init__(dim)
        self.gate, self.has_channel_gate = _Gate(dim, reduction), True

    def query(self, u: Tensor) -> Tensor:
        return self.gate(u)

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        return x * query  # (B, N, D) * (B, 1, D)

    def channel_gate(self, tokens: Tokens) -> Tensor:
        return self.query(self.init(tokens))[:, 0]


@register_pooling
class CBAM(Pooling):
    """Convolutional block attention module (Woo et al., ECCV 2018): a gate of channels, then one of positions.

    q = sigmoid(MLP(GAP(X))); S_i = (q / D) . x_i, the mean over the gated channels; a = sigmoid(conv7(S)) / N; V =
    diag(q) X. In table 1 of the SimPool paper the 1/D stands in q; it belongs to the mean over channels alone, as in
    CBAM itself, and V is gated without it. The weights are gates: they lie in (0, 1/N) and need not sum to 1.

    Args:
        dim: width D.
        reduction: D / reduction hidden units of the channel gate.
        kernel: side of the convolution over positions, odd.

    Raises:
        OptionError: an even kernel, or a reduction below 1.
    """

    name, title, group, attentive, learned, unit = "cbam", "CBAM", 3, True, True, "mean"
    paper = "Woo et al., CBAM: Convolutional block attention module, ECCV 2018"
    summary = (
        "Gates channels as SE does, then gates positions by a convolution over their mean. Its map is the gate "
        "of positions."
    )
    formula = "q = sigmoid(MLP((1/N) Σᵢ xᵢ)), a = sigmoid(conv₇(X q/D))/N, f = Σᵢ aᵢ q ⊙ xᵢ"
    row = TableRow(
        "1", "GAP", "sigmoid(MLP(U))/D", "X", "dot", "sigmoid(conv₇(S))/N", "diag(q) X", "mean", "X: V diag(a)"
    )

    def __init__(self, dim: int, reduction: int = 16, kernel: int = 7) -> None:
        super().__init__(dim)
        if kernel < 1 or kernel % 2 == 0:
            raise OptionError(f"CBAM: kernel is an odd side of a square of positions, not {kernel}")
        self.gate, self.has_channel_gate = _Gate(dim, reduction), True
        self.conv = nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False)

    def query(self, u: Tensor) -> Tensor:
        return self.gate(u)

    def similarity(self, query: Tensor, key: Tensor) -> Tensor:
        return (query / self.dim) @ key.transpose(1, 2)  # (B, 1, D) @ (B, D, N) -> (B, 1, N)

    def attention(self, scores: Tensor | None, x: Tensor, grid: tuple[int, int]) -> Tensor:
        assert scores is not None
        gates = self.conv(scores.unflatten(2, grid)).flatten(2)  # (B, 1, N) -> (B, 1, h, w) -> (B, 1, N)
        return wide(gates).sigmoid() / gates.shape[2]

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        return x * query

    def channel_gate(self, tokens: Tokens) -> Tensor:
        return self.query(self.init(tokens))[:, 0]


@register_pooling
class GatherExcite(Pooling):
    """Gather-Excite without parameters (GE-theta-minus; Hu et al., NeurIPS 2018, section 3).

    As a pooling: V = X * sigmoid(gathered X), then the mean.

    Args:
        dim: width D.
        extent: positions over which features are averaged for a gate: 0 for all (U0 = GAP), else e for windows with
            sides of 2e - 1 positions at a distance of e, each of which gates e x e positions from its middle on.

    Raises:
        OptionError: a negative extent.
    """

    name, title, group = "ge", "Gather-Excite", 3
    paper = "Hu et al., Gather-Excite: Exploiting feature context in convolutional neural networks, NeurIPS 2018"
    summary = "Each channel is gated by its own mean, of the whole photo or of a neighbourhood. Nothing is learned."
    formula = "f = (1/N) Σᵢ sigmoid(gather(X))ᵢ ⊙ xᵢ"
    row = TableRow("1", "GAP", value="gated X")

    def __init__(self, dim: int, extent: int = 0) -> None:
        super().__init__(dim)
        if extent < 0:
            raise OptionError(
                f"Gather-Excite: extent is 0 for the whole picture or a number of positions, not {extent}"
            )
        self.extent, self.has_channel_gate = extent, extent == 0

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        if not self.extent:
            return x * query.sigmoid()  # the query is U0 = GAP
        features = x.transpose(1, 2).unflatten(2, grid)  # (B, D, h, w)
        near = F.avg_pool2d(features, 2 * self.extent - 1, self.extent, self.extent - 1, count_include_pad=False)
        # E x e positions share a window's gate.
        spread = near.repeat_interleave(self.extent, 2).repeat_interleave(self.extent, 3)
        gates = spread[:, :, : grid[0], : grid[1]].sigmoid()
        return (features * gates).flatten(2).transpose(1, 2)

    def channel_gate(self, tokens: Tokens) -> Tensor | None:
        return None if self.extent else self.init(tokens)[:, 0].sigmoid()
