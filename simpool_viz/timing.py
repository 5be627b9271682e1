"""Seconds of a run by part of the work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

PARTS = (
    "read",
    "preprocess",
    "forward",
    "maps",
    "masks",
    "scores",
    "refinement",
    "faithfulness",
    "drawing",
    "encoding",
)


class Profile:
    """Sums seconds by part of the work; parts do not nest.

    Attributes:
        seconds: by part, for each of `PARTS`.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the `with` block to a part, also when the block raises.

        Args:
            name: one of `PARTS`.
        """
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started

    def lines(self) -> list[str]:
        """One line per part with its name, milliseconds and share in percent, then a line with the sum."""
        total = sum(self.seconds.values())
        parts = [*self.seconds.items(), ("together", total)]
        return [f"{name:<12} {1000 * value:9.1f} ms {100 * value / (total or 1.0):5.1f} %" for name, value in parts]
