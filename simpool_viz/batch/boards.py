"""From a batch of prepared pictures to a board for each.

One forward pass serves all pictures of a shape and all heads on one backbone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from simpool_viz.batch.preparing import Fault, Frame, Prepared
from simpool_viz.board.board import Board, Row, Settings, attention_of, record_rows, require_rows
from simpool_viz.errors import MapError
from simpool_viz.images import Picture, normalise
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.sharing import sharing_groups
from simpool_viz.recording import Recording, record_prepared

WAITING = 256 * 2**20  # bytes of pictures that wait for others of their shape


@dataclass(frozen=True)
class Job:
    """What is computed for every picture.

    Attributes:
        encoders: the checkpoints, all on one device.
        requests: the maps; each checkpoint's own where there are none.
        settings: size, mask rule and fusion.
    """

    encoders: Sequence[Encoder]
    requests: Sequence[MapRequest] = ()
    settings: Settings = field(default_factory=Settings)

    @cached_property
    def groups(self) -> list[list[int]]:
        """Indices of the encoders, one list for those that share a forward pass."""
        return sharing_groups(self.encoders, self.settings.size)

    @property
    def frames(self) -> list[Frame]:
        """The input size and the stride of each group, in the order of `groups`."""
        first = [self.encoders[group[0]] for group in self.groups]
        size = self.settings.size
        return [Frame(e.facts.size if size is None else size, e.stride, e.multiple) for e in first]

    @property
    def device(self) -> torch.device:
        """The device of the encoders' weights."""
        return next(self.encoders[0].parameters()).device

    def on(self, device: str) -> Job:
        """The same job, its checkpoints moved to a device, as those of this one are: they are the same."""
        return replace(self, encoders=[encoder.to(device) for encoder in self.encoders])


class HasShape(Protocol):
    """What is batched: a `Prepared`, or what holds one."""

    @property
    def shape(self) -> tuple[tuple[int, int], ...]: ...

    @property
    def nbytes(self) -> int: ...


Shaped = TypeVar("Shaped", bound=HasShape)


def batches_of_one_shape(read: Iterator[Shaped | Fault], batch: int, faults: list[Fault]) -> Iterator[list[Shaped]]:
    """Collect pictures of one shape into batches. At most `WAITING` bytes of pictures wait, then the fullest goes.

    Args:
        read: pictures as they come.
        batch: number of pictures of a batch.
        faults: to which what cannot be read is added.
    """
    buckets: dict[Any, list[Shaped]] = {}
    waiting = 0
    for one in read:
        if isinstance(one, Fault):
            faults.append(one)
            continue
        buckets.setdefault(one.shape, []).append(one)
        waiting += one.nbytes
        while waiting > WAITING or len(buckets.get(one.shape, ())) == batch:
            fullest = buckets.pop(max(buckets, key=lambda shape: (len(buckets[shape]), _bytes(buckets[shape]))))
            waiting -= _bytes(fullest)
            yield fullest
    yield from buckets.values()


def _bytes(bucket: Sequence[HasShape]) -> int:
    return sum(one.nbytes for one in bucket)


def make_boards(job: Job, batch: Sequence[Prepared]) -> list[Board]:
    """Record a batch of pictures and make a board for each.

    Args:
        job: checkpoints, maps and settings.
        batch: prepared pictures of one `shape`.

    Returns:
        A board of one picture for each of the batch, in its order. Its rows stand in the order of the checkpoints.

    Raises:
        OptionError: as in `record_rows`.
    """
    rows: list[dict[int, list[Row]]] = [{} for _ in batch]
    skipped: dict[str, None] = {}
    pictures = [Picture(one.display, one.key) for one in batch]
    for number, group in enumerate(job.groups):
        for index, recordings in zip(group, _record(job, number, batch, pictures), strict=True):
            for i, recording in enumerate(recordings):
                rows[i][index], reasons = record_rows(recording, job.requests, job.settings)
                skipped |= dict.fromkeys(reasons)
    boards = zip(pictures, rows, strict=True)
    return [
        Board([picture], [r for i in sorted(own) for r in own[i]], {}, list(skipped), job.settings)
        for picture, own in boards
    ]


def boards_or_faults(job: Job, batch: Sequence[Prepared], faults: list[Fault]) -> Iterator[tuple[Prepared, Board]]:
    """The board of each picture of a batch. Where a picture has no such map, as one without the class that a roll-out
    starts from, it is a fault, and the others are recorded one by one.

    Args:
        job: checkpoints, maps and settings.
        batch: prepared pictures of one `shape`.
        faults: to which pictures without such a map are added.

    Raises:
        MapError: no checkpoint has any of the maps.
        OptionError: as in `record_rows`.
    """
    try:
        boards = make_boards(job, batch)
    except MapError as error:
        if len(batch) == 1:
            faults.append(Fault(batch[0].key, str(error)))
        else:
            for one in batch:
                yield from boards_or_faults(job, [one], faults)
        return
    require_rows(boards[0].rows, boards[0].skipped)
    yield from zip(batch, boards, strict=True)


def _record(job: Job, number: int, batch: Sequence[Prepared], pictures: Sequence[Picture]) -> list[list[Recording]]:
    """The recordings of each encoder of a group.

    Pixels travel to the device as uint8, a quarter of the bytes of float32, and are normalised there.
    """
    encoders = [job.encoders[i] for i in job.groups[number]]
    facts = encoders[0].facts
    pixels = torch.from_numpy(np.stack([one.inputs[number] for one in batch]))
    if job.device.type == "cuda":
        pixels = pixels.pin_memory().to(job.device, non_blocking=True)
    images = normalise(pixels, facts.mean, facts.std)
    inputs = [(picture, one.geometries[number]) for picture, one in zip(pictures, batch, strict=True)]
    return record_prepared(encoders, inputs, images, attention_of(encoders, job.requests))
