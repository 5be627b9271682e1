"""From a batch of prepared pictures to a board for each: one forward for all pictures of a shape and all heads on a
backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from simpool_viz.batch.preparing import Frame, Prepared
from simpool_viz.board.board import Board, Row, Settings, blocks_of, record_rows
from simpool_viz.images import Picture, normalise
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.recording import Recording, record_prepared, shares_forward


@dataclass(frozen=True)
class Job:
    """What is done with every picture: checkpoints, maps (each checkpoint's own where none is named) and settings."""

    encoders: Sequence[Encoder]
    requests: Sequence[MapRequest] = ()
    settings: Settings = field(default_factory=Settings)

    @cached_property
    def groups(self) -> list[list[int]]:
        """The encoders by index, those that share a forward together."""
        groups: list[list[int]] = []
        for i, encoder in enumerate(self.encoders):
            alike = (g for g in groups if shares_forward(self.encoders[g[0]], encoder, self.settings.size))
            group = next(alike, None)
            if group is None:
                groups.append([i])
            else:
                group.append(i)
        return groups

    @property
    def frames(self) -> list[Frame]:
        """How each group sees a picture."""
        first = [self.encoders[group[0]] for group in self.groups]
        return [Frame(e.facts.size if self.settings.size is None else self.settings.size, e.stride) for e in first]

    @property
    def device(self) -> torch.device:
        return next(self.encoders[0].parameters()).device


def look(job: Job, batch: Sequence[Prepared]) -> list[Board]:
    """A board for each picture of a batch.

    Args:
        batch: pictures of one `shape`.

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


def _record(job: Job, number: int, batch: Sequence[Prepared], pictures: Sequence[Picture]) -> list[list[Recording]]:
    """The recordings of each encoder of a group. Pixels travel to the device as bytes and are normalised there."""
    encoders = [job.encoders[i] for i in job.groups[number]]
    facts = encoders[0].facts
    pixels = torch.from_numpy(np.stack([one.inputs[number] for one in batch]))
    if job.device.type == "cuda":
        pixels = pixels.pin_memory().to(job.device, non_blocking=True)
    images = normalise(pixels, facts.mean, facts.std)
    seen = [(picture, one.geometries[number]) for picture, one in zip(pictures, batch, strict=True)]
    return record_prepared(encoders, seen, images, blocks_of(encoders, job.requests))
