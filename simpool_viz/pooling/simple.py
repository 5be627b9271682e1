"""Group 1 of the framework's table: one step, uniform weights, a mean of the features themselves.

The five differ only in their mean f. Names and formulas: SimPool paper, table 1 and section 3.4.
"""

from __future__ import annotations

from simpool_viz.pooling.framework import Pooling
from simpool_viz.pooling.means import LogMeanExp, Maximum, PowerMean
from simpool_viz.pooling.registry import register_pooling


@register_pooling
class GAP(Pooling):
    """Global average pooling: f = identity. Lin et al., Network in Network, ICLR 2014."""

    name, title = "gap", "GAP"
    paper = "Lin et al., Network In Network, ICLR 2014"
    summary = "Averages all positions alike. It says nothing about where the model looks; its contribution map does, for a class."


@register_pooling
class MaxPool(Pooling):
    """Global max pooling: alpha -> -infinity. Oquab et al., CVPR 2015."""

    name, title = "max", "Max"
    paper = "Oquab et al., Is object localization for free?, CVPR 2015"
    summary = "Takes the largest value of every channel, wherever it is. One position speaks for each channel."

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.mean = Maximum()


@register_pooling
class GeM(Pooling):
    """Generalised-mean pooling: f = x^p with one learnable p. Radenovic et al., TPAMI 2019, eq. 1.

    Values are clamped to eps from below, so at p = 1 this equals GAP of the clamped features, not GAP, where
    features are signed.
    """

    name, title = "gem", "GeM"
    paper = "Radenovic et al., Fine-tuning CNN image retrieval with no human annotation, TPAMI 2019"
    summary = (
        "A power mean whose exponent is learned: 1 averages, large exponents approach the maximum. Negative values are cut at 1e-6 first."
    )

    def __init__(self, dim: int, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__(dim)
        self.mean = PowerMean(1, p, learnable=True, eps=eps)


@register_pooling
class GGeM(Pooling):
    """Grouped generalised-mean pooling: one learnable p per contiguous group of channels. Ko et al., 2022, eq. 3.

    Args:
        dim: width D.
        groups: G, usually the number of heads; G = 1 is GeM.
    """

    name, title = "ggem", "GGeM"
    paper = "Ko et al., Group Generalized Mean Pooling for Vision Transformer, 2022"
    summary = "GeM with an exponent of its own for each group of channels, usually one per head, so that groups can average or pick peaks."

    def __init__(self, dim: int, groups: int = 4, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__(dim)
        if dim % groups:
            raise ValueError(f"GGeM: {dim} channels do not split into {groups} groups; choose a number that divides {dim}")
        self.mean = PowerMean(groups, p, learnable=True, eps=eps)


@register_pooling
class LSE(Pooling):
    """Log-sum-exp pooling: f = exp(r x), r learnable and starting at 10. Pinheiro & Collobert, CVPR 2015, eq. 6."""

    name, title = "lse", "LSE"
    paper = "Pinheiro & Collobert, From image-level to pixel-level labeling with CNNs, CVPR 2015"
    summary = "A smooth maximum with a learned sharpness r: the mean as r goes to 0, the maximum as r grows."

    def __init__(self, dim: int, r: float = 10.0) -> None:
        super().__init__(dim)
        self.mean = LogMeanExp(r)
