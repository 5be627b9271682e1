"""What every head of every block attends to: the maps behind a question, all of one recording."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simpool_viz.board.inspection import QUESTIONS, Lens, questions_of
from simpool_viz.errors import MapError
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.recording import Recording

ASKED_PER_BLOCK = ("token", "cls")  # the questions whose first map is of one block


def why_no_blocks(recording: Recording, question: str) -> str:
    """Why a question has no map per block and head, in a sentence; "" where it has."""
    if question not in ASKED_PER_BLOCK:
        return "Only the questions about a token and about the class token are answered by each block."
    reason = questions_of(recording.encoder)[question]
    return f"{reason[0].upper()}{reason[1:]}." if reason else ""


def every_head(recording: Recording, question: str, lens: Lens | None = None) -> list[AttentionMap]:
    """The maps of all heads in all blocks, from the queries and keys of the one forward that was recorded.

    Args:
        recording: with the attention of every block, as `record` keeps it by default.
        question: "token" or "cls".
        lens: the token's place; its block and fusion are left aside.

    Returns:
        For each block from the first, its maps (H, h, w), by the names of its heads.

    Raises:
        MapError: another question, a checkpoint without attention blocks, or a block that was not kept.
        OptionError: a point outside the picture.

    Examples:
        >>> from simpool_viz import load_checkpoint, record
        >>> from simpool_viz.board.every_head import every_head
        >>> recording = record(load_checkpoint("vit_cls"), "cat.jpg")
        >>> maps = every_head(recording, "cls")
        >>> len(maps) == len(recording.blocks), bool((maps[-1].weights == recording.map("cls").weights).all())
        (True, True)
    """
    why = why_no_blocks(recording, question)
    if why:
        raise MapError(why.rstrip("."))
    lens = lens or Lens()
    requests = [
        QUESTIONS[question].requests(replace(lens, block=block), recording.encoder.dense)[0][0]
        for block in range(len(recording.blocks))
    ]
    return recording.maps([(request.name, request.options) for request in requests])


def layers(maps: list[AttentionMap], fusion: str | int = "mean") -> list[np.ndarray]:
    """One map per block: its heads as one.

    Args:
        maps: from `every_head`.
        fusion: "mean", "max", "min" or the number of a head; where a block has fewer heads, its mean.

    Returns:
        (h, w) float32 of each block.
    """
    return [m.fused("mean" if isinstance(fusion, int) and fusion >= len(m.names) else fusion) for m in maps]
