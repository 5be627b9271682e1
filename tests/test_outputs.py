"""Files and folders that appear whole or not at all; tables as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest

from simpool_viz.outputs import CsvFile, csv_text, markdown_table, written_whole


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
