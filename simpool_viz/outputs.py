"""Writing results: files and folders that appear complete or not at all, tables as CSV and as Markdown, and what a
notebook shows of a value."""

from __future__ import annotations

import csv
import importlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image

LOST = "lost+found"  # a folder of the file system itself, at the root of a disk


class Displayed:
    """A value that a notebook shows as a picture with a caption, by `drawing/notebook.py`.

    That room lies below those whose values it draws, so it is found by its name, and only when a notebook asks.
    """

    def _repr_png_(self) -> bytes | None:
        """The picture as a PNG; None where there is none."""
        found: bytes | None = importlib.import_module("simpool_viz.drawing.notebook").display_png(self)
        return found

    def _repr_html_(self) -> str | None:
        """The picture with a caption; None where there is no picture."""
        found: str | None = importlib.import_module("simpool_viz.drawing.notebook").display_html(self)
        return found


@contextmanager
def written_whole(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """A temporary path for a file or folder, which is moved to `target` when the block ends.

    The path is in the folder of `target`, so that the move is one atomic step and no incomplete result ever has that
    name. A folder that cannot be moved away, such as the mount point of a container's volume, is filled instead: its
    new content is written inside it and moved when it is complete. If the block raises, what it wrote is removed, and
    so are the parent folders that were made for it.

    Args:
        target: the final path; missing parent folders are made.
        replace: whether an existing folder at `target` is replaced; an existing file always is.

    Raises:
        OSError: the disk cannot be written, or there is a folder at `target` that must not be replaced.
    """
    missing = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    fixed = replace and target.is_dir() and (target.is_mount() or not os.access(target.parent, os.W_OK))
    try:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=target if fixed else target.parent) as work:
            part = Path(work) / target.name
            yield part
            if fixed and part.is_dir():
                _fill(target, part, Path(work))
                return
            if replace and target.is_dir() and part.is_dir():
                shutil.rmtree(target)
            part.replace(target)
    except BaseException:
        with suppress(OSError):  # another program may have put something there
            for folder in missing:
                folder.rmdir()
        raise


def _fill(target: Path, part: Path, work: Path) -> None:
    """Put the content of `part` in the place of that of `target`, in which `work` lies."""
    for old in target.iterdir():
        if old not in (work, target / LOST):
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for new in part.iterdir():
        new.replace(target / new.name)


def holds_something(folder: Path) -> bool:
    """Whether a folder holds anything but what the file system itself puts at the root of a disk."""
    return any(path.name != LOST for path in folder.iterdir())


def printable(text: str) -> str:
    """A file's name as text that can be written as UTF-8; a byte that is not stands there as its escape sequence."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write a picture; unlike Pillow's own writing into a file, it notices a disk that is full before the last byte.

    Args:
        picture: to write.
        path: whose suffix says the format.
        options: of Pillow's encoder.

    Raises:
        OSError: the file cannot be written whole.
    """
    encoded = io.BytesIO()
    picture.save(encoded, format=Image.registered_extensions()[path.suffix.lower()], **options)
    path.write_bytes(encoded.getvalue())


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
