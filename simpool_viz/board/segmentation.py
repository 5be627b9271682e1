"""What a dense head finds: the class of every token and pixel, and the classes with their shares of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from simpool_viz.errors import MapError
from simpool_viz.modeling.classes import class_name
from simpool_viz.recording import Recording


@dataclass(frozen=True)
class Segmentation:
    """The classes of one picture's tokens.

    Attributes:
        scores: (K, h, w) float32 logits.
        names: K names of classes.
        size: (width, height) of the picture in pixels.
    """

    scores: Tensor
    names: tuple[str, ...]
    size: tuple[int, int]

    @cached_property
    def labels(self) -> np.ndarray:
        """The class of every token, (h, w) int64."""
        return self.scores.argmax(0).cpu().numpy()

    def pixels(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The class of every pixel, from logits upsampled bilinearly.

        Args:
            size: (W, H) of the result in pixels; the picture's own by default.

        Returns:
            (H, W) int64.
        """
        width, height = size or self.size
        scores = F.interpolate(self.scores[None], (height, width), mode="bilinear", align_corners=False)[0]
        return scores.argmax(0).cpu().numpy()

    def shares(self) -> np.ndarray:
        """The share of tokens that each class has, (K,) in [0, 1]."""
        return np.bincount(self.labels.ravel(), minlength=len(self.names)) / self.labels.size

    def found(self) -> list[int]:
        """Indices of the classes that at least one token has, the most frequent first."""
        shares = self.shares()
        return [int(i) for i in np.argsort(-shares, kind="stable") if shares[i] > 0]

    @property
    def summary(self) -> str:
        """The most frequent classes with their shares, at most six, in a line."""
        shares = self.shares()
        return "finds " + ", ".join(f"{self.names[i]} {percent(shares[i])}" for i in self.found()[:6])


def percent(share: float) -> str:
    """A share of 1 as text: "31 %", with one decimal below 1 %."""
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1f} %"


def segment(recording: Recording) -> Segmentation:
    """The segmentation of a dense checkpoint.

    Args:
        recording: one picture's.

    Raises:
        MapError: its head does not classify tokens.

    Examples:
        >>> from simpool_viz import load_checkpoint, record, segment
        >>> segmentation = segment(record(load_checkpoint("camvid_vit"), "street.jpg", size=128))
        >>> segmentation.labels.shape, segmentation.size, len(segmentation.names)
        ((9, 14), (741, 500), 11)
        >>> round(float(segmentation.shares().sum()), 6)
        1.0
    """
    encoder = recording.encoder
    if not encoder.dense:
        raise MapError(
            f"{encoder.facts.name} has no dense head, so it makes no segmentation; choose a checkpoint that has one"
        )
    scores = recording.token_scores.T.unflatten(1, recording.tokens.grid).float()
    return Segmentation(scores, tuple(class_name(encoder, i) for i in range(len(scores))), recording.picture.size)
