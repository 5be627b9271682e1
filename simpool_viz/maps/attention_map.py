"""What a map is: weights on a token grid, with names, unit and geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from simpool_viz.errors import OptionError
from simpool_viz.images import Geometry
from simpool_viz.masks import ObjectMask, make_mask
from simpool_viz.scores.spatial_entropy import spatial_entropy

FUSIONS: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "max": np.max, "min": np.min}


@dataclass(frozen=True)
class AttentionMap:
    """One or more maps on a token grid.

    Attributes:
        weights: (M, h, w) float32, raw: never min-max scaled.
        names: M names: heads, queries, classes.
        unit: "uniform" for weights that sum to 1 (or less, where prefix tokens hold the rest), "mean" for
            non-negative values of any scale (gates, norms, Grad-CAM), "logit" for signed ones (contributions).
        logits: (M, h, w) float32 scores before the softmax, where the map has them.
        method: the registered name of what made it.
        note: what a viewer must know, such as that a map is a heuristic; "" for most.
        fusion: how several maps are best seen as one: "mean", "max" or "min".
    """

    weights: np.ndarray
    names: tuple[str, ...]
    geometry: Geometry
    method: str
    unit: str = "uniform"
    logits: np.ndarray | None = None
    note: str = ""
    fusion: str = "mean"

    def __post_init__(self) -> None:
        if self.unit not in ("uniform", "mean", "logit"):
            raise ValueError(f"{self.method}: the unit of a map is uniform, mean or logit, not {self.unit!r}")
        if (
            self.weights.ndim != 3
            or self.weights.shape[1:] != self.geometry.grid
            or len(self.names) != len(self.weights)
        ):
            raise ValueError(
                f"{self.method}: maps of shape {self.weights.shape} do not fit grid {self.geometry.grid} and names "
                f"{self.names}"
            )

    @property
    def signed(self) -> bool:
        """Whether values may be negative."""
        return self.unit == "logit"

    def fused(self, how: str | int | None = None) -> np.ndarray:
        """One map (h, w): the mean, max or min over the M maps, or the map of one index or name; `fusion` where left
        out.

        Raises:
            OptionError: no such fusion, index or name.

        Examples:
            >>> from simpool_viz import load_checkpoint, record
            >>> encoder = load_checkpoint("resnet_simpool")
            >>> recording = record(encoder, "cat.jpg")
            >>> attention = recording.map("gradcam", classes=["golf ball", "church"])
            >>> attention.weights.shape, attention.fused().shape
            ((2, 16, 24), (16, 24))
            >>> bool((attention.fused("church") == attention.weights[1]).all())
            True
        """
        how = self.fusion if how is None else how
        if isinstance(how, str) and how in FUSIONS:
            return FUSIONS[how](self.weights, axis=0).astype(np.float32)
        index = self.names.index(how) if how in self.names else how
        index = int(index) if isinstance(index, np.integer) else index
        if isinstance(index, bool) or not isinstance(index, int) or not -len(self.names) <= index < len(self.names):
            raise OptionError(
                f"{how!r} is no fusion ({', '.join(FUSIONS)}), name ({', '.join(self.names)}) or index of {self.method}"
            )
        one: np.ndarray = self.weights[index]
        return one

    def mask(
        self, rule: str = "mass", amount: float | None = None, *, largest: bool = False, fusion: str | int | None = None
    ) -> ObjectMask:
        """Threshold the fused map.

        Args:
            rule: "mass", "area", "quantile", "mean" or "otsu".
            amount: the rule's share in (0, 1]; its default where left out.
            largest: keep only the largest component.
            fusion: as in `fused`.

        Examples:
            >>> from simpool_viz import load_checkpoint, record
            >>> encoder = load_checkpoint("resnet_simpool")
            >>> recording = record(encoder, "cat.jpg")
            >>> attention = recording.map("simpool")
            >>> mask = attention.mask("area", 0.25)
            >>> mask.grid.shape, mask.coverage
            ((16, 24), 0.25)
        """
        return make_mask(self.fused(fusion), self.geometry, rule, amount, largest)

    def entropy(self, mode: str = "mass") -> tuple[float, str]:
        """Spatial entropy in nats, the mean over the M maps, and whether "logits" or "weights" were measured.

        0 is one connected blob; ln n is n equal ones. See `scores.spatial_entropy`.

        Examples:
            >>> from simpool_viz import load_checkpoint, record
            >>> encoder = load_checkpoint("resnet_simpool")
            >>> recording = record(encoder, "cat.jpg")
            >>> nats, measured = recording.map("simpool").entropy()
            >>> measured, nats < 1
            ('logits', True)
        """
        scores = self.weights if self.logits is None else self.logits
        return float(
            spatial_entropy(torch.from_numpy(scores), mode).mean()
        ), "weights" if self.logits is None else "logits"
