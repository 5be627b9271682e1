"""Files of a batch are whole or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from simpool_viz.batch.boards import Job, make_boards
from simpool_viz.batch.writing import Journal, write
from simpool_viz.board.board import Settings
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.errors import DataError
from tests.helpers import prepared


def test_written_files_are_whole_or_not_there(tmp_path: Path, job: Job) -> None:
    (board,) = make_boards(Job([job.encoders[0]], (), Settings(size=64)), [prepared("a/b.png", (8, 12))])
    line = write(board, tmp_path, DrawingStyle(), "none")
    assert line["key"] == "a/b.png" and [p.name for p in (tmp_path / "maps" / "a").iterdir()] == ["b.png.npz"]


def line_of(key: str) -> str:
    return json.dumps({"key": key, "rows": [], "scores": [{"picture": key}], "skipped": []}) + "\n"


FOREIGN = [
    *("", "  ", "{", "[]", "7", '{"rows": []}', "\x00", "[" * 100_000),
    '{"key": 3, "rows": [], "scores": [], "skipped": []}',
    '{"key": "a", "rows": [], "scores": [3], "skipped": []}',
    '{"settings": {"size": 1}}',
]


@pytest.mark.parametrize("line", FOREIGN, ids=range(len(FOREIGN)))
@pytest.mark.parametrize("last", [False, True])
def test_a_line_that_is_none_is_told_and_taken_out_and_the_others_stay(tmp_path: Path, line: str, last: bool) -> None:
    out = tmp_path / "out"
    Journal(out, {"size": 64})
    path = out / "journal.jsonl"
    head, rows = path.read_text(), [line_of("a"), line_of("b")]
    path.write_text("".join([head, *rows, line + "\n"] if last else [head, rows[0], line + "\n", rows[1]]))
    journal = Journal(out, {"size": 64})
    assert list(journal.done) == ["a", "b"]
    assert journal.repair == f"{path} had 1 damaged line; what no other line tells is made again"
    assert path.read_text() == head + "".join(rows)
    assert Journal(out, {"size": 64}).repair == ""


def test_a_line_that_is_cut_off_is_taken_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    Journal(out, {"size": 64}).add(json.loads(line_of("a")))
    path = out / "journal.jsonl"
    whole = path.read_text()
    for cut in range(len(whole.splitlines()[0]) + 2, len(whole) - 1):
        path.write_text(whole[:cut])
        journal = Journal(out, {"size": 64})
        assert not journal.done and "1 damaged line" in journal.repair
        journal.add(json.loads(line_of("a")))
        assert path.read_text() == whole


def test_an_empty_journal_begins_anew_and_one_of_unknown_settings_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    Journal(out, {"size": 64})
    path = out / "journal.jsonl"
    head = path.read_text()
    path.write_text("")
    assert Journal(out, {"size": 64}).done == {} and path.read_text() == head
    path.write_text(line_of("a"))
    with pytest.raises(DataError, match=r"journal\.jsonl does not say with which settings .* add --overwrite"):
        Journal(out, {"size": 64})
    assert Journal(out, {"size": 64}, overwrite=True).done == {} and path.read_text() == head


def test_what_a_killed_run_began_to_write_is_removed_and_is_nobody_elses(tmp_path: Path) -> None:
    for name in (".part-x", "lost+found"):
        (tmp_path / name).mkdir()
    (tmp_path / ".lock").touch()
    (tmp_path / ".part-x" / "maps.npz").write_text("half")
    Journal(tmp_path, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "journal.jsonl", "lost+found"]


def test_nothing_is_written_into_a_folder_that_is_gone(tmp_path: Path, job: Job) -> None:
    out = tmp_path / "out"
    journal = Journal(out, {})
    shutil.rmtree(out)
    (board,) = make_boards(Job([job.encoders[0]], (), Settings(size=64)), [prepared("a.png", (8, 12))])
    for step in (
        lambda: write(board, out, DrawingStyle(), "none"),
        lambda: journal.add(json.loads(line_of("a"))),
        lambda: journal.finish([], [], "cpu"),
    ):
        with pytest.raises(DataError, match="out is gone, which was there when its run began"):
            step()
    assert not out.exists()


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "ä" * 125 + ".png", "b/" + "a" * 251 + ".jpg"])
def test_names_that_leave_no_room_for_an_ending_are_shortened_each_to_its_own(
    tmp_path: Path, job: Job, name: str
) -> None:
    twin = name.replace(".png", ".jpg") if name.endswith(".png") else name.replace(".jpg", ".png")
    places = []
    for key in (name, twin):
        (board,) = make_boards(Job([job.encoders[0]], (), Settings(size=64)), [prepared(key, (8, 12))])
        line = write(board, tmp_path, DrawingStyle(), "jpeg")
        assert line["key"] == key and Path(line["files"]).parent == Path(key).parent
        assert (tmp_path / "maps" / f"{line['files']}.npz").is_file()
        (row,) = line["rows"]
        assert (tmp_path / "pictures" / f"{line['files']}.{row['name']}.overlay.jpg").is_file()
        places.append(line["files"])
    assert len(set(places)) == 2
