"""What worker processes call in tests; nothing heavy is imported, since each of them imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simpool_viz.batch.preparing import Fault


def read_number(key: str, place: Path, marks: Path | None) -> Any:
    """The number of an item, a `Fault` for one called "bad"; leaves a mark that it was read."""
    if marks is not None:
        with (marks / key).open("a") as file:
            file.write("x")
    return Fault(key, f"{key} is bad") if key.startswith("bad") else (key, int(key))
