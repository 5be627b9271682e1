"""From a board to files, and the journal that says which pictures are done.

OUT/pictures/KEY.ROW.overlay.jpg and .mask.jpg   as in an export, in the subfolders in which the pictures lie
OUT/maps/KEY.npz                                 the maps of a picture and the grids of their masks
OUT/journal.jsonl                                a line per picture that is done, written when its files are whole
OUT/scores.csv, OUT/manifest.json                from the journal, when all is done
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simpool_viz.batch.preparing import Fault
from simpool_viz.board.board import Board
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.drawing.render import LONGEST, SUFFIXES, render_row, row_scales, save_picture
from simpool_viz.errors import DataError
from simpool_viz.export import FORMAT, plain_name, row_facts, score_table, versions
from simpool_viz.outputs import csv_text, written_whole


def write(board: Board, out: Path, style: DrawingStyle, pictures: str) -> dict[str, Any]:
    """Write the files of one picture.

    Args:
        board: a board of one picture, whose name is its key.
        out: folder of the run.
        style: how maps are drawn.
        pictures: format of overlays and masks, "jpeg" or "png", or "none" for maps alone.

    Returns:
        The picture's line for the journal: its key, rows, scores, and why maps were skipped.
    """
    key = board.pictures[0].name
    place = Path(key)
    maps: dict[str, np.ndarray] = {}
    folder = out / "pictures" / place.parent
    rows = []
    for row, scale in zip(board.rows, row_scales(board, style), strict=True):
        name = plain_name(f"{row.checkpoint}.{row.request.label}")
        maps |= {name: row.attention.weights, f"{name}.mask": row.mask.grid}
        rows.append(row_facts(name, row))
        if pictures != "none":
            folder.mkdir(parents=True, exist_ok=True)
            for kind, drawn in zip(("overlay", "mask"), render_row(board, row, scale, style, LONGEST), strict=True):
                save_picture(drawn, folder / f"{place.name}.{name}.{kind}.{SUFFIXES[pictures]}")
    _save_maps(out / "maps" / f"{key}.npz", maps)
    return {"key": key, "rows": rows, "scores": score_table(board), "skipped": board.skipped}


def _save_maps(path: Path, maps: dict[str, np.ndarray]) -> None:
    with written_whole(path) as part, part.open("wb") as file:
        # Not compressed: float32 weights hardly shrink, and compression is slow.
        np.savez(file, **maps)  # type: ignore[arg-type]


class Journal:
    """Which pictures of a folder are done, and what was made of them.

    Args:
        out: the folder.
        settings: of the run; a later run goes on only with the same.
        overwrite: discard the journal of an earlier run and start over.

    Raises:
        FileExistsError: `out` holds something else, or a run with other settings.
        DataError: the journal of the earlier run is damaged.
    """

    def __init__(self, out: Path, settings: dict[str, Any], overwrite: bool = False) -> None:
        self.out, self.path = out, out / "journal.jsonl"
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))  # as they are read back
        self.done: dict[str, dict[str, Any]] = {}
        if out.exists() and not self.path.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileExistsError(f"{out} already exists and is no earlier run; choose another folder")
        if self.path.exists() and not overwrite:
            self._read()
        else:
            out.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({"settings": self.settings}, ensure_ascii=False) + "\n", encoding="utf-8")

    def _read(self) -> None:
        whole, _, cut = self.path.read_bytes().rpartition(b"\n")
        if cut:  # an interrupted run's last line
            self.path.write_bytes(whole + b"\n" if whole else b"")
        try:
            first, *lines = [json.loads(line) for line in whole.decode().splitlines()] or [{}]
            settings, done = first.get("settings"), {line["key"]: line for line in lines}
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # no line that was written here
            raise DataError(
                f"{self.path} is damaged; add --overwrite to begin anew, or choose another folder"
            ) from error
        if settings != self.settings:
            raise FileExistsError(
                f"{self.out} holds a run with other settings; add --overwrite to begin anew, or choose another folder"
            )
        self.done = done

    def add(self, line: dict[str, Any]) -> None:
        """Enter a picture as done.

        Args:
            line: from `write`, once the picture's files are complete.
        """
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.done[line["key"]] = line

    def finish(self, keys: Sequence[str], faults: Sequence[Fault], device: str) -> None:
        """Write scores.csv and manifest.json of the pictures that are done.

        Args:
            keys: of all pictures, in the order of the two files.
            faults: pictures that could not be read.
            device: on which the maps were computed.
        """
        lines = [self.done[key] for key in keys if key in self.done]
        table = [figures for line in lines for figures in line["scores"]]
        with written_whole(self.out / "scores.csv") as part:
            part.write_text(csv_text(table), encoding="utf-8", newline="")
        manifest = {
            "format": FORMAT,
            "versions": versions(),
            "device": device,
            **self.settings,
            "pictures": [{"key": line["key"], "rows": line["rows"]} for line in lines],
            "skipped": list(dict.fromkeys(reason for line in lines for reason in line["skipped"])),
            "faults": [{"key": fault.key, "sentence": fault.sentence} for fault in faults],
        }
        with written_whole(self.out / "manifest.json") as part:
            part.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
