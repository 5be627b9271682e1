"""Another class for a row of the Compare board: the most probable ones are offered, and any by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from simpool_viz.app.board.component import BoardView, row_payload
from simpool_viz.app.events import checked_index, event_handler, sent_value
from simpool_viz.app.own_checkpoint import OwnCheckpoints
from simpool_viz.app.reference import photo_of
from simpool_viz.app.style_controls import dispatch
from simpool_viz.board.board import Board, Settings, record_rows, require_rows
from simpool_viz.board.inspection import classes_found
from simpool_viz.images import read_picture
from simpool_viz.maps.request import MapRequest, parse_map
from simpool_viz.modeling.classes import class_index
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.recording import record

OFFERED = 5  # classes, the most probable first
LISTED = 2000  # names that are sent for the search; of more, a name is typed in full


class ClassRows:
    """Answers which classes a row can be of, and makes the row of one.

    Args:
        find: an encoder by name, the visitor's own among them.
    """

    def __init__(self, find: Callable[[str, OwnCheckpoints | None], Encoder]) -> None:
        self.find = find

    @event_handler
    def answer(
        self, event: gr.EventData, photo: str | None, photos: list[str] | None, own: OwnCheckpoints
    ) -> dict[str, Any]:
        """The classes to choose from (id, probable, names); or, once one is chosen, its row (id, row, index)."""
        here, encoder = photo_of(event, photo, photos, "row"), self.find(str(sent_value(event, "checkpoint")), own)
        request, chosen = parse_map(str(sent_value(event, "map"))), sent_value(event, "chosen")
        recording, row_id = record(encoder, read_picture(here)), sent_value(event, "id")
        names = encoder.facts.classes
        if chosen is None:
            found = classes_found(recording, OFFERED)[: None if encoder.dense else OFFERED]
            offered = [[one.index, one.summary] for one in found]
            return {"id": row_id, "probable": offered, "names": list(names) if len(names) <= LISTED else []}
        wanted = chosen if isinstance(chosen, str) else checked_index(chosen, "the class")
        index = class_index(encoder, wanted, len(names) if names else _count(recording.logits))
        asked = MapRequest(request.name, {**request.options, "classes": [index]})
        settings = Settings()
        rows, reasons = record_rows(recording, [asked], settings)
        require_rows(rows, reasons)
        board = Board([recording.picture], rows, {}, reasons, settings)
        return {"id": row_id, "row": row_payload(board, rows[0], 0), "index": index}

    def connect(self, view: BoardView, board: str, inputs: list[Any]) -> None:
        """Join the events of a board.

        Args:
            view: the board.
            board: its element id.
            inputs: photo, further photos, and the visitor's own checkpoints.
        """
        found = gr.JSON(visible="hidden", elem_id=f"{board}-classes-payload")
        view.classes(
            self.answer, inputs, found, concurrency_id="look", show_progress="hidden", api_visibility="private"
        )
        send = dispatch(board, "simpool-classes", "payload", takes="payload")
        found.change(None, [found], None, js=send, queue=False, api_visibility="private")


def _count(logits: Any) -> int:
    """Number of classes of a head that does not name them; 0 without one."""
    return 0 if logits is None else len(logits)
