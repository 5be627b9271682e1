"""Reads a stranger's checkpoint in a process of its own, which can be ended and takes nothing with it.

The worker recognises the file and converts it, within limits of memory and computing time, without network, secrets of
the environment or other processes. What comes back is a `.safetensors` file, which this process reads, and the report.
To import PyTorch takes a worker longer than to read: on Linux they are forked from a process that has, and that ends
when it has rested for a while.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from simpool_viz import errors
from simpool_viz.checkpoints.formats.hints import Hints, read_hints
from simpool_viz.checkpoints.formats.report import Report
from simpool_viz.errors import CheckpointError, SimpoolError

SECONDS = 20  # of computing
WALL = 150  # seconds, the start of Python included, on a machine that does other things too
MEMORY = 2**30  # bytes beside the file and its copies
REST = 60  # seconds after which a process that waits for the next file ends, since it holds memory
COPIES = 3  # of the file: as read, as tensors, as a model
_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP")
_FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "pty.")
logger = logging.getLogger(__name__)


def convert_untrusted(
    source: Path, target: Path, which: str = "", hints: Hints | None = None, **options: Any
) -> Report:
    """Convert a stranger's file as `files.convert` does, in a worker process with limits that hold.

    Limits of memory and of computing time are those of the operating system; Windows has none of them, there the time
    by the clock holds alone.

    Args:
        source: the file.
        target: the `.safetensors` file to write.
        which: another entry than the usual one, such as "student".
        hints: what accompanies the file, as for `files.load_file`.
        options: those of `parts.LoadOptions`.

    Returns:
        The report of what was recognised.

    Raises:
        CheckpointError: as of `convert`, or the file needs more than the limits.
        OptionError: as of `convert`.
    """
    asked = json.dumps([str(source), str(target), which, hints.as_table() if hints else None, options])
    try:
        done = WORKERS.ask(asked) if sys.platform == "linux" else _work_once(asked)
    except subprocess.TimeoutExpired:
        raise CheckpointError(_costly(source, f"more than {WALL} s")) from None
    try:
        answer = json.loads(done.said.splitlines()[-1])
    except (IndexError, ValueError):
        logger.warning("the worker that read a checkpoint ended with %s: %s", done.status, done.complained[-2000:])
        slow = done.status == -getattr(signal, "SIGXCPU", 0)
        need = f"more than {SECONDS} s of computing" if slow else "more memory than is given to it, or is damaged"
        raise CheckpointError(_costly(source, need)) from None
    if "sentence" in answer:
        raise getattr(errors, answer["kind"])(answer["sentence"])
    return Report(**answer | {"notes": tuple(answer["notes"])})


def _costly(source: Path, need: str) -> str:
    return f"reading {source.name} needs {need}; convert it with `simpool-viz convert` and use the small file"


@dataclasses.dataclass(frozen=True)
class Ended:
    """A worker that has ended: its status, negative for a signal, and what it wrote."""

    status: int
    said: str
    complained: str


def environment_of_workers() -> dict[str, str]:
    """What a worker sees of this process's environment."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    return kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def _command(*more: str) -> list[str]:
    return [sys.executable, "-m", "simpool_viz.checkpoints.untrusted", *more]


def _work_once(asked: str) -> Ended:
    """A worker that begins with nothing, where it cannot be forked.

    Raises:
        subprocess.TimeoutExpired: it took longer than `WALL`.
    """
    done = subprocess.run(
        _command(), input=asked, capture_output=True, timeout=WALL, env=environment_of_workers(), encoding="utf-8"
    )
    return Ended(done.returncode, done.stdout, done.stderr)


class Workers:
    """Workers one after the other, forked from a process that has imported what they need and has read nothing itself.

    It ends with this process, once it has rested, or with a worker that takes too long; the next file gets a new one.
    """

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._resting: threading.Timer | None = None

    def ask(self, asked: str) -> Ended:
        """What a worker answers.

        Args:
            asked: a line of JSON, for `_work`.

        Raises:
            subprocess.TimeoutExpired: it took longer than `WALL`.
        """
        with self._one_at_a_time:
            if self._resting is not None:
                self._resting.cancel()
            try:
                answer = self._exchange(asked)
            except BaseException:
                self._end()
                raise
            if answer is None:  # it has been ended, by whoever needed its memory
                self._end()
                return Ended(-getattr(signal, "SIGKILL", 9), "", "the process that starts workers was ended")
            self._resting = threading.Timer(REST, self.rest)
            self._resting.daemon = True
            self._resting.start()
            return Ended(*answer)

    def rest(self) -> None:
        """End the process, unless a worker is at work."""
        if self._one_at_a_time.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._one_at_a_time.release()

    def _exchange(self, asked: str) -> list[Any] | None:
        if self._process is None or self._process.poll() is not None:
            self._end()
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            own: dict[str, Any] = {"env": environment_of_workers(), "start_new_session": True, "encoding": "utf-8"}
            self._process = subprocess.Popen(_command("--serve"), **pipes, **own)
        process = self._process
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        try:
            process.stdin.write(asked + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        if not select.select([process.stdout], [], [], WALL)[0]:
            raise subprocess.TimeoutExpired(_command(), WALL)
        line = process.stdout.readline()
        return list(json.loads(line)) if line else None

    def _end(self) -> None:
        """End the process and the worker below it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None


WORKERS = Workers()


@contextmanager
def warn_where_costly(path: Path) -> Iterator[None]:
    """A context that warns where reading a file of the user's own needed more than a stranger's may."""
    began, before = time.monotonic(), _peak()
    yield
    seconds, memory = time.monotonic() - began, _peak() - before
    if seconds > SECONDS:
        logger.warning("%s took %.0f s to read; `simpool-viz convert` makes a file that is read faster", path, seconds)
    if memory > MEMORY + COPIES * path.stat().st_size:
        logger.warning("%s took %.1f GB of memory to read, more than its size explains", path, memory / 2**30)


def _peak() -> int:
    """The largest memory that this process has held, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# --- in the worker ---


def _limit(source: Path, folder: Path) -> None:
    """Set the limits of this process for what follows; none of them can be lifted again."""
    try:
        import resource
    except ImportError:
        pass
    else:
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = math.ceil(used.ru_utime + used.ru_stime) + SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if (status := Path("/proc/self/status")).is_file():
            held = next(line for line in status.read_text().splitlines() if line.startswith("VmData"))
            memory = 1024 * int(held.split()[1]) + MEMORY + COPIES * source.stat().st_size
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))

    def guard(event: str, given: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"a worker that reads a checkpoint does not do {event}")
        writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and not str(given[0]).startswith(str(folder)):
            raise PermissionError("a worker that reads a checkpoint writes nowhere but beside its result")

    sys.addaudithook(guard)


def _serve() -> None:
    """Fork a worker for each line of stdin and write how it ended; what it writes goes through files, as it may be
    long."""
    import simpool_viz.checkpoints.files  # noqa: F401 (so that no worker has to)

    for asked in iter(sys.stdin.readline, ""):
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
            worker = os.fork()
            if not worker:
                os.dup2(said.fileno(), 1)
                os.dup2(complained.fileno(), 2)
                signal.alarm(WALL)  # ends it where nobody else does any more
                try:
                    _work(asked)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                sys.stdout.flush()
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
            written = []
            for file in (said, complained):
                file.seek(0)
                written.append(file.read().decode(errors="replace"))
        sys.stdout.write(json.dumps([status, *written]) + "\n")
        sys.stdout.flush()


def _work(asked: str) -> None:
    from simpool_viz.checkpoints.files import convert  # before there are limits

    given, wanted, which, described, options = json.loads(asked)
    source, target = Path(given), Path(wanted)
    answer: dict[str, Any]
    try:
        _limit(source, target.parent)
        hints = None if described is None else read_hints(described, source.name)
        answer = dataclasses.asdict(convert(source, target, which, hints=hints, **options))
    except SimpoolError as error:
        answer = {"kind": type(error).__name__, "sentence": str(error)}
    except OSError as error:
        answer = {
            "kind": "CheckpointError",
            "sentence": f"{source.name} cannot be read here ({error.strerror or error})",
        }
    except MemoryError:
        answer = {"kind": "CheckpointError", "sentence": _costly(source, "more memory than is given to it")}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _serve() if "--serve" in sys.argv else _work(sys.stdin.read())
