"""Spatial entropy of maps (Peruzzo et al., Spatial Entropy as an Inductive Bias for Vision Transformers, section 3).

Cells above the map's mean (or its median) form 8-connected components, each with a share of the excess over it. The
entropy of these shares is 0 for one component and ln n for n equal ones. It is differentiable in the scores, batched,
and without a loop over maps: all maps are stacked into one tall picture, with a blank row between them, whose
components are labelled at once.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from simpool_viz.errors import MapError, OptionError
from simpool_viz.tensors import wide

THRESHOLDS = ("mean", "median")


def spatial_entropy(scores: Tensor, mode: str = "mass", threshold: str = "mean") -> Tensor:
    """Entropy in nats of each map.

    Args:
        scores: (..., h, w), scores before a softmax, as in the paper, or weights. The result is the same for
            a * scores + b with any a > 0 and b.
        mode: "mass" for shares of the excess over the threshold, as in the paper; "count" for shares of the cells.
        threshold: of `THRESHOLDS`, what a cell must exceed: the map's "mean", as in the paper and its code, or its
            "median" (ours), above which half of the cells lie however few carry most of the mass.

    Returns:
        (...) in nats, at least 0, float32 (float64 for float64 scores). A constant map has no component and entropy 0.

    Raises:
        OptionError: an unknown mode or threshold, or fewer than two dimensions.
        MapError: values that are not finite.

    Examples:
        >>> import torch
        >>> from simpool_viz.scores.spatial_entropy import spatial_entropy
        >>> maps = torch.zeros(2, 5, 8)
        >>> maps[0, 1:3, 1:3] = 1.0  # one blob
        >>> maps[1, 1, 1] = maps[1, 3, 6] = 1.0  # two equal blobs: ln 2
        >>> spatial_entropy(maps)
        tensor([0.0000, 0.6931])
    """
    if mode not in ("mass", "count"):
        raise OptionError(f"spatial entropy shares 'mass' or 'count', not {mode!r}")
    if threshold not in THRESHOLDS:
        raise OptionError(f"the threshold of spatial entropy is {' or '.join(THRESHOLDS)}, not {threshold!r}")
    if scores.ndim < 2:
        raise OptionError(f"spatial entropy takes maps (..., h, w), not {tuple(scores.shape)}")
    if not torch.isfinite(scores).all():
        raise MapError("the map holds values that are not finite, so it has no spatial entropy")
    h, w = scores.shape[-2:]
    s = wide(scores).reshape(-1, h, w)
    level = _median(s) if threshold == "median" else s.mean(dim=(1, 2))
    excess = s - level[:, None, None]
    varied = s.amax((1, 2)) - s.amin((1, 2)) > 1e-6 * s.abs().amax((1, 2))
    mask = (excess > 0) & varied[:, None, None]
    mass = (torch.relu(excess) + 1e-9) * mask if mode == "mass" else mask.to(s.dtype)
    labels = _label(mask)  # numbered across all maps; 0 outside components
    count = int(labels.max()) + 1
    per_component = s.new_zeros(count).index_add(0, labels.flatten(), mass.flatten())[1:]
    owner = _owners(labels, count)
    total = mass.sum(dim=(1, 2))
    share = per_component / total[owner]
    # The share of a single component can be rounded to more than 1.
    entropy = s.new_zeros(len(s)).index_add(0, owner, -share * share.log()).clamp(min=0)
    return entropy.reshape(scores.shape[:-2])


def _median(s: Tensor) -> Tensor:
    """The median of each of the maps (M, h, w), the mean of the two in the middle where their cells are even in number:
    (M,). `Tensor.median` takes the lower of the two, and `Tensor.quantile` no more than 16 million cells."""
    ordered = s.flatten(1).sort(dim=1).values
    return ordered[:, (ordered.shape[1] - 1) // 2 : ordered.shape[1] // 2 + 1].mean(dim=1)


def _label(mask: Tensor) -> Tensor:
    """8-connected components of masks (M, h, w) bool, numbered from 1 across all maps: (M, h, w) int64, 0 outside."""
    count, h, w = mask.shape
    tall = np.zeros((count, h + 1, w), np.uint8)
    tall[:, :h] = mask.cpu().numpy()
    labels = cv2.connectedComponents(tall.reshape(-1, w), connectivity=8, ltype=cv2.CV_32S)[1]
    return torch.from_numpy(labels.reshape(count, h + 1, w)[:, :h].astype(np.int64)).to(mask.device)


def _owners(labels: Tensor, count: int) -> Tensor:
    """The index of the map of each component 1 ... count - 1: (count - 1,) int64."""
    maps = torch.arange(len(labels), device=labels.device)[:, None, None].expand_as(labels)
    return torch.zeros(count, dtype=torch.long, device=labels.device).index_copy(0, labels.flatten(), maps.flatten())[
        1:
    ]
