"""From a board to files, and the journal that says which pictures are done.

OUT/pictures/KEY.ROW.overlay.jpg and .mask.jpg   as in an export, in the subfolders in which the pictures lie
OUT/maps/KEY.npz                                 the maps of a picture and the grids of their masks
OUT/journal.jsonl                                a line per picture that is done, written when its files are whole
OUT/scores.csv, OUT/manifest.json                from the journal, when all is done
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simpool_viz.batch.lock import HOLDER, LOCK
from simpool_viz.batch.preparing import Fault
from simpool_viz.board.board import Board
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.drawing.render import LONGEST, SUFFIXES, render_row, row_scales, save_picture
from simpool_viz.errors import DataError
from simpool_viz.export import FORMAT, plain_name, row_facts, score_table, versions
from simpool_viz.outputs import LOST, csv_text, written_whole

JOURNAL, PART, MAPS = "journal.jsonl", ".part-", "maps.npz"
LONGEST_NAME = 255  # bytes of a file's name on the file systems in use


def write(board: Board, out: Path, style: DrawingStyle, pictures: str) -> dict[str, Any]:
    """Write the files of one picture; each appears when it is whole.

    Args:
        board: a board of one picture, whose name is its key.
        out: folder of the run.
        style: how maps are drawn.
        pictures: format of overlays and masks, "jpeg" or "png", or "none" for maps alone.

    Returns:
        The picture's line for the journal: its key, how the names of its files begin, rows, scores, and why maps were
        skipped.

    Raises:
        DataError: the folder of the run is gone.
        OSError: a file cannot be written.
    """
    require_folder(out)
    key = board.pictures[0].name
    names = [plain_name(f"{row.checkpoint}.{row.request.label}") for row in board.rows]
    endings = [".npz", *(f".{name}.overlay.jpg" for name in names if pictures != "none")]
    place = _short_enough(Path(key), max(len(ending.encode()) for ending in endings))
    maps: dict[str, np.ndarray] = {}
    rows = []
    with tempfile.TemporaryDirectory(prefix=PART, dir=out) as work:
        for name, row, scale in zip(names, board.rows, row_scales(board, style), strict=True):
            maps |= {name: row.attention.weights, f"{name}.mask": row.mask.grid}
            rows.append(row_facts(name, row))
            if pictures != "none":
                for kind, drawn in zip(("overlay", "mask"), render_row(board, row, scale, style, LONGEST), strict=True):
                    save_picture(drawn, Path(work) / f"{name}.{kind}.{SUFFIXES[pictures]}")
        # Not compressed: float32 weights hardly shrink, and compression is slow.
        np.savez(Path(work) / MAPS, **maps)  # type: ignore[arg-type]
        for part in Path(work).iterdir():
            target = out / "maps" / f"{place}.npz" if part.name == MAPS else out / "pictures" / f"{place}.{part.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
    return {"key": key, "files": place.as_posix(), "rows": rows, "scores": score_table(board), "skipped": board.skipped}


def _short_enough(place: Path, ending: int) -> Path:
    """A path whose name leaves room for an ending; a shortened name has a digest, so that no two become one."""
    name = place.name.encode()
    if len(name) + ending <= LONGEST_NAME:
        return place
    digest = hashlib.sha256(name).hexdigest()[:12]
    return place.with_name(f"{name[: LONGEST_NAME - ending - 13].decode(errors='ignore')}-{digest}")


def require_folder(out: Path) -> None:
    """Check that the folder of a run is still there, since writing a file would make it again.

    Raises:
        DataError: it is not.
    """
    if not out.is_dir():
        raise DataError(f"{out} is gone, which was there when its run began; start the run again")


def check_folder(out: Path, mark: str = JOURNAL) -> None:
    """Check that a run may write to a folder.

    Args:
        out: the folder, which need not exist.
        mark: name of the file by which an earlier run is known.

    Raises:
        FileExistsError: it holds something else than a run.
    """
    if (out / mark).is_file() or not out.exists():
        return
    # What the lock, a file system or a run that was killed at once leaves behind.
    known = (LOCK, HOLDER, LOST)
    if not out.is_dir() or any(p.name not in known and not p.name.startswith(PART) for p in out.iterdir()):
        raise FileExistsError(f"{out} already exists and is no earlier run; choose another folder")


@dataclass(frozen=True)
class BatchReport:
    """What a run over folders did.

    Attributes:
        done: number of pictures that are done now.
        earlier: how many of these an earlier run did.
        faults: the pictures that could not be read.
        seconds: wall-clock time of this run.
        notes: what an earlier run had left in disorder, in sentences.
    """

    done: int
    earlier: int
    faults: list[Fault]
    seconds: float
    notes: list[str] = field(default_factory=list)


class Journal:
    """Which pictures of a folder are done, and what was made of them.

    Lines that no run can have finished, as a full disk or another program leaves them, are taken out, and their
    pictures are computed again.

    Args:
        out: the folder.
        settings: of the run; a later run goes on only with the same.
        overwrite: discard the journal of an earlier run and start over.

    Attributes:
        done: the lines by key.
        repair: a sentence where lines were taken out, else "".

    Raises:
        FileExistsError: `out` holds something else, or a run with other settings.
        DataError: the journal of the earlier run does not say with which settings it was made.
    """

    def __init__(self, out: Path, settings: dict[str, Any], overwrite: bool = False) -> None:
        self.out, self.path = out, out / JOURNAL
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))  # as they are read back
        self.done: dict[str, dict[str, Any]] = {}
        self.repair = ""
        check_folder(out)
        if self.path.exists() and not overwrite:
            self._read()
        else:
            self._rewrite()
        for left in out.glob(f"{PART}*"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)

    def _read(self) -> None:
        *rows, cut = self.path.read_bytes().split(b"\n")
        found = [_parsed(line) for line in (*rows, *([cut] if cut else []))]
        settings = [one["settings"] for one in found if one and "settings" in one]
        lines = [one for one in found if one and _is_of_a_picture(one)]
        if lines and not settings:
            raise DataError(
                f"{self.path} does not say with which settings its pictures were made; add --overwrite to begin anew, "
                "or choose another folder"
            )
        if settings and settings[0] != self.settings:
            raise FileExistsError(
                f"{self.out} holds a run with other settings; add --overwrite to begin anew, or choose another folder"
            )
        self.done = {line["key"]: line for line in lines}
        if damaged := len(found) - len(lines) - bool(settings):
            lines_lost = "1 damaged line" if damaged == 1 else f"{damaged} damaged lines"
            self.repair = f"{self.path} had {lines_lost}; what no other line tells is made again"
        if cut or damaged or not settings:
            self._rewrite()

    def _rewrite(self) -> None:
        lines = [{"settings": self.settings}, *self.done.values()]
        with written_whole(self.path) as part:
            part.write_text("".join(map(_line_of, lines)), encoding="utf-8")

    def add(self, line: dict[str, Any]) -> None:
        """Enter a picture as done.

        Args:
            line: from `write`, once the picture's files are complete.

        Raises:
            DataError: the folder is gone.
        """
        require_folder(self.out)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line_of(line))
        self.done[line["key"]] = line

    def finish(self, keys: Sequence[str], faults: Sequence[Fault], device: str) -> None:
        """Write scores.csv and manifest.json of the pictures that are done.

        Args:
            keys: of all pictures, in the order of the two files.
            faults: pictures that could not be read.
            device: on which the maps were computed.

        Raises:
            DataError: the folder is gone.
        """
        require_folder(self.out)
        lines = [self.done[key] for key in keys if key in self.done]
        table = [figures for line in lines for figures in line["scores"]]
        with written_whole(self.out / "scores.csv") as part:
            part.write_text(csv_text(table), encoding="utf-8", newline="")
        manifest = {
            "format": FORMAT,
            "versions": versions(),
            "device": device,
            **self.settings,
            "pictures": [
                {"key": line["key"], "files": line.get("files", line["key"]), "rows": line["rows"]} for line in lines
            ],
            "skipped": list(dict.fromkeys(reason for line in lines for reason in line["skipped"])),
            "faults": [{"key": fault.key, "sentence": fault.sentence} for fault in faults],
        }
        with written_whole(self.out / "manifest.json") as part:
            part.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _line_of(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object that a line holds, None where it holds none."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _is_of_a_picture(line: dict[str, Any]) -> bool:
    kinds = {"key": str, "rows": list, "scores": list, "skipped": list}
    return all(isinstance(line.get(name), kind) for name, kind in kinds.items()) and all(
        isinstance(one, dict) for one in (*line["rows"], *line["scores"])
    )
