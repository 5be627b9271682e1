"""The board that the page opens with, as data, so that no model has to be read or run before the page is there.

`python docs/make_first_board.py` makes it. A digest of all that it depends on tells whether it is what this app would
show; where it is not, the app makes its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simpool_viz import __version__
from simpool_viz.app.starting import BOARD
from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints.catalogue import catalogue
from simpool_viz.checkpoints.load import split_size

FILE = bundled_folder("assets") / BOARD
WHERE = "cpu, float32"  # on which it is made; elsewhere figures and captions differ

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FirstBoard:
    """What the page needs of it beside the photo and its reference.

    Attributes:
        digest: of what it was made of.
        rows: each as the browser gets it.
        skipped: what could not be made and why.
        said: what screen readers are told.
        point: what to see on it, as Markdown.
        steps: recordings that are on it.
        picture: the board as one picture without times, a WebP file in base64, for the page that is shown before there
            is an app.
    """

    digest: str
    rows: list[str]
    skipped: list[str]
    said: str
    point: str
    steps: int
    picture: str

    def save(self, path: Path = FILE) -> None:
        """Write it for `read_first_board`."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_first_board(digest: str, path: Path = FILE) -> FirstBoard | None:
    """The stored board, None where there is none of this digest.

    Args:
        digest: of what the app would make it of.
        path: a file that `FirstBoard.save` wrote.
    """
    try:
        stored = FirstBoard(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        logger.warning("the stored first board cannot be read: %s", type(error).__name__)
        return None
    return stored if stored.digest == digest else None


def board_digest(photo: Path, names: Sequence[str], maps: Sequence[str]) -> str:
    """Tells a first board from all others: version, maps, photo, its reference mask, and the checkpoints' files.

    Args:
        photo: an example photo.
        names: of the checkpoints.
        maps: names.
    """
    known = catalogue()
    files = [photo, photo.parent / "masks" / f"{photo.stem}.png"]
    for entry in [known[plain] for name in names if (plain := split_size(name)[0]) in known]:
        lender = entry.facts.base or entry.facts.stem or entry.facts.trunk
        folders = [entry.folder, *([entry.folder.parent / lender] if lender else [])]
        files += [folder / name for folder in folders for name in ("config.json", "model.safetensors")]
    digest = hashlib.sha256(json.dumps([__version__, list(names), list(maps)]).encode())
    for path in dict.fromkeys(files):
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"none")
    return digest.hexdigest()


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the browser's without the milliseconds of the machine that made it.

    Args:
        row: as `row_payload` gives it.
    """
    figures = {name: value for name, value in row["figures"].items() if name != "milliseconds"}
    return row | {"lines": timeless(row["lines"]), "figures": figures}


def timeless(lines: Sequence[str]) -> list[str]:
    """A caption without milliseconds.

    Args:
        lines: of a row.
    """
    return [line.partition(",")[0] if line.startswith("grid ") else line for line in lines]
