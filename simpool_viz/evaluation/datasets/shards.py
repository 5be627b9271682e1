"""Parquet files with a column of pictures and one of masks, as the Hugging Face hub stores data sets.

A column holds the bytes of picture files, by themselves or as {bytes, path}. Rows are read in their order while the set
is gone through; a single one can be asked for too.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

from simpool_viz.errors import DataError, OptionError, needs_packages
from simpool_viz.evaluation.datasets.kinds import DataSetKind, register_data_set
from simpool_viz.evaluation.datasets.samples import Absent, MaskFile, Sample, Truth
from simpool_viz.outputs import printable

PICTURES = ("image", "img", "picture", "photo", "pixel_values")
MASKS = (
    "mask",
    "masks",
    "segmentation",
    "segmentation_mask",
    "annotation",
    "trimap",
    "label",
    "labels",
    "ground_truth",
)
ROWS = 32  # read at a time


@dataclass(frozen=True)
class TableFile:
    """A file with a table.

    Attributes:
        path: the file.
        rows: their number.
        columns: names of the columns with bytes of pictures.
        groups: number of the first row of each group that is read at once, from 0.
    """

    path: Path
    rows: int
    columns: tuple[str, ...]
    groups: Sequence[int] = (0,)

    def blocks(self, names: Sequence[str], first: int = 0) -> Iterator[list[dict[str, Any]]]:
        """The rows of these columns, some at a time, from the group on that holds row `first`."""
        raise NotImplementedError


class ParquetFile(TableFile):
    """A parquet file."""

    def blocks(self, names: Sequence[str], first: int = 0) -> Iterator[list[dict[str, Any]]]:
        """As `TableFile.blocks`."""
        file = _parquet().ParquetFile(self.path)
        groups = list(range(bisect.bisect_right(self.groups, first) - 1, len(self.groups)))
        for batch in file.iter_batches(ROWS, row_groups=groups, columns=list(names)):
            yield batch.to_pylist()


@dataclass(frozen=True)
class TableSamples(Sequence[Sample]):
    """The rows of tables as samples; each is read when it is its turn.

    Attributes:
        files: in their order.
        picture: the column of pictures.
        mask: the column of masks.
    """

    files: tuple[TableFile, ...]
    picture: str
    mask: str
    _ends: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", list(accumulate(file.rows for file in self.files)))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "keys"}  # which each process can name

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def places(self) -> list[tuple[str, ShardRow]]:
        """Key and place of each row, as of `DataSet`."""
        return [(key, ShardRow(self, number)) for number, key in enumerate(self.keys)]

    @cached_property
    def keys(self) -> list[str]:
        """The names of all rows, "FILE/NUMBER", without reading them."""
        return [f"{file.path.stem}/{row}" for file in self.files for row in range(file.rows)]

    def __iter__(self) -> Iterator[Sample]:
        return self.starting_at(0)

    def starting_at(self, number: int) -> Iterator[Sample]:
        """The samples from one on, in their order."""
        before = 0
        for file, end in zip(self.files, self._ends, strict=True):
            if number < end:
                yield from self._of(file, max(0, number - before))
            before = end

    def _of(self, file: TableFile, first: int = 0) -> Iterator[Sample]:
        row = file.groups[bisect.bisect_right(file.groups, first) - 1]
        for block in file.blocks([self.picture, self.mask], first):
            for values in block:
                if row >= first:
                    yield self._sample(f"{file.path.stem}/{row}", values)
                row += 1

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return next(self.starting_at(place))

    def _sample(self, key: str, values: dict[str, Any]) -> Sample:
        photo, mask = (_bytes(values[name]) for name in (self.picture, self.mask))
        truth: Truth = Absent(f"{key} has no mask in the column {self.mask}")
        if mask is not None:
            truth = MaskFile(mask, f"of {key}")
        return Sample(key, photo or b"", truth)


@dataclass(frozen=True)
class ShardRow:
    """Where a sample stands in tables, as `batch.places.Shelved`.

    Attributes:
        samples: all of them.
        number: its own, from 0.
    """

    samples: TableSamples
    number: int

    @classmethod
    def fetch(cls, items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Sample]]:
        """As of `Shelved`: each run of rows that follow each other is read once."""
        stream: Iterator[Sample] = iter(())
        following = -1
        for key, place in items:
            if place.number != following:
                stream = place.samples.starting_at(place.number)
            following = place.number + 1
            yield key, next(stream)


def _bytes(value: Any) -> bytes | None:
    """The bytes of a cell; of one that only names a file, that file's, and None without either."""
    if isinstance(value, dict):
        inside, path = value.get("bytes"), value.get("path")
        if inside is None and path and Path(path).is_file():
            return Path(path).read_bytes()
        return inside
    return value if isinstance(value, bytes) else None


def table_samples(files: Sequence[TableFile], where: Path) -> TableSamples:
    """The samples of tables that have a column of pictures and one of masks.

    Raises:
        DataError: they have not.
    """
    common = [name for name in files[0].columns if all(name in file.columns for file in files)] if files else []
    picture = next((name for name in PICTURES if name in common), None)
    mask = next((name for name in MASKS if name in common and name != picture), None)
    if picture is None or mask is None:
        raise DataError(
            f"{where} needs a column of pictures ({', '.join(PICTURES)}) and one of masks ({', '.join(MASKS)}), each "
            f"with the bytes of picture files; its columns with bytes are {', '.join(common) or 'none'}"
        )
    return TableSamples(tuple(files), picture, mask)


def columns_of_bytes(schema: Any) -> tuple[str, ...]:
    """The names of an Arrow schema's columns that hold bytes, or {bytes, path}."""
    import pyarrow.types as types

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    return tuple(one.name for one in schema if holds_bytes(one.type))


def _parquet() -> Any:
    with needs_packages("reading parquet files", "pyarrow"):
        import pyarrow.parquet as parquet
    return parquet


def _table_file(path: Path) -> ParquetFile:
    from pyarrow import ArrowException

    try:
        file = _parquet().ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise DataError(f"{printable(str(path))} is no readable parquet file: {error}") from error
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    starts = tuple(accumulate(sizes, initial=0))[:-1] or (0,)
    return ParquetFile(path, file.metadata.num_rows, columns_of_bytes(file.schema_arrow), starts)


def _open_shards(path: Path, split: str) -> Sequence[Sample]:
    _parquet()
    found = [path] if path.is_file() else sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    files = [one for one in found if not split or one.name.startswith((f"{split}-", f"{split}."))]
    if split and not files:
        names = sorted({one.name.partition("-")[0].partition(".")[0] for one in found})
        raise OptionError(f"{path} has no files of {split!r}; choose --split {', '.join(names)}")
    return table_samples([_table_file(one) for one in files], path)


register_data_set(
    DataSetKind(
        "shards",
        "parquet files",
        f"*.parquet or data/*.parquet with a column of pictures ({', '.join(PICTURES)}) and one of masks "
        f"({', '.join(MASKS)})",
        (("*.parquet", "data/*.parquet"),),
        _open_shards,
        file=".parquet",
        has_splits=True,
        object_ids="the labels of the masks",
    )
)
