"""One run at a time in a folder: the other is named, and one that was killed does not keep the folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simpool_viz.batch.lock import HOLDER, locked
from simpool_viz.errors import DataError

HOLDING = """
import sys, time
from pathlib import Path
from simpool_viz.batch.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(300)
"""


def test_a_second_run_is_told_whose_the_folder_is_and_a_killed_one_keeps_nothing(tmp_path: Path) -> None:
    out, root = tmp_path / "new" / "out", Path(__file__).parent.parent.parent
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(out)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"held\n"
        started = json.loads((out / HOLDER).read_text())["started"]
        with pytest.raises(DataError) as told, locked(out):
            pytest.fail("two runs hold one folder")
        assert f"another run writes to {out} (process {other.pid} on " in str(told.value)
        assert f"started {started}); wait for its end, or choose another folder" in str(told.value)
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    with locked(out) as note:
        assert note.startswith(f"an earlier run did not come to its end (process {other.pid} on ")
        assert json.loads((out / HOLDER).read_text())["process"] == os.getpid()
        with pytest.raises(DataError, match=f"process {os.getpid()}"), locked(out):
            pytest.fail("two runs hold one folder")
    with locked(out) as note:
        assert note == ""
    assert not (out / HOLDER).exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"process": "x"}', '{"process": 3}'])
def test_a_holder_that_cannot_be_read_is_told_without_its_name(tmp_path: Path, content: str) -> None:
    (tmp_path / HOLDER).write_text(content)
    with locked(tmp_path) as note:
        assert note == "an earlier run did not come to its end; this one goes on"


def test_a_file_system_without_locks_is_told_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(error: OSError) -> Any:
        def acquire(*_: Any, **__: Any) -> None:
            raise error

        return acquire

    monkeypatch.setattr("simpool_viz.batch.lock.FileLock.acquire", refuse(OSError(errno.ENOLCK, "no locks")))
    with locked(tmp_path) as note:
        assert "has no locks, so a second run there would not be noticed" in note
    monkeypatch.setattr("simpool_viz.batch.lock.FileLock.acquire", refuse(PermissionError(errno.EACCES, "denied")))
    with pytest.raises(PermissionError), locked(tmp_path):
        pytest.fail("a folder that cannot be written")
