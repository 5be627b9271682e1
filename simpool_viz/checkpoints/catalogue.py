"""What can be loaded by name: the checkpoints that travel with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simpool_viz.checkpoints.bundle import CONFIG, WEIGHTS, read_config
from simpool_viz.encoder import EncoderSpec, Facts

_PACKAGE = Path(__file__).parent.parent


def bundled_folder(kind: str) -> Path:
    """The folder "models" or "assets": inside an installed wheel, else in the checkout.

    Raises:
        FileNotFoundError: neither is there.
    """
    for root in (_PACKAGE / "_bundled", _PACKAGE.parent):
        if (root / kind).is_dir():
            return root / kind
    raise FileNotFoundError(f"the folder {kind!r} is neither in the installed package nor beside it; install simpool_viz again")


@dataclass(frozen=True)
class Entry:
    """A bundled checkpoint: its folder, description and facts; `available` is whether its weights are here."""

    folder: Path
    spec: EncoderSpec
    facts: Facts

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def available(self) -> bool:
        return (self.folder / WEIGHTS).is_file()


def catalogue() -> dict[str, Entry]:
    """Every bundled checkpoint by name, in the order of their folders."""
    folders = sorted(path.parent for path in bundled_folder("models").glob(f"*/{CONFIG}"))
    entries = [Entry(folder, *read_config(folder)) for folder in folders]
    return {entry.name: entry for entry in entries}
