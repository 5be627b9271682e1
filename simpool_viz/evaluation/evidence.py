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
        """For readers: its name, and its heading without Markdown."""
        return f"{self.name}: {self.table.title.replace('*', '')}"

    @property
    def columns(self) -> list[Column]:
        """Those that can be drawn: some row has a figure with its interval."""
        return [
            column
            for column in self.table.columns
            if column.form in FORMS and any(isinstance(row.get(column.name), (list, tuple)) for row in self.table.rows)
        ]


def measured_tables(results: Results, here: Collection[str]) -> list[MeasuredTable]:
    """The tables of maps whose checkpoints are here.

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
    return found


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
