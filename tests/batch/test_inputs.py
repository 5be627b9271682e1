"""What `batch` is given becomes one list of pictures, whose keys are unique, stable and safe, and whose pixels are
those of the files, wherever they lie; nothing is unpacked to disk."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simpool_viz.batch.inputs import find_items, safe_key
from simpool_viz.batch.places import contents
from simpool_viz.batch.preparing import Fault, Frame, picture_at, prepare
from simpool_viz.errors import DataError, OptionError, PictureError, SimpoolError
from tests.helpers import make_photo

fsspec = pytest.importorskip("fsspec")
NAMES = ("a.png", "below/b.png", "below/c.PNG")


def photo(number: int) -> np.ndarray:
    return make_photo(40 + number, 30, number)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo(number)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {name: png(number) for number, name in enumerate(NAMES)}


def write_folder(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / ".hidden.png").write_bytes(FILES["a.png"])
    (folder / "notes.md").write_text("no picture")
    return folder


def write_zip(path: Path, packing: int = zipfile.ZIP_DEFLATED, files: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("__MACOSX/a.png", b"no picture")
        archive.writestr("readme.txt", b"no picture")
    return path


def write_tar(path: Path, mode: str = "w", files: dict[str, bytes] = FILES) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def write_shard(path: Path, cells: bool = True, rows: int = 2) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values: list[Any] = [{"bytes": content, "path": "x.png"} if cells else content for content in FILES.values()]
    table = pyarrow.table({"label": [5, None, 7], "image" if cells else "jpg": values})
    parquet.write_table(table, path, row_group_size=rows)
    return path


def pixels_of(items: list[Any]) -> dict[str, np.ndarray]:
    return {key: picture_at(place, key).rgb for key, place in contents((item.key, item.place) for item in items)}


def same_pictures(items: list[Any], keys: tuple[str, ...] | list[str] = NAMES) -> bool:
    found = pixels_of(items)
    return list(found) == list(keys) and all(
        np.array_equal(rgb, photo(number)) for number, rgb in enumerate(found.values())
    )


def write_list(path: Path) -> Path:
    write_folder(path.parent / "listed")
    path.write_text("\n\n".join(f"listed/{name}" for name in NAMES) + "\n", encoding="utf-8")
    return path


KINDS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda folder: write_folder(folder / "photos"),
    "zip": lambda folder: write_zip(folder / "a.zip"),
    "zip, stored": lambda folder: write_zip(folder / "a.zip", zipfile.ZIP_STORED),
    "tar": lambda folder: write_tar(folder / "a.tar"),
    "tar.gz": lambda folder: write_tar(folder / "a.tar.gz", "w:gz"),
    "tgz": lambda folder: write_tar(folder / "a.tgz", "w:gz"),
    "tar.bz2": lambda folder: write_tar(folder / "a.tar.bz2", "w:bz2"),
    "tar.xz": lambda folder: write_tar(folder / "a.tar.xz", "w:xz"),
}
OTHERS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "list": (lambda folder: write_list(folder / "a.txt"), [f"listed/{name}" for name in NAMES]),
    "parquet": (lambda folder: write_shard(folder / "a.parquet"), ["000000", "000001", "000002"]),
    "parquet, bytes": (lambda folder: write_shard(folder / "a.parquet", False), ["000000", "000001", "000002"]),
}


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def store(memory: Any, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe(f"/store/{path.relative_to(folder).as_posix()}", path.read_bytes())


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_every_kind_of_input_are_those_of_the_files(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert same_pictures(find_items([path]))
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked"


@pytest.mark.parametrize("kind", OTHERS)
def test_pictures_of_lists_and_shards_are_those_of_the_files(kind: str, tmp_path: Path) -> None:
    make, keys = OTHERS[kind]
    assert same_pictures(find_items([make(tmp_path)]), keys)


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_addresses_give_what_paths_give(kind: str, protocol: str, tmp_path: Path, memory: Any) -> None:
    make = KINDS.get(kind) or OTHERS[kind][0]
    keys = OTHERS[kind][1] if kind in OTHERS else list(NAMES)
    path = make(tmp_path)
    if protocol == "memory":
        store(memory, tmp_path)
        address = f"memory://store/{path.name}"
    else:
        address = f"file://{path}"
    assert same_pictures(find_items([address]), keys)


def test_a_star_in_an_address_stands_for_several_files(tmp_path: Path, memory: Any) -> None:
    for number in (1, 0):
        write_tar(tmp_path / f"{number}.tar")
    store(memory, tmp_path)
    keys = [item.key for item in find_items(["memory://store/*.tar"])]
    assert keys == [f"{number}.tar/{name}" for number in (0, 1) for name in NAMES]
    with pytest.raises(FileNotFoundError, match="nothing in the storage is called"):
        find_items(["memory://store/*.zip"])


def test_a_folder_without_pictures_gives_its_shards_and_one_with_pictures_does_not(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip")
    write_tar(tmp_path / "b.tar")
    assert [i.key for i in find_items([tmp_path])] == [f"{s}/{name}" for s in ("a.zip", "b.tar") for name in NAMES]
    (tmp_path / "cat.png").write_bytes(FILES["a.png"])
    assert [i.key for i in find_items([tmp_path])] == ["cat.png"]


def test_several_inputs_have_their_names_before_the_keys_and_single_pictures_none(tmp_path: Path) -> None:
    one, two = write_folder(tmp_path / "one" / "x"), write_folder(tmp_path / "two" / "x")
    keys = [item.key for item in find_items([one, two, one / "a.png", two / "a.png"])]
    assert keys == [f"{before}/{name}" for before in ("x", "x_1") for name in NAMES] + ["a.png", "a.png_1"]
    assert keys == [item.key for item in find_items([one, two, one / "a.png", two / "a.png"])]


def test_labels_come_from_a_parquet_column_and_from_a_webdataset(tmp_path: Path) -> None:
    assert [item.label for item in find_items([write_shard(tmp_path / "a.parquet")])] == ["5", "", "7"]
    files = {"0001.png": png(0), "0001.cls": b"12\n", "0001.json": b"{}", "0002.png": png(1)}
    items = find_items([write_tar(tmp_path / "a.tar", files=files)])
    assert [(item.key, item.label) for item in items] == [("0001.png", "12"), ("0002.png", "")]


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_names_that_lead_out_of_a_folder_do_not(write: Any, tmp_path: Path) -> None:
    files = {"../../out.png": png(0), "/root.png": png(1), "a/../b.png": png(2), "b.png": png(3)}
    keys = [item.key for item in find_items([write(tmp_path / f"a.{write.__name__[6:]}", files=files)])]
    assert set(keys) <= {"out.png", "root.png", "a/b.png", "b.png"} and len(keys) >= 3
    assert all(".." not in key and not key.startswith("/") for key in keys)


@given(st.text(alphabet=st.sampled_from("ab./\\:\x00\n~ é\udcff"), max_size=30))
def test_a_safe_key_stays_below_its_folder(text: str) -> None:
    key = safe_key(text)
    path = PurePosixPath(key)
    assert not path.is_absolute() and ".." not in path.parts and key.encode("utf-8") and key.isprintable()
    assert "\\" not in key.replace("\\udcff", "") and ":" not in key


def test_a_picture_that_is_torn_is_a_fault_of_its_own(tmp_path: Path) -> None:
    tar, packed = write_tar(tmp_path / "a.tar"), write_zip(tmp_path / "b.zip", zipfile.ZIP_STORED)
    items = {path: find_items([path]) for path in (tar, packed)}
    tar.write_bytes(tar.read_bytes()[: tar.read_bytes().index(FILES["below/c.PNG"]) + 50])  # after it was listed
    content = bytearray(packed.read_bytes())
    content[content.index(FILES["a.png"]) + 40] ^= 255
    packed.write_bytes(bytes(content))

    def faults(archive: Path) -> dict[str, str]:
        places = contents((item.key, item.place) for item in items[archive])
        read = [prepare(key, place, [Frame(64, 8)], None) for key, place in places]
        assert len(read) == 3
        return {one.key: one.sentence for one in read if isinstance(one, Fault)}

    assert list(faults(tar)) == ["below/c.PNG"] and "is cut off: its archive ends" in faults(tar)["below/c.PNG"]
    assert faults(packed) == {"a.png": "a.png is damaged in its archive: its checksum is another"}


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
def test_a_torn_tar_says_so_before_anything_is_computed(name: str, mode: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / name, mode)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3] if mode != "w" else content[: content.index(FILES[NAMES[2]]) + 9])
    with pytest.raises(DataError, match="is a damaged tar archive"):
        find_items([path])


def test_a_zip_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    """A bomb states a small size; no more than that is unpacked."""
    path = write_zip(tmp_path / "a.zip", files={"a.png": bytes(2**20)})
    content = path.read_bytes().replace((2**20).to_bytes(4, "little"), (2**10).to_bytes(4, "little"))
    path.write_bytes(content)
    item = find_items([path])[0]
    with pytest.raises(PictureError, match="is cut off"):
        picture_at(item.place, item.key)  # type: ignore[arg-type]


def test_an_encrypted_member_is_a_fault(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", zipfile.ZIP_STORED, {"a.png": png(0)})
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 8] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(PictureError, match=r"a\.png is encrypted in its archive"):
        pixels_of(find_items([path]))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda folder: folder / "none", FileNotFoundError, "there is no file or folder"),
        (lambda folder: folder, DataError, "no picture .* lies in"),
        (lambda folder: touch(folder / "a.doc"), PictureError, "is no picture .* list .* or shard"),
        (lambda folder: touch(folder / "a.zip"), DataError, "is a damaged ZIP archive"),
        (lambda folder: touch(folder / "a.tar"), DataError, "is a damaged tar archive"),
        (lambda folder: touch(folder / "a.parquet"), DataError, "is a damaged parquet file"),
        (lambda folder: touch(folder / "a.txt", b"\xff\xfe\x00"), DataError, "is not a list of paths"),
        (lambda folder: "nosuch://a/b.png", OptionError, "is no address that fsspec can read"),
        (lambda folder: "zip://a.png::file://a.zip", OptionError, "is a chain of addresses"),
        (lambda folder: "memory://nowhere/at/all", FileNotFoundError, "there is nothing at memory://nowhere"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    make: Callable[[Path], Any], error: type[Exception], says: str, tmp_path: Path, memory: Any
) -> None:
    with pytest.raises(error, match=says):
        find_items([make(tmp_path)])


def touch(path: Path, content: bytes = b"x" * 600) -> Path:
    path.write_bytes(content)
    return path


def test_a_parquet_file_without_pictures_names_its_columns(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"label": [1], "url": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"has no column with pictures .* its columns are label, url"):
        find_items([tmp_path / "a.parquet"])


def test_a_line_of_a_list_that_leads_nowhere_is_a_fault_and_the_others_are_read(tmp_path: Path) -> None:
    path = write_list(tmp_path / "a.txt")
    path.write_text(path.read_text(encoding="utf-8") + f"gone.png\n{tmp_path}/listed/a.png\n", encoding="utf-8")
    items = find_items([path])
    assert items[-1].key == f"{tmp_path}/listed/a.png".lstrip("/")
    with pytest.raises((SimpoolError, OSError), match="there is no file"):
        pixels_of(items[3:4])
    assert np.array_equal(pixels_of(items[4:])[items[-1].key], photo(0))


def test_rows_of_a_shard_that_are_left_are_read_without_the_others(tmp_path: Path) -> None:
    items = find_items([write_shard(tmp_path / "a.parquet", rows=3)])
    assert np.array_equal(pixels_of([items[1]])["000001"], photo(1))
    packed = find_items([write_tar(tmp_path / "a.tar.gz", "w:gz")])
    assert [rgb.shape for rgb in pixels_of([packed[0], packed[2]]).values()] == [photo(0).shape, photo(2).shape]


def test_a_compressed_tar_that_is_torn_after_it_was_listed_costs_what_is_behind_the_tear(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar.gz", "w:gz", {"a.png": png(0), "b.png": bytes(np.random.default_rng(0).bytes(2**17))}
    )
    items = find_items([path])
    path.write_bytes(path.read_bytes()[: 2**16])
    found = dict(contents((item.key, item.place) for item in items))
    assert found["a.png"] == png(0) and isinstance(found["b.png"], (SimpoolError, OSError))


def test_an_empty_cell_is_a_fault_and_the_rows_after_it_are_read(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"image": [png(0), None, png(2)]}), tmp_path / "a.parquet")
    found = dict(contents((i.key, i.place) for i in find_items([tmp_path / "a.parquet"])))
    assert isinstance(found["000001"], PictureError) and found["000002"] == png(2)
