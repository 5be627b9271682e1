"""The contribution of every token to the logit of a class; with GAP and a linear head this is CAM (Zhou et al., 2016).

The pooled vector is a sum of the contributions of all positions, f_c = sum_i g_ic (see `pooling.means`); a linear head,
with the norm before it folded in, then gives sum_c W'_kc g_ic per token, which sums to logit - b' exactly.
The definition for poolings other than GAP is this project's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from simpool_viz.capture.recorded import Recorded
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.common import make_rows, needs_classifier, wanted_classes
from simpool_viz.maps.registry import register_map
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.layers.head_layers import HiddenLayer
from simpool_viz.tensors import wide


def _why_not(encoder: Encoder) -> str | None:
    if encoder.dense:
        return needs_classifier(encoder)
    if not isinstance(encoder.classifier, nn.Linear):
        return "it has no linear head, so there is no class to contribute to"
    if not encoder.pooling.additive:
        return f"the vector of {encoder.pooling.title} pooling is not a sum of what single tokens give"
    if isinstance(encoder.norm, (HiddenLayer, nn.Sequential)):
        return (
            "a layer with a non-linearity stands between pooling and head, so no logit is a sum over positions; "
            "'gradcam' shows where its gradient is"
        )
    norm = getattr(encoder.norm, "norm", encoder.norm)
    if isinstance(norm, nn.BatchNorm1d):
        fixed = norm.running_mean is not None and not norm.training
        return (
            None
            if fixed
            else "the BatchNorm between pooling and head has no fixed statistics; call eval() on the encoder"
        )
    if not isinstance(norm, (nn.Identity, nn.LayerNorm)):
        return f"the {type(encoder.norm).__name__} between pooling and head cannot be folded into the head"
    return None


@register_map(
    "contribution",
    "Contribution",
    "What each position adds to the logit of a class, the predicted one by default: positive for, negative against. "
    "With GAP this is CAM.",
    formula="mᵢ = Σ_c W′_kc g_ic, with Σᵢ g_ic = f_c",
    paper="Zhou et al., CVPR 2016, for GAP",
    why_not=_why_not,
)
def contribution(recording: Recorded, classes: Sequence[int | str] | int | str | None = None) -> AttentionMap:
    """One signed map per class, (K, h, w) in units of the logit, which sums to `logit - b'`.

    Args:
        recording: of a checkpoint with a linear head and an additive pooling.
        classes: names or indices; the predicted class by default.

    Raises:
        OptionError: an unknown class.
    """
    encoder, (wanted, names) = recording.encoder, wanted_classes(recording, classes)
    weight, _ = folded_head(recording, wanted)
    with torch.inference_mode():
        given = wide(encoder.pooling.contribution(recording.tokens, recording.pooled)[0])  # (N, D)
        rows = weight @ given.T  # (K, D) @ (D, N)
    return make_rows(recording, "contribution", rows, names, unit="logit")


def folded_head(recording: Recorded, classes: list[int]) -> tuple[Tensor, Tensor]:
    """The head with norm and pooling offset folded in: logits = W' g + b' with g the sum of the contributions.

    A LayerNorm between pooling and head is folded with the mean and deviation of this picture's vector held fixed:
    W' = centre(W * weight) / sigma and b' = b + W bias. A BatchNorm's statistics are fixed anyway: W' = W * weight /
    sigma and b' = b + W bias - W' mean. A constant that the pooling adds to every channel goes into b'.

    Args:
        recording: of a checkpoint with a linear head.
        classes: indices of K classes.

    Returns:
        W' (K, D) and b' (K,), float32 (float64 of a float64 model).
    """
    encoder = recording.encoder
    head, pooled = encoder.classifier, wide(recording.pooled.vector[0])
    assert isinstance(head, nn.Linear), "why_not requires a linear head"
    weight = wide(head.weight.detach()[classes])
    bias = weight.new_zeros(len(classes)) if head.bias is None else wide(head.bias.detach()[classes])
    norm = getattr(encoder.norm, "norm", encoder.norm)
    if isinstance(norm, (nn.LayerNorm, nn.BatchNorm1d)):
        if norm.bias is not None:
            bias = bias + weight @ wide(norm.bias.detach())
        if norm.weight is not None:
            weight = weight * wide(norm.weight.detach())
    if isinstance(norm, nn.LayerNorm):
        weight = (weight - weight.mean(1, keepdim=True)) / (pooled.var(correction=0) + norm.eps).sqrt()
    elif isinstance(norm, nn.BatchNorm1d):
        assert norm.running_mean is not None and norm.running_var is not None, "why_not requires fixed statistics"
        weight = weight / (wide(norm.running_var) + norm.eps).sqrt()
        bias = bias - weight @ wide(norm.running_mean)
    offset = encoder.pooling.offset()
    if isinstance(offset, Tensor):
        bias = bias + weight.sum(1) * wide(offset.detach())
    return weight, bias
