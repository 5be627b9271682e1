"""Results as data: what was measured, in tables that are printed, kept in a file, and filled into texts.

A text that quotes a figure never holds it by itself: it names the figure, and `fill_text` writes it there, so that no
text says what was not measured. Intervals are 95 % percentile bootstraps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, TypeAdapter

from simpool_viz.bundled import bundled_folder
from simpool_viz.errors import DataError
from simpool_viz.outputs import markdown_table, written_whole
from simpool_viz.settings import CLOSED, Number, checked

FORMAT = 1
DRAWS = 2000
FILE = "results.json"
Figure = tuple[float, float, float]


def interval(values: np.ndarray, seed: int = 0) -> Figure:
    """The mean of values and its 95 % percentile bootstrap interval.

    Args:
        values: (n,).
        seed: of the draws, so that the same values give the same interval.

    Returns:
        (mean, low, high).
    """
    draws = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


@dataclass(frozen=True)
class Form:
    """How a figure is written: multiplied by `factor`, with `digits` decimals, and with its sign where `signed`."""

    factor: float
    digits: int
    signed: bool = False

    def of(self, value: float) -> str:
        return f"{self.factor * value:{'+' if self.signed else ''}.{self.digits}f}"


# Of a column: shares in [0, 1] with three decimals or in per cent, their differences, and what has no interval.
FORMS = {
    "share": Form(1, 3),
    "shift": Form(1, 3, signed=True),
    "percent": Form(100, 1),
    "points": Form(100, 1, signed=True),
    "whole percent": Form(100, 0),
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: of its values in the rows.
        title: its head.
        form: "text", or a name of `FORMS`.
    """

    __pydantic_config__ = CLOSED

    name: str
    title: str
    form: str = "text"


# None where a row has no such figure; one number where it has no interval.
Cell = str | Number | Annotated[list[Number], Field(min_length=3, max_length=3)] | None


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        title: Markdown that stands before it.
        columns: from left to right; the first one names the rows.
        rows: by name of the column a text, a number, (mean, low, high) or None.
        command: with which it was measured; "" where it is not kept.
    """

    __pydantic_config__ = CLOSED

    title: str
    columns: tuple[Column, ...]
    rows: tuple[dict[str, Cell], ...]
    command: str = ""

    def markdown(self) -> str:
        """The title and the table."""
        lines = [[self._written(row, column) for column in self.columns] for row in self.rows]
        return f"{self.title}\n\n{markdown_table([column.title for column in self.columns], lines)}"

    def row(self, label: str) -> dict[str, Cell]:
        """The row of this label.

        Raises:
            DataError: there is none.
        """
        first = self.columns[0].name
        found = next((row for row in self.rows if row[first] == label), None)
        if found is None:
            known = ", ".join(str(row[first]) for row in self.rows)
            raise DataError(f"the results have no row {label!r}; there are {known}")
        return found

    def figure(self, label: str, name: str, *, whole: bool = False) -> str:
        """A figure as it is written in texts.

        Args:
            label: of the row. name: of the column.
            whole: whether its interval is written too.

        Raises:
            DataError: there is no such figure.
        """
        column = next((column for column in self.columns if column.name == name), None)
        row = self.row(label)
        if column is None or row.get(name) is None:
            known = ", ".join(key for key, cell in row.items() if cell is not None)
            raise DataError(f"the results have no {name!r} of {label!r}; there are {known}")
        written = self._written(row, column)
        return written if whole else written.partition(" [")[0]

    @staticmethod
    def _written(row: Mapping[str, Cell], column: Column) -> str:
        cell = row.get(column.name)
        if cell is None or isinstance(cell, str):
            return cell or ""
        if column.form not in FORMS:
            return f"{cell:,.10g}"
        form = FORMS[column.form]
        if not isinstance(cell, (list, tuple)):
            return form.of(float(cell))
        mean, low, high = map(form.of, cell)
        return f"{mean} [{low}, {high}]"


def rounded(figure: Iterable[float]) -> list[float]:
    """(mean, low, high) as it is kept: with five decimals, far below its own interval."""
    return [round(float(value), 5) for value in figure]


def measured(values: np.ndarray) -> list[float] | None:
    """The cell of values (n,), one for each photo: their `interval`, None where one of them is NaN."""
    return None if np.isnan(values).any() else rounded(interval(values))


@dataclass(frozen=True)
class Results:
    """The tables of a results file by name, such as "vit/horses"."""

    __pydantic_config__ = CLOSED

    tables: dict[str, Table] = field(default_factory=dict)
    format: int = FORMAT

    def table(self, name: str) -> Table:
        """A table by name.

        Raises:
            DataError: there is none.
        """
        if name not in self.tables:
            raise DataError(f"the results have no table {name!r}; there are {', '.join(self.tables)}")
        return self.tables[name]

    def figure(self, address: str) -> str:
        """A figure by its address, "TABLE | ROW | COLUMN", with its interval where a star follows: "... | iou *".

        Raises:
            DataError: the results have no such figure.
        """
        parts = [part.strip() for part in address.split("|")]
        if len(parts) != 3:
            raise DataError(f"a figure is named TABLE | ROW | COLUMN, not {address!r}")
        name, label, column = parts
        return self.table(name).figure(label, column.rstrip(" *"), whole=column.endswith("*"))

    def write(self, path: Path) -> None:
        """Write a results file, replaced as a whole."""
        tables = {name: asdict(table) for name, table in sorted(self.tables.items())}
        with written_whole(path) as part:
            # A line for each figure, so that a change of one figure is a change of one line.
            text = json.dumps({"format": self.format, "tables": tables}, ensure_ascii=False, indent=1)
            part.write_text(_FLAT.sub(lambda found: " ".join(found[0].split()), text) + "\n", encoding="utf-8")


_FLAT = re.compile(r"\[[^\[\]{}]*\]")
_RESULTS = TypeAdapter(Results)


def read_results(path: Path) -> Results:
    """Read a results file.

    Raises:
        DataError: it is missing, no JSON, or not a file of results.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(f"{path} cannot be read; `simpool-viz evaluate --results {path}` makes it") from None
    except ValueError as error:
        raise DataError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not of format {FORMAT}; measure again with this version of simpool_viz")
    return checked(_RESULTS, content, lambda fault: DataError(f"{path} does not hold results: {fault}"))


def keep_tables(path: Path, tables: Mapping[str, Table]) -> None:
    """Put tables into a results file; those of other names that it holds stay.

    Raises:
        DataError: the file is there and holds no results.
    """
    before = read_results(path).tables if path.exists() else {}
    Results({**before, **tables}).write(path)


@cache
def bundled_results() -> Results:
    """The results of the bundled checkpoints."""
    return read_results(bundled_folder("models") / FILE)


# --- texts ------------------------------------------------------------------------------------------------------------

_BLOCK = re.compile(r"(<!-- table ([^>]*?) -->\n)(?:(?!<!-- table ).)*?(<!-- end -->)", re.S)
_INLINE = re.compile(r"(<!-- = ([^>]*?) -->).*?(<!-- -->)", re.S)


def fill_text(text: str, results: Results) -> str:
    """Write tables and figures into a Markdown text where it names them.

    A table stands between the lines `<!-- table NAME -->` and `<!-- end -->`, a figure between
    `<!-- = TABLE | ROW | COLUMN -->` and `<!-- -->`.

    Raises:
        DataError: the results have no such table or figure.
    """

    def put(found: re.Match[str], written: Callable[[str], str]) -> str:
        return found[1] + written(found[2].strip()) + found[3]

    text = _BLOCK.sub(lambda found: put(found, lambda name: results.table(name).markdown() + "\n"), text)
    return _INLINE.sub(lambda found: put(found, results.figure), text)


def quoted(text: str, results: Results) -> str:
    """A text with its figures in the place of their addresses, "{TABLE | ROW | COLUMN}".

    Raises:
        DataError: as in `fill_text`.
    """
    return re.sub(r"\{([^{}]*)\}", lambda found: results.figure(found[1]), text)
