"""Files and folders that appear whole or not at all; tables as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from simpool_viz.outputs import CsvFile, csv_text, markdown_table, printable, write_picture, written_whole
from tests.helpers import make_photo


def test_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "result.txt"
    with written_whole(target) as part:
        part.write_text("one")
        assert not target.exists() and part.parent.parent == target.parent
    assert target.read_text() == "one"
    with written_whole(target) as part:
        part.write_text("two")
        assert target.read_text() == "one"
    assert target.read_text() == "two" and os.listdir(target.parent) == ["result.txt"]


def test_what_failed_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "result.txt"
    with pytest.raises(KeyboardInterrupt), written_whole(target) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "result.txt").write_text("before")
    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "result.txt") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["result.txt"] and (tmp_path / "result.txt").read_text() == "before"


def test_folder_is_replaced_or_stays_as_it_is_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "folder"

    def make(content: str, replace: bool) -> None:
        with written_whole(target, replace=replace) as part:
            part.mkdir()
            (part / content).write_text(content)

    make("first", False)
    with pytest.raises(OSError):
        make("second", False)
    assert os.listdir(target) == ["first"]
    make("second", True)
    assert os.listdir(target) == ["second"] and os.listdir(tmp_path) == ["folder"]
    assert target.stat().st_mode & 0o777 == 0o777 & ~_umask(), "readable as any folder that is made"


MOUNTED = """
import os, sys
from pathlib import Path
from simpool_viz.outputs import written_whole
out = Path(sys.argv[1])
for content in ("first", "second"):
    with written_whole(out) as part:
        part.mkdir()
        (part / content).mkdir()
        (part / content / "x").write_text(content)
        (part / "manifest.json").write_text(content)
    assert set(os.listdir(out)) == {content, "manifest.json"}, os.listdir(out)
try:
    with written_whole(out) as part:
        part.mkdir()
        (part / "third").touch()
        raise ZeroDivisionError
except ZeroDivisionError:
    assert sorted(os.listdir(out)) == ["manifest.json", "second"]
print("whole")
"""


def test_a_mount_point_is_filled(tmp_path: Path) -> None:
    """As the volume of a container, which cannot be moved away."""
    script = 'mount -t tmpfs none "$1" && exec "$0" -c "$2" "$1"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, sys.executable, str(tmp_path), MOUNTED]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    if not shutil.which("unshare") or subprocess.run(["unshare", "--map-root-user", "--mount", "true"]).returncode:
        pytest.skip("nothing can be mounted here")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "whole\n", done.stderr


def test_a_folder_that_cannot_be_moved_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "out")
    (tmp_path / "out" / "old").mkdir(parents=True)
    (tmp_path / "out" / "lost+found").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    inode = (tmp_path / "out").stat().st_ino
    with written_whole(tmp_path / "out") as part:
        part.mkdir()
        (part / "new").write_text("whole")
        assert (tmp_path / "out" / "old").exists(), "until the new content is complete"
    assert sorted(os.listdir(tmp_path / "out")) == ["lost+found", "new"]
    assert (tmp_path / "out").stat().st_ino == inode and os.listdir(tmp_path) == ["out"]


@pytest.mark.skipif(sys.platform != "linux", reason="files of other systems have no such limit")
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_picture_that_the_disk_cuts_off_is_noticed(tmp_path: Path, suffix: str) -> None:
    picture = Image.fromarray(make_photo(200, 150))
    write_picture(picture, tmp_path / f"whole{suffix}")
    size = (tmp_path / f"whole{suffix}").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 100, before[1]))
    try:
        with pytest.raises(OSError):
            write_picture(picture, tmp_path / f"cut{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_names_are_printable_and_text_stays_as_it_is() -> None:
    assert printable("Café 猫.png") == "Café 猫.png"
    assert printable(os.fsdecode(b"caf\xe9.png")) == r"caf\udce9.png"
    assert printable("\ud800").encode("utf-8") == rb"\ud800"


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_csv_has_every_column_once_and_cells_as_they_are(tmp_path: Path) -> None:
    records = [{"a": 1, "b": 'says "x, y"'}, {"a": 2, "c": "two\nlines"}]
    text = csv_text(records)
    assert list(csv.reader(io.StringIO(text, newline=""))) == [
        ["a", "b", "c"],
        ["1", 'says "x, y"', ""],
        ["2", "", "two\nlines"],
    ]
    assert csv_text([], ["x", "y"]) == "x,y\n" and csv_text([{"y": 1}], ["x"]) == "x,y\n,1\n"
    with CsvFile(tmp_path / "log.csv", ["step", "loss"], [["1", "0.5"]]) as rows:
        rows.add([2, "0.25"])
        assert (tmp_path / "log.csv").read_text() == "step,loss\n1,0.5\n2,0.25\n", "on the disk at once"


def test_markdown_cells_do_not_break_the_table() -> None:
    assert markdown_table(["a|b", "c"], [["1", "2"]]) == "| a\\|b | c |\n| --- | --- |\n| 1 | 2 |"
