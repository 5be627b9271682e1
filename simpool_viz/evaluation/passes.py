"""What is done with the photos of a data set: each is read with its reference, recorded in a batch of one shape, and
scored off the main path.

Batches are made of photos of one part of the set, a fixed number that follow each other, so that scores are the same to
the last digit whether they are made here, in a folder that an evaluation goes on in, or on a cluster.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Generic

import numpy as np
import torch

from simpool_viz.batch.boards import Job, batches_of_one_shape, boards_or_faults
from simpool_viz.batch.engine import MOST_WAITING, read_items
from simpool_viz.batch.preparing import Fault, Prepared
from simpool_viz.board.board import Board, Row, Settings
from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation.datasets import DataSet
from simpool_viz.evaluation.scorers import ReadSample, ScoreOf, Scorer, Scorers, fault_of, read_sample
from simpool_viz.evaluation.scoring import BASELINES, MapScores, MapToScore, score_photo
from simpool_viz.images import Picture, normalise
from simpool_viz.masks import DINO_CUT, Box
from simpool_viz.recording import record_prepared
from simpool_viz.scores.faithfulness import faithfulness
from simpool_viz.scores.localization import centre_prior

DISCOVERY = ("lost", "tokencut")  # their maps are 0 outside the one object that they draw
WINDOW = 8  # batches of a part
FEW = 8  # photos that are read and scored faster than processes start


@dataclass(frozen=True)
class Pace:
    """How a data set is gone through.

    Attributes:
        batch: photos of a forward pass.
        workers: processes that read photos, and as many that score; half the cores where None, and 0 for none at all.
        progress: whether to show a progress bar.
        part: photos of which batches are made, and which are computed anew at most where a run is stopped; eight
            batches where None.

    Raises:
        OptionError: a batch, a part or a number of workers that does not exist.
    """

    batch: int = 16
    workers: int | None = None
    progress: bool = False
    part: int | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.photos < 1 or (self.workers or 0) < 0:
            raise OptionError("the batch must be positive, a part too, and the number of workers must not be negative")

    @property
    def photos(self) -> int:
        """The photos of a part."""
        return WINDOW * self.batch if self.part is None else self.part

    def workers_for(self, photos: int) -> int:
        """The number of processes of each kind for so many photos."""
        if photos <= FEW and self.workers is None:
            return 0
        return max(1, (os.cpu_count() or 2) // 2) if self.workers is None else self.workers


@dataclass(frozen=True)
class Scored(Generic[ScoreOf]):
    """A photo that is recorded.

    Attributes:
        key: of the photo.
        scores: gives what the scorer makes of it.
        model: what was measured with the model alone.
        notes: maps that a checkpoint does not have, in sentences.
    """

    key: str
    scores: Callable[[], ScoreOf]
    model: list[MapScores]
    notes: Sequence[str]


@dataclass(frozen=True)
class Scoring(Generic[ScoreOf]):
    """How photos are scored, wherever that is done.

    Attributes:
        job: checkpoints, maps and settings.
        scorer: a function at the top of a module, of a reference and the maps of its photo.
        object_ids: the labels that count as object.
        batch: photos of a forward pass.
        scorers: where it is scored.
    """

    job: Job
    scorer: Scorer[ScoreOf]
    object_ids: tuple[int, ...] = ()
    batch: int = 16
    scorers: Scorers = field(default_factory=Scorers)

    @property
    def read(self) -> Callable[[str, Any], ReadSample | Fault]:
        """Reads a photo and its reference."""
        return partial(read_sample, frames=self.job.frames, object_ids=self.object_ids)

    def on(self, device: str) -> Scoring[ScoreOf]:
        """The same, its models on a device."""
        return replace(self, job=self.job.on(device))

    def scored(self, read: Iterator[ReadSample | Fault]) -> Iterator[Scored[ScoreOf] | Fault]:
        """Record the photos of one part and begin to score each.

        Args:
            read: what `read` made of them, in their order.

        Yields:
            Every photo once, those that cannot be read or recorded as a `Fault`.

        Raises:
            MapError: no checkpoint has any of the maps.
            SimpoolError: a process that scores was ended.
        """
        faults: list[Fault] = []
        for batch in batches_of_one_shape(read, self.batch, faults):
            references = {one.prepared.key: one.reference for one in batch}
            made = list(boards_or_faults(self.job, [one.prepared for one in batch], faults))
            model = _faithfulness_of_baselines(self.job, [prepared for prepared, _ in made])
            for (prepared, board), own in zip(made, model, strict=True):
                scores = self.scorers.begin(self.scorer, references[prepared.key], _maps(board, self.job))
                yield Scored(prepared.key, scores, own, board.skipped)
        yield from (fault_of(fault.key, DataError(fault.sentence)) for fault in faults)


def scores_in_order(
    data: DataSet,
    job: Job,
    scorer: Scorer[ScoreOf],
    pace: Pace | None = None,
    object_ids: Sequence[int] = (),
    faults: list[Fault] | None = None,
) -> list[ScoreOf]:
    """The scores of every photo that can be scored, in the order of the set.

    Args:
        data: photos with references.
        job: checkpoints, maps and settings.
        scorer: a function at the top of a module, of a reference and the maps of its photo.
        pace: how the set is gone through.
        object_ids: the labels that count as object.
        faults: to which each photo is added that cannot be scored, with the reason.

    Raises:
        MapError: no checkpoint has any of the maps.
        DataError: none of the photos can be scored.
        SimpoolError: processes end before they have done anything.
    """
    pace, faults, places = pace or Pace(), [] if faults is None else faults, data.places()
    before, scores = len(faults), {}
    with ExitStack() as stack:
        workers = pace.workers_for(len(places))
        scorers = stack.enter_context(Scorers(workers))
        scoring = Scoring(job, scorer, tuple(object_ids), pace.batch, scorers)
        bar = stack.enter_context(_bar(len(places), data.name, pace.progress))
        read = read_items(scoring.read, places, workers, pace.photos, stack)
        waiting: deque[Scored[ScoreOf]] = deque()
        for first in range(0, len(places), pace.photos):
            for one in scoring.scored(islice(read, min(pace.photos, len(places) - first))):
                bar.update()
                if isinstance(one, Fault):
                    faults.append(one)
                    continue
                waiting.append(one)
                if len(waiting) > MOST_WAITING:
                    done = waiting.popleft()
                    scores[done.key] = done.scores()
        scores |= {one.key: one.scores() for one in waiting}
    require_scores(data, len(scores), faults[before:])
    return [scores[key] for key, _ in places if key in scores]


def require_scores(data: DataSet, count: int, faults: Sequence[Fault]) -> None:
    """Make sure that some photo was scored.

    Raises:
        DataError: none was; the message tells the first reason.
    """
    if not count:
        reason = f" {faults[0].sentence}" if faults else ""
        raise DataError(f"none of the photos of {data.name} can be scored.{reason}")


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


def _faithfulness_of_baselines(job: Job, batch: Sequence[Prepared]) -> list[list[MapScores]]:
    """Insertion and deletion of each baseline with each checkpoint, where they are asked for, of each photo.

    A constant map has no order, so that the whole picture's tokens come in a random one, the same for every photo.
    """
    found: list[list[MapScores]] = [[] for _ in batch]
    if not job.settings.faithfulness or not batch:
        return found
    for group, members in enumerate(job.groups):
        encoders = [job.encoders[i] for i in members]
        facts = encoders[0].facts
        pixels = torch.from_numpy(np.stack([one.inputs[group] for one in batch]))
        inputs = [(Picture(one.display, one.key), one.geometries[group]) for one in batch]
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
