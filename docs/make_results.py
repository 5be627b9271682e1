"""Writes the measured tables and figures into the texts that name them: `python docs/make_results.py`.

They come from models/results.json, which `simpool-viz evaluate --results` makes; see `scores/results.py` for how a text
names them.
"""

from __future__ import annotations

from pathlib import Path

from simpool_viz.scores.results import bundled_results, fill_text

ROOT = Path(__file__).parent.parent


def texts() -> list[Path]:
    """The Markdown files that may quote results."""
    return sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("models/**/*.md")])


def filled(path: Path) -> str:
    """A text with the measured figures."""
    return fill_text(path.read_text(encoding="utf-8"), bundled_results())


def main() -> None:
    for path in texts():
        path.write_text(filled(path), encoding="utf-8")


if __name__ == "__main__":
    main()
