"""A stranger's checkpoint is read by a worker: it gives the same encoder, and its limits end it and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from simpool_viz.checkpoints import untrusted
from simpool_viz.checkpoints.load import load_untrusted, load_with_report
from simpool_viz.errors import CheckpointError, OptionError
from tests import made_files as made

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and computing time are the system's")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.pth"
    state = made.vit(cls=False, grid=4) | made.simpool(128, "simpool.")
    torch.save(made.self_supervised(state, gamma=1.25), path)
    return path


def test_worker_gives_the_encoder_and_the_report_of_this_process(mine: Path) -> None:
    options = {"weights": "student", "gamma": 1.5}
    here, told_here = load_with_report(mine, device="cpu", **options)
    there, told = load_untrusted(mine, device="cpu", **options)
    assert told == told_here and there.facts == here.facts and there.pooling.gamma == here.pooling.gamma
    own, others = here.state_dict(), there.state_dict()
    assert own.keys() == others.keys() and all(torch.equal(own[key], others[key]) for key in own)


def test_refusals_of_the_worker_are_those_of_this_process(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"nothing of the kind")
    for path, options, kind in ((tmp_path / "bad.pth", {}, CheckpointError), (mine, {"gama": 1}, OptionError)):
        with pytest.raises(kind) as here:
            load_with_report(path, device="cpu", **options)
        with pytest.raises(kind) as there:
            load_untrusted(path, device="cpu", **options)
        assert str(here.value) == str(there.value)


def in_worker(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What a program does in a process that has the worker's limits, of 1 s and 100 MB."""
    source = folder / "small"
    source.write_bytes(b"small")
    head = (
        "from pathlib import Path\nfrom simpool_viz.checkpoints import untrusted\n"
        "untrusted.SECONDS, untrusted.MEMORY = 1, 100 * 2**20\n"
        f"untrusted._limit(Path({str(source)!r}), Path({str(folder)!r}))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, env=environment)


def test_worker_ends_at_its_limits_and_reaches_nothing(tmp_path: Path) -> None:
    code = f"""
import socket, os, subprocess
def tried(work):
    try:
        work()
    except (MemoryError, PermissionError) as error:
        return type(error).__name__
    return "done"
print(tried(lambda: bytearray(300 * 2**20)))
print(tried(lambda: bytearray(50 * 2**20)))
print(tried(lambda: socket.create_connection(("127.0.0.1", 9), 1)))
print(tried(lambda: subprocess.run(["true"])))
print(tried(lambda: os.system("true")))
print(tried(lambda: open({str(tmp_path.parent / "elsewhere")!r}, "w")))
print(tried(lambda: open({str(tmp_path / "here")!r}, "w")), flush=True)
while True:
    pass
"""
    done = in_worker(code, tmp_path)
    assert done.stdout.split() == ["MemoryError", "done", *4 * ["PermissionError"], "done"], done.stderr[-2000:]
    assert done.returncode == -24, "SIGXCPU, of the computing time"
    assert not (tmp_path.parent / "elsewhere").exists()


def test_worker_that_is_ended_is_a_sentence(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code, says in ((-24, "needs more than 20 s of computing"), (-9, "needs more memory"), (1, "needs more memory")):
        ended = untrusted.Ended(code, "", "Traceback")
        monkeypatch.setattr(untrusted.WORKERS, "ask", lambda *_, ended=ended: ended)
        with pytest.raises(CheckpointError, match=rf"reading mine\.pth {says}.*simpool-viz convert"):
            untrusted.convert_untrusted(mine, tmp_path / "a.safetensors")
    monkeypatch.undo()
    monkeypatch.setattr(untrusted, "WALL", 0.01)
    with pytest.raises(CheckpointError, match=r"needs more than 0\.01 s"):
        untrusted.convert_untrusted(mine, tmp_path / "a.safetensors")


def test_workers_get_no_secrets(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a secret")
    workers = untrusted.Workers()
    monkeypatch.setattr(untrusted, "WORKERS", workers)
    untrusted.convert_untrusted(mine, tmp_path / "a.safetensors")
    process = workers._process
    assert process and b"a secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    workers.rest()
    assert workers._process is None and process.poll() is not None


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[untrusted.Workers]:
    made = untrusted.Workers()
    monkeypatch.setattr(untrusted, "WORKERS", made)
    yield made
    made.rest()


def test_workers_follow_one_another_from_one_process_and_survive_what_ends_one(
    mine: Path, tmp_path: Path, workers: untrusted.Workers
) -> None:
    def converted() -> int:
        untrusted.convert_untrusted(mine, tmp_path / "a.safetensors")
        assert workers._process
        return workers._process.pid

    first = converted()
    assert converted() == first
    with pytest.raises(CheckpointError, match="is damaged"):
        (tmp_path / "bad.pth").write_bytes(b"nothing")
        untrusted.convert_untrusted(tmp_path / "bad.pth", tmp_path / "b.safetensors")
    assert workers.ask("no JSON").status == 1 and converted() == first, "a worker that fails ends alone"
    os.killpg(first, signal.SIGKILL)
    with suppress(CheckpointError):
        converted()
    assert converted() != first, "a new process takes its place"


def test_process_of_workers_ends_when_it_has_rested_and_with_the_one_that_asks(
    mine: Path, tmp_path: Path, workers: untrusted.Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrusted, "REST", 0.2)
    untrusted.convert_untrusted(mine, tmp_path / "a.safetensors")
    for _ in range(100):
        if workers._process is None:
            break
        time.sleep(0.1)
    assert workers._process is None
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom simpool_viz.checkpoints import untrusted\n"
        f"untrusted.convert_untrusted(Path({str(mine)!r}), Path({str(tmp_path / 'c.safetensors')!r}))\n"
        "print(untrusted.WORKERS._process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    process = Path("/proc") / done.stdout.strip()
    for _ in range(100):
        if not process.exists() or ") Z" in (process / "stat").read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the process of workers lives on")


def test_worker_that_begins_with_nothing_answers_the_same(
    mine: Path, tmp_path: Path, workers: untrusted.Workers
) -> None:
    for source in (mine, tmp_path / "missing.pth"):
        asked = json.dumps([str(source), str(tmp_path / "a.safetensors"), "", None, {}])
        assert untrusted._work_once(asked) == workers.ask(asked)


def test_slow_worker_is_ended_and_the_next_one_works(
    mine: Path, tmp_path: Path, workers: untrusted.Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrusted.convert_untrusted(mine, tmp_path / "a.safetensors")
    first = workers._process
    with monkeypatch.context() as patch:
        patch.setattr(untrusted, "WALL", 0.001)
        with pytest.raises(CheckpointError, match=r"needs more than 0\.001 s"):
            untrusted.convert_untrusted(mine, tmp_path / "a.safetensors")
    assert first and first.poll() is not None
    untrusted.convert_untrusted(mine, tmp_path / "a.safetensors")
    assert workers._process is not first


def test_costly_file_of_ones_own_is_read_with_a_warning(
    mine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load_with_report(mine, device="cpu")
    assert not caplog.records
    monkeypatch.setattr(untrusted, "SECONDS", -1)
    load_with_report(mine, device="cpu")
    assert "s to read; `simpool-viz convert` makes a file that is read faster" in caplog.text
