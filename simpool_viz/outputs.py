"""Writing results: files and folders that appear complete or not at all, and tables as CSV and as Markdown."""

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
    """A temporary path for a file or folder, which is moved to `target` when the block ends.

    The path is in the folder of `target`, so that the move is one atomic step and no incomplete result ever has that
    name. If the block raises, what it wrote is removed, and so are the parent folders that were made for it.

    Args:
        target: the final path; missing parent folders are made.
        replace: whether an existing folder at `target` is replaced; an existing file always is.

    Raises:
        OSError: the disk cannot be written, or there is a folder at `target` that must not be replaced.
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
    """A CSV file to which rows are appended, each of them written to disk when `add` returns.

    Args:
        path: the file; an existing one is overwritten.
        columns: the names of the columns.
        rows: the first rows.

    Raises:
        OSError: the file cannot be written.
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
        """Close the file, as the end of a `with` block also does; no row can be added after this."""
        self._file.close()

    def add(self, row: Sequence[Any]) -> None:
        """Append a row, its values in the order of the columns."""
        self._writer.writerow(row)
        self._file.flush()


def csv_text(records: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Records as CSV text with a header line.

    Args:
        records: one dict per line; a key that a record lacks leaves its cell empty.
        columns: the first columns; every other key follows in the order of its first appearance.
    """
    text = io.StringIO()
    columns = list(dict.fromkeys([*columns, *(key for record in records for key in record)]))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown without a final line break; vertical bars inside cells are escaped.

    Args:
        head: the names of the columns.
        rows: the cells of each row, as many as there are columns.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)
