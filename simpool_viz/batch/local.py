"""The folder loop on one machine: worker processes read, this thread looks, writer threads draw and encode; all at
once.

Waiting pictures are bounded, so that a folder of any length takes the memory of a few batches.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simpool_viz.batch.boards import Job, look
from simpool_viz.batch.preparing import Fault, Prepared, find_pictures, prepare
from simpool_viz.batch.writing import Journal, write
from simpool_viz.drawing.pixels import Look
from simpool_viz.drawing.render import LONGEST, SUFFIXES
from simpool_viz.errors import MapError, OptionError


@dataclass(frozen=True)
class BatchReport:
    """What a run did. done: pictures now done; of these, `earlier` by an earlier run. seconds: of this run."""

    done: int
    earlier: int
    faults: list[Fault]
    seconds: float


def run(
    job: Job,
    folders: Sequence[str | os.PathLike[str]],
    out: Path,
    drawn: Look | None = None,
    *,
    pictures: str = "jpeg",
    batch: int = 16,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> BatchReport:
    """Look at every picture of some folders and write what `export_board` writes, per picture; goes on where it was
    interrupted.

    Args:
        job: checkpoints, maps, settings.
        out: the folder; one of an earlier run with the same settings is gone on with.
        drawn: how maps are drawn.
        pictures: format of overlays and masks, "jpeg" or "png", or "none" for maps alone.
        batch: pictures of a forward.
        workers: processes that read; half the cores by default.
        overwrite: begin anew.

    Raises:
        DataError, MapError, OptionError: no picture found, no map that any checkpoint has, or options out of range.
        FileExistsError: `out` holds something else, or a run with other settings.
    """
    started, drawn = time.perf_counter(), drawn or Look()
    if pictures not in (*SUFFIXES, "none"):
        raise OptionError(f"pictures are written as {', '.join(SUFFIXES)} or none, not {pictures!r}")
    if batch < 1 or (workers is not None and workers < 1):
        raise OptionError("the batch and the number of workers must be positive")
    found = find_pictures(folders)
    journal = Journal(Path(out), _settings(job, drawn, pictures), overwrite)
    earlier = sum(key in journal.done for key in found)
    waiting = {key: path for key, path in found.items() if key not in journal.done}
    faults: list[Fault] = []
    with _bar(len(waiting), progress) as bar, ExitStack() as stack:
        longest = None if pictures == "none" else LONGEST
        read = _read(waiting, job, longest, workers or max(1, (os.cpu_count() or 2) // 2), 3 * batch, stack)
        for line in _written(_batches(read, batch, faults), job, Path(out), drawn, pictures, stack):
            journal.add(line)
            bar.update()
    journal.finish(list(found), faults, str(job.device))
    return BatchReport(sum(key in journal.done for key in found), earlier, faults, time.perf_counter() - started)


def _settings(job: Job, drawn: Look, pictures: str) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    return {
        "checkpoints": [encoder.facts.name for encoder in job.encoders],
        "maps": [request.label for request in job.requests],
        "settings": asdict(job.settings),
        "look": asdict(drawn),
        "format_of_pictures": pictures,
    }


def _bar(total: int, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="looking", unit="picture", disable=not shown)


def _read(
    waiting: dict[str, Path], job: Job, longest: int | None, workers: int, ahead: int, stack: ExitStack
) -> Iterator[Prepared | Fault]:
    """The pictures as worker processes read them, in order, at most `ahead` before they are asked for."""
    if not waiting:
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with PyTorch's threads can hang
    pool = stack.enter_context(ProcessPoolExecutor(min(workers, len(waiting)), context, initializer=_begin_worker))
    stack.callback(pool.shutdown, wait=False, cancel_futures=True)
    frames, futures = job.frames, deque[Future[Prepared | Fault]]()
    for key, path in waiting.items():
        futures.append(pool.submit(prepare, key, path, frames, longest))
        if len(futures) >= ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def _begin_worker() -> None:
    """Reading fills the gaps that the forward leaves, rather than taking its cores."""
    if hasattr(os, "nice"):
        os.nice(5)


def _batches(read: Iterator[Prepared | Fault], batch: int, faults: list[Fault]) -> Iterator[list[Prepared]]:
    """Pictures of one shape together; a rare shape waits no longer than for eight batches of others."""
    buckets: dict[Any, list[Prepared]] = {}
    for one in read:
        if isinstance(one, Fault):
            faults.append(one)
            continue
        bucket = buckets.setdefault(one.shape, [])
        bucket.append(one)
        if len(bucket) == batch:
            yield buckets.pop(one.shape)
        elif sum(map(len, buckets.values())) >= 8 * batch:
            yield buckets.pop(max(buckets, key=lambda shape: len(buckets[shape])))
    yield from buckets.values()


def _written(
    batches: Iterator[list[Prepared]], job: Job, out: Path, drawn: Look, pictures: str, stack: ExitStack
) -> Iterator[dict[str, Any]]:
    """The journal's lines of pictures as they are written; while a batch is written, the next is looked at."""
    pool = stack.enter_context(ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2)))
    stack.callback(pool.shutdown, wait=False, cancel_futures=True)
    before: list[Future[dict[str, Any]]] = []
    for batch in batches:
        boards = look(job, batch)
        if not boards[0].rows:
            raise MapError("none of these checkpoints has any of these maps. " + " ".join(boards[0].skipped))
        yield from (future.result() for future in before)
        before = [pool.submit(write, board, out, drawn, pictures) for board in boards]
    yield from (future.result() for future in before)
