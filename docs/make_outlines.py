"""Makes what the app's page tells of each bundled checkpoint, as data: `python docs/make_outlines.py`, whenever one is
added or described anew, or has other maps. A test fails where it was forgotten.
"""

from __future__ import annotations

from simpool_viz.app.outlines import FILE, Outline, write_outlines
from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints.catalogue import usable


def main() -> None:
    found, _ = usable()
    outlines = {name: Outline.of(entry, built) for name, (entry, built) in found.items()}
    write_outlines(bundled_folder("models") / FILE, outlines)


if __name__ == "__main__":
    main()
