"""What the page tells of each bundled checkpoint, as data, so that no model has to be built before the page is there.

`python docs/make_outlines.py` makes it. A digest of a checkpoint's description tells whether it is about the checkpoint
that is here; where it is not, the model is built without weights, which needs timm.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from simpool_viz import __version__
from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints.bundle import CONFIG
from simpool_viz.checkpoints.catalogue import Entry, outlines_of, whole
from simpool_viz.maps.registry import map_methods, maps_of
from simpool_viz.modeling.encoder import Encoder

FILE = "outlines.json"  # among the models

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outline:
    """A checkpoint without its weights.

    Attributes:
        digest: of its description.
        parameters: their number.
        stride: of its tokens in pixels.
        maps: for every map method, None where the checkpoint has the map, else why not.
    """

    digest: str
    parameters: int
    stride: int
    maps: dict[str, str | None]

    @classmethod
    def of(cls, entry: Entry, built: Encoder) -> Outline:
        """That of a checkpoint that was built without weights."""
        parameters = sum(parameter.numel() for parameter in built.parameters())
        return cls(description_digest(entry), parameters, built.stride, dict(maps_of(built)))


def description_digest(entry: Entry) -> str:
    """Tells a checkpoint's description, and the version of the code that builds it, from all others."""
    return hashlib.sha256(__version__.encode() + (entry.folder / CONFIG).read_bytes()).hexdigest()


def described() -> tuple[dict[str, tuple[Entry, Outline]], dict[str, str]]:
    """The bundled checkpoints that can be used.

    Returns:
        Entries with their outlines by name, in the order of the catalogue; and the faults of the others, as
        `catalogue.whole` gives them.
    """
    entries, faults = whole()
    stored = read_outlines(bundled_folder("models") / FILE)
    maps = set(map_methods())  # a program may have registered others

    def holds(name: str, entry: Entry) -> bool:
        known = stored.get(name)
        return known is not None and known.digest == description_digest(entry) and set(known.maps) == maps

    found = {name: stored[name] for name, entry in entries.items() if holds(name, entry)}
    if missing := {name: entry for name, entry in entries.items() if name not in found}:
        built, more = outlines_of(missing)
        found |= {name: Outline.of(entries[name], outline) for name, outline in built.items()}
        faults |= more
    return {name: (entry, found[name]) for name, entry in entries.items() if name in found}, faults


def read_outlines(path: Path) -> dict[str, Outline]:
    """The stored outlines by name; none where the file is missing or damaged.

    Args:
        path: as `write_outlines` wrote it.
    """
    try:
        return {name: Outline(**one) for name, one in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.warning("the stored outlines of the checkpoints cannot be read: %s", type(error).__name__)
        return {}


def write_outlines(path: Path, outlines: Mapping[str, Outline]) -> None:
    """Write outlines for `read_outlines`."""
    text = json.dumps({name: asdict(one) for name, one in outlines.items()}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
