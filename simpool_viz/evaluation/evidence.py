"""The measured tables of the bundled checkpoints, and their maps on an example photo, for a page."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from simpool_viz.board.board import Board, Settings, make_board
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.references import read_reference
from simpool_viz.scores.results import FORMS, Column, Results, Table

# What the tables of the results measure, by the beginning of their names, in the order of the page.
GROUPS = {
    "vit": "ViT group",
    "vit_ssl": "ViTs without labels",
    "resnet": "ResNet group",
    "heads": "Heads on a frozen ResNet",
    "masks": "Default masks",
    "masks_heads": "Default masks of the heads",
    "discovery": "Objects discovered",
    "backgrounds": "Changed backgrounds",
    "thin": "The base of the ViTs",
    "start": "SimPool's random start",
}


@dataclass(frozen=True)
class MeasuredTable:
    """A table of maps that were scored on a data set.

    Attributes:
        name: in the results.
        table: the table.
        checkpoints: those whose maps it compares, in their order.
    """

    name: str
    table: Table
    checkpoints: tuple[str, ...]

    @property
    def title(self) -> str:
        """For readers: what it measures, and its heading without Markdown."""
        group, _, rest = self.name.partition("/")
        between = f", {rest.rpartition('/')[0]}" if "/" in rest else ""
        return f"{GROUPS.get(group, group)}{between}: {self.table.title.replace('*', '')}"

    @property
    def columns(self) -> list[Column]:
        """Those that can be drawn: some row has a figure with its interval."""
        return [
            column
            for column in self.table.columns
            if column.form in FORMS and any(isinstance(row.get(column.name), (list, tuple)) for row in self.table.rows)
        ]


def measured_tables(results: Results, here: Collection[str]) -> list[MeasuredTable]:
    """The tables of maps whose checkpoints are here, in the order of `GROUPS`.

    Args:
        results: such as `bundled_results`.
        here: names of checkpoints.
    """
    found = []
    for name, table in results.tables.items():
        checkpoints = checkpoints_of(table.command)
        one = MeasuredTable(name, table, checkpoints)
        if table.columns[0].name == "map" and checkpoints and set(checkpoints) <= set(here) and one.columns:
            found.append(one)
    places = {group: place for place, group in enumerate(GROUPS)}

    def place(one: MeasuredTable) -> tuple[int, bool]:
        return places.get(one.name.partition("/")[0], len(places)), not one.name.endswith("/horses")  # the larger set

    return sorted(found, key=place)


def checkpoints_of(command: str) -> tuple[str, ...]:
    """The checkpoints that a command line names with -c, in their order."""
    words = shlex.split(command)
    return tuple(word for option, word in pairwise(words) if option in ("-c", "--checkpoint"))


def evidence_board(photo: Path, encoders: Sequence[Encoder]) -> Board:
    """The own map of each checkpoint on an example photo, scored against the photo's reference mask.

    Args:
        photo: its mask lies in masks/ beside it.
        encoders: the checkpoints.

    Raises:
        SimpoolError: as in `make_board` and `read_reference`.
    """
    mask = photo.parent / "masks" / f"{photo.stem}.png"
    references = {0: read_reference(mask)} if mask.is_file() else {}
    return make_board([photo], encoders, (), Settings(), references)
