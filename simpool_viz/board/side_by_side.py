"""The same question to several checkpoints on one photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from simpool_viz.board.board import Row, Settings
from simpool_viz.board.inspection import Inspection, Lens, inspect
from simpool_viz.errors import MapError
from simpool_viz.modeling.classes import class_name
from simpool_viz.recording import Recording


@dataclass(frozen=True)
class SideBySide:
    """The answers of several checkpoints.

    Attributes:
        first: the answer of the checkpoint that was asked first.
        others: rows of the others, in their order.
        notes: sentences that say what is missing and why, of all.
    """

    first: Inspection
    others: list[Row]
    notes: list[str]


def lens_of_other(lens: Lens, recording: Recording, other: Recording) -> Lens:
    """The options of a question to one checkpoint, as another takes them.

    The point is the same place of the photo. For the last block, and for one that the other does not have, its last one
    stands; a class goes by its name, and where the other does not know it, by what that one predicts; a head
    has no counterpart, so that all heads of the other stand for it.

    Args:
        lens: of the question.
        recording: of the checkpoint that was asked.
        other: of the checkpoint to be asked.
    """
    depth, there = len(recording.blocks), len(other.blocks)
    last = lens.block == depth - 1 or not -there <= lens.block < there
    block = max(0, there - 1) if last else lens.block
    fusion = lens.fusion if isinstance(lens.fusion, str) else "mean"
    names = {name.lower(): index for index, name in enumerate(other.encoder.facts.classes)}

    def translated(target: str | int | None) -> int | None:
        name = class_name(recording.encoder, target) if isinstance(target, int) else target
        return None if name is None else names.get(name.lower())

    first = min(lens.first, max(0, there - 1))
    target, also = translated(lens.target), translated(lens.also)
    return replace(lens, block=block, fusion=fusion, first=first, target=target, also=None if target is None else also)


def ask_each(
    recordings: Sequence[Recording], question: str, lens: Lens | None = None, settings: Settings | None = None
) -> SideBySide:
    """Ask several checkpoints the same about one photo.

    Args:
        recordings: of one picture, by the checkpoint that the options are meant for, and then by others.
        question: a name of `QUESTIONS`.
        lens: the options.
        settings: of the masks.

    Raises:
        OptionError: as in `inspect`.
        MapError: the first checkpoint cannot answer; that another cannot is a note.

    Examples:
        >>> from simpool_viz import Lens, load_checkpoint, record
        >>> from simpool_viz.board.side_by_side import ask_each
        >>> recordings = [record(load_checkpoint(name), "cat.jpg") for name in ("vit_cls", "vit_simpool")]
        >>> answers = ask_each(recordings, "token", Lens(at=(120, 80)))
        >>> [row.checkpoint for row in [*answers.first.rows, *answers.others]]
        ['vit_cls', 'vit_cls', 'vit_simpool', 'vit_simpool']
    """
    lens, settings = lens or Lens(), settings or Settings()
    asked, *others = recordings
    first = inspect(asked, question, lens, settings)
    rows: list[Row] = []
    notes = list(first.notes)
    for other in others:
        try:
            answer = inspect(other, question, lens_of_other(lens, asked, other), settings)
        except MapError as error:
            notes.append(f"{error}.")
            continue
        rows += answer.rows
        notes += [note for note in answer.notes if note not in notes]
        known = {name.lower() for name in other.encoder.facts.classes}
        name = class_name(asked.encoder, lens.target) if isinstance(lens.target, int) else lens.target
        if question == "class" and name is not None and name.lower() not in known:
            title = other.encoder.facts.title or other.encoder.facts.name
            notes.append(f"{title} does not know the class {name}; its maps are of the class that it predicts.")
    return SideBySide(first, rows, notes)
