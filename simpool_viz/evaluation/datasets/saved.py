"""Folders that `datasets.Dataset.save_to_disk` writes: Arrow files, with `state.json` in each folder of a split.

They are read as they are; the package `datasets` is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from simpool_viz.errors import DataError, OptionError, needs_packages
from simpool_viz.evaluation.datasets.kinds import DataSetKind, register_data_set
from simpool_viz.evaluation.datasets.samples import Sample
from simpool_viz.evaluation.datasets.shards import ROWS, TableFile, columns_of_bytes, table_samples


class ArrowFile(TableFile):
    """An Arrow file, which is mapped into memory: a row costs no more than itself."""

    def blocks(self, names: Sequence[str], first: int = 0) -> Iterator[list[dict[str, Any]]]:
        """As `TableFile.blocks`."""
        table = _read(self.path).select(list(names))
        for start in range(first, self.rows, ROWS):
            yield table.slice(start, ROWS).to_pylist()


def _read(path: Path) -> Any:
    """The table of an Arrow file, as a stream or with its index."""
    with needs_packages("reading saved data sets", "pyarrow"):
        import pyarrow as arrow
    try:
        file = arrow.memory_map(str(path))
        try:
            return arrow.ipc.open_stream(file).read_all()
        except arrow.ArrowInvalid:
            return arrow.ipc.open_file(file).read_all()
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path} is no readable Arrow file: {error}") from error


def _open_saved(folder: Path, split: str) -> Sequence[Sample]:
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        names = list(_json(splits).get("splits", []))
        usual = next((name for name in ("test", "validation", "val") if name in names), "")
        chosen = split or usual or (names[0] if len(names) == 1 else "")
        if chosen not in names:
            raise OptionError(f"{folder} has the splits {', '.join(names) or '(none)'}; choose one with --split")
        folder = folder / chosen
    elif split:
        raise OptionError(f"{folder} is one split by itself; leave --split out")
    state = _json(folder / "state.json")
    if state.get("_indices_files") or state.get("_format_columns"):
        raise DataError(
            f"{folder} was saved with a selection of rows or columns; call flatten_indices() and save it anew"
        )
    files = [folder / one["filename"] for one in state.get("_data_files", [])]
    if missing := [path.name for path in files if not path.is_file()]:
        raise DataError(f"{folder} lacks {', '.join(missing)}, which its state.json names")
    tables = [(path, _read(path)) for path in files]
    starts = [range(max(1, table.num_rows)) for _, table in tables]
    return table_samples(
        [
            ArrowFile(path, table.num_rows, columns_of_bytes(table.schema), start)
            for (path, table), start in zip(tables, starts, strict=True)
        ],
        folder,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is no description of a saved data set")
    return content


register_data_set(
    DataSetKind(
        "saved",
        "a saved data set of Hugging Face's `datasets`",
        "state.json and data-*.arrow, or dataset_dict.json and such a folder for each split",
        (("state.json", "dataset_dict.json"), ("*.arrow", "*/*.arrow")),
        _open_saved,
        has_splits=True,
        object_ids="the labels of the masks",
    )
)
