"""Where the bytes of a picture lie: in a file, in object storage, in an archive or in a cell of a parquet file.

Pictures are read from where they lie into memory; nothing is ever unpacked to disk. A place that any process can read
by itself (`Remote`, `Stretch`, a path) is read by the process that decodes the picture. The others (`Cell`, `Streamed`,
and what lies in this process's memory) are read in their order by `contents`, so that a shard is read once.

Nothing here imports PyTorch: worker processes start with it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Protocol

from simpool_viz.errors import DataError, MissingPackageError, OptionError, PictureError, SimpoolError, needs_packages

MOST_BYTES = 2**29  # of one picture that is read into memory as a file
_HEADER, _SLACK = 30, 1024  # bytes of a ZIP's header before a member, and of what may follow until its content
_ROWS = 16  # of a parquet file that are read at a time
_OPENERS: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}


@dataclass(frozen=True, slots=True)
class Remote:
    """A whole file that is named by an address of fsspec, such as s3://bucket/cat.jpg."""

    url: str

    @property
    def here(self) -> bool:
        """Whether it lies in the memory of this process, where no other can read it."""
        return "memory://" in self.url


@dataclass(frozen=True, slots=True)
class Stretch:
    """A member of an archive that can be read by itself.

    Attributes:
        url: path or address of the archive.
        offset: byte at which the member begins; in a ZIP, its header.
        length: bytes it takes in the archive.
        size: bytes it has when it is unpacked.
        checksum: the CRC-32 that a ZIP states; None in a tar, whose members are neither packed nor checked.
        deflated: whether it is packed.
    """

    url: str
    offset: int
    length: int
    size: int
    checksum: int | None = None
    deflated: bool = False

    @property
    def here(self) -> bool:
        """Whether it lies in the memory of this process, where no other can read it."""
        return "memory://" in self.url


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a parquet file: row `row` of row group `group`, in the column of the dotted name `column`."""

    url: str
    group: int
    row: int
    column: str


@dataclass(frozen=True, slots=True)
class Streamed:
    """A member of a tar that is compressed as a whole, of which `offset` and `length` are those of its content."""

    url: str
    packing: str
    offset: int
    length: int


Place = Path | Remote | Stretch | Cell | Streamed
Readable = Path | Remote | Stretch | bytes


def is_address(text: str) -> bool:
    """Whether a text is an address of fsspec, and not a path."""
    return "://" in text


def file_system(url: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        OptionError: no such kind of address, or a chain of several.
        MissingPackageError: its package is not installed.
    """
    import fsspec

    if "::" in url:
        raise OptionError(f"{url} is a chain of addresses, which is not read; give the address of the archive itself")
    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError as error:
        raise MissingPackageError(
            f"{url} needs a package that is missing: {error}; its kind of storage is read through fsspec"
        ) from error
    except ValueError as error:
        raise OptionError(f"{url} is no address that fsspec can read: {error}") from error


@contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    """A file by its path or address, open for reading bytes at any place.

    Raises:
        DataError: it cannot be read.
        FileNotFoundError: it is not there.
    """
    if not is_address(url):
        with Path(url).open("rb") as file:
            yield file
        return
    system, path = file_system(url)
    with storage(url):
        file = system.open(path, "rb")
    with file:
        yield file


@contextmanager
def storage(url: str) -> Iterator[None]:
    """A context in which the errors of a storage, which are of as many kinds as there are storages, become a sentence.

    Raises:
        DataError: in place of every error but sentences and those of the operating system.
    """
    try:
        yield
    except (SimpoolError, OSError):
        raise
    except Exception as error:
        cause = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise DataError(f"{url} cannot be read: {cause}") from error


def read_bytes(place: Remote | Stretch, name: str) -> bytes:
    """The content of a picture's file.

    Args:
        place: where it lies.
        name: that of the picture in errors.

    Raises:
        PictureError: it is cut off, damaged or larger than `MOST_BYTES`.
        DataError: the storage does not give it.
        OSError: likewise.
    """
    if isinstance(place, Remote):
        system, path = file_system(place.url)
        with storage(place.url):
            content = bytes(system.cat_file(path, start=0, end=MOST_BYTES + 1))
        return _checked_size(content, len(content), name)
    _checked_size(b"", max(place.size, place.length), name)
    content = _range(place.url, place.offset, place.length) if place.checksum is None else _unpacked(place, name)
    if len(content) != place.size:
        raise PictureError(f"{name} is cut off: its archive ends before it does; copy or download the archive again")
    return content


def _checked_size(content: bytes, size: int, name: str) -> bytes:
    if size > MOST_BYTES:
        raise PictureError(f"{name} has more than {MOST_BYTES >> 20} MB as a file, which no picture needs")
    return content


def _range(url: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`, fewer where the file ends."""
    if not is_address(url):
        with Path(url).open("rb") as file:
            file.seek(offset)
            return file.read(length)
    system, path = file_system(url)
    with storage(url):
        return bytes(system.cat_file(path, start=offset, end=offset + length))


def _unpacked(place: Stretch, name: str) -> bytes:
    """A member of a ZIP, which follows a header of its own (APPNOTE 4.3.7)."""
    raw = _range(place.url, place.offset, _HEADER + _SLACK + place.length)
    if raw[:4] != b"PK\3\4":
        raise PictureError(f"{name} is damaged: its archive has something else at its place")
    start = _HEADER + int.from_bytes(raw[26:28], "little") + int.from_bytes(raw[28:30], "little")
    if start > _HEADER + _SLACK:
        raw = _range(place.url, place.offset, start + place.length)
    content = raw[start : start + place.length]
    if place.deflated:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, place.size + 1)
        except zlib.error as error:
            raise PictureError(f"{name} is damaged in its archive: {error}") from error
    if len(content) == place.size and zlib.crc32(content) != place.checksum:
        raise PictureError(f"{name} is damaged in its archive: its checksum is another")
    return content


class Shelved(Protocol):
    """A place of another package that is read together with those that stand beside it, in their order."""

    @classmethod
    def fetch(cls, items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """The same keys, each with what any process can read, or the error that says why there is nothing.

        Args:
            items: key and place of each, all of this class.
        """


def contents(items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The same keys with places that any process can read; what only lies in an order is read here, as bytes.

    Args:
        items: key and place of each picture. What is none of the places, and not `Shelved`, is passed on.

    Yields:
        The keys in their order, each with a `Path`, `Remote`, `Stretch`, the bytes of the file, or a `SimpoolError` or
        `OSError` that says why there are none.
    """
    for (kind, url), some in groupby(items, key=_shelf):
        if kind is Cell:
            yield from _cells(url, some)
        elif kind is Streamed:
            yield from _members(url, some)
        elif hasattr(kind, "fetch"):
            yield from kind.fetch(some)
        else:
            yield from ((key, _fetched(place, key)) for key, place in some)


def _shelf(item: tuple[str, Any]) -> tuple[type, str]:
    place = item[1]
    if isinstance(place, (Cell, Streamed)):
        return type(place), place.url
    return (type(place), "") if hasattr(place, "fetch") else (object, "")


def _fetched(place: Any, key: str) -> Any:
    if not isinstance(place, (Remote, Stretch)) or not place.here:
        return place
    try:
        return read_bytes(place, key)
    except (SimpoolError, OSError) as error:
        return error


def _cells(url: str, items: Iterable[tuple[str, Cell]]) -> Iterator[tuple[str, Any]]:
    """The cells of one parquet file, of which each row group is read once. Rows stand in their order."""
    with needs_packages("reading parquet files", "pyarrow"):
        from pyarrow import parquet
    for (group, column), some in groupby(items, key=lambda item: (item[1].group, item[1].column)):
        wanted, done = list(some), 0
        try:
            with opened(url) as file, storage(url):
                rows = _rows(parquet.ParquetFile(file), group, column, {place.row for _, place in wanted})
                for (key, _), content in zip(wanted, rows, strict=True):
                    yield (
                        key,
                        PictureError(f"{key} is empty: its cell holds no picture") if content is None else content,
                    )
                    done += 1
        except (SimpoolError, OSError) as error:
            yield from ((key, error) for key, _ in wanted[done:])


def _rows(file: Any, group: int, column: str, wanted: set[int]) -> Iterator[bytes | None]:
    """The contents of the wanted rows of a row group, in their order."""
    row, (name, _, part) = 0, column.partition(".")
    for some in file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[column]):
        for cell in some.column(name):
            if row in wanted:
                value = cell.as_py()
                yield value if value is None or not part else value[part]
            row += 1


def _members(url: str, items: Iterable[tuple[str, Streamed]]) -> Iterator[tuple[str, Any]]:
    """The members of one compressed tar, which is unpacked once where they stand in their order."""
    waiting = list(items)
    failed: Exception | None = None
    try:
        with opened(url) as file, unpacked_stream(file, waiting[0][1].packing) as stream, storage(url):
            while waiting:
                key, place = waiting[0]
                if place.length > MOST_BYTES:
                    content: Any = PictureError(f"{key} has more than {MOST_BYTES >> 20} MB as a file")
                else:
                    stream.seek(place.offset)
                    content = stream.read(place.length)
                del waiting[0]
                short = isinstance(content, bytes) and len(content) != place.length
                yield key, PictureError(f"{key} is cut off: its archive ends before it does") if short else content
    except (SimpoolError, OSError) as error:
        failed = error
    yield from ((key, failed) for key, _ in waiting)


def unpacked_stream(file: IO[bytes], packing: str) -> IO[bytes]:
    """The content of a compressed file as a stream, which goes forward fast and back slowly.

    Args:
        file: open for reading bytes.
        packing: "gzip", "bz2" or "xz".
    """
    return io.BufferedReader(_OPENERS[packing](file))
