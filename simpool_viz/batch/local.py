"""The loop over pictures on one machine, which writes files.

Worker processes read pictures, the main thread runs the models, and writer threads draw and encode, all at once. The
number of waiting pictures is bounded, so that a folder of any length takes the memory of a few batches.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from simpool_viz.batch.boards import Job, batches_of_one_shape, make_boards
from simpool_viz.batch.inputs import find_items
from simpool_viz.batch.lock import locked
from simpool_viz.batch.places import contents
from simpool_viz.batch.preparing import Fault, Prepared, prepare
from simpool_viz.batch.workers import half_the_cores, work_ahead
from simpool_viz.batch.writing import BatchReport, Journal, check_folder, require_folder, write
from simpool_viz.drawing.pixels import DrawingStyle
from simpool_viz.drawing.render import LONGEST, SUFFIXES
from simpool_viz.errors import MapError, OptionError


def run(
    job: Job,
    inputs: Sequence[str | os.PathLike[str]],
    out: Path,
    drawn: DrawingStyle | None = None,
    *,
    pictures: str = "jpeg",
    batch: int = 16,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> BatchReport:
    """Compute the maps of every picture that is given and write them, as `export_board` does for one board.

    A run that was interrupted is resumed: pictures in the journal of `out` are not computed again.

    Args:
        job: checkpoints, maps, settings.
        inputs: folders, pictures, lists, shards and archives, as `find_items` takes them.
        out: folder to write to; that of an earlier run with the same settings is resumed.
        drawn: how maps are drawn; the usual style by default.
        pictures: format of overlays and masks, "jpeg" or "png", or "none" for maps alone.
        batch: number of pictures of a forward pass.
        workers: number of processes that read pictures; half the cores by default.
        overwrite: discard the journal of an earlier run and start over.
        progress: whether to show a progress bar.

    Returns:
        Counts, unreadable pictures and duration.

    Raises:
        DataError: no picture in the inputs, another run that writes to `out`, a journal without settings, or `out`
            is gone before the end.
        MapError: no checkpoint has any of the maps.
        OptionError: a format, a batch size or a number of workers that does not exist.
        FileExistsError: `out` holds something else, or a run with other settings.
        FileNotFoundError: an input that does not exist.
    """
    started, drawn = time.perf_counter(), drawn or DrawingStyle()
    if pictures not in (*SUFFIXES, "none"):
        raise OptionError(f"pictures are written as {', '.join(SUFFIXES)} or none, not {pictures!r}")
    if batch < 1 or (workers is not None and workers < 1):
        raise OptionError("the batch and the number of workers must be positive")
    out, found = Path(out), {item.key: item.place for item in find_items(inputs)}
    check_folder(out)
    faults: list[Fault] = []
    with locked(out) as note, ExitStack() as stack:
        journal = Journal(out, run_settings(job, drawn, pictures), overwrite)
        earlier = sum(key in journal.done for key in found)
        waiting = {key: place for key, place in found.items() if key not in journal.done}
        bar, longest = stack.enter_context(_bar(len(waiting), progress)), None if pictures == "none" else LONGEST
        given = ((key, (place, job.frames, longest)) for key, place in contents(waiting.items()))
        read = work_ahead(prepare, given, min(workers or half_the_cores(), len(waiting)), 3 * batch, stack)
        for line in _written(batches_of_one_shape(read, batch, faults), job, out, drawn, pictures, faults, stack):
            journal.add(line)
            bar.update()
        journal.finish(list(found), faults, str(job.device))
    done = sum(key in journal.done for key in found)
    return BatchReport(done, earlier, faults, time.perf_counter() - started, [*filter(None, [note, journal.repair])])


def run_settings(job: Job, drawn: DrawingStyle, pictures: str) -> dict[str, Any]:
    """The settings that must be the same for a run to be resumed, as the manifest keeps them."""
    return {
        "checkpoints": [encoder.facts.name for encoder in job.encoders],
        "maps": [request.label for request in job.requests],
        "settings": asdict(job.settings),
        "look": asdict(drawn),
        "format_of_pictures": pictures,
    }


def _bar(total: int, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="recording", unit="picture", disable=not shown)


def _written(
    batches: Iterator[list[Prepared]],
    job: Job,
    out: Path,
    drawn: DrawingStyle,
    pictures: str,
    faults: list[Fault],
    stack: ExitStack,
) -> Iterator[dict[str, Any]]:
    """Write pictures and yield their lines for the journal; the next batch is recorded while one is written."""
    pool = stack.enter_context(ThreadPoolExecutor(half_the_cores()))
    stack.callback(pool.shutdown, wait=False, cancel_futures=True)
    before: list[tuple[str, Future[dict[str, Any]]]] = []
    for batch in batches:
        boards = make_boards(job, batch)
        if not boards[0].rows:
            raise MapError("none of these checkpoints has any of these maps. " + " ".join(boards[0].skipped))
        yield from _lines(before, out, faults)
        before = [
            (one.key, pool.submit(write, board, out, drawn, pictures)) for one, board in zip(batch, boards, strict=True)
        ]
    yield from _lines(before, out, faults)


def _lines(
    written: list[tuple[str, Future[dict[str, Any]]]], out: Path, faults: list[Fault]
) -> Iterator[dict[str, Any]]:
    """The lines of pictures that are written; one whose path is too long for the file system is a fault."""
    for key, future in written:
        try:
            yield future.result()
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                require_folder(out)
                raise
            faults.append(Fault(key, f"{key} has a path that is too long below the output folder"))
