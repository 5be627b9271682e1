"""How results are written: files and folders that appear whole or not at all, and tables as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """A path at which to write a file or make a folder, moved to `target` when the block ends.

    It lies beside `target`, so that the move is a single step and nobody meets half of it under its name. If the block
    fails, what it wrote is gone, and so are the folders that were made to hold it.

    Args:
        target: its folder is made where there is none.
        replace: whether a folder that stands there already gives way; a file always does.

    Raises:
        OSError: the disk does not take it, or a folder is there that is not to be replaced.
    """
    missing = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as work:
            part = Path(work) / target.name
            yield part
            if replace and target.is_dir() and part.is_dir():
                shutil.rmtree(target)
            part.replace(target)
    except BaseException:
        with suppress(OSError):  # another program may have put something there
            for folder in missing:
                folder.rmdir()
        raise


class CsvFile:
    """A CSV file that grows by one row at a time, each of them on the disk when `add` returns.

    Args:
        path: an earlier file of that name gives way.
        columns: the names of the columns.
        rows: those that it begins with.
    """

    def __init__(self, path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]] = ()) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(columns)
        self._writer.writerows(rows)
        self._file.flush()

    def __enter__(self) -> CsvFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing can be added after this; the end of a `with` block does it too."""
        self._file.close()

    def add(self, row: Sequence[Any]) -> None:
        """Write a row, in the order of the columns."""
        self._writer.writerow(row)
        self._file.flush()


def csv_text(records: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Records as CSV: the columns, then one for every other key in the order of their first appearance; empty where a
    record lacks it."""
    text = io.StringIO()
    columns = list(dict.fromkeys([*columns, *(key for record in records for key in record)]))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, without a line break at its end; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)
