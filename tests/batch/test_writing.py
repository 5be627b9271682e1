"""Files of a batch are whole or not there."""

from __future__ import annotations

from pathlib import Path

from simpool_viz.batch.boards import Job, look
from simpool_viz.batch.writing import write
from simpool_viz.board.board import Settings
from simpool_viz.drawing.pixels import Look
from tests.helpers import prepared


def test_written_files_are_whole_or_not_there(tmp_path: Path, job: Job) -> None:
    (board,) = look(Job([job.encoders[0]], (), Settings(size=64)), [prepared("a/b.png", (8, 12))])
    line = write(board, tmp_path, Look(), "none")
    assert line["key"] == "a/b.png" and [p.name for p in (tmp_path / "maps" / "a").iterdir()] == ["b.png.npz"]
