"""From a grid of weights to an object mask: rules, components, boxes.

Every rule computes a level, and the mask is the level set `w >= level` (ties included), so that Python and the browser
draw the same mask from the same weights. The level is computed on the token grid from the positive part of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import cv2
import numpy as np

from simpool_viz.errors import MapError, OptionError
from simpool_viz.images import Geometry, expand_cells
from simpool_viz.outputs import Displayed

Box = tuple[int, int, int, int]
MOST_SMOOTHING = 2.0  # cells
STRIP = 32  # rows of pixels that are upsampled together, few enough to stay in a core's cache


@dataclass(frozen=True)
class MaskRule:
    """A registered rule that chooses the level of a mask.

    Attributes:
        name: the name by which it is requested.
        title: for readers.
        summary: one sentence.
        default: its amount where none is given, a share in (0, 1]; None for a rule without an amount.
        levels: the function, as in `register_rule`.
    """

    name: str
    title: str
    summary: str
    default: float | None
    levels: Callable[[np.ndarray, np.ndarray], np.ndarray | float]


_RULES: dict[str, MaskRule] = {}


Levels = TypeVar("Levels", bound=Callable[[np.ndarray, np.ndarray], "np.ndarray | float"])


def register_rule(name: str, title: str, summary: str, default: float | None) -> Callable[[Levels], Levels]:
    """Decorator that registers a function as a mask rule.

    The function takes the non-negative weights in descending order, (N,) float32, and amounts (A,) float64, and returns
    the level of each amount (A,), or a single level for all of them.

    Args:
        name: the name by which the rule is requested.
        title: for readers.
        summary: one sentence.
        default: its amount where none is given, a share in (0, 1]; None for a rule without an amount.
    """

    def register(function: Levels) -> Levels:
        _RULES[name] = MaskRule(name, title, summary, default, function)
        return function

    return register


def mask_rules() -> dict[str, MaskRule]:
    """Every registered mask rule by name.

    Examples:
        >>> from simpool_viz import mask_rules
        >>> {name: rule.default for name, rule in mask_rules().items()}
        {'mass': 0.6, 'area': 0.25, 'quantile': 0.75, 'mean': None, 'otsu': None}
    """
    return dict(_RULES)


@register_rule("mass", "Share of mass", "The fewest cells that hold this share of all attention (DINO's rule).", 0.6)
def _mass(descending: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    total = np.cumsum(descending, dtype=np.float64)
    reached = np.searchsorted(total, amounts * total[-1] * (1 - 1e-12))
    levels: np.ndarray = descending[reached.clip(max=len(descending) - 1)]
    return levels


@register_rule("area", "Share of area", "This share of the cells, the heaviest first.", 0.25)
def _area(descending: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    counts = np.ceil(amounts * len(descending) - 1e-9).astype(int)
    levels: np.ndarray = descending[counts.clip(min=1) - 1]
    return levels


@register_rule("quantile", "Quantile", "The cells at or above this quantile of the weights.", 0.75)
def _quantile(descending: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    # NumPy's method "higher", which itself errs on rounded products such as 0.28 * 100.
    above = np.ceil(amounts * (len(descending) - 1) - 1e-9).astype(int)
    levels: np.ndarray = descending[len(descending) - 1 - above]
    return levels


@register_rule("mean", "Mean", "The cells at or above the mean weight.", None)
def _mean(descending: np.ndarray, amounts: np.ndarray) -> float:
    return float(np.mean(descending, dtype=np.float64))


@register_rule("otsu", "Otsu", "Otsu's threshold: the split that separates two groups of weights best.", None)
def _otsu(descending: np.ndarray, amounts: np.ndarray) -> float:
    from skimage.filters import threshold_otsu

    # In float32, the values of an almost uniform map are too close for the histogram's bins.
    values = descending.astype(np.float64)
    above = values[values > threshold_otsu(values)]
    return float(above[-1]) if above.size else float(descending[-1])


def parse_rule(text: str) -> tuple[str, float | None]:
    """Name and amount of a mask rule from text: "mass:0.6" gives ("mass", 0.6).

    Args:
        text: the name, then optionally a colon and the amount; the rule's default where it is left out.

    Raises:
        OptionError: an unknown rule, or an amount that does not fit it.
    """
    name, _, amount = text.partition(":")
    if name not in _RULES:
        raise OptionError(f"no mask rule is called {name!r}; there are {', '.join(_RULES)}")
    try:
        return name, _checked(_RULES[name], _number(amount) if amount else None)
    except OptionError as error:
        raise OptionError(f"mask {text!r}: {error}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"the amount is a number, as in mass:0.6, not {text!r}") from None


def _checked(rule: MaskRule, amount: float | None) -> float | None:
    if rule.default is None:
        if amount is not None:
            raise OptionError(f"the rule {rule.name!r} takes no amount")
        return None
    amount = rule.default if amount is None else amount
    if not 0 < amount <= 1:
        raise OptionError(f"the amount is a share above 0 and up to 1, not {amount:g}")
    return amount


@dataclass(frozen=True)
class Cut:
    """How a map is cut to a mask.

    Attributes:
        rule: a name of `mask_rules`.
        amount: a share in (0, 1]; the rule's default where None.
        smoothing: standard deviation in tokens of a blur before the threshold, from 0 (none) to `MOST_SMOOTHING`.
        largest: whether only the largest component is kept.
        smooth: whether pixels are the level set of the bilinearly upsampled map, instead of whole patches.
    """

    rule: str
    amount: float | None = None
    smoothing: float = 0.0
    largest: bool = False
    smooth: bool = False

    @property
    def label(self) -> str:
        """Such as "mass:0.6, smoothed by 0.5, smooth edges, largest component"."""
        parts = [self.rule if self.amount is None else f"{self.rule}:{self.amount:g}"]
        parts += [f"smoothed by {self.smoothing:g}"] if self.smoothing else []
        parts += ["smooth edges"] if self.smooth else []
        return ", ".join(parts + (["largest component"] if self.largest else []))


# The one that covers objects best over the bundled maps; `simpool-viz evaluate --rules` measures it (docs/masks.md).
DEFAULT_CUT = Cut("mean", smooth=True)
DINO_CUT = Cut("mass", 0.6)  # of the published protocols (Caron et al., ICCV 2021)


def choose_cut(
    rule: str | None = None,
    amount: float | None = None,
    *,
    smoothing: float | None = None,
    largest: bool | None = None,
    smooth: bool | None = None,
) -> Cut:
    """A cut of which not all is said: without a rule, the rest is `DEFAULT_CUT`'s; a named rule stands by itself, on
    whole patches.

    Raises:
        OptionError: an unknown rule, an amount that does not fit it or has no rule, or a smoothing out of range.
    """
    if rule is None and amount is not None:
        raise OptionError(f"an amount, {amount:g}, goes with its rule, as in mass:0.6")
    if rule is not None and rule not in _RULES:
        raise OptionError(f"no mask rule is called {rule!r}; there are {', '.join(_RULES)}")
    cut = DEFAULT_CUT if rule is None else Cut(rule, _checked(_RULES[rule], amount))
    given: dict[str, Any] = {"smoothing": smoothing, "largest": largest, "smooth": smooth}
    cut = replace(cut, **{name: value for name, value in given.items() if value is not None})
    if not 0 <= cut.smoothing <= MOST_SMOOTHING:
        raise OptionError(f"smoothing is a number of cells from 0 to {MOST_SMOOTHING:g}, not {cut.smoothing:g}")
    return cut


def is_constant(weights: np.ndarray) -> bool:
    """Whether a map (h, w) is constant to float32 precision: max - min <= 1e-6 max|w|."""
    return float(weights.max() - weights.min()) <= 1e-6 * float(np.abs(weights).max())


def find_level(weights: np.ndarray, rule: str, amount: float | None = None) -> float:
    """The level of a rule on a grid of weights, exactly representable in float32.

    The level of a constant map is its smallest value, whose level set is the whole picture.

    Args:
        weights: (h, w).
        rule: a name of `mask_rules`.
        amount: a share in (0, 1]; the rule's default where None.

    Raises:
        OptionError: an unknown rule or an amount that does not fit it.
        MapError: weights that are not finite.
    """
    return find_levels(weights, rule, [amount])[0]


def find_levels(weights: np.ndarray, rule: str, amounts: Sequence[float | None]) -> list[float]:
    """The levels of one rule at several amounts.

    Args:
        weights: (h, w).
        rule: a name of `mask_rules`.
        amounts: each as in `find_level`.

    Returns:
        One level per amount, each exactly representable in float32.

    Raises:
        OptionError: as in `find_level`.
        MapError: as in `find_level`.
    """
    if rule not in _RULES:
        raise OptionError(f"no mask rule is called {rule!r}; there are {', '.join(_RULES)}")
    checked = [_checked(_RULES[rule], amount) for amount in amounts]
    weights = np.asarray(weights, np.float32)
    if not np.isfinite(weights).all():
        raise MapError("the map holds values that are not finite, so no mask can be drawn from it")
    if is_constant(weights):
        return [float(weights.min())] * len(checked)
    descending = np.sort(weights.clip(min=0), axis=None)[::-1]
    shares = np.array([0.0 if amount is None else amount for amount in checked], dtype=float)
    levels = np.broadcast_to(_round_up(_RULES[rule].levels(descending, shares)), shares.shape)
    return [float(level) for level in levels]


def _round_up(levels: np.ndarray | float) -> np.ndarray:
    """Levels in float32, rounded up, so that no cell below a level enters its mask."""
    rounded = np.asarray(levels, np.float32)
    return np.where(rounded.astype(float) >= levels, rounded, np.nextafter(rounded, np.float32(np.inf)))


def smoothed(weights: np.ndarray, sigma: float) -> np.ndarray:
    """A grid blurred by a Gaussian, with edge values extended: first along rows, then along columns.

    The taps are whole numbers over 2^20 and are added in their order, so that the board's JavaScript finds the same
    cells to the last bit.

    Args:
        weights: (h, w).
        sigma: standard deviation in cells, from 0 (none) to `MOST_SMOOTHING`.

    Returns:
        (h, w) float32.

    Raises:
        OptionError: a sigma outside that range.
    """
    if not 0 <= sigma <= MOST_SMOOTHING:
        raise OptionError(f"smoothing is a number of cells from 0 to {MOST_SMOOTHING:g}, not {sigma:g}")
    if sigma == 0:
        return np.asarray(weights, np.float32)
    reach = math.ceil(3 * sigma)
    taps = [math.floor(math.exp(-(k * k) / (2 * sigma * sigma)) * 2**20 + 0.5) for k in range(-reach, reach + 1)]
    blurred = np.asarray(weights, np.float64)
    for axis in (1, 0):
        count = blurred.shape[axis]
        total = np.zeros_like(blurred)
        for k, tap in zip(range(-reach, reach + 1), taps, strict=True):
            total = total + tap * blurred.take((np.arange(count) + k).clip(0, count - 1), axis)
        blurred = total / sum(taps)
    return blurred.astype(np.float32)


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """8-connected components of a mask (h, w) bool: labels (h, w) int32 from 1 in raster order, and their number."""
    labels, stats = _components(mask)
    return labels, len(stats)


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8-connected components of a mask (h, w): labels, and statistics of each component.

    Returns:
        Labels (h, w) int32 from 1 in raster order of the components' first cells, and (n, 5) int32 of x0, y0, width,
        height and number of cells.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    stats = stats[1:]  # without the background
    first = [(y, x + int(np.argmax(labels[y, x : x + w] == k))) for k, (x, y, w, _, _) in enumerate(stats.tolist(), 1)]
    order = sorted(range(len(first)), key=first.__getitem__)  # OpenCV numbers them by blocks of cells
    if order != list(range(len(first))):
        numbers = np.zeros(len(first) + 1, np.int32)
        numbers[1 + np.array(order)] = np.arange(1, len(order) + 1)
        labels, stats = numbers[labels], stats[order]
    return labels, stats


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected component of a mask (h, w) bool, the first in raster order among equals: (h, w) bool."""
    labels, stats = _components(mask)
    return mask if len(stats) < 2 else labels == 1 + int(stats[:, 4].argmax())


def component_boxes(mask: np.ndarray) -> list[Box]:
    """Half-open boxes (x0, y0, x1, y1) in cells of the 8-connected components of a mask (h, w), in raster order."""
    return [(x, y, x + w, y + h) for x, y, w, h, _ in _components(mask)[1].tolist()]


def upsample(weights: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A grid upsampled bilinearly, with half-pixel centres and edge values extended.

    Rows come first, then columns, in exactly this order of operations: the board's JavaScript does the same, so that
    both find the same level set.

    Args:
        weights: (h, w).
        size: (W, H) in pixels.

    Returns:
        (H, W) float64.
    """
    width, height = size
    rows, y = _taps(weights.shape[0], height)
    columns, x = _taps(weights.shape[1], width)
    below, right = (
        np.minimum(before + 1, cells - 1) for before, cells in zip((rows, columns), weights.shape, strict=True)
    )
    w = weights.astype(np.float64)
    w = w.take(rows, 0) * (1 - y)[:, None] + w.take(below, 0) * y[:, None]
    pixels = np.empty((height, width))
    buffer = np.empty((min(STRIP, height), width))
    for start in range(0, height, STRIP):
        strip = w[start : start + STRIP]
        left, after = pixels[start : start + STRIP], buffer[: len(strip)]
        np.take(strip, columns, 1, out=left, mode="clip")  # other modes make one more copy
        np.take(strip, right, 1, out=after, mode="clip")
        left *= 1 - x
        after *= x
        left += after
    return pixels


def _taps(cells: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel, the cell before its centre and the weight in [0, 1) of the next cell: (pixels,) each."""
    position = ((np.arange(pixels) + 0.5) * cells / pixels - 0.5).clip(0, cells - 1)
    before = np.floor(position).astype(int)
    return before, position - before


@dataclass(frozen=True)
class ObjectMask(Displayed):
    """A thresholded map: the object mask on the token grid and in pixels.

    Attributes:
        weights: (h, w) float32, the fused map.
        geometry: the position of the tokens in the picture.
        rule: the name of the mask rule.
        amount: the share in (0, 1] that the rule used; None for a rule without an amount.
        level: the mask is `thresholded >= level`.
        largest: whether only the largest component is kept.
        constant: whether the map was constant, so that the mask is the whole picture and carries no information.
        smoothing: standard deviation in cells of the blur before the threshold; 0 for none.
        smooth: whether pixels are the level set of the bilinearly upsampled map, instead of whole patches.
    """

    weights: np.ndarray
    geometry: Geometry
    rule: str
    amount: float | None
    level: float
    largest: bool
    constant: bool
    smoothing: float = 0.0
    smooth: bool = False

    @property
    def cut(self) -> Cut:
        """How it was cut."""
        return Cut(self.rule, self.amount, self.smoothing, self.largest, self.smooth)

    @cached_property
    def thresholded(self) -> np.ndarray:
        """(h, w) float32, the map after the smoothing."""
        return smoothed(self.weights, self.smoothing)

    @cached_property
    def grid(self) -> np.ndarray:
        """The mask on the token grid, (h, w) bool."""
        mask = self.thresholded >= np.float32(self.level)
        return largest_component(mask) if self.largest else mask

    def pixels(self, smooth: bool | None = None, size: tuple[int, int] | None = None) -> np.ndarray:
        """The mask in pixels.

        Args:
            smooth: the level set of the bilinearly upsampled map at the same level, instead of whole patches; the
                mask's own by default.
            size: (W, H) of the result in pixels; that of the original picture by default.

        Returns:
            (H, W) bool.

        Examples:
            >>> from simpool_viz import load_checkpoint, record
            >>> encoder = load_checkpoint("resnet_simpool")
            >>> recording = record(encoder, "cat.jpg")
            >>> mask = recording.map("simpool").mask("area", 0.25)
            >>> mask.pixels().shape, mask.pixels().dtype  # the picture is 451 pixels wide and 300 high
            ((300, 451), dtype('bool'))
            >>> mask.pixels(size=(90, 60)).shape
            (60, 90)
        """
        if self.smooth if smooth is None else smooth:
            mask = upsample(self.thresholded, size or self.geometry.original) >= self.level
            return largest_component(mask) if self.largest else mask
        return expand_cells(self.grid, size or self.geometry.original)

    @property
    def boxes(self) -> list[Box]:
        """Half-open boxes (x0, y0, x1, y1) in pixels of the original, one per 8-connected component in raster order.

        Examples:
            >>> from simpool_viz import load_checkpoint, record
            >>> encoder = load_checkpoint("resnet_simpool")
            >>> recording = record(encoder, "cat.jpg")
            >>> mask = recording.map("simpool").mask("mass", 0.6, largest=True)
            >>> [(x0, y0, x1, y1)] = mask.boxes
            >>> bool(mask.pixels()[y0:y1, x0:x1].sum() == mask.pixels().sum())
            True
        """
        return [self.geometry.box_to_pixels(box) for box in component_boxes(self.grid)]

    @property
    def components(self) -> int:
        """The number of 8-connected components of the mask on the token grid."""
        return label_components(self.grid)[1]

    @property
    def coverage(self) -> float:
        """The share of the grid's cells that are in the mask, in [0, 1]."""
        return float(self.grid.mean())


def make_mask(weights: np.ndarray, geometry: Geometry, cut: Cut = DEFAULT_CUT) -> ObjectMask:
    """Threshold a grid of weights.

    Args:
        weights: (h, w).
        geometry: the position of the cells in the picture.
        cut: the rule and the rest, as from `choose_cut`.

    Raises:
        OptionError: an unknown rule, an amount that does not fit it, or a smoothing out of range.
        MapError: weights that are not finite.
    """
    weights = np.asarray(weights, np.float32)
    level = find_level(smoothed(weights, cut.smoothing), cut.rule, cut.amount)
    return ObjectMask(
        weights,
        geometry,
        cut.rule,
        _checked(_RULES[cut.rule], cut.amount),
        level,
        cut.largest,
        is_constant(weights),
        cut.smoothing,
        cut.smooth,
    )
