"""Insertion and deletion: whether the model's answer depends on the pixels that a map weighs most.

Petsiuk, Das & Saenko, RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018: pixels are
deleted, the heaviest first, and the probability of the class should fall early; or they are inserted into a blurred
picture, and it should rise early.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from simpool_viz.capture.recorded import Recorded
from simpool_viz.errors import MapError, OptionError
from simpool_viz.masks import upsample
from simpool_viz.modeling.classes import class_name
from simpool_viz.tensors import wide

STEPS = 20
MOST_STEPS = 200
BATCH = 4  # pictures of a forward
BLUR = 0.05  # standard deviation of the blurred picture, as a share of the shorter side; RISE's 10 of 224 pixels


class Fused(Protocol):
    """A map: what has one weight for every token, as `AttentionMap`."""

    def fused(self) -> np.ndarray:
        """(h, w) float32."""


@dataclass(frozen=True)
class Faithfulness:
    """The two curves of a map.

    Attributes:
        shares: (S,) of the pixels that have been deleted or inserted, from 0 to 1.
        deletion: (S,) probability of the class while the heaviest pixels are deleted first.
        insertion: (S,) while they are inserted first.
        class_name: whose probability it is.
    """

    shares: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    class_name: str
    areas: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        # Areas in [0, 1] by the trapezoidal rule: of a good map, small for deletion and large for insertion.
        curves = {"deletion": self.deletion, "insertion": self.insertion}
        areas = {name: _area(self.shares, curve) for name, curve in curves.items()}
        object.__setattr__(self, "areas", areas)


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum())


def faithfulness(
    recorded: Recorded, attention: Fused | np.ndarray, steps: int = STEPS, target: int | None = None
) -> Faithfulness:
    """Measure insertion and deletion of a map.

    Args:
        recorded: the recording that the map is of.
        attention: the map, or its weights (h, w).
        steps: forwards of each curve beside the first, from 1 to 200.
        target: index of the class; the recording's most probable one by default.

    Returns:
        Both curves with `steps` + 1 points and their areas. Ties of the map are broken in raster order.

    Raises:
        MapError: a checkpoint without a classifier.
        OptionError: an impossible number of steps, or no such class.

    Examples:
        >>> from simpool_viz import load_checkpoint, record
        >>> from simpool_viz.scores.faithfulness import faithfulness
        >>> recording = record(load_checkpoint("resnet_simpool"), "cat.jpg", size=96)
        >>> curves = faithfulness(recording, recording.map("simpool"), steps=4)
        >>> len(curves.deletion), sorted(curves.areas)
        (5, ['deletion', 'insertion'])
        >>> bool(abs(curves.deletion[0] - curves.insertion[-1]) < 1e-3)  # the whole picture
        True
    """
    *_, last = iterate_faithfulness(recorded, attention, steps, target)
    return last


def iterate_faithfulness(
    recorded: Recorded, attention: Fused | np.ndarray, steps: int = STEPS, target: int | None = None
) -> Iterator[Faithfulness]:
    """As `faithfulness`, but yields the curves so far after every few forwards. Args and errors are the same."""
    encoder = recorded.encoder
    if encoder.classifier is None or recorded.logits is None:
        raise MapError(f"{encoder.facts.name} has no classifier, so there is no probability that pixels could change")
    if not 1 <= steps <= MOST_STEPS:
        raise OptionError(f"insertion and deletion take 1 to {MOST_STEPS} steps, not {steps}")
    logits = wide(recorded.logits)
    number = int(logits.argmax()) if target is None else target
    if not 0 <= number < len(logits):
        raise OptionError(f"{encoder.facts.name} has classes 0 to {len(logits) - 1}, not {number}")
    name = class_name(encoder, number)
    image = recorded.image  # (3, H, W), normalised
    height, width = image.shape[-2:]
    fused = attention if isinstance(attention, np.ndarray) else attention.fused()
    weights = upsample(fused, (width, height)).ravel()
    order = torch.from_numpy(np.argsort(-weights, kind="stable")).to(image.device)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=image.device)
    counts = np.round(np.linspace(0, height * width, steps + 1)).astype(int)
    shares = counts / (height * width)
    blurred, grey = _blurred(image), torch.zeros_like(image)
    curves: dict[str, list[float]] = {"deletion": [], "insertion": []}
    for start in range(0, steps + 1, BATCH):
        some = torch.from_numpy(counts[start : start + BATCH]).to(image.device)
        heaviest = (rank < some[:, None]).view(-1, 1, height, width)
        for key, batch in (
            ("deletion", torch.where(heaviest, grey, image)),
            ("insertion", torch.where(heaviest, image, blurred)),
        ):
            with torch.inference_mode():
                probabilities = wide(encoder(batch).logits).softmax(-1)[:, number]
            curves[key] += probabilities.cpu().tolist()
        done = len(curves["deletion"])
        yield Faithfulness(shares[:done], np.array(curves["deletion"]), np.array(curves["insertion"]), name)


def _blurred(image: Tensor) -> Tensor:
    """(3, H, W), blurred so that no object can be told."""
    values = image.permute(1, 2, 0).float().cpu().numpy()
    blurred = cv2.GaussianBlur(values, (0, 0), BLUR * min(values.shape[:2]), borderType=cv2.BORDER_REFLECT)
    return torch.from_numpy(blurred).permute(2, 0, 1).to(image)
