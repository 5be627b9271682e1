"""The component of the Inspect page: a board of one photo, with the maps behind its first row and what is known beside
them."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from simpool_viz.app.board.component import BoardState, BoardView, Sent, grid_payload
from simpool_viz.board.board import Board
from simpool_viz.board.explain import explain_pooling
from simpool_viz.board.inspection import QUESTIONS, Inspection, Lens, RecordingFacts
from simpool_viz.board.segmentation import percent, segment
from simpool_viz.drawing.pixels import palette
from simpool_viz.recording import Recording

SEGMENTED = 480  # pixels of the segmentation's longer side


@dataclass(frozen=True)
class InspectState:
    """An answer as shown; `answer` is None where the checkpoint has nothing to ask. `sent` holds the photo's file."""

    board: Board
    recording: Recording
    facts: RecordingFacts
    answer: Inspection | None
    lens: Lens
    sent: Sent


class InspectView(BoardView):
    """Shows an `InspectState`; tells of points in its photo by the event `point`, (x, y) in pixels, and of classes
    clicked in its
    segmentation by the event `choose`, their index."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(kind="inspect", **kwargs)

    def postprocess(self, value: InspectState | None) -> dict[str, Any] | None:  # type: ignore[override]
        if value is None:
            return None
        payload = super().postprocess(BoardState(value.board, sent=Sent(value.sent.photos)))
        assert payload is not None, "an inspection has a photo"
        payload |= {
            "point": point_payload(value.recording, value.lens),
            "gallery": gallery_payload(value.answer) if value.answer else [],
            "segmentation": segmentation_payload(value.recording, value.lens)
            if value.recording.encoder.dense
            else None,
            "facts": fact_sections(value.facts, value.recording),
            "gates": [asdict(profile) for profile in value.facts.gates],
            "exponents": list(value.facts.exponents),
        }
        return payload


def point_payload(recording: Recording, lens: Lens) -> dict[str, Any] | None:
    """The token that is asked, None where none can be."""
    if not recording.blocks:
        return None
    width, height = recording.geometry.original
    row, column = recording.geometry.token_at(*(lens.at or (width / 2, height / 2)))
    return {"row": row, "column": column, "grid": list(recording.geometry.grid)}


def segmentation_payload(recording: Recording, lens: Lens) -> dict[str, Any]:
    """The class of every pixel of a small picture, row by row as runs (class, length) of uint32, and the classes found
    with their
    colours; the chosen one by its index."""
    found, (width, height) = segment(recording), recording.picture.size
    factor = SEGMENTED / max(width, height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    shares, colours = found.shares(), palette(len(found.names))
    classes = [
        {"index": i, "name": found.names[i], "colour": colours[i].tolist(), "told": percent(shares[i])}
        for i in found.found()
    ]
    labels = found.pixels(size).ravel()
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    runs = np.stack([labels[starts], np.diff(starts, append=labels.size)], axis=1)
    return {
        "size": list(size),
        "runs": base64.b64encode(runs.astype("<u4").tobytes()).decode(),
        "classes": classes,
        "chosen": lens.target if isinstance(lens.target, int) else None,
    }


def gallery_payload(answer: Inspection) -> list[dict[str, Any]]:
    """The maps behind the first row, in the order of their groups."""
    parts, row = answer.parts, answer.rows[0] if answer.rows else None
    if parts is None or row is None:
        return []
    return [
        {
            "title": parts.names[i],
            "group": group,
            "picture": 0,
            "map": row.map_title,
            "file": f"{row.checkpoint}.{row.request.name}.{parts.names[i]}".replace(" ", "_"),
            "figures": {},
            "levels": {},
            **grid_payload(parts.weights[i], parts.unit),
        }
        for group, indices in answer.groups
        for i in indices
    ]


def fact_sections(facts: RecordingFacts, recording: Recording) -> list[dict[str, Any]]:
    """Titles and lines: the classes found, the pooling, and what cannot be asked and why."""
    sections = []
    if facts.classes:
        sections.append({"title": "Classes found", "lines": [c.told for c in facts.classes]})
    pooling = explain_pooling(recording.encoder.pooling.name)
    sections.append({"title": pooling.title, "lines": [pooling.summary, pooling.formula, pooling.paper]})
    absent = [f"{QUESTIONS[name].title} No: {why}." for name, why in facts.absent.items()]
    return [*sections, {"title": "What cannot be asked here", "lines": absent}] if absent else sections
