"""Processes that score photos, off the path of the model. Nothing here imports PyTorch, since they start with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from typing import Any, TypeVar

from simpool_viz.batch.preparing import Fault
from simpool_viz.errors import SimpoolError
from simpool_viz.evaluation.datasets.samples import Sample
from simpool_viz.evaluation.scoring import MapToScore
from simpool_viz.outputs import printable
from simpool_viz.scores.references import Reference, bounded

ScoreOf = TypeVar("ScoreOf")
Scorer = Callable[[Reference, Sequence[MapToScore]], ScoreOf]


def fault_of(key: str, error: BaseException) -> Fault:
    """Why a photo cannot be scored, a sentence that begins with its key."""
    reason = printable(str(error)) or type(error).__name__
    return Fault(key, reason if reason.startswith(key) else f"{key}: {reason}")


def _score(
    scorer: Scorer[ScoreOf],
    sample: Sample,
    size: tuple[int, int],
    object_ids: tuple[int, ...],
    maps: Sequence[MapToScore],
) -> ScoreOf | Fault:
    try:
        reference = bounded(sample.truth.read(size, object_ids))
    except (SimpoolError, OSError, MemoryError) as error:
        return fault_of(sample.key, error)
    return scorer(reference, maps)


@dataclass
class Scorers:
    """Processes that score; none, and all is scored at once where it is submitted, for a count of 0."""

    count: int
    _pool: ProcessPoolExecutor | None = field(init=False, default=None)

    def __enter__(self) -> Scorers:
        if self.count:
            context = multiprocessing.get_context("spawn")  # a fork of a process with PyTorch's threads can hang
            self._pool = ProcessPoolExecutor(self.count, context, initializer=_begin_scorer)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(
        self,
        scorer: Scorer[Any],
        sample: Sample,
        size: tuple[int, int],
        object_ids: tuple[int, ...],
        maps: Sequence[MapToScore],
    ) -> Future[Any]:
        """Have the maps of a photo scored; the result is the scorer's, or a `Fault` of the reference.

        Args:
            scorer: a function at the top of a module.
            sample: the photo.
            size: (W, H) of the photo.
            object_ids: the labels that count as object.
            maps: of the photo.
        """
        # The photo is not needed any more, and may be large.
        call = partial(_score, scorer, Sample(sample.key, b"", sample.truth), size, object_ids, maps)
        if self._pool is not None:
            return self._pool.submit(call)
        future: Future[Any] = Future()
        future.set_result(call())
        return future


def _begin_scorer() -> None:
    """It ends with its parent, however that ends, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
