"""A board once more: from the manifest of an export, with what differs, and as lines of Python or the shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from simpool_viz.board.board import Board, Settings, make_board
from simpool_viz.checkpoints.load import load_checkpoints
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.errors import CheckpointError, OptionError, SimpoolError
from simpool_viz.export import FORMAT, manifest, row_names, source_files, weights_digest
from simpool_viz.images import Picture, read_picture
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.references import read_reference
from simpool_viz.tensors import precision_name


@dataclass(frozen=True)
class Repeated:
    """A board made from a manifest.

    Attributes:
        board: with the rows of the manifest, in its order.
        style: in which it was drawn.
        encoders: its checkpoints.
        differences: a sentence for each thing that is not as it was; none where all is equal.
        compared: how many maps could be compared with those of the export.
    """

    board: Board
    style: DrawingStyle
    encoders: list[Encoder]
    differences: list[str]
    compared: int


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an export.

    Args:
        path: of manifest.json, or of its folder.

    Raises:
        OptionError: it is no manifest of an export, or one of a later version.
        OSError: the file cannot be read.
    """
    place = path / "manifest.json" if path.is_dir() else path
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        form = found["format"]
        _ = found["rows"], found["pictures"], found["versions"]["simpool_viz"]
    except (ValueError, KeyError, TypeError):
        raise OptionError(f"{place} is no manifest.json of a board; `compare` and the page write one") from None
    if form != FORMAT:
        raise OptionError(f"{place} has format {form}, and this version reads format {FORMAT}; install a newer one")
    return dict(found)


def repeat_board(
    path: Path,
    images: Sequence[str | Path] = (),
    checkpoints: Sequence[str] = (),
    *,
    device: str = "auto",
    precision: str = "auto",
) -> Repeated:
    """Make the board of an export again, and say what differs.

    Compared are the versions, the device, the pixels of the photos, the weights, and each map and mask with those in
    maps.npz beside the manifest.

    Args:
        path: of manifest.json, or of its folder.
        images: the photos in the manifest's order; those that the export keeps where left out.
        checkpoints: names or files in the manifest's order; the names of the manifest where left out.
        device: as in `load_checkpoint`.
        precision: as in `load_checkpoint`.

    Raises:
        OptionError: it is no manifest, or photos or checkpoints are missing or too many.
        SimpoolError: a photo or checkpoint cannot be read, or has not the maps.
        OSError: a file cannot be read.
    """
    about = read_manifest(path)
    folder = path if path.is_dir() else path.parent
    pictures = _pictures(about, folder, images)
    names = list(dict.fromkeys(row["checkpoint"] for row in about["rows"]))
    if checkpoints and len(checkpoints) != len(names):
        raise OptionError(
            f"the board has {len(names)} checkpoints ({', '.join(names)}), and {len(checkpoints)} were given"
        )
    try:
        encoders = load_checkpoints(list(checkpoints or names), device=device, precision=precision)
    except SimpoolError as error:
        raise CheckpointError(
            f"{error}; name the checkpoints of the board with -c, in this order: {', '.join(names)}"
        ) from error
    encoders = [_named(encoder, name) for encoder, name in zip(encoders, names, strict=True)]
    labels = list(dict.fromkeys(row["map"] for row in about["rows"]))
    settings, style = _known(Settings, about["settings"]), _known(DrawingStyle, about["look"])
    references = {
        i: read_reference(folder / one["reference"], pictures[i].size)
        for i, one in enumerate(about["pictures"])
        if "reference" in one and (folder / one["reference"]).is_file()
    }
    made = make_board(pictures, encoders, labels, settings, references)
    rows = {(row.picture, row.checkpoint, row.request.label): row for row in made.rows}
    keys = [(row["picture"], row["checkpoint"], row["map"]) for row in about["rows"]]
    board = replace(made, rows=[rows[key] for key in keys if key in rows], skipped=list(about.get("skipped", [])))
    missing = [
        f"{row['name']} can no longer be made" for row, key in zip(about["rows"], keys, strict=True) if key not in rows
    ]
    different, compared = _different_maps(board, folder / "maps.npz")
    place = str(next(encoders[0].parameters()).device)
    found = [*_different_facts(about, manifest(board, style, place), encoders), *missing, *different]
    return Repeated(board, style, encoders, found, compared)


def _pictures(about: dict[str, Any], folder: Path, images: Sequence[str | Path]) -> list[Picture]:
    wanted = about["pictures"]
    if images and len(images) != len(wanted):
        names = ", ".join(one["name"] for one in wanted)
        raise OptionError(f"the board has {len(wanted)} photos ({names}), and {len(images)} were given")
    places = [Path(image) for image in images] or [folder / one.get("file", one["name"]) for one in wanted]
    for place, one in zip(places, wanted, strict=True):
        if not images and not place.is_file():
            raise OptionError(f"the photo {one['name']} is not beside the manifest; give the board's photos, in order")
    return [replace(read_picture(place), name=one["name"]) for place, one in zip(places, wanted, strict=True)]


def _named(encoder: Encoder, name: str) -> Encoder:
    """The encoder under the name that it has in the manifest, also where it was read from another file."""
    if encoder.facts.name != name:
        encoder.facts = replace(encoder.facts, name=name)
    return encoder


def _known(kind: Any, values: dict[str, Any]) -> Any:
    names = {field.name for field in fields(kind)}
    return kind(**{key: value for key, value in values.items() if key in names})


def _different_facts(before: dict[str, Any], now: dict[str, Any], encoders: Sequence[Encoder]) -> list[str]:
    found = [
        f"{name} was {version} and is {now['versions'].get(name, 'missing')}"
        for name, version in before["versions"].items()
        if now["versions"].get(name) != version
    ]
    if before["device"] != now["device"]:
        found.append(f"the device was {before['device']} and is {now['device']}")
    for old, new in zip(before["pictures"], now["pictures"], strict=True):
        if old.get("sha256", new["sha256"]) != new["sha256"]:
            found.append(f"the photo {old['name']} has other pixels")
    computed = {one["name"]: one.get("precision") for one in before.get("checkpoints", [])}
    for encoder in encoders:
        was, name = computed.get(encoder.facts.name), precision_name(next(encoder.parameters()).dtype)
        if was not in (None, name):
            found.append(f"{encoder.facts.name} was computed in {was} and is in {name}")
    digests = {one["name"]: one["sha256"] for one in before.get("checkpoints", [])}
    for encoder in encoders:
        if digests.get(encoder.facts.name) not in (None, weights_digest(encoder)):
            found.append(f"the checkpoint {encoder.facts.name} has other weights")
    return found


def _different_maps(board: Board, path: Path) -> tuple[list[str], int]:
    """A sentence for each map or mask that is not that of an export, and how many were compared."""
    if not path.is_file():
        return ["maps.npz is not beside the manifest, so the maps were not compared"], 0
    found, compared = [], 0
    with np.load(path, allow_pickle=False) as before:
        for name, row in zip(row_names(board), board.rows, strict=True):
            if name not in before:
                found.append(f"{name} is not in maps.npz")
                continue
            compared += 1
            old, new = before[name], row.attention.weights
            if old.shape != new.shape:
                found.append(f"{name} was a map of {old.shape} and is one of {new.shape}")
                continue
            if not np.array_equal(old, new):
                apart = float(np.abs(old - new).max())
                found.append(
                    f"{name} differs by up to {apart:.2g}, where its largest weight is {float(np.abs(old).max()):.2g}"
                )
            cells = int((before[f"{name}.mask"] != row.mask.grid).sum())
            if cells:
                found.append(f"the mask of {name} differs in {cells} of {row.mask.grid.size} cells")
    return found, compared


# --- snippets ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What a board was asked for with, which its rows do not say.

    Attributes:
        checkpoints: as they are loaded, in the order of the board.
        maps: as texts for `parse_map`.
        group: as in `arrange`.
        sort: likewise.
    """

    checkpoints: Sequence[str]
    maps: Sequence[str]
    group: str = "none"
    sort: str = ""


def python_snippet(board: Board, style: DrawingStyle, asked: Asked) -> str:
    """Python that makes a board again, in the folder of an export with `sources`.

    Args:
        board: the board.
        style: in which it is drawn.
        asked: for what.
    """
    files = source_files(board)
    references = {i: one["reference"] for i, one in enumerate(files) if "reference" in one}
    read = ", ".join(f"{i}: read_reference({json.dumps(name, ensure_ascii=False)})" for i, name in references.items())
    ordered = asked.group != "none" or bool(asked.sort)
    names = ["Settings", *(["arrange"] if ordered else []), "export_board", "load_checkpoints", "make_board"]
    lines = [
        "from pathlib import Path",
        "",
        f"from simpool_viz import {', '.join(names)}",
        "from simpool_viz.drawing.pixels import DrawingStyle",
        *(["from simpool_viz.scores.references import read_reference"] if references else []),
        "",
        f"photos = {_listed([one['file'] for one in files])}",
        f"encoders = load_checkpoints({_listed(asked.checkpoints)})",
        f"settings = {_changed(board.settings, Settings())}",
        f"board = make_board(photos, encoders, {_listed(asked.maps)}, settings"
        + (f", {{{read}}})" if references else ")"),
        *([f"board = arrange(board, {json.dumps(asked.group)}, {json.dumps(asked.sort)})"] if ordered else []),
        f'export_board(board, Path("board"), {_changed(style, DrawingStyle())})',
    ]
    return "\n".join(lines) + "\n"


def _listed(values: Sequence[str]) -> str:
    return json.dumps(list(values), ensure_ascii=False)


def _changed(value: Any, default: Any) -> str:
    """The constructor's call with what is not as by default."""
    before = asdict(default)
    given = ", ".join(f"{key}={one!r}" for key, one in asdict(value).items() if one != before[key])
    return f"{type(value).__name__}({given})"


def shell_snippet(board: Board, style: DrawingStyle, asked: Asked) -> str:
    """The command line that makes a board again, in the folder of an export with `sources`; as `python_snippet`."""
    files, settings, look = source_files(board), board.settings, DrawingStyle()
    words = ["simpool-viz", "compare", *(one["file"] for one in files)]
    for name in asked.checkpoints:
        words += ["-c", name]
    for name in asked.maps:
        words += ["-m", name]
    words += ["--size", str(settings.size)] if settings.size else []
    words += ["--mask", settings.mask] if settings.mask != "default" else []
    words += ["--smoothing", f"{settings.smoothing:g}"] if settings.smoothing is not None else []
    words += ["--largest"] if settings.largest else []
    if settings.smooth is not None:
        words.append("--smooth" if settings.smooth else "--no-smooth")
    words += ["--fusion", str(settings.fusion)] if settings.fusion is not None else []
    words += ["--refine", settings.refine] if settings.refine else []
    words += ["--colours", style.colours] if style.colours != look.colours else []
    words += ["--opacity", f"{style.opacity:g}"] if style.opacity != look.opacity else []
    words += ["--shared-scale"] if style.shared_scale else []
    words += [] if style.boxes else ["--no-boxes"]
    words += ["--group", asked.group] if asked.group != "none" else []
    words += ["--sort", asked.sort] if asked.sort else []
    if len(board.references) == len(board.pictures):
        for one in files:
            words += ["--reference", one["reference"]]
    return shlex.join([*words, "-o", "board"]) + "\n"
