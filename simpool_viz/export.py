"""A Board -> a folder: board.png, pictures of every overlay and mask, maps.npz, scores.csv, manifest.json.

The folder appears whole or not at all: it is written beside its place and then moved there.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from simpool_viz import __version__
from simpool_viz.board.board import Board, Row, Settings
from simpool_viz.board.inspection import Inspection
from simpool_viz.board.ready_made import available
from simpool_viz.board.tour import stop_board, stops
from simpool_viz.checkpoints.load import load_checkpoints
from simpool_viz.drawing.figures import draw_parts, draw_segmentation
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.drawing.render import SUFFIXES, render_board, render_row, row_scales, save_picture
from simpool_viz.errors import CheckpointError, OptionError
from simpool_viz.outputs import csv_text, written_whole
from simpool_viz.recording import Recording
from simpool_viz.scores.localization import score_baselines
from simpool_viz.timing import Profile

FORMAT = 1


def row_names(board: Board) -> list[str]:
    """A file name for each row: picture, checkpoint and map; numbered where that is not unique, also where case does
    not count."""
    names: dict[str, str] = {}
    for row in board.rows:
        name = plain = _plain_name(board, row)
        number = 1
        while name.casefold() in names:
            number += 1
            name = f"{plain}_{number}"
        names[name.casefold()] = name
    return list(names.values())


def row_name(board: Board, row: Row) -> str:
    """The file name of one row of the board."""
    return next(name for name, other in zip(row_names(board), board.rows, strict=True) if other is row)


def _plain_name(board: Board, row: Row) -> str:
    stem = Path(board.pictures[row.picture].name).stem
    if sum(Path(p.name).stem == stem for p in board.pictures) > 1:
        stem = f"{stem}_{row.picture}"
    return plain_name(f"{stem}.{row.checkpoint}.{row.request.label}")


def plain_name(text: str) -> str:
    """The text as a name that every file system takes."""
    return re.sub(r"[^\w.,=+-]+", "_", text).encode()[:200].decode(errors="ignore")  # file systems stop at 255 bytes


def export_board(
    board: Board,
    out: Path,
    style: DrawingStyle | None = None,
    *,
    overwrite: bool = False,
    device: str = "cpu",
    pictures: str = "jpeg",
    profile: Profile | None = None,
    extras: Mapping[str, Image.Image | str] | None = None,
) -> Path:
    """Write a board as a folder.

    Args:
        out: the folder to make. An existing one must be empty, or an earlier export and `overwrite` be set.
        pictures: format of overlays and masks, "jpeg" or "png".
        profile: where the time of drawing and encoding is counted.
        extras: further files by name, pictures or text, such as those of `figures`.

    Raises:
        FileExistsError: the folder holds something else; nothing is touched.
        OptionError: another format.

    Examples:
        >>> from pathlib import Path
        >>> from simpool_viz import export_board, load_checkpoint, make_board
        >>> board = make_board(["cat.jpg"], [load_checkpoint("resnet_simpool")], ["simpool"])
        >>> folder = export_board(board, Path("boards/cat"))
        >>> sorted(path.name for path in folder.glob("*.*"))  # doctest: +NORMALIZE_WHITESPACE
        ['board.png', 'cat.resnet_simpool.simpool.mask.jpg', 'cat.resnet_simpool.simpool.overlay.jpg',
         'manifest.json', 'maps.npz', 'scores.csv']
    """
    if pictures not in SUFFIXES:
        raise OptionError(f"pictures are written as {' or '.join(SUFFIXES)}, not {pictures!r}")
    check_target(out, overwrite)
    place = Path(out).resolve()
    with written_whole(place) as work:
        work.mkdir()
        _write(board, work, style or DrawingStyle(), device, SUFFIXES[pictures], profile or Profile())
        for name, content in (extras or {}).items():
            if isinstance(content, str):
                (work / name).write_text(content, encoding="utf-8")
            else:
                content.save(work / name)
    return Path(out)


def check_target(out: Path, overwrite: bool = False) -> None:
    """Whether a board may be written to `out`: asked before anything is computed.

    Raises:
        FileExistsError: the folder holds something else, or an earlier export that is not to be replaced.
    """
    out = Path(out)
    if not out.exists() or (out.is_dir() and (not any(out.iterdir()) or (overwrite and _is_export(out)))):
        return
    hint = "add --overwrite to replace it" if _is_export(out) else "it is no earlier result, so choose another folder"
    raise FileExistsError(f"{out} already exists and is not empty; {hint}")


def _is_export(folder: Path) -> bool:
    """Whether an export of this package lies there. Other programs write a manifest.json too."""
    try:
        return "simpool_viz" in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(board: Board, folder: Path, style: DrawingStyle, device: str, suffix: str, profile: Profile) -> None:
    with profile.part("drawing"):
        whole = render_board(board, style)
    with profile.part("encoding"):
        whole.save(folder / "board.png", compress_level=1)
    maps: dict[str, np.ndarray] = {}
    for name, row, scale in zip(row_names(board), board.rows, row_scales(board, style), strict=True):
        with profile.part("drawing"):
            drawn = render_row(board, row, scale, style)
        with profile.part("encoding"):
            for kind, picture in zip(("overlay", "mask"), drawn, strict=True):
                save_picture(picture, folder / f"{name}.{kind}.{suffix}")
        maps |= {name: row.attention.weights, f"{name}.mask": row.mask.grid}
    with profile.part("encoding"):
        np.savez_compressed(folder / "maps.npz", **maps)  # type: ignore[arg-type]  # keys are names of files, never "file"
    _write_scores(board, folder / "scores.csv")
    text = json.dumps(manifest(board, style, device), indent=1, ensure_ascii=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def score_table(board: Board) -> list[dict[str, Any]]:
    """One dict per row of the board, and per picture with a reference one for each baseline."""
    table = []
    for row in board.rows:
        figures: dict[str, Any] = {
            "picture": board.pictures[row.picture].name,
            "checkpoint": row.checkpoint,
            "map": row.request.label,
            "prediction": row.prediction[0] if row.prediction else "",
            "probability": round(row.prediction[1], 4) if row.prediction else "",
            "coverage": round(row.mask.coverage, 4),
            "components": row.mask.components,
            "spatial_entropy": round(row.entropy, 4),
            "entropy_of": row.entropy_of,
            "milliseconds": round(sum(row.milliseconds), 1),
        }
        table.append(figures | {k: round(v, 4) for k, v in row.scores.items()})
    for index, reference in board.references.items():
        for name, scores in score_baselines(reference).items():
            table.append(
                {"picture": board.pictures[index].name, "checkpoint": name, "map": ""}
                | {k: round(v, 4) for k, v in scores.items()}
            )
    return table


def _write_scores(board: Board, path: Path) -> None:
    path.write_text(csv_text(score_table(board)), encoding="utf-8", newline="")


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    import timm
    import torch

    return {
        "simpool_viz": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def manifest(board: Board, style: DrawingStyle, device: str) -> dict[str, Any]:
    """What was made, with what settings and versions."""
    return {
        "format": FORMAT,
        "versions": versions(),
        "device": device,
        "settings": asdict(board.settings),
        "look": asdict(style),
        "pictures": [{"name": p.name, "width": p.size[0], "height": p.size[1]} for p in board.pictures],
        "rows": [row_facts(name, row) for name, row in zip(row_names(board), board.rows, strict=True)],
        "skipped": board.skipped,
    }


def row_facts(name: str, row: Row) -> dict[str, Any]:
    """What the manifest tells of a row."""
    return {
        "name": name,
        "picture": row.picture,
        "checkpoint": row.checkpoint,
        "map": row.request.label,
        "maps": list(row.attention.names),
        "grid": list(row.attention.geometry.grid),
        "input_size": list(row.input_size),
        "level": row.mask.level,
        "boxes": [list(box) for box in row.mask.boxes],
        "note": row.attention.note,
    }


def export_answer(recording: Recording, answer: Inspection, out: Path, *, overwrite: bool = False) -> Path:
    """Write what `inspect` answers: an export of its rows, heads.png where several maps stand behind the first, and
    segmentation.png of a dense checkpoint.

    Args:
        recording: what was asked.
        answer: from `inspect`.
        out: the folder to make.
        overwrite: replace an earlier export there.

    Returns:
        The folder.

    Raises:
        FileExistsError: as in `check_target`.
    """
    board = Board([recording.picture], answer.rows, {}, answer.notes, Settings())
    extras = {"heads.png": draw_parts(recording.picture, answer.parts, answer.groups)} if answer.parts else {}
    if recording.encoder.dense:
        extras["segmentation.png"] = draw_segmentation(recording)
    device = str(next(recording.encoder.parameters()).device)
    return export_board(board, out, overwrite=overwrite, device=device, extras=extras)


def export_tour(out: Path, *, device: str = "auto") -> list[Path]:
    """Write the guided tour: an export of every stop in a folder of its own, and README.md with their texts.

    Args:
        out: the folder to make.
        device: as in `load_checkpoint`.

    Returns:
        The folders of the stops.

    Raises:
        CheckpointError: the bundled checkpoints are not here.
        FileExistsError: `out` is a file, or a folder that is not empty.
    """
    here = stops(available())
    if not here:
        raise CheckpointError("the tour needs the bundled ViT checkpoints, which this installation does not have")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already and not an empty folder; choose another with -o")
    names = list(dict.fromkeys(name for stop in here for name in stop.checkpoints))
    loaded = dict(zip(names, load_checkpoints(names, device=device), strict=True))
    pages, folders = ["# Guided tour"], []
    for number, stop in enumerate(here, 1):
        encoders = [loaded[name] for name in stop.checkpoints]
        place = str(next(encoders[0].parameters()).device)
        folders.append(export_board(stop_board(stop, encoders), out / f"{number}_{stop.name}", device=place))
        pages.append(f"{stop.markdown}\n\n![{stop.title}]({folders[-1].name}/board.png)")
    (out / "README.md").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    return folders
