"""The value that every map method returns: weights on a token grid, with names, unit and geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from simpool_viz.errors import OptionError
from simpool_viz.images import Geometry
from simpool_viz.masks import ObjectMask, choose_cut, make_mask
from simpool_viz.outputs import Displayed
from simpool_viz.scores.spatial_entropy import spatial_entropy

FUSIONS: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "max": np.max, "min": np.min}


@dataclass(frozen=True)
class AttentionMap(Displayed):
    """One or more maps on a token grid.

    Attributes:
        weights: (M, h, w) float32, raw: never min-max scaled.
        names: M names, of heads, queries or classes.
        geometry: the position of the tokens in the picture.
        method: the registered name of the map's method.
        unit: "uniform" for weights that sum to 1 (or less, where prefix tokens hold the rest), "mean" for
            non-negative values of any scale (gates, norms, Grad-CAM), "logit" for signed ones (contributions).
        logits: (M, h, w) float32 scores before the softmax, where the map has them.
        note: a limitation that a viewer must know, such as that the map is a heuristic; "" for most.
        fusion: how the M maps are fused by default: "mean", "max", "min", or the name of one of them.

    Raises:
        ValueError: weights, names and geometry that do not fit each other, or an unknown unit.
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

    def fused(self, fusion: str | int | None = None) -> np.ndarray:
        """The M maps as one.

        Args:
            fusion: "mean", "max" or "min" over the M maps, or the index or name of one of them; the attribute `fusion`
                by default.

        Returns:
            (h, w) float32.

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
        fusion = self.fusion if fusion is None else fusion
        if isinstance(fusion, str) and fusion in FUSIONS:
            return FUSIONS[fusion](self.weights, axis=0).astype(np.float32)
        index = self.names.index(fusion) if fusion in self.names else fusion
        index = int(index) if isinstance(index, np.integer) else index
        if isinstance(index, bool) or not isinstance(index, int) or not -len(self.names) <= index < len(self.names):
            raise OptionError(
                f"{fusion!r} is no fusion ({', '.join(FUSIONS)}), name ({', '.join(self.names)}) or index of "
                f"{self.method}"
            )
        one: np.ndarray = self.weights[index]
        return one

    def mask(
        self,
        rule: str | None = None,
        amount: float | None = None,
        *,
        largest: bool | None = None,
        fusion: str | int | None = None,
        smoothing: float | None = None,
        smooth: bool | None = None,
    ) -> ObjectMask:
        """Threshold the fused map.

        Args:
            rule: a name of `mask_rules`: "mass", "area", "quantile", "mean" or "otsu"; by default the cut that covers
                objects best over the bundled maps (`masks.DEFAULT_CUT`), smoothing and edges included.
            amount: the rule's share in (0, 1]; its default where None.
            largest: keep only the largest component.
            fusion: as in `fused`.
            smoothing: standard deviation in tokens of a blur before the threshold, from 0 (none) to 2.
            smooth: smooth edges, instead of whole patches.

        Raises:
            OptionError: an unknown rule or fusion, an amount that does not fit the rule, or a smoothing out of range.
            MapError: weights that are not finite.

        Examples:
            >>> from simpool_viz import load_checkpoint, record
            >>> encoder = load_checkpoint("resnet_simpool")
            >>> recording = record(encoder, "cat.jpg")
            >>> attention = recording.map("simpool")
            >>> mask = attention.mask("area", 0.25)
            >>> mask.grid.shape, mask.coverage
            ((16, 24), 0.25)
        """
        cut = choose_cut(rule, amount, smoothing=smoothing, largest=largest, smooth=smooth)
        return make_mask(self.fused(fusion), self.geometry, cut)

    def entropy(self, mode: str = "mass") -> tuple[float, str]:
        """Spatial entropy (Peruzzo et al., section 3), the mean over the M maps; see `scores.spatial_entropy`.

        Args:
            mode: "mass" for shares of the excess over the mean, as in the paper; "count" for shares of the cells.

        Returns:
            The entropy in nats, 0 for one connected component and ln n for n equal ones, and whether it is that of the
            "logits" or, where the map has none, of the "weights".

        Raises:
            OptionError: an unknown mode.
            MapError: values that are not finite.

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
