"""Files of a batch are whole or not there."""

from __future__ import annotations

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


@pytest.mark.parametrize("line", ["{", "[]", '{"rows": []}', "\x00"])
def test_a_damaged_journal_is_refused_until_it_may_be_replaced(tmp_path: Path, line: str) -> None:
    Journal(tmp_path / "out", {"size": 64})
    path = tmp_path / "out" / "journal.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"journal\.jsonl is damaged; add --overwrite"):
        Journal(tmp_path / "out", {"size": 64})
    assert Journal(tmp_path / "out", {"size": 64}, overwrite=True).done == {}
