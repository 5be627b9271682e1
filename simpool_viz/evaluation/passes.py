"""One pass over a data set: photos are read ahead, recorded in batches of one shape, and scored off the main path.

Batches are made of photos that stand near each other in the set, always of the same ones, so that a pass that goes on
where another one was stopped computes what that one would have computed, to the last digit.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch

from simpool_viz.batch.boards import Job, make_boards
from simpool_viz.batch.preparing import Fault, Frame, Prepared, prepare_picture
from simpool_viz.batch.workers import read_ahead
from simpool_viz.board.board import Board, Row, Settings, require_rows
from simpool_viz.errors import DataError, OptionError, SimpoolError
from simpool_viz.evaluation.datasets import DataSet, Sample
from simpool_viz.evaluation.scorers import ScoreOf, Scorer, Scorers, fault_of
from simpool_viz.evaluation.scoring import BASELINES, MapScores, MapToScore, score_photo
from simpool_viz.images import Picture, normalise
from simpool_viz.masks import DINO_CUT, Box
from simpool_viz.recording import record_prepared
from simpool_viz.scores.faithfulness import faithfulness
from simpool_viz.scores.localization import centre_prior

DISCOVERY = ("lost", "tokencut")  # their maps are 0 outside the one object that they draw
WINDOW = 8  # batches; photos that are nearer to each other than this may share a forward
FEW = 8  # photos that are read and scored faster than processes start


@dataclass(frozen=True)
class Pace:
    """How a data set is gone through.

    Attributes:
        batch: photos of a forward pass.
        workers: processes that read photos, and as many that score; half the cores where None, and 0 for none at all.
        progress: whether to show a progress bar.

    Raises:
        OptionError: a batch or a number of workers that does not exist.
    """

    batch: int = 16
    workers: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.workers is not None and self.workers < 0):
            raise OptionError("the batch must be positive, and the number of workers must not be negative")

    def workers_for(self, photos: int) -> int:
        """The number of processes of each kind for so many photos."""
        if photos <= FEW and self.workers is None:
            return 0
        return max(1, (os.cpu_count() or 2) // 2) if self.workers is None else self.workers


@dataclass(frozen=True)
class Scored(Generic[ScoreOf]):
    """A batch of photos that is scored.

    Attributes:
        places: the number of each photo in the data set.
        keys: their keys.
        scores: of each, or the `Fault` of its reference.
        model: what was measured with the model alone, of each.
    """

    places: list[int]
    keys: list[str]
    scores: list[ScoreOf | Fault]
    model: list[list[MapScores]]


def score_set(
    data: DataSet,
    job: Job,
    scorer: Scorer[ScoreOf],
    pace: Pace | None = None,
    object_ids: Sequence[int] = (),
    faults: list[Fault] | None = None,
    done: Collection[str] = (),
) -> Iterator[Scored[ScoreOf]]:
    """Score the maps of every photo of a data set, batch by batch.

    Args:
        data: photos with references.
        job: checkpoints, maps and settings.
        scorer: a function at the top of a module, of a reference and the maps of its photo.
        pace: how it is gone through.
        object_ids: the labels that count as object.
        faults: to which each photo is added that cannot be read, with the reason.
        done: keys of photos that are left out since their scores are known. Those of a batch must be together.

    Raises:
        MapError: no checkpoint has any of the maps.
        SimpoolError: processes end before they have done anything.
    """
    pace, faults = pace or Pace(), [] if faults is None else faults
    left = len(data) - len(done)
    with ExitStack() as stack:
        workers = pace.workers_for(left)
        pool = stack.enter_context(Scorers(workers))
        bar = stack.enter_context(_bar(left, data.name, pace.progress))
        waiting: deque[tuple[list[_Read], list[list[MapScores]], list[Future[Any]]]] = deque()
        for batch in _batches(_read(data, job, pace.batch, workers, done, stack), pace.batch, faults, bar):
            boards = make_boards(job, [one.prepared for one in batch])
            require_rows(boards[0].rows, boards[0].skipped)
            futures = [
                pool.submit(scorer, one.sample, _size(one), tuple(object_ids), _maps(board, job))
                for one, board in zip(batch, boards, strict=True)
            ]
            waiting.append((batch, _faithfulness_of_baselines(job, batch), futures))
            while len(waiting) > 2:
                yield _finished(*waiting.popleft(), bar)
        while waiting:
            yield _finished(*waiting.popleft(), bar)


def scores_in_order(
    data: DataSet,
    job: Job,
    scorer: Scorer[ScoreOf],
    pace: Pace | None = None,
    object_ids: Sequence[int] = (),
    faults: list[Fault] | None = None,
) -> list[ScoreOf]:
    """The scores of every photo that can be scored, in the order of the set.

    Args are those of `score_set`; `faults` also takes the references that cannot be read.

    Raises:
        MapError: as in `score_set`.
        DataError: none of the photos can be scored.
    """
    faults = [] if faults is None else faults
    before, scores = len(faults), {}
    for batch in score_set(data, job, scorer, pace, object_ids, faults):
        for place, score in zip(batch.places, batch.scores, strict=True):
            if isinstance(score, Fault):
                faults.append(score)
            else:
                scores[place] = score
    require_scores(data, len(scores), faults[before:])
    return [scores[place] for place in sorted(scores)]


def require_scores(data: DataSet, count: int, faults: Sequence[Fault]) -> None:
    """Make sure that some photo was scored.

    Raises:
        DataError: none was; the message tells the first reason.
    """
    if not count:
        reason = f" {faults[0].sentence}" if faults else ""
        raise DataError(f"none of the photos of {data.name} can be scored.{reason}")


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """A photo that is read, and its number in the set."""

    place: int
    sample: Sample
    prepared: Prepared


def _size(one: _Read) -> tuple[int, int]:
    return one.prepared.geometries[0].original


def _read(
    data: DataSet, job: Job, batch: int, workers: int, done: Collection[str], stack: ExitStack
) -> Iterator[tuple[int, Sample, Prepared | Fault]]:
    """The photos that are left, in their order."""
    left = ((place, sample) for place, sample in enumerate(data.samples) if sample.key not in done)
    frames, ahead = job.frames, WINDOW * batch
    if workers and data.samples and isinstance(data.samples, list):
        files = list(left)
        paths = {sample.key: sample.photo for _, sample in files if isinstance(sample.photo, Path)}
        prepared = read_ahead(paths, frames, None, workers, ahead, stack)
        yield from ((place, sample, one) for (place, sample), one in zip(files, prepared, strict=True))
    elif workers:
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        begun: deque[tuple[int, Sample, Future[Prepared | Fault]]] = deque()
        for place, sample in left:
            begun.append((place, sample, threads.submit(_prepared, sample, frames)))
            if len(begun) > ahead:
                yield _awaited(*begun.popleft())
        while begun:
            yield _awaited(*begun.popleft())
    else:
        yield from ((place, sample, _prepared(sample, frames)) for place, sample in left)


def _awaited(place: int, sample: Sample, one: Future[Prepared | Fault]) -> tuple[int, Sample, Prepared | Fault]:
    return place, sample, one.result()


def _prepared(sample: Sample, frames: Sequence[Frame]) -> Prepared | Fault:
    try:
        return prepare_picture(sample.picture(), frames, None)
    except (SimpoolError, OSError, MemoryError) as error:
        return fault_of(sample.key, error)


def _batches(
    read: Iterable[tuple[int, Sample, Prepared | Fault]], size: int, faults: list[Fault], bar: Any
) -> Iterator[list[_Read]]:
    """Batches of one shape. Their photos are of one window of the set, whichever of them are left."""
    for _, window in groupby(read, lambda one: one[0] // (WINDOW * size)):
        of_shape: dict[Any, list[_Read]] = {}
        for place, sample, prepared in window:
            if isinstance(prepared, Fault):
                faults.append(fault_of(sample.key, SimpoolError(prepared.sentence)))
                bar.update()
                continue
            same = of_shape.setdefault(prepared.shape, [])
            same.append(_Read(place, sample, prepared))
            if len(same) == size:
                yield of_shape.pop(prepared.shape)
        yield from of_shape.values()


def _bar(total: int, name: str, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=name, unit="photo", disable=not shown)


# --- maps to score ----------------------------------------------------------------------------------------------------


def _maps(board: Board, job: Job) -> list[MapToScore]:
    numbers = _numbers(board, job)
    return [_map(row, number, job.settings) for row, number in zip(board.rows, numbers, strict=True)]


def _numbers(board: Board, job: Job) -> list[int]:
    """The number of each row's checkpoint. Names need not be unique; rows stand in the order of checkpoints, and one
    checkpoint has a map once."""
    numbers: list[int] = []
    number, seen = 0, set[str]()
    for row in board.rows:
        while row.checkpoint != job.encoders[number].facts.name or row.request.label in seen:
            number, seen = number + 1, set()
        seen.add(row.request.label)
        numbers.append(number)
    return numbers


def _map(row: Row, number: int, settings: Settings) -> MapToScore:
    each: list[str | int | None] = [settings.fusion, *range(len(row.attention.names))]
    at_mass = [row.attention.mask(DINO_CUT.rule, DINO_CUT.amount, fusion=fusion).grid for fusion in each]
    figures = {"spatial_entropy": row.entropy} | ({} if row.curves is None else row.curves.areas)
    label = f"{row.checkpoint}: {row.map_label}"
    return MapToScore(number, label, row.request.label, row.mask, np.stack(at_mass), _box(row, settings), figures)


def _box(row: Row, settings: Settings) -> Box | None:
    """The one box of CorLoc in pixels of the photo: DINO-seg's, and of LOST and TokenCut that of their object."""
    amount = 1.0 if row.attention.method in DISCOVERY else DINO_CUT.amount
    boxes = row.attention.mask(DINO_CUT.rule, amount, largest=True, fusion=settings.fusion).boxes
    return next(iter(boxes), None)


def _faithfulness_of_baselines(job: Job, batch: Sequence[_Read]) -> list[list[MapScores]]:
    """Insertion and deletion of each baseline with each checkpoint, where they are asked for, of each photo.

    A constant map has no order, so that the whole picture's tokens come in a random one, the same for every photo.
    """
    found: list[list[MapScores]] = [[] for _ in batch]
    if not job.settings.faithfulness:
        return found
    for group, members in enumerate(job.groups):
        encoders = [job.encoders[i] for i in members]
        facts = encoders[0].facts
        pixels = torch.from_numpy(np.stack([one.prepared.inputs[group] for one in batch]))
        inputs = [(Picture(one.prepared.display, one.sample.key), one.prepared.geometries[group]) for one in batch]
        recorded = record_prepared(encoders, inputs, normalise(pixels, facts.mean, facts.std), ())
        for number, encoder, recordings in zip(members, encoders, recorded, strict=True):
            if encoder.classifier is None:
                continue
            for own, recording in zip(found, recordings, strict=True):
                h, w = recording.tokens.grid
                anyhow = np.random.default_rng(0).permutation(h * w).reshape(h, w).astype(np.float64)
                for name, weights in zip(BASELINES, (centre_prior((w, h)), anyhow), strict=True):
                    areas = faithfulness(recording, weights, job.settings.faithfulness).areas
                    own.append(MapScores(number, f"{encoder.facts.name}: {name}", name, dict(areas), None))
    return found


def _finished(
    batch: Sequence[_Read], model: list[list[MapScores]], futures: Sequence[Future[Any]], bar: Any
) -> Scored[Any]:
    try:
        scores = [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise SimpoolError(
            "a process that scores was ended, perhaps since memory ran out; take fewer --workers and start again"
        ) from error
    bar.update(len(batch))
    return Scored([one.place for one in batch], [one.sample.key for one in batch], scores, model)


def photo_scores(
    data: DataSet,
    job: Job,
    pace: Pace | None = None,
    object_ids: Sequence[int] = (),
    faults: list[Fault] | None = None,
) -> list[list[MapScores]]:
    """The scores of all maps and baselines of every photo that can be scored. Args and errors are those of
    `scores_in_order`."""
    return scores_in_order(data, job, score_photo, pace, object_ids, faults)
