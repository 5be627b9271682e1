"""Processes that read photos with their references, and those that score them, off the path of the model.

Nothing here imports PyTorch, since they start with this file.
"""

from __future__ import annotations

import multiprocessing
import pickle
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from simpool_viz.batch.preparing import Fault, Frame, Prepared, prepare_picture
from simpool_viz.batch.workers import follow_parent
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


@dataclass(frozen=True)
class ReadSample:
    """A photo that is read and resized, and its reference.

    Attributes:
        prepared: the photo.
        reference: packed, since it travels to the models and on, and takes up to 20 MB unpacked.
    """

    prepared: Prepared
    reference: bytes

    @property
    def shape(self) -> tuple[tuple[int, int], ...]:
        """As of `Prepared`."""
        return self.prepared.shape

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.prepared.nbytes + len(self.reference)


def read_sample(
    key: str, sample: Sample | Exception, frames: Sequence[Frame], object_ids: tuple[int, ...]
) -> ReadSample | Fault:
    """Read a photo and its reference, as `engine.Work.read`.

    Args:
        key: of the photo.
        sample: it, or why there is none.
        frames: input sizes and strides.
        object_ids: the labels that count as object.

    Returns:
        Both, or a `Fault` where one of them cannot be read.
    """
    try:
        if isinstance(sample, Exception):
            raise sample
        prepared = prepare_picture(sample.picture(), frames, None)
        reference = bounded(sample.truth.read(prepared.geometries[0].original, object_ids))
    except (SimpoolError, OSError, MemoryError) as error:
        return fault_of(key, error)
    return ReadSample(prepared, zlib.compress(pickle.dumps(reference), 1))


def score_packed(scorer: Scorer[ScoreOf], reference: bytes, maps: Sequence[MapToScore]) -> ScoreOf:
    """What a scorer gives for the maps of a photo and the reference of its `ReadSample`."""
    return scorer(pickle.loads(zlib.decompress(reference)), maps)


@dataclass
class Scorers:
    """Processes that score; with a count of 0 there are none, and each photo is scored where its scores are asked for.

    One that is pickled has none either: on a cluster the process of the models scores, in its threads.
    """

    count: int = 0
    _pool: ProcessPoolExecutor | None = field(init=False, default=None)

    def __enter__(self) -> Scorers:
        if self.count:
            context = multiprocessing.get_context("spawn")  # a fork of a process with PyTorch's threads can hang
            self._pool = ProcessPoolExecutor(self.count, context, initializer=follow_parent)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __reduce__(self) -> tuple[type[Scorers], tuple[int]]:
        return Scorers, (0,)

    def begin(self, scorer: Scorer[ScoreOf], reference: bytes, maps: Sequence[MapToScore]) -> Callable[[], ScoreOf]:
        """Have the maps of a photo scored.

        Args:
            scorer: a function at the top of a module.
            reference: of its `ReadSample`.
            maps: of the photo.

        Returns:
            Gives the scores, and waits for them. It raises `SimpoolError` where a process that scores was ended.
        """
        if self._pool is None:
            return partial(score_packed, scorer, reference, maps)
        try:
            return partial(_awaited, self._pool.submit(score_packed, scorer, reference, maps))
        except BrokenProcessPool as error:
            raise SimpoolError(_ENDED) from error


_ENDED = "a process that scores was ended, perhaps since memory ran out; take fewer --workers and start again"


def _awaited(future: Future[ScoreOf]) -> ScoreOf:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise SimpoolError(_ENDED) from error
