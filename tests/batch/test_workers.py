"""Processes that read pictures: one that is killed costs its picture alone, and none outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from simpool_viz.batch import workers
from simpool_viz.batch.preparing import Fault, Frame
from simpool_viz.batch.workers import read_ahead
from simpool_viz.errors import SimpoolError

Waiting = dict[str, Path]


def prepare_or_die(key: str, path: Path, frames: Sequence[Frame], longest: int | None) -> Fault:
    """In a worker: ends it at pictures called "deadly", at those called "once" only the first time."""
    if key.startswith("deadly") or (key.startswith("once") and not path.exists()):
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Fault(key, "read")


def prepare_for_ever(key: str, path: Path, frames: Sequence[Frame], longest: int | None) -> Fault:
    path.write_text(str(os.getpid()))
    time.sleep(300)
    return Fault(key, "read")


def dying() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_all(waiting: Waiting, count: int = 2) -> dict[str, str]:
    with ExitStack() as stack:
        results = list(read_ahead(waiting, [Frame(64, 8)], None, count, 6, stack))
    assert [one.key for one in results] == list(waiting), "in order, each once"
    return {one.key: one.sentence for one in results if isinstance(one, Fault)}


def test_a_killed_worker_costs_the_picture_that_killed_two_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "prepare", prepare_or_die)
    keys = ["a", "once", "b", "deadly 1", "c", "d", "deadly 2", *(str(i) for i in range(9)), "once more"]
    told = read_all({key: tmp_path / key for key in keys})
    assert {key for key, sentence in told.items() if sentence != "read"} == {"deadly 1", "deadly 2"}
    assert told["deadly 1"].startswith("deadly 1 ended the process that read it, twice")


def test_workers_that_cannot_start_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_begin_worker", dying)
    with pytest.raises(SimpoolError, match="end as soon as they start; free some memory"):
        read_all({"a": tmp_path / "a"}, 1)


PARENT = """
import sys
from contextlib import ExitStack
from pathlib import Path
from simpool_viz.batch import workers
from simpool_viz.batch.preparing import Frame
from tests.batch.test_workers import prepare_for_ever

if __name__ == "__main__":
    workers.prepare = prepare_for_ever
    waiting = {name: Path(sys.argv[1]) / name for name in ("a", "b")}
    with ExitStack() as stack:
        list(workers.read_ahead(waiting, [Frame(64, 8)], None, 2, 6, stack))
"""


def wait_until(reached: Any, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not reached() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(reached())


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path)]
    parent = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    try:
        files = [tmp_path / "a", tmp_path / "b"]
        assert wait_until(lambda: all(file.exists() and file.read_text() for file in files))
        begun = [int(file.read_text()) for file in files]
        assert all(map(lives, begun))
    finally:
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not any(map(lives, begun)), 10)


def test_no_more_pictures_are_read_ahead_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    class Pool:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            pass

        def submit(self, function: Any, key: str, *arguments: Any) -> Future[Fault]:
            begun.append(key)
            future: Future[Fault] = Future()
            future.set_result(Fault(key, "not read"))
            return future

        def shutdown(self, **options: Any) -> None:
            pass

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Pool)
    waiting = {str(i): Path(str(i)) for i in range(30)}
    with ExitStack() as stack:
        came = []
        for one in read_ahead(waiting, [Frame(64, 8)], None, 2, 6, stack):
            came.append(one.key)
            assert len(begun) <= min(30, len(came) + 5), "six at once, the one that came among them"
    assert came == begun == list(waiting)
