"""Writes a board as a folder: board.png, every overlay and mask as a picture, every mask as a binary PNG and in COCO's
forms, maps.npz, scores.csv, manifest.json.

The folder appears complete or not at all: it is written under a temporary name and then moved to its place.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from simpool_viz import __version__
from simpool_viz.board.board import Board, Row, Settings
from simpool_viz.board.inspection import Inspection, exponents
from simpool_viz.board.ready_made import available
from simpool_viz.board.tour import stop_board, stops
from simpool_viz.checkpoints.load import load_checkpoints
from simpool_viz.drawing.figures import draw_exponents, draw_parts, draw_segmentation
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.drawing.render import SUFFIXES, render_board, render_row, row_scales, save_picture
from simpool_viz.errors import CheckpointError, OptionError
from simpool_viz.images import Picture
from simpool_viz.mask_files import NamedMask, coco_annotations, png_of
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.outputs import csv_text, holds_something, write_picture, written_whole
from simpool_viz.recording import Recording
from simpool_viz.refinement import refine
from simpool_viz.scores.localization import score_baselines
from simpool_viz.tensors import precision_name
from simpool_viz.timing import Profile

FORMAT = 1
VOID = 255  # of a reference mask, where nothing is counted


def row_names(board: Board) -> list[str]:
    """A file name for each row of a board, made of picture, checkpoint and map.

    Names that are equal, also in all but upper and lower case, are numbered.
    """
    names: dict[str, str] = {}
    for row in board.rows:
        name = unnumbered = _unnumbered_name(board, row)
        number = 1
        while name.casefold() in names:
            number += 1
            name = f"{unnumbered}_{number}"
        names[name.casefold()] = name
    return list(names.values())


def row_name(board: Board, row: Row) -> str:
    """The file name of one row of a board, without the ending."""
    return next(name for name, other in zip(row_names(board), board.rows, strict=True) if other is row)


def _unnumbered_name(board: Board, row: Row) -> str:
    stem = Path(board.pictures[row.picture].name).stem
    if sum(Path(p.name).stem == stem for p in board.pictures) > 1:
        stem = f"{stem}_{row.picture}"
    return plain_name(f"{stem}.{row.checkpoint}.{row.request.label}")


def plain_name(text: str) -> str:
    """A text as a file name that every file system allows: other characters become "_", at most 200 bytes."""
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
    extras: Mapping[str, Image.Image | str | bytes] | None = None,
    encoders: Sequence[Encoder] = (),
    sources: bool = False,
) -> Path:
    """Write a board as a folder.

    Args:
        board: from `make_board`.
        out: the folder to make. An existing one must be empty, or an earlier export and `overwrite` set.
        style: colours, opacity and smoothing of the overlays; the defaults of `DrawingStyle` where None.
        overwrite: replace an earlier export.
        device: the device that made the maps, for the manifest.
        pictures: format of overlays and masks, "jpeg" or "png".
        profile: to which the seconds of drawing and encoding are added.
        extras: further files by name: pictures, text, or bytes as they are, such as those of `drawing.figures`.
        encoders: the board's checkpoints, of whose weights manifest.json then has a digest.
        sources: also write the photos and reference masks, so that `repeat_board` needs the folder alone.

    Returns:
        `out`.

    Raises:
        FileExistsError: the folder contains something else, which stays unchanged.
        OptionError: another format of pictures.
        OSError: the folder cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from simpool_viz import export_board, load_checkpoint, make_board
        >>> board = make_board(["cat.jpg"], [load_checkpoint("resnet_simpool")], ["simpool"])
        >>> folder = export_board(board, Path("boards/cat"))
        >>> sorted(path.name for path in folder.glob("*.*"))  # doctest: +NORMALIZE_WHITESPACE
        ['board.png', 'cat.resnet_simpool.simpool.binary.png', 'cat.resnet_simpool.simpool.mask.jpg',
         'cat.resnet_simpool.simpool.overlay.jpg', 'manifest.json', 'maps.npz', 'masks_polygons.json',
         'masks_rle.json', 'scores.csv']
    """
    if pictures not in SUFFIXES:
        raise OptionError(f"pictures are written as {' or '.join(SUFFIXES)}, not {pictures!r}")
    check_target(out, overwrite)
    place = Path(out).resolve()
    with written_whole(place) as work:
        work.mkdir()
        style = style or DrawingStyle()
        _write(board, work, style, SUFFIXES[pictures], profile or Profile())
        kept = _write_sources(board, work) if sources else [{} for _ in board.pictures]
        facts = manifest(board, style, device, encoders)
        facts["pictures"] = [about | files for about, files in zip(facts["pictures"], kept, strict=True)]
        text = json.dumps(facts, indent=1, ensure_ascii=False)
        (work / "manifest.json").write_text(text + "\n", encoding="utf-8")
        for name, content in (extras or {}).items():
            if isinstance(content, str):
                (work / name).write_text(content, encoding="utf-8")
            elif isinstance(content, bytes):
                (work / name).write_bytes(content)
            else:
                write_picture(content, work / name)
    return Path(out)


def check_target(out: Path, overwrite: bool = False) -> None:
    """Check, before anything is computed, that a board may be written to a folder.

    Args:
        out: the folder.
        overwrite: whether an earlier export there may be replaced.

    Raises:
        FileExistsError: the folder contains something else, or an earlier export that must not be replaced.
    """
    out = Path(out)
    if not out.exists() or (out.is_dir() and (not holds_something(out) or (overwrite and _is_export(out)))):
        return
    hint = "add --overwrite to replace it" if _is_export(out) else "it is no earlier result, so choose another folder"
    raise FileExistsError(f"{out} already exists and is not empty; {hint}")


def _is_export(folder: Path) -> bool:
    """Whether a folder is an export of this package; other programs write a manifest.json too."""
    try:
        return "simpool_viz" in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(board: Board, folder: Path, style: DrawingStyle, suffix: str, profile: Profile) -> None:
    with profile.part("drawing"):
        picture_of_board = render_board(board, style)
    with profile.part("encoding"):
        write_picture(picture_of_board, folder / "board.png", compress_level=1)
    maps: dict[str, np.ndarray] = {}
    for name, row, scale in zip(row_names(board), board.rows, row_scales(board, style), strict=True):
        with profile.part("drawing"):
            drawn = render_row(board, row, scale, style)
        with profile.part("encoding"):
            for kind, picture in zip(("overlay", "mask"), drawn, strict=True):
                save_picture(picture, folder / f"{name}.{kind}.{suffix}")
        maps |= {name: row.attention.weights, f"{name}.mask": row.mask.grid}
    _write_masks(board, folder, profile)
    with profile.part("encoding"):
        np.savez_compressed(folder / "maps.npz", **maps)  # type: ignore[arg-type]  # keys are names of files, never "file"
    _write_scores(board, folder / "scores.csv")


def source_files(board: Board) -> list[dict[str, str]]:
    """Where an export keeps the sources of each picture in its folder: "file", and "reference" where it has one."""
    stems = [plain_name(Path(picture.name).stem) for picture in board.pictures]
    names = [stem if stems.count(stem) == 1 else f"{stem}_{i}" for i, stem in enumerate(stems)]
    return [
        {"file": f"photos/{name}.png"} | ({"reference": f"references/{name}.png"} if i in board.references else {})
        for i, name in enumerate(names)
    ]


def _write_sources(board: Board, folder: Path) -> list[dict[str, str]]:
    """Photos and reference masks as PNG, which loses nothing; returns `source_files`."""
    files = source_files(board)
    for i, (picture, names) in enumerate(zip(board.pictures, files, strict=True)):
        (folder / names["file"]).parent.mkdir(exist_ok=True)
        Image.fromarray(picture.rgb).save(folder / names["file"])
        if i in board.references:
            one = board.references[i]
            (folder / names["reference"]).parent.mkdir(exist_ok=True)
            labels = one.objects if one.labels is None or one.labels.max() >= VOID else one.labels
            labels = np.where(one.void, VOID, labels).astype(np.uint8)
            Image.fromarray(labels).save(folder / names["reference"])
    return files


def zipped(folder: Path) -> bytes:
    """The files of a folder as one ZIP, in a folder of the same name."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
    return content.getvalue()


def picture_digest(picture: Picture) -> str:
    """SHA-256 of a picture's size and pixels, which its name and the format of its file do not change."""
    width, height = picture.size
    return hashlib.sha256(f"{width}x{height}".encode() + np.ascontiguousarray(picture.rgb).tobytes()).hexdigest()


def weights_digest(encoder: Encoder) -> str:
    """SHA-256 of a checkpoint's tensors with their names, in float32, so that the device does not change it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        values = tensor.detach().cpu().float().contiguous().numpy()
        digest.update(name.encode() + str(tuple(values.shape)).encode() + values.tobytes())
    return digest.hexdigest()


def masks_of(board: Board) -> list[NamedMask]:
    """The mask of each row at its photo's size, refined where that is asked for."""
    masks = []
    for name, row in zip(row_names(board), board.rows, strict=True):
        pixels = refine(row.mask.pixels(), board.pictures[row.picture].rgb, row.refine)
        about = {"name": name, "checkpoint": row.checkpoint, "map": row.request.label}
        masks.append(NamedMask(pixels, row.picture, about))
    return masks


def _write_masks(board: Board, folder: Path, profile: Profile) -> None:
    """Masks for other tools: a binary PNG each, and COCO annotations of all."""
    with profile.part("drawing"):
        masks = masks_of(board)
    with profile.part("encoding"):
        for mask in masks:
            (folder / f"{mask.about['name']}.binary.png").write_bytes(png_of(mask.pixels))
        pictures = [(picture.name, picture.size) for picture in board.pictures]
        for kind in ("polygons", "rle"):
            annotations = coco_annotations(pictures, masks, as_polygons=kind == "polygons")
            (folder / f"masks_{kind}.json").write_text(json.dumps(annotations), encoding="utf-8")


def score_table(board: Board) -> list[dict[str, Any]]:
    """The lines of scores.csv: a dict for each row of the board, and for each baseline of a picture with a reference.

    Probability, coverage and scores lie in [0, 1]; the spatial entropy is in nats.
    """
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
        areas = {} if row.curves is None else {f"{k}_area": round(v, 4) for k, v in row.curves.areas.items()}
        table.append(figures | {k: round(v, 4) for k, v in row.scores.items()} | areas)
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
    """The versions of this package, Python, torch and timm, on which the figures depend."""
    import timm
    import torch

    return {
        "simpool_viz": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def manifest(board: Board, style: DrawingStyle, device: str, encoders: Sequence[Encoder] = ()) -> dict[str, Any]:
    """The content of manifest.json: what was made, and with which settings and versions.

    Args:
        board: the board.
        style: how its overlays are drawn.
        device: the device that made the maps.
        encoders: the board's checkpoints, for the digests of their weights.
    """
    return {
        "format": FORMAT,
        "versions": versions(),
        "device": device,
        "settings": asdict(board.settings) | {"cut": asdict(board.settings.cut)},
        "look": asdict(style),
        "pictures": [
            {"name": p.name, "width": p.size[0], "height": p.size[1], "sha256": picture_digest(p)}
            for p in board.pictures
        ],
        "checkpoints": [
            {
                "name": e.facts.name,
                "source": e.facts.source,
                "sha256": weights_digest(e),
                "precision": precision_name(next(e.parameters()).dtype),
            }
            for e in encoders
        ],
        "rows": [row_facts(name, row) for name, row in zip(row_names(board), board.rows, strict=True)],
        "skipped": board.skipped,
    }


def row_facts(name: str, row: Row) -> dict[str, Any]:
    """The entry of a row in the manifest.

    Args:
        name: the row's file name, without the ending.
        row: a row of a board.
    """
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
    """Write the result of `inspect` as a folder.

    It is an export of the rows, with heads.png where the first map is the fusion of several, segmentation.png for a
    dense checkpoint, and exponents.png for one with GeM or GGeM.

    Args:
        recording: the recording that was inspected.
        answer: from `inspect`.
        out: the folder to make.
        overwrite: replace an earlier export there.

    Returns:
        The folder.

    Raises:
        FileExistsError: as in `check_target`.
        OSError: the folder cannot be written.
    """
    board = Board([recording.picture], answer.rows, {}, answer.notes, Settings())
    extras = {"heads.png": draw_parts(recording.picture, answer.parts, answer.groups)} if answer.parts else {}
    if recording.encoder.dense:
        extras["segmentation.png"] = draw_segmentation(recording)
    if exponents(recording.encoder):
        extras["exponents.png"] = draw_exponents(recording)
    device = str(next(recording.encoder.parameters()).device)
    return export_board(board, out, overwrite=overwrite, device=device, extras=extras)


def export_tour(out: Path, *, device: str = "auto", precision: str = "auto") -> list[Path]:
    """Write the guided tour: each stop as an export in its own folder, and README.md with the texts of all.

    Args:
        out: the folder to make.
        device: as in `load_checkpoint`.
        precision: as in `load_checkpoint`.

    Returns:
        The folders of the stops.

    Raises:
        CheckpointError: the bundled checkpoints are missing.
        FileExistsError: `out` is a file, or a folder that is not empty.
        OSError: the folder cannot be written.
    """
    possible = stops(available())
    if not possible:
        raise CheckpointError("the tour needs the bundled ViT checkpoints, which this installation does not have")
    if out.exists() and (not out.is_dir() or holds_something(out)):
        raise FileExistsError(f"{out} is there already and not an empty folder; choose another with -o")
    names = list(dict.fromkeys(name for stop in possible for name in stop.checkpoints))
    loaded = dict(zip(names, load_checkpoints(names, device=device, precision=precision), strict=True))
    pages = ["# Guided tour"]
    folders: list[Path] = []
    for number, stop in enumerate(possible, 1):
        encoders = [loaded[name] for name in stop.checkpoints]
        place = str(next(encoders[0].parameters()).device)
        folders.append(export_board(stop_board(stop, encoders), out / f"{number}_{stop.name}", device=place))
        pages.append(f"{stop.markdown}\n\n![{stop.title}]({folders[-1].name}/board.png)")
    (out / "README.md").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    return folders
