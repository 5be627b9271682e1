"""What `batch` is given, as one list of pictures: folders, single pictures, lists, parquet files, archives, and all of
these in object storage, by addresses of fsspec.

Keys, the names of pictures in results, follow from the names of what is given alone, never repeat, and are safe as
paths below another folder, whatever an archive or a list says.
"""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from simpool_viz.batch.places import (
    Cell,
    Place,
    Remote,
    Streamed,
    Stretch,
    file_system,
    is_address,
    opened,
    storage,
    unpacked_stream,
)
from simpool_viz.batch.preparing import SUFFIXES, Fault, pictures_below, unique_key
from simpool_viz.errors import DataError, PictureError, needs_packages
from simpool_viz.outputs import printable

LISTS = (".txt", ".lst")
PARQUET = (".parquet",)
ZIPS = (".zip",)
TARS = {".tar": "", ".tar.gz": "gzip", ".tgz": "gzip", ".tar.bz2": "bz2", ".tbz2": "bz2", ".tar.xz": "xz", ".txz": "xz"}
SHARDS = (*PARQUET, *ZIPS, *TARS)
COLUMNS = ("image", "img", "picture", "photo", "jpg", "png")  # of pictures, the first that a parquet file has
MOST_LABEL = 64  # bytes of the file in which a WebDataset keeps a label
_Found = tuple[str, "Place | Fault", str]  # path below what was given, place, label


@dataclass(frozen=True, slots=True)
class Item:
    """A picture in a list of them.

    Attributes:
        key: its name in the results.
        place: where its file lies; a `Fault` where that is known to be unreadable.
        label: what the source says of it, such as its class's number; "" for nothing.
    """

    key: str
    place: Place | Fault
    label: str = ""


def find_items(inputs: Sequence[str | os.PathLike[str]]) -> list[Item]:
    """Every picture of what is given.

    Args:
        inputs: each a folder (subfolders included; its shards, where it holds no picture), a picture, a list (a text
            file with a path or address a line, relative to it), a parquet file, or an archive (ZIP, tar, compressed
            tar); a path, or an address of fsspec, in which `*` may stand for several files.

    Returns:
        The pictures in the order of the inputs, within each in the order of names; shards, in that of their rows or
        members. A key is the path below the input, before which the input's name stands where there are several.

    Raises:
        DataError: no picture in any, or an archive or a list that cannot be read.
        FileNotFoundError: an input that does not exist.
        OptionError: an address of no known kind.
        MissingPackageError: a package that reads it is not installed.
    """
    given = [one for text in inputs for one in _expanded(os.fspath(text))]
    names = [_name(one) for one in given]
    items: list[Item] = []
    taken: set[str] = set()
    for number, (one, name) in enumerate(zip(given, names, strict=True)):
        same = names[:number].count(name)
        alone = len(given) == 1 or _is_picture(one)
        before = "" if alone else f"{name}_{same}/" if same else f"{name}/"
        for below, place, label in _found_in(one):
            key = unique_key(safe_key(before + below), taken)
            taken.add(key)
            items.append(Item(key, place, label))
    if not items:
        kinds = ", ".join(s[1:] for s in SUFFIXES)
        raise DataError(f"no picture ({kinds}) lies in {', '.join([os.fspath(one) for one in inputs])}")
    return items


def safe_key(text: str) -> str:
    """A path of an archive or a list as one that stays below whatever folder it is put in.

    Examples:
        >>> from simpool_viz.batch.inputs import safe_key
        >>> safe_key("/home/ada/../cat.jpg"), safe_key("C:\\\\photos\\\\cat.jpg")
        ('home/ada/cat.jpg', 'C/photos/cat.jpg')
    """
    text = re.sub(r"[\x00-\x1f\x7f:]", lambda found: "" if found[0] == ":" else "_", text.replace("\\", "/"))
    parts = [part for part in text.split("/") if part not in ("", ".", "..")]
    return printable("/".join(parts)) or "picture"


def _expanded(text: str) -> list[str]:
    """An input by its path or address; all files that an address with * names."""
    if not is_address(text):
        return [text]
    system, path = file_system(text)
    protocol = system.protocol if isinstance(system.protocol, str) else system.protocol[0]
    if protocol == "file":
        return [path]
    if "*" not in path:
        return [text]
    with storage(text):
        found = sorted(system.glob(path))
    if not found:
        raise FileNotFoundError(f"nothing in the storage is called {text}")
    return [system.unstrip_protocol(one) for one in found]


def _name(text: str) -> str:
    """The last part of a path or address, as the name of what it leads to."""
    if is_address(text):
        return PurePosixPath(text.rstrip("/").partition("://")[2] or text).name or "root"
    return Path(text).resolve().name


def _is_picture(text: str) -> bool:
    return text.lower().endswith(SUFFIXES)


def _found_in(text: str) -> Iterator[_Found]:
    """The pictures of one input."""
    if not is_address(text):
        path = Path(text)
        if path.is_dir():
            yield from _in_folder(path)
            return
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}")
        yield from _in_file(text, path)
        return
    system, path_there = file_system(text)
    with storage(text):
        if not system.exists(path_there):
            raise FileNotFoundError(f"there is nothing at {text}")
        folder = system.isdir(path_there)
    yield from _in_storage(text, system, path_there) if folder else _in_file(text, Remote(text))


def _in_folder(root: Path) -> Iterator[_Found]:
    empty = True
    for below, path in pictures_below(root):
        empty = False
        yield below, path, ""
    if empty:
        shards = sorted(p for p in root.rglob("*") if p.name.lower().endswith(SHARDS) and p.is_file())
        for shard in (s for s in shards if not _hidden(s.relative_to(root).as_posix())):
            for below, place, label in _in_file(str(shard), shard):
                yield f"{shard.relative_to(root).as_posix()}/{below}", place, label


def _in_storage(url: str, system: Any, root: str) -> Iterator[_Found]:
    with storage(url):
        paths = sorted(system.find(root))
    below = {path: path[len(root.rstrip("/")) :].lstrip("/") for path in paths}
    visible = [path for path in paths if not _hidden(below[path])]
    pictures = [path for path in visible if _is_picture(path)]
    for path in pictures:
        yield below[path], Remote(system.unstrip_protocol(path)), ""
    if not pictures:
        for path in (p for p in visible if p.lower().endswith(SHARDS)):
            address = system.unstrip_protocol(path)
            for inside, place, label in _in_file(address, Remote(address)):
                yield f"{below[path]}/{inside}", place, label


def _hidden(below: str) -> bool:
    parts = [part for part in below.split("/") if part not in (".", "..")]
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _in_file(url: str, whole: Path | Remote) -> Iterator[_Found]:
    """The pictures of a file, by how its name ends."""
    lower = url.lower()
    if lower.endswith(LISTS):
        yield from _in_list(url)
    elif lower.endswith(PARQUET):
        yield from _in_parquet(url)
    elif lower.endswith(ZIPS):
        yield from _in_zip(url)
    elif packing := next((kind for suffix, kind in TARS.items() if lower.endswith(suffix)), None):
        yield from _in_packed_tar(url, packing)
    elif packing == "":
        yield from _in_tar(url)
    elif _is_picture(url):
        yield _name(url), whole, ""
    else:
        raise PictureError(
            f"{url} is no picture ({', '.join(s[1:] for s in SUFFIXES)}), list ({', '.join(LISTS)}) or shard "
            f"({', '.join(SHARDS)}) by its name"
        )


def _in_list(url: str) -> Iterator[_Found]:
    try:
        with opened(url) as file, storage(url):
            content = file.read()
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{url} is not a list of paths in UTF-8, one a line: {error}") from error
    for line in filter(None, map(str.strip, lines)):
        if is_address(line):
            yield line.partition("://")[2] or line, Remote(line), ""
        elif is_address(url) and not line.startswith("/"):
            yield line, Remote(f"{url.rpartition('/')[0]}/{line}"), ""
        else:
            yield line, Path(line) if is_address(url) else Path(url).parent / line, ""


def _in_parquet(url: str) -> Iterator[_Found]:
    with needs_packages("reading parquet files", "pyarrow"):
        import pyarrow
        from pyarrow import parquet
    with opened(url) as file:
        try:
            shard = parquet.ParquetFile(file)
            column = _picture_column(shard.schema_arrow, url)
            labelled = "label" in shard.schema_arrow.names
            first = 0
            for group in range(shard.metadata.num_row_groups):
                count = shard.metadata.row_group(group).num_rows
                labels = shard.read_row_group(group, columns=["label"]).column(0).to_pylist() if labelled else []
                for row in range(count):
                    label = "" if not labels or labels[row] is None else str(labels[row])
                    yield f"{first + row:06}", Cell(url, group, row, column), label
                first += count
        except pyarrow.ArrowInvalid as error:
            raise DataError(f"{url} is a damaged parquet file: {error}") from error


def _picture_column(schema: Any, url: str) -> str:
    """The dotted name of the column that holds pictures as files."""
    from pyarrow import types

    dotted: dict[str, str] = {}
    for field in schema:
        if types.is_struct(field.type) and "bytes" in [part.name for part in field.type]:
            dotted[field.name] = f"{field.name}.bytes"
        elif types.is_binary(field.type) or types.is_large_binary(field.type):
            dotted[field.name] = field.name
    name = next((name for name in (*COLUMNS, *dotted) if name in dotted), None)
    if name is None:
        raise DataError(
            f"{url} has no column with pictures as bytes, or as {{bytes, path}}; its columns are "
            f"{', '.join(schema.names)}"
        )
    return dotted[name]


def _in_zip(url: str) -> Iterator[_Found]:
    try:
        with opened(url) as file, storage(url):
            members = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, DataError, ValueError) as error:
        raise DataError(f"{url} is a damaged ZIP archive: {error}; copy or download it again") from error
    for one in sorted(members, key=lambda member: member.filename):
        if one.is_dir() or _hidden(one.filename) or not _is_picture(one.filename):
            continue
        place: Place | Fault = Stretch(
            url, one.header_offset, one.compress_size, one.file_size, one.CRC, one.compress_type == zipfile.ZIP_DEFLATED
        )
        if one.flag_bits & 1:
            place = Fault(one.filename, f"{printable(one.filename)} is encrypted in its archive")
        elif one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            place = Fault(one.filename, f"{printable(one.filename)} is packed in a rare way; pack the archive anew")
        yield one.filename, place, ""


def _in_tar(url: str) -> Iterator[_Found]:
    with opened(url) as file:
        for member, label in _members(url, file):
            yield member.name, Stretch(url, member.offset_data, member.size, member.size), label


def _in_packed_tar(url: str, packing: str) -> Iterator[_Found]:
    with opened(url) as file, unpacked_stream(file, packing) as stream:
        for member, label in _members(url, stream):
            yield member.name, Streamed(url, packing, member.offset_data, member.size), label


def _members(url: str, file: Any) -> list[tuple[tarfile.TarInfo, str]]:
    """The pictures of a tar in their order, each with the label that a WebDataset keeps beside it as STEM.cls."""
    labels: dict[str, str] = {}
    found = []
    try:
        with storage(url), tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not member.isreg() or member.issparse() or _hidden(member.name):
                    continue
                if _is_picture(member.name):
                    found.append(member)
                elif member.name.endswith(".cls") and member.size <= MOST_LABEL:
                    content = archive.extractfile(member)
                    labels[_stem(member.name)] = content.read().decode(errors="replace").strip() if content else ""
    except (tarfile.TarError, EOFError, DataError, OSError) as error:
        raise DataError(f"{url} is a damaged tar archive: {error}; copy or download it again") from error
    return [(member, labels.get(_stem(member.name), "")) for member in found]


def _stem(path: str) -> str:
    """What the files of one sample of a WebDataset have in common: the path up to the first dot of its last part."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.partition(".")[0]
