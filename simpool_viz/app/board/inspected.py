"""The component of the Inspect page: a board of one photo, the maps behind its first row, and facts beside them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np

from simpool_viz.app.board.blocks import blocks_payload
from simpool_viz.app.board.component import BoardState, BoardView, Sent, grid_payload
from simpool_viz.app.events import event_handler
from simpool_viz.board.board import Board
from simpool_viz.board.explain import explain_pooling
from simpool_viz.board.inspection import QUESTIONS, Inspection, Lens, RecordingFacts
from simpool_viz.board.segmentation import percent, segment
from simpool_viz.drawing.pixels import palette
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.recording import Recording

SEGMENTED = 480  # pixels of the segmentation's longer side


@dataclass(frozen=True)
class KeptRecording:
    """A recording that a visitor inspects, with its facts.

    Attributes:
        recording: one photo's by one checkpoint.
        facts: what is known of it beside its maps.
        sent: its photo's file, made once.
        key: identifies the recording in the browser.
        photo: tells its photo from others, as on the Compare board.
    """

    recording: Recording
    facts: RecordingFacts
    sent: Sent = field(default_factory=Sent)
    key: str = field(default_factory=lambda: uuid4().hex)
    photo: str = "photo 0"


@dataclass(frozen=True)
class InspectState:
    """An answer as shown.

    Attributes:
        board: the answer's rows.
        kept: the recording.
        answer: None where the checkpoint can answer no question.
        lens: the options of the answer.
        facts_wanted: whether the browser still needs what is known of the recording beside its maps.
        question: that is answered, "" where there is none.
        blocks: the maps of every block and head, where they are asked for.
    """

    board: Board
    kept: KeptRecording
    answer: Inspection | None
    lens: Lens
    facts_wanted: bool = True
    question: str = ""
    blocks: Sequence[AttentionMap] | None = None


class InspectView(BoardView):
    """Shows an `InspectState`.

    The event `point` carries a point of the photo that was clicked, (x, y) in pixels; the event `choose` the index of a
    class that was clicked in the segmentation; `blocks` whether the maps of every block and head are wanted; `cell` the
    block and the head of one that was clicked; `film` the format in which they are wanted as a film.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(kind="inspect", **kwargs)

    @event_handler
    def postprocess(self, value: InspectState | None) -> dict[str, Any] | None:  # type: ignore[override]
        if value is None:
            return None
        kept, lens = value.kept, value.lens
        payload = super().postprocess(BoardState(value.board, sent=Sent(kept.sent.photos), keys=(kept.photo,)))
        assert payload is not None, "an inspection has a photo"
        asked = asked_point(kept.recording, lens) if value.question == "token" else None
        payload |= {
            "rows": [{**row, "asked": asked} for row in payload["rows"]],
            "asked": asked,
            "blocks": blocks_payload(kept.recording, value.question, lens, value.blocks),
            "point": point_payload(kept.recording, lens),
            "gallery": gallery_payload(value.answer) if value.answer else [],
            "chosen": lens.target if isinstance(lens.target, int) else None,
            "recording": kept.key,
            "facts": facts_payload(kept) if value.facts_wanted else None,
        }
        return payload

    def sent_row(self, payload: dict[str, Any]) -> dict[str, Any]:
        """A row as it is, since it changes with what is asked."""
        return payload


def asked_point(recording: Recording, lens: Lens) -> tuple[float, float]:
    """(x, y) of the token that is asked for, as shares of the photo's width and height."""
    width, height = recording.geometry.original
    x, y = lens.at or (width / 2, height / 2)
    return x / width, y / height


def facts_payload(kept: KeptRecording) -> dict[str, Any]:
    """What is known of a recording beside its maps.

    No answer changes it, so it is sent once, and the browser keeps it under the recording's key.
    """
    return {
        "sections": fact_sections(kept.facts, kept.recording),
        "gates": [asdict(profile) for profile in kept.facts.gates],
        "exponents": list(kept.facts.exponents),
        "segmentation": segmentation_payload(kept.recording) if kept.recording.encoder.dense else None,
    }


def point_payload(recording: Recording, lens: Lens) -> dict[str, Any] | None:
    """The token whose attention is shown: row, column and (h, w) of its grid; None without attention blocks."""
    if not recording.blocks:
        return None
    width, height = recording.geometry.original
    row, column = recording.geometry.token_at(*(lens.at or (width / 2, height / 2)))
    return {"row": row, "column": column, "grid": list(recording.geometry.grid)}


def segmentation_payload(recording: Recording) -> dict[str, Any]:
    """The segmentation as data for JavaScript.

    The class of every pixel of a small picture, row by row as runs (class, length) of uint32 in base64, and the classes
    found with their colours and shares.

    Raises:
        MapError: the checkpoint's head does not classify tokens.
    """
    segmentation, (width, height) = segment(recording), recording.picture.size
    factor = SEGMENTED / max(width, height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    shares, colours = segmentation.shares(), palette(len(segmentation.names))
    classes = [
        {"index": i, "name": segmentation.names[i], "colour": colours[i].tolist(), "share": percent(shares[i])}
        for i in segmentation.found()
    ]
    labels = segmentation.pixels(size).ravel()
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    runs = np.stack([labels[starts], np.diff(starts, append=labels.size)], axis=1)
    return {
        "size": list(size),
        "runs": base64.b64encode(runs.astype("<u4").tobytes()).decode(),
        "classes": classes,
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
            "levels": "",
            **grid_payload(parts.weights[i], parts.unit),
        }
        for group, indices in answer.groups
        for i in indices
    ]


def fact_sections(facts: RecordingFacts, recording: Recording) -> list[dict[str, Any]]:
    """Titles and lines: the classes found, the pooling, and which questions have no answer and why."""
    sections = []
    if facts.classes:
        sections.append({"title": "Classes found", "lines": [found.summary for found in facts.classes]})
    pooling = explain_pooling(recording.encoder.pooling.name)
    sections.append({"title": pooling.title, "lines": [pooling.summary, pooling.formula, pooling.paper]})
    absent = [f"{QUESTIONS[name].title} No: {why}." for name, why in facts.absent.items()]
    return [*sections, {"title": "What cannot be asked here", "lines": absent}] if absent else sections
