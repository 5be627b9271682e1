"""Where the time goes: seconds by part of the work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

PARTS = ("read", "preprocess", "forward", "maps", "masks", "scores", "drawing", "encoding")


class Profile:
    """Collects seconds by part; parts do not nest."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside the `with` block to a part of `PARTS`; also where it ends in an exception."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started

    def lines(self) -> list[str]:
        """One line per part: its name, milliseconds and share, and their sum."""
        total = sum(self.seconds.values())
        parts = [*self.seconds.items(), ("together", total)]
        return [f"{name:<10} {1000 * value:9.1f} ms {100 * value / (total or 1.0):5.1f} %" for name, value in parts]
