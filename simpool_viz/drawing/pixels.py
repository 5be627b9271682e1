"""Pixels: colours, overlays, cut-outs, boxes, colour bars, and the board as one picture.

Colours come from matplotlib's tables by look-up; no matplotlib figure is made. A map w of N tokens that sums to 1 is
drawn as N w, "times uniform": 1 is what plain averaging would give. Colours run from 0 to the 99.5th percentile of the
row or of the whole board. Signed maps use a diverging table around 0.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from simpool_viz.errors import OptionError
from simpool_viz.images import expand_cells
from simpool_viz.masks import Box

# Importing maps registers them, which needs PyTorch: worker processes that only read pictures do without.
if TYPE_CHECKING:
    from simpool_viz.maps.scale import Scale

SEQUENTIAL = ("inferno", "magma", "viridis", "cividis", "gray")
DIVERGING = "RdBu_r"
AGREEMENT = "viridis"  # of the IoU between masks, from 0 to 1
# The board in the browser draws by the same numbers, which travel to it as data (app/board/component.py).
OUTLINE, BOX = (255, 255, 255), (0, 200, 255)  # of a mask and of the boxes around its parts,
LINES = 240  # whose lines have this part of the picture's shorter side
SPECK = 0.002  # share of the picture under which a part gets no box
DIMMED = (0.22, 12.0)  # what lies outside of the mask: its grey times the first, plus the second
WIDEST = 640  # pixels of the longer side of one map, on the page and in figures


@dataclass(frozen=True)
class DrawingStyle:
    """How maps are drawn; changes nothing that is computed.

    Attributes:
        colours: colour table of non-negative maps, one of `SEQUENTIAL`.
        opacity: of the overlay, in [0, 1].
        smooth: bilinear instead of patches.
        shared_scale: one colour scale for the whole board instead of one per row.
        boxes: draw a box around each part of a mask.

    Raises:
        OptionError: an unknown colour table, or an opacity outside [0, 1].
    """

    colours: str = "inferno"
    opacity: float = 0.6
    smooth: bool = True
    shared_scale: bool = False
    boxes: bool = True

    def __post_init__(self) -> None:
        if self.colours not in SEQUENTIAL:
            raise OptionError(f"colours are {', '.join(SEQUENTIAL)}, not {self.colours!r}")
        if not 0 <= self.opacity <= 1:
            raise OptionError(f"opacity lies in [0, 1], not {self.opacity:g}")


def colour_table(name: str) -> np.ndarray:
    """The colours of a matplotlib colour map.

    Args:
        name: as matplotlib registers it.

    Returns:
        (256, 3) uint8, RGB.

    Raises:
        KeyError: matplotlib has no such colour map.
    """
    import matplotlib

    return (matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def palette(count: int) -> np.ndarray:
    """A colour for each class, neighbours in the list far apart in hue.

    Returns:
        (count, 3) uint8, RGB.
    """
    golden = 0.618034
    colours = [
        colorsys.hsv_to_rgb((0.6 + golden * i) % 1, (0.75, 0.5)[i % 2], (0.95, 0.8, 0.65)[i % 3]) for i in range(count)
    ]
    return (np.array(colours) * 255).round().astype(np.uint8).reshape(count, 3)


def colour_map(
    weights: np.ndarray, scale: Scale, signed: bool, style: DrawingStyle, size: tuple[int, int]
) -> np.ndarray:
    """A map as colours, in patches or smooth.

    Args:
        weights: (h, w) float.
        scale: the factor that weights are multiplied by, and the values at both ends of the colour table.
        signed: whether to use the diverging table.
        style: colours and smoothing.
        size: (width, height) of the result in pixels.

    Returns:
        (height, width, 3) uint8, RGB.
    """
    values = weights * np.float32(scale.factor)
    shares = (values.astype(np.float64) - scale.low) * (255 / (scale.high - scale.low))
    if style.smooth:
        # Bilinear with half-pixel centres as in `upsample`, whose exactness masks need and colours do not.
        shares = cv2.resize(shares.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    np.rint(shares.clip(0, 255, out=shares), out=shares)
    table = colour_table(DIVERGING if signed else style.colours)
    if style.smooth:
        # OpenCV accepts any (256, 1, 3) table and keeps its channel order.
        return cv2.applyColorMap(shares.astype(np.uint8), table[:, None])
    return expand_cells(table[shares.astype(np.uint8)], size)


def overlay(rgb: np.ndarray, colours: np.ndarray, opacity: float) -> np.ndarray:
    """Blend colours over a picture.

    Args:
        rgb: (H, W, 3) uint8, the picture.
        colours: (H, W, 3) uint8.
        opacity: of the colours, in [0, 1].

    Returns:
        (H, W, 3) uint8.
    """
    return cv2.addWeighted(colours, opacity, rgb, 1 - opacity, 0)


def cut_out(rgb: np.ndarray, mask: np.ndarray, boxes: list[Box]) -> np.ndarray:
    """The masked object: the rest greyed and darkened, the mask outlined, its boxes drawn.

    Args:
        rgb: (H, W, 3) uint8, the picture.
        mask: (H, W) bool.
        boxes: (x0, y0, x1, y1) in pixels, half-open.

    Returns:
        (H, W, 3) uint8.
    """
    inside = mask.astype(np.uint8)
    share, least = DIMMED
    grey = cv2.transform(rgb, np.array([[share / 3] * 3 + [least - 0.5]]))  # less what rounding adds
    canvas = cv2.copyTo(rgb, inside, cv2.merge([grey, grey, grey]))
    thickness = max(1, round(min(rgb.shape[:2]) / LINES))
    contours = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
    cv2.drawContours(canvas, contours, -1, OUTLINE, thickness)
    for x0, y0, x1, y1 in boxes:
        cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), BOX, thickness)
    return canvas


def display_boxes(mask: np.ndarray, smallest: float = SPECK) -> list[Box]:
    """Boxes of the components of a drawn mask, without specks.

    Args:
        mask: (H, W) bool.
        smallest: share of the picture below which a box counts as a speck; where all do, all are kept.

    Returns:
        (x0, y0, x1, y1) in pixels, half-open, from top to bottom.
    """
    # Contours are far cheaper than labelling every pixel.
    contours, links = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = (cv2.boundingRect(c) for c, link in zip(contours, links[0], strict=True) if link[3] < 0) if contours else ()
    boxes = sorted(((x, y, x + w, y + h) for x, y, w, h in outer), key=lambda box: (box[1], box[0]))
    return [b for b in boxes if (b[2] - b[0]) * (b[3] - b[1]) >= smallest * mask.size] or boxes


def display_picture(rgb: np.ndarray, longest: int) -> np.ndarray:
    """The picture with its longer side reduced to `longest` pixels, never enlarged.

    Args:
        rgb: (H, W, 3) uint8.
        longest: pixels of the longer side.

    Returns:
        (H', W', 3) uint8; the array itself where it is small enough.
    """
    height, width = rgb.shape[:2]
    factor = min(1.0, longest / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if factor == 1.0:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))
