"""Where boards are made: in this process, or on a ZeroGPU Space in one short call of its GPU for each request.

There the package `spaces` forks a process for a call, which alone has the GPU. Models are placed on "cuda" when the app
starts, as the package wants it; the call gets names and photos and gives rows, whose maps are arrays, and never a
tensor. Everything else, clicks in Inspect above all, is computed on the CPU of this process and costs no visitor's
quota. Visitors' own checkpoints, which the forked process cannot know, stay on the CPU too.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from simpool_viz.app.own_checkpoint import OwnCheckpoints
from simpool_viz.app.store import EncoderStore
from simpool_viz.board.board import Board, Row, Settings, iterate_board, require_rows
from simpool_viz.checkpoints.load import split_size
from simpool_viz.errors import SimpoolError
from simpool_viz.images import Picture
from simpool_viz.maps.request import MapRequest, parse_map
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.scores.references import Reference, bounded, resized

logger = logging.getLogger(__name__)
# Seconds that a call asks for: to begin, and for each recording with its maps at 224 pixels.
BEGINNING, RECORDING, LONGEST_CALL = 5.0, 0.5, 60
USUAL_SIDE = 224  # pixels
Part = tuple[list[Row], list[str]]  # rows that are new, and all sentences on what had to be left out


class Package(Protocol):
    """What is used of the package `spaces`."""

    def GPU(self, *, duration: Callable[..., int]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """A decorator of functions that need a GPU for some seconds."""


def find_package(environment: Mapping[str, str] = os.environ) -> Package | None:
    """The package of ZeroGPU where this process runs on such a Space, else None. To be called before CUDA is used."""
    if environment.get("SPACES_ZERO_GPU", "").lower() not in ("1", "t", "true"):
        return None
    if importlib.util.find_spec("spaces") is None:
        logger.warning("this is a ZeroGPU Space without the package spaces, so everything is computed on the CPU")
        return None
    package: Package = importlib.import_module("spaces")
    return package


def estimated(pictures: Sequence[Picture], names: Sequence[str], requests: Sequence[MapRequest], *_: Any) -> int:
    """Seconds of the GPU that a board is expected to take, at most `LONGEST_CALL`; arguments as of `ZeroGpu.parts`."""
    sides = [split_size(name)[1] or USUAL_SIDE for name in names]
    areas = sum(max(1.0, (side / USUAL_SIDE) ** 2) for side in sides)
    return min(LONGEST_CALL, round(BEGINNING + RECORDING * len(pictures) * areas * max(1, len(requests)) ** 0.5))


class ZeroGpu:
    """The GPU of a ZeroGPU Space.

    Args:
        package: `spaces`.
        device: where models are placed.
        precision: as in `load_checkpoint`.
    """

    def __init__(self, package: Package, device: str = "cuda", precision: str = "auto") -> None:
        self.store = EncoderStore(device, precision)
        self.call: Callable[..., Iterator[Part | SimpoolError]] = package.GPU(duration=estimated)(self.parts)

    def parts(
        self,
        pictures: list[Picture],
        names: list[str],
        requests: list[MapRequest],
        settings: Settings,
        references: dict[int, Reference],
    ) -> Iterator[Part | SimpoolError]:
        """What is new on a board after each recording, or the error that ends it.

        An error is given and not raised, since the package replaces what is raised by a sentence of its own.
        """
        try:
            encoders, known = [self.store.get(name) for name in names], 0
            for board in iterate_board(pictures, encoders, requests, settings, references):
                yield board.rows[known:], board.skipped
                known = len(board.rows)
        except SimpoolError as error:
            yield error


class BoardMaker:
    """Makes boards of checkpoints by their names.

    Args:
        find: a checkpoint by name and the visitor's own ones, in this process.
        zero: the GPU of a ZeroGPU Space; None elsewhere.
    """

    def __init__(self, find: Callable[[str, OwnCheckpoints | None], Encoder], zero: ZeroGpu | None = None) -> None:
        self.find, self.zero = find, zero

    def iterate(
        self,
        pictures: Sequence[Picture],
        names: Sequence[str],
        requests: Sequence[MapRequest],
        settings: Settings,
        references: dict[int, Reference] | None = None,
        own: OwnCheckpoints | None = None,
    ) -> Iterator[Board]:
        """The growing board, as `iterate_board` gives it.

        Args:
            pictures: in the order of the board.
            names: of checkpoints.
            requests: the maps; where empty, each checkpoint's own.
            settings: of the masks.
            references: by index of the picture.
            own: the visitor's own checkpoints.

        Raises:
            SimpoolError: as in `iterate_board`, and of a name that is not known.
        """
        visitors = own is not None and any(split_size(name)[0] in own.encoders for name in names)
        if self.zero is None or visitors:
            encoders = [self.find(name, own) for name in names]
            yield from iterate_board(pictures, encoders, requests, settings, references)
            return
        known = {i: bounded(resized(one, pictures[i].size)) for i, one in (references or {}).items()}
        rows: list[Row] = []
        for part in self.zero.call(list(pictures), list(names), list(requests), settings, known):
            if isinstance(part, SimpoolError):
                raise part
            rows += part[0]
            yield Board(list(pictures), list(rows), known, list(part[1]), settings)

    def make(
        self,
        pictures: Sequence[Picture],
        names: Sequence[str],
        maps: Sequence[str | MapRequest],
        settings: Settings,
        references: dict[int, Reference] | None = None,
    ) -> Board:
        """The whole board, as `make_board` gives it; arguments as of `iterate`.

        Raises:
            SimpoolError: as in `make_board`, and of a name that is not known.
        """
        requests = [one if isinstance(one, MapRequest) else parse_map(one) for one in maps]
        *_, board = self.iterate(pictures, names, requests, settings, references)
        require_rows(board.rows, board.skipped)
        return board
