"""A folder of parts: what a run that was killed left is gone on with, to the same complete result, and nothing else is
taken for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from simpool_viz.batch import engine
from simpool_viz.batch.engine import Made
from simpool_viz.batch.inputs import Item
from simpool_viz.batch.lock import locked
from simpool_viz.batch.part_files import MANIFEST, RUN, Cluster, part_paths, report_of, run_parts
from simpool_viz.batch.preparing import Fault
from simpool_viz.errors import DataError, OptionError
from tests.batch.readers import read_number
from tests.helpers import make_photo, save_small

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Squares:
    """Two rows for each number, in batches of three; `marks` is where readers leave their marks."""

    marks: Path | None = None
    ends_at: int = -1

    @property
    def fields(self) -> Sequence[Any]:
        return [pyarrow.field("power", pyarrow.int64()), pyarrow.field("value", pyarrow.int64())]

    @property
    def read(self) -> Callable[[str, Any], Any]:
        return partial(read_number, marks=self.marks)

    def on(self, device: str) -> Squares:
        return self

    def record(self, read: Iterator[Any]) -> Iterator[Made]:
        for one in reversed(list(read)):  # in another order than they came
            if isinstance(one, Fault):
                yield Made(one.key, lambda: [{}], one.sentence)
            elif one[1] == self.ends_at:
                raise DataError("the end")
            else:
                yield Made(one[0], partial(powers, one[1]), notes=["squares and cubes"])


@pytest.fixture(autouse=True)
def read_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items are read in this process, which takes a hundredth of the time, but where processes are what is tested."""
    if "in_processes" not in request.node.name:
        monkeypatch.setattr(engine, "work_ahead", lambda read, given, *_: (read(key, *rest) for key, rest in given))


def powers(number: int) -> list[dict[str, Any]]:
    return [{"power": p, "value": number**p} for p in (2, 3)]


def numbers(count: int, bad: Sequence[int] = ()) -> list[Item]:
    return [Item(f"bad{i}" if i in bad else str(i), Path("nowhere"), f"l{i}") for i in range(count)]


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in part_paths(out) for row in parquet.read_table(path).to_pylist()]


def test_rows_made_in_processes_stand_in_the_order_of_the_items_each_once(tmp_path: Path) -> None:
    report = run_parts(Squares(), numbers(10, bad=[4]), tmp_path / "out", {"a": 1}, size=4, cluster=Cluster(workers=2))
    assert (report.done, report.earlier, [fault.key for fault in report.faults]) == (9, 0, ["bad4"])
    rows = rows_of(tmp_path / "out")
    wanted = [(i, str(i), f"l{i}", "", p, i**p) for i in range(10) if i != 4 for p in (2, 3)]
    wanted.insert(8, (4, "bad4", "l4", "bad4 is bad", None, None))
    assert [tuple(row.values()) for row in rows] == wanted
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text(encoding="utf-8"))
    assert [(p["file"], p["items"], p["rows"]) for p in manifest["parts"]] == [
        ("part-000000.parquet", 4, 8),
        ("part-000001.parquet", 4, 7),
        ("part-000002.parquet", 2, 4),
    ]
    assert manifest["skipped"] == ["squares and cubes"] and manifest["faults"][0]["sentence"] == "bad4 is bad"
    assert manifest["settings"] == {"a": 1} and manifest["items"] == 10


def test_a_run_that_failed_goes_on_and_reads_nothing_twice(tmp_path: Path) -> None:
    items, out, marks = numbers(12, bad=[1]), tmp_path / "out", tmp_path / "marks"
    marks.mkdir()
    with pytest.raises(DataError, match="the end"):
        run_parts(Squares(ends_at=9), items, out, {}, size=3, cluster=Cluster(workers=1), ahead=1)
    before = {path.name: path.stat().st_mtime_ns for path in part_paths(out)}
    assert 0 < len(before) < 4 and not (out / MANIFEST).exists()
    report = run_parts(Squares(marks), items, out, {}, size=3, cluster=Cluster(workers=1))
    assert report.done == 11 and report.earlier == 3 * len(before) - 1
    assert {path.name: path.stat().st_mtime_ns for path in part_paths(out)}.items() >= before.items()
    assert {mark.name for mark in marks.iterdir()} == {item.key for item in items[3 * len(before) :]}
    run_parts(Squares(), items, tmp_path / "whole", {}, size=3, cluster=Cluster(workers=1))
    assert rows_of(out) == rows_of(tmp_path / "whole")
    again = run_parts(Squares(marks), items, out, {}, size=3)
    assert again.done == again.earlier == 11 and [f.key for f in again.faults] == ["bad1"]


@pytest.mark.parametrize("damage", [b"", b"PAR1 and nothing else", None])
def test_a_part_that_is_damaged_or_of_something_else_is_made_again(damage: bytes | None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_parts(Squares(), numbers(6), out, {}, size=3, cluster=Cluster(workers=1))
    wanted, path = rows_of(out), part_paths(out)[1]
    if damage is None:
        parquet.write_table(pyarrow.table({"a": [1]}), path)
    else:
        path.write_bytes(damage)
    assert report_of(path) is None
    report = run_parts(Squares(), numbers(6), out, {}, size=3, cluster=Cluster(workers=1))
    assert report.earlier == 3 and report.notes == [f"{out} had 1 damaged parts, which are made again"]
    assert rows_of(out) == wanted


def test_a_run_of_other_settings_or_pictures_is_left_alone_unless_it_is_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_parts(Squares(), numbers(4), out, {"a": 1}, size=2, cluster=Cluster(workers=1))
    for settings, size in (({"a": 2}, 2), ({"a": 1}, 3)):
        with pytest.raises(FileExistsError, match="holds a run with other settings"):
            run_parts(Squares(), numbers(4), out, settings, size=size)
    with pytest.raises(FileExistsError, match=r"a run over other pictures \(4 then, 5 now\)"):
        run_parts(Squares(), numbers(5), out, {"a": 1}, size=2)
    (out / RUN).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is damaged; add --overwrite"):
        run_parts(Squares(), numbers(4), out, {"a": 1}, size=2)
    report = run_parts(Squares(), numbers(3), out, {"a": 2}, size=3, overwrite=True, cluster=Cluster(workers=1))
    assert report.done == 3 and len(part_paths(out)) == 1
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is no earlier run"):
        run_parts(Squares(), numbers(3), tmp_path, {})
    with locked(out), pytest.raises(DataError, match="another run writes to"):
        run_parts(Squares(), numbers(3), out, {"a": 2}, size=3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "dask"}, "local or ray"),
        ({"workers": -1}, "must not be negative"),
        ({"engine": "ray", "models": 0}, "must be positive"),
        ({"models": 2}, "go with --engine ray"),
        ({"address": "auto"}, "go with --engine ray"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Cluster(**options)


def test_a_part_holds_at_least_one_picture(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="must be positive"):
        run_parts(Squares(), numbers(3), tmp_path / "out", {}, size=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_the_command_that_is_killed_goes_on_to_the_same_result(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(40):
        width, height = (91, 60) if i % 3 else (64, 100)
        Image.fromarray(make_photo(width, height, i)).save(photos / f"{i:02}.png")
    (photos / "cut.png").write_bytes((photos / "00.png").read_bytes()[:900])
    checkpoint = save_small(tmp_path / "checkpoint")
    command = [sys.executable, "-m", "simpool_viz", "batch", str(photos), "-c", str(checkpoint), "--write", "parquet"]
    command += ["-m", "simpool", "-m", "gradcam", "--device", "cpu", "--batch", "2", "--part", "4", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*command, "-o", str(killed)], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while len(part_paths(killed)) < 2 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.kill()
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in part_paths(killed)}
    assert 2 <= len(before) < 11 and not (killed / MANIFEST).exists()
    for out in (killed, whole):
        done = subprocess.run([*command, "-o", str(out)], env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if out == killed:
            assert f"{4 * len(before)} were done before" in done.stdout and "left out: cut.png" in done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in part_paths(killed)}.items() >= before.items()
    assert rows_of(killed) == rows_of(whole) and len(rows_of(whole)) == 81
    assert not [path for path in killed.iterdir() if path.name.startswith(".part-")]
