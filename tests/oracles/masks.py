"""Masks the slow way, from their definitions alone: level sets by trying every level, flood fill, bilinear by loops."""

from __future__ import annotations

from collections import deque

import numpy as np


def positive(weights: np.ndarray) -> list[float]:
    """Every cell's positive part, in raster order."""
    return [max(0.0, float(v)) for v in weights.ravel()]


def level_set(weights: np.ndarray, rule: str, amount: float | None) -> np.ndarray:
    """The mask (h, w) of a rule on a map that is not constant: the cells at or above the rule's level."""
    values = positive(weights)
    levels = {
        "mass": mass_level,
        "area": area_level,
        "quantile": quantile_level,
        "mean": mean_level,
        "otsu": otsu_level,
    }
    level = levels[rule](values, amount)
    return np.array([float(v) >= level for v in weights.ravel()]).reshape(weights.shape)


def mass_level(values: list[float], amount: float | None) -> float:
    """The highest value v for which the cells >= v hold the share: their set is the smallest level set that does."""
    assert amount is not None
    total = sum(values)
    for v in sorted(set(values), reverse=True):
        if sum(x for x in values if x >= v) >= amount * total * (1 - 1e-9):
            return v
    raise AssertionError("the lowest level holds everything")


def area_level(values: list[float], amount: float | None) -> float:
    """The highest value v for which at least the share of the cells is >= v."""
    assert amount is not None
    for v in sorted(set(values), reverse=True):
        if sum(x >= v for x in values) >= amount * len(values) - 1e-9:
            return v
    raise AssertionError("the lowest level holds everything")


def quantile_level(values: list[float], amount: float | None) -> float:
    """The smallest value that stands at or after the quantile's place among the sorted values."""
    assert amount is not None
    place = amount * (len(values) - 1)
    return next(v for i, v in enumerate(sorted(values)) if i >= place - 1e-9)


def mean_level(values: list[float], amount: float | None) -> float:
    return sum(values) / len(values)


def otsu_level(values: list[float], amount: float | None, bins: int = 256) -> float:
    """The smallest value above Otsu's threshold: the bin whose split has the largest variance between the two
    groups."""
    low, high = min(values), max(values)
    if low == high:
        return low
    width = (high - low) / bins
    histogram = [0] * bins
    for v in values:
        histogram[min(int((v - low) / width), bins - 1)] += 1
    centres = [low + (b + 0.5) * width for b in range(bins)]
    best, threshold = -1.0, low
    for split in range(1, bins):
        n0, n1 = sum(histogram[:split]), sum(histogram[split:])
        m0 = sum(n * c for n, c in zip(histogram[:split], centres[:split], strict=True)) / n0
        m1 = sum(n * c for n, c in zip(histogram[split:], centres[split:], strict=True)) / n1
        between = n0 * n1 * (m0 - m1) ** 2
        if between > best * (1 + 1e-12):
            best, threshold = between, centres[split - 1]
    return min(v for v in values if v > threshold)


def components(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The 8-connected components as lists of (row, column), in the order in which a raster scan meets them."""
    h, w = mask.shape
    seen: set[tuple[int, int]] = set()
    found = []
    for start in ((r, c) for r in range(h) for c in range(w)):
        if not mask[start] or start in seen:
            continue
        seen.add(start)
        queue, cells = deque([start]), []
        while queue:
            r, c = queue.popleft()
            cells.append((r, c))
            for n in ((r + dr, c + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)):
                if 0 <= n[0] < h and 0 <= n[1] < w and mask[n] and n not in seen:
                    seen.add(n)
                    queue.append(n)
        found.append(cells)
    return found


def largest(mask: np.ndarray) -> np.ndarray:
    """The mask of the component with most cells, the first met of equals."""
    kept = np.zeros(mask.shape, bool)
    best: list[tuple[int, int]] = []
    for cells in components(mask):
        if len(cells) > len(best):
            best = cells
    for cell in best:
        kept[cell] = True
    return kept


def boxes(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Half-open (x0, y0, x1, y1) of every component."""
    return [
        (min(c for _, c in cells), min(r for r, _ in cells), max(c for _, c in cells) + 1, max(r for r, _ in cells) + 1)
        for cells in components(mask)
    ]


def token_of_centre(index: int, pixels: int, tokens: int) -> int:
    """The token whose span [t, t + 1) * pixels / tokens holds the centre of pixel `index`."""
    centre = (index + 0.5) * tokens / pixels
    return next(t for t in range(tokens) if t <= centre < t + 1)


def bilinear(weights: np.ndarray, width: int, height: int) -> np.ndarray:
    """(height, width) by the textbook: half-pixel centres, positions outside the first and last centre held."""
    h, w = weights.shape
    out = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * h / height - 0.5, 0.0), h - 1.0)
            u = min(max((x + 0.5) * w / width - 0.5, 0.0), w - 1.0)
            r, c = min(int(v), max(h - 2, 0)), min(int(u), max(w - 2, 0))
            dr, dc = v - r, u - c
            r1, c1 = min(r + 1, h - 1), min(c + 1, w - 1)
            top = float(weights[r, c]) * (1 - dc) + float(weights[r, c1]) * dc
            bottom = float(weights[r1, c]) * (1 - dc) + float(weights[r1, c1]) * dc
            out[y, x] = top * (1 - dr) + bottom * dr
    return out
