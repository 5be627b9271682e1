"""Group 1 of the framework's table: one step, and a mean of the features themselves.

Names and formulas follow the SimPool paper, table 1 and section 3.4. All but HOW weigh positions alike and differ only
in their mean f.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simpool_viz.errors import OptionError
from simpool_viz.modeling.pooling.create import register_pooling
from simpool_viz.modeling.pooling.framework import Pooling, TableRow
from simpool_viz.modeling.pooling.means import LogMeanExp, Maximum, PowerMean
from simpool_viz.tensors import wide


@register_pooling
class GAP(Pooling):
    """Global average pooling: f = identity. Lin et al., Network in Network, ICLR 2014."""

    name, title = "gap", "GAP"
    paper = "Lin et al., Network In Network, ICLR 2014"
    summary = (
        "Averages all positions with the same weight. Its weights are no map; its contribution map shows the "
        "positions behind a class."
    )
    formula = "f = (1/N) Σᵢ xᵢ"


@register_pooling
class MaxPool(Pooling):
    """Global max pooling: alpha -> -infinity. Oquab et al., CVPR 2015."""

    name, title = "max", "Max"
    paper = "Oquab et al., Is object localization for free?, CVPR 2015"
    summary = "Takes the largest value of every channel, wherever it is. One position determines each channel."
    formula = "f_c = maxᵢ x_ic"
    row = TableRow(attention="1", mean="α → −∞")

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.mean = Maximum()


@register_pooling
class GeM(Pooling):
    """Generalised-mean pooling: f = x^p with one learnable p. Radenovic et al., TPAMI 2019, eq. 1.

    Values are clamped to eps from below, so at p = 1 this equals GAP of the clamped features, not GAP, where
    features are signed.

    Args:
        dim: width D.
        p: initial exponent.
        eps: floor of the values.
    """

    name, title = "gem", "GeM"
    paper = "Radenovic et al., Fine-tuning CNN image retrieval with no human annotation, TPAMI 2019"
    summary = (
        "A power mean whose exponent is learned: 1 averages, large exponents approach the maximum. Negative "
        "values are cut at 1e-6 first."
    )
    formula = "f_c = ((1/N) Σᵢ max(x_ic, ε)^p)^(1/p)"
    row = TableRow(mean="f_α, learnable")

    def __init__(self, dim: int, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__(dim)
        self.mean = PowerMean(1, p, learnable=True, eps=eps)


@register_pooling
class GGeM(Pooling):
    """Grouped generalised-mean pooling: one learnable p per contiguous group of channels. Ko et al., 2022, eq. 3.

    Args:
        dim: width D.
        groups: G, usually the number of heads; G = 1 is GeM.
        p: initial exponent of every group.
        eps: floor of the values.

    Raises:
        OptionError: D is not divisible by G.
    """

    name, title = "ggem", "GGeM"
    paper = "Ko et al., Group Generalized Mean Pooling for Vision Transformer, 2022"
    summary = (
        "GeM with an exponent of its own for each group of channels, usually one per head. One group can "
        "average, another pick peaks."
    )
    formula = "f_c = ((1/N) Σᵢ max(x_ic, ε)^p_g)^(1/p_g), c in group g"
    row = TableRow(mean="one learnable p per group")

    def __init__(self, dim: int, groups: int = 4, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__(dim)
        if dim % groups:
            raise OptionError(
                f"GGeM: {dim} channels do not split into {groups} groups; choose a number that divides {dim}"
            )
        self.mean = PowerMean(groups, p, learnable=True, eps=eps)


@register_pooling
class LSE(Pooling):
    """Log-sum-exp pooling: f = exp(r x), r learnable. Pinheiro & Collobert, CVPR 2015, eq. 6.

    Args:
        dim: width D.
        r: initial sharpness.
    """

    name, title = "lse", "LSE"
    paper = "Pinheiro & Collobert, From image-level to pixel-level labeling with CNNs, CVPR 2015"
    summary = "A smooth maximum with a learned sharpness r. It is the mean as r goes to 0, and the maximum as r grows."
    formula = "f_c = (1/r) ln((1/N) Σᵢ exp(r x_ic))"
    row = TableRow(mean="exp(r x), r learnable")

    def __init__(self, dim: int, r: float = 10.0) -> None:
        super().__init__(dim)
        self.mean = LogMeanExp(r)


@register_pooling
class HOW(Pooling):
    """Aggregation of local descriptors weighted by their norm (Tolias et al., ECCV 2020).

    A = diag(X^T X): the weight of a position is the squared norm of its features. V = FC(avg3(X)) smooths over 3 x 3
    positions (at the border, over those that exist) and projects; the sum is l2-normalised.

    Args:
        dim: width D.
        out_dim: width of the projection; D by default.
        weight: "squared" for ||x||^2 (SimPool paper, table 1) or "norm" for ||x|| + 1e-10 (the released code of HOW).

    Raises:
        OptionError: an unknown weight.
    """

    name, title, attentive, additive, unit = "how", "HOW", True, False, "mean"
    paper = "Tolias et al., Learning and aggregating deep local descriptors for instance-level recognition, ECCV 2020"
    summary = (
        "The weight of a position is the squared norm of its features; nothing in it is learned. The smoothed, "
        "projected features are summed with these weights."
    )
    formula = "f = η(Σᵢ ‖xᵢ‖² FC(avg₃(X))ᵢ), η(z) = z/‖z‖"
    row = TableRow(attention="diag(XᵀX)", value="FC(avg₃(X))", mean="sum", update="U: l2-normalise")

    def __init__(self, dim: int, out_dim: int | None = None, weight: str = "squared") -> None:
        super().__init__(dim)
        if weight not in ("squared", "norm"):
            raise OptionError(f"HOW: weight is 'squared' or 'norm', not {weight!r}")
        self.weight = weight
        self.fc = nn.Linear(dim, out_dim or dim)

    @property
    def out_dim(self) -> int:
        return self.fc.out_features

    def attention(self, scores: Tensor | None, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.weight == "squared":
            return wide(x).square().sum(-1).unsqueeze(1)  # (B, 1, N)
        # Its gradient at 0 is 0, a square root's is not.
        return torch.linalg.vector_norm(wide(x), dim=-1).unsqueeze(1) + 1e-10

    def value(self, x: Tensor, query: Tensor, grid: tuple[int, int]) -> Tensor:
        features = x.transpose(1, 2).unflatten(2, grid)  # (B, N, D) -> (B, D, h, w)
        smooth = F.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)
        return self.fc(smooth.flatten(2).transpose(1, 2))

    def gather(self, weights: Tensor, value: Tensor) -> Tensor:
        # As shares, which the l2 norm undoes: in half precision the plain sum would overflow.
        return super().gather(weights / weights.sum(-1, keepdim=True).clamp(min=1e-12), value)

    def update(self, z: Tensor, u: Tensor, weights: Tensor) -> Tensor:
        return F.normalize(wide(z), dim=-1).to(z.dtype)
