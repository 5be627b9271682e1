"""The page's address: photos, checkpoints, maps, view and drawing, so that a link opens the page as it was.

The browser writes it (address.js), with what differs from a page that has just been opened alone, and Python reads it,
since nobody guarantees that a link comes from our own page. An example photo stands in it by its name and a
visitor's own as `own`, for which the page asks; a checkpoint by the name that `compare -c` takes. A row of another
class and a box around an object stand in it with the place of their photo; a painting and a mask file are asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from simpool_viz.app.board.component import AMOUNTS, FIRST_STYLE, SMOOTHINGS
from simpool_viz.app.checkpoint_list import checked_names
from simpool_viz.board.comparison import GROUPINGS, ROW_FIGURES
from simpool_viz.checkpoints.load import split_size
from simpool_viz.drawing.pixels import SEQUENTIAL
from simpool_viz.errors import OptionError
from simpool_viz.masks import mask_rules

LONGEST = 4000  # characters that are read and written, which every browser takes
NOT_HELD = "own"  # in place of a photo, or of a mask, that the address cannot hold
MOST_CLASSES, MOST_BOXES = 24, 64
PARTS = {"photo": "photos", "model": "checkpoints", "map": "maps"}  # of the address, each as often as there are of it
LOOK = tuple(FIRST_STYLE)
FIRST_VIEW: dict[str, Any] = {"view": "", "group": "none", "sort": "", "lowest": False, "cells": "overlay"}


@dataclass
class Choice:
    """What is chosen on Compare.

    Attributes:
        photos: names of example photos, the first one first; `NOT_HELD` in place of a visitor's.
        checkpoints: names, as in `checked_names`.
        maps: names.
    """

    photos: list[str]
    checkpoints: list[str]
    maps: list[str]


@dataclass
class Link:
    """What an address says.

    Attributes:
        choice: what is chosen.
        style: how the board is drawn, with the keys `LOOK`.
        view: how it is arranged, with the keys of `FIRST_VIEW`; a view of "" is the one that suits the photos.
        classes: rows of another class: place of the photo, index of the class, checkpoint, map.
        boxes: boxes (x0, y0, x1, y1) in pixels around the objects, by the place of the photo.
        notes: sentences on what was left out.
    """

    choice: Choice
    style: dict[str, Any]
    view: dict[str, Any]
    classes: list[tuple[int, int, str, str]] = field(default_factory=list)
    boxes: dict[int, list[tuple[float, ...]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_address(
    query: str, first: Choice, photos: Sequence[str], known: Callable[[str], bool], maps: Sequence[str], most: int
) -> Link:
    """What an address says; what it says wrongly is told in a sentence and left as on a page just opened.

    Args:
        query: behind the address's "?"; keys that are not ours are somebody else's and are passed over.
        first: what is chosen on a page just opened.
        photos: names of the example photos.
        known: whether a checkpoint can be chosen, by its name without a size.
        maps: names of the maps that can be chosen.
        most: number of photos of one board.
    """
    choice = Choice(list(first.photos), list(first.checkpoints), list(first.maps))
    link = Link(choice, {key: FIRST_STYLE[key] for key in LOOK}, dict(FIRST_VIEW))
    query = query.removeprefix("?")
    if len(query) > LONGEST:
        link.notes.append(f"The link has more than {LONGEST:,} characters, so nothing of it was read.")
        return link
    pairs = parse_qsl(query, keep_blank_values=True, errors="replace")
    for key, kind in PARTS.items():
        given = list(dict.fromkeys(value for name, value in pairs if name == key))
        if key == "photo":
            found = [value for value in given if value in photos or value == NOT_HELD][:most]
        elif key == "model":
            found = _checkpoints(given, known)
        else:
            found = [value for value in given if value in maps]
        link.notes += [_left_out(kind, value) for value in given if value not in found][:3]
        if found:
            setattr(link.choice, kind, found)
    for key, text in pairs:
        readable = READ_STYLE.get(key) or READ_VIEW.get(key)
        if readable is None:
            continue
        try:
            (link.style if key in READ_STYLE else link.view)[key] = readable(text)
        except ValueError:
            link.notes.append(
                f"The link's {key} is {_shown(text)}, which the page does not know; it was left as it is."
            )
    _read_rows(link, pairs)
    return link


def _read_rows(link: Link, pairs: Sequence[tuple[str, str]]) -> None:
    """What an address says of single rows and photos of the board that it chooses, added to the link."""
    for key, (read, most) in READ_ROWS.items():
        given = list(dict.fromkeys(text for name, text in pairs if name == key))
        wrong = []
        for text in given[:most]:
            try:
                read(link, text)
            except ValueError:
                wrong.append(f"The link's {key} {_shown(text)} is of no row or photo of its board; it was left out.")
        link.notes += wrong[:3]
        if len(given) > most:
            link.notes.append(f"The link names {len(given)} times a {key}; the first {most} were read.")
    if ("mask", NOT_HELD) in pairs:
        link.notes.append(
            "The link's board was scored against a painting or a mask file, which no link holds: give yours under "
            "'Where the object is'."
        )


def _class_of(link: Link, text: str) -> None:
    picture, index, rest = text.split(",", 2)
    checkpoint, _, name = rest.rpartition(",")
    if checkpoint not in link.choice.checkpoints or name not in link.choice.maps:
        raise ValueError(text)
    link.classes.append((_place(link, picture), _whole(index), checkpoint, name))


def _box_of(link: Link, text: str) -> None:
    picture, *sides = text.split(",")
    box = tuple(float(side) for side in sides)
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise ValueError(text)
    link.boxes.setdefault(_place(link, picture), []).append(box)


# What adds an entry of a key to a link, and how many are read.
READ_ROWS: dict[str, tuple[Callable[[Link, str], None], int]] = {
    "class": (_class_of, MOST_CLASSES),
    "box": (_box_of, MOST_BOXES),
}


def _place(link: Link, text: str) -> int:
    place = _whole(text)
    if place >= len(link.choice.photos):
        raise ValueError(text)
    return place


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise ValueError(text)
    return int(text)


def _checkpoints(given: list[str], known: Callable[[str], bool]) -> list[str]:
    """Those that can be chosen."""
    found: list[str] = []
    for name in given:
        try:
            if known(split_size(name)[0]):
                found = checked_names([*found, name])
        except OptionError:  # its size is out of range, or there are too many
            continue
    return found


def script(first: Choice, photos: Mapping[str, str]) -> str:
    """JavaScript, the text of a function: what is chosen and drawn is kept in the address from now on.

    Args:
        first: what is chosen on a page just opened.
        photos: the name of each example photo by the folder of its file, as the browser knows it.
    """
    told = {
        "parts": {key: getattr(first, kind) for key, kind in PARTS.items()},
        "look": {key: FIRST_STYLE[key] for key in LOOK} | FIRST_VIEW,
        "photos": dict(photos),
        "own": NOT_HELD,
        "longest": LONGEST,
    }
    written = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    return f"() => {{ const first = {json.dumps(told)};\n{written} }}"


def asked() -> str:
    """JavaScript, the text of a function: the page's query where it has a part that is ours, else ""."""
    keys = json.dumps([*PARTS, *READ_STYLE, *READ_VIEW, *READ_ROWS, "mask"])
    return f"() => {keys}.some((key) => new URLSearchParams(location.search).has(key)) ? location.search : ''"


def _left_out(kind: str, value: str) -> str:
    if kind == "checkpoints":
        return (
            f"The link's checkpoint {_shown(value)} is not here; one of your own is added under 'Your own checkpoint'."
        )
    return f"The link's {kind[:-1]} {_shown(value)} is not here."


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


# --- one value --------------------------------------------------------------------------------------------------------


def _one_of(values: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in values:
            raise ValueError(text)
        return text

    return read


def _flag(text: str) -> bool:
    return _one_of(("0", "1"))(text) == "1"


def _nearest(values: Sequence[float]) -> Callable[[str], float]:
    """Reads a number within the range of a slider, as the place of the slider nearest to it."""

    def read(text: str) -> float:
        number = float(text)
        if not values[0] <= number <= values[-1]:  # NaN is not within
            raise ValueError(text)
        return min(values, key=lambda value: abs(value - number))

    return read


OPACITIES = [percent / 100 for percent in range(101)]
READ_STYLE: dict[str, Callable[[str], Any]] = {
    "rule": _one_of(list(mask_rules())),
    "amount": _nearest(AMOUNTS),
    "opacity": _nearest(OPACITIES),
    "smoothing": _nearest(SMOOTHINGS),
    "colours": _one_of(list(SEQUENTIAL)),
    **dict.fromkeys(("smooth", "shared", "boxes", "largest", "baselines"), _flag),
}
READ_VIEW: dict[str, Callable[[str], Any]] = {
    "view": _one_of(("rows", "matrix", "agreement", "pair")),
    "group": _one_of(GROUPINGS),
    "sort": _one_of(list(ROW_FIGURES)),
    "lowest": _flag,
    "cells": _one_of(("overlay", "mask")),
}
