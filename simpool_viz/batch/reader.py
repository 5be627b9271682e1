"""Reads what `simpool-viz batch --write parquet` wrote: rows as arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simpool_viz.batch.engine import require_pyarrow
from simpool_viz.batch.part_files import MANIFEST, RUN, part_paths, report_of
from simpool_viz.errors import DataError
from simpool_viz.mask_files import mask_of_runs

_ROWS = 64  # that are held as arrays at a time


@dataclass(frozen=True)
class BatchRow:
    """One map of one checkpoint on one picture, as it was written; or a picture of which there is none.

    Attributes:
        index: of the picture among all, from 0.
        picture: its key.
        label: what its source says of it, such as a class's number; "" for nothing.
        fault: why there is no map; "" where there is one. A row with a fault has None for every array below.
        checkpoint: name of the checkpoint, "" in a row with a fault.
        map: the map as it was asked for, "" in a row with a fault.
        names: names of the M maps, of heads, queries or classes.
        size: (W, H) of the upright picture in pixels.
        weights: (M, h, w) float32, raw, from half precision.
        mask: (H, W) bool, the object mask in pixels of the picture.
        figures: every other column by its name, such as coverage, prediction, probability, spatial_entropy, boxes.
    """

    index: int
    picture: str
    label: str
    fault: str
    checkpoint: str
    map: str
    names: tuple[str, ...]
    size: tuple[int, int] | None
    weights: np.ndarray | None
    mask: np.ndarray | None
    figures: dict[str, Any]


@dataclass(frozen=True)
class BatchResult:
    """The rows of a folder, in the order of pictures, checkpoints and maps. They are read when they are asked for.

    Attributes:
        out: the folder.
        complete: whether its run came to its end; else the rows of the parts that are whole.
    """

    out: Path
    complete: bool

    def __len__(self) -> int:
        """The number of rows."""
        reports = [report_of(path) for path in part_paths(self.out)]
        return sum(report.rows for report in reports if report is not None)

    def __iter__(self) -> Iterator[BatchRow]:
        """Every row."""
        return self.rows()

    def rows(self, checkpoint: str | None = None, map: str | None = None) -> Iterator[BatchRow]:
        """The rows of one checkpoint or one map.

        Args:
            checkpoint: its name; all where None. A row with a fault belongs to all.
            map: as it was asked for; all where None.

        Raises:
            DataError: a damaged part.
        """
        pyarrow = require_pyarrow()
        from pyarrow import parquet

        for path in part_paths(self.out):
            try:
                for some in parquet.ParquetFile(path).iter_batches(batch_size=_ROWS):
                    yield from _selected(some, checkpoint, map)
            except (pyarrow.ArrowInvalid, OSError) as error:
                raise DataError(f"{path} is damaged; start its run again, which makes it anew: {error}") from error

    def table(self, columns: list[str] | None = None) -> Any:
        """The rows as they are stored, as a `pyarrow.Table`, such as for pandas.

        Args:
            columns: only these; all where None, maps and masks included.
        """
        pyarrow = require_pyarrow()
        from pyarrow import parquet

        return pyarrow.concat_tables(
            [parquet.read_table(path, columns=columns).replace_schema_metadata() for path in part_paths(self.out)]
        )


def read_batch(out: str | os.PathLike[str]) -> BatchResult:
    """Open what `simpool-viz batch --write parquet -o OUT` wrote.

    Args:
        out: the folder; that of a run which is not at its end gives the parts that are whole.

    Raises:
        DataError: no such run.
        MissingPackageError: pyarrow is not installed.

    Examples:
        >>> from pathlib import Path
        >>> from simpool_viz import load_checkpoint, read_batch, write_batch
        >>> _ = write_batch(["cat.jpg"], [load_checkpoint("resnet_simpool")], Path("rows"))
        >>> row = next(iter(read_batch("rows")))
        >>> row.picture, row.map, row.weights.shape, row.mask.shape
        ('cat.jpg', 'own', (1, 16, 24), (300, 451))
    """
    folder = Path(out)
    require_pyarrow()
    if not (folder / RUN).is_file() or not part_paths(folder):
        raise DataError(f"{folder} holds no result of `simpool-viz batch --write parquet`")
    return BatchResult(folder, (folder / MANIFEST).is_file())


def _selected(some: Any, checkpoint: str | None, map: str | None) -> Iterator[BatchRow]:
    """The rows of a `pyarrow.RecordBatch` that are of a checkpoint and a map, or that have a fault."""
    names = some.schema.names
    arrays = {"weights", "mask_counts"}
    plain = {name: some.column(name).to_pylist() for name in names if name not in arrays}
    for number in range(some.num_rows):
        row = {name: values[number] for name, values in plain.items()}
        wanted = (checkpoint in (None, row["checkpoint"])) and map in (None, row["map"])
        if wanted or row["fault"]:
            yield _row_of(row, some.column("weights")[number], some.column("mask_counts")[number])


def _row_of(row: dict[str, Any], weights: Any, counts: Any) -> BatchRow:
    common = {name: row.pop(name) for name in ("index", "picture", "label", "fault")}
    checkpoint, title, names = (row.pop(name) for name in ("checkpoint", "map", "names"))
    height, width, scale = (row.pop(name) for name in ("grid_height", "grid_width", "scale"))
    size, mask_size = (row.pop("width"), row.pop("height")), row.pop("mask_size")
    if common["fault"]:
        return BatchRow(**common, checkpoint="", map="", names=(), size=None, weights=None, mask=None, figures={})
    halves = weights.values.to_numpy(zero_copy_only=False).astype(np.float64) * scale
    return BatchRow(
        **common,
        checkpoint=checkpoint,
        map=title,
        names=tuple(names),
        size=size,
        weights=halves.astype(np.float32).reshape(len(names), height, width),
        mask=mask_of_runs(mask_size, counts.values.to_numpy(zero_copy_only=False).astype(np.int64)),
        figures=row,
    )
