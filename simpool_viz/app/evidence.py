"""The Evidence page: what was measured of the bundled checkpoints, as table and plot, and any example as a board."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from simpool_viz.app.board.component import BoardState, BoardView, Photo
from simpool_viz.app.events import checked_index, event_handler, sent_value
from simpool_viz.app.style_controls import style_controls
from simpool_viz.errors import OptionError
from simpool_viz.evaluation.evidence import MeasuredTable, evidence_board
from simpool_viz.evaluation.plots import draw_intervals
from simpool_viz.modeling.encoder import Encoder

MOST_BOARDS = 24  # that are kept; each is the same for every visitor


class EvidencePage:
    """Builds the page inside a `gr.Blocks`.

    Args:
        tables: at least one.
        photos: the example photos.
        find: an encoder by name.
    """

    def __init__(self, tables: Sequence[MeasuredTable], photos: Sequence[Path], find: Callable[[str], Encoder]) -> None:
        self.tables = {one.name: one for one in tables}
        self.photos = list(photos)
        self.find = find
        self._boards: OrderedDict[tuple[str, int], BoardState] = OrderedDict()
        self._lock = threading.Lock()

    # --- events ---------------------------------------------------------------------------------------------------

    @event_handler
    def show(self, name: str) -> tuple[Any, str, Image.Image]:
        """Of another table: the figures that can be drawn, its text, and the plot of the first figure."""
        one = self._table(name)
        columns = [(column.title, column.name) for column in one.columns]
        return gr.update(choices=columns, value=columns[0][1]), one.table.markdown(), self._plot(one, columns[0][1])

    @event_handler
    def draw(self, name: str, column: str) -> Image.Image:
        """The plot of a figure of a table."""
        one = self._table(name)
        if column not in [each.name for each in one.columns]:
            raise OptionError(f"the table {name!r} has no figure {column!r}; load the page again")
        return self._plot(one, column)

    @event_handler
    def open_example(self, event: gr.SelectData, name: str) -> tuple[BoardState, str]:
        """The board of an example photo by the table's checkpoints, and the photo's file."""
        index = checked_index(sent_value(event, "index"), "the example's place", len(self.photos))
        return self.board(name, index), str(self.photos[index])

    def board(self, name: str, index: int) -> BoardState:
        """The board of an example photo by a table's checkpoints; it is made once.

        Raises:
            OptionError: there is no such table.
        """
        one = self._table(name)
        key = (name, index)
        with self._lock:
            if key not in self._boards:
                encoders = [self.find(checkpoint) for checkpoint in one.checkpoints]
                self._boards[key] = BoardState(evidence_board(self.photos[index], encoders))
            self._boards.move_to_end(key)
            if len(self._boards) > MOST_BOARDS:
                self._boards.popitem(last=False)
            return self._boards[key]

    def _table(self, name: str) -> MeasuredTable:
        if name not in self.tables:
            raise OptionError(f"the evidence has no table {name!r}; load the page again")
        return self.tables[name]

    @staticmethod
    def _plot(one: MeasuredTable, column: str) -> Image.Image:
        return draw_intervals(one.table, column)

    # --- the page -------------------------------------------------------------------------------------------------

    def build(self, tab: gr.Tab) -> None:
        """Create the components and join their events.

        Args:
            tab: in which the page stands; what is chosen is drawn when it is opened.
        """
        first = next(iter(self.tables.values()))
        columns = [(column.title, column.name) for column in first.columns]
        titles = [(one.title, one.name) for one in self.tables.values()]
        with gr.Row():
            self.table = gr.Dropdown(titles, value=first.name, label="Measured on", elem_id="evidence-table")
            self.column = gr.Dropdown(columns, value=columns[0][1], label="Figure", elem_id="evidence-figure")
        self.plot = Photo(  # drawn when the page is opened: the first plot takes a moment, in which the app starts
            label="The figure of every map with its 95 % interval",
            show_label=False,
            interactive=False,
            buttons=[],
            elem_id="evidence-plot",
        )
        with gr.Accordion("All figures", open=False):
            self.text = gr.Markdown(first.table.markdown(), elem_id="evidence-text")
        gr.Markdown("### Open an example as a board")
        self.examples = gr.Gallery(
            value=[(str(photo), photo.stem) for photo in self.photos],
            label="Examples",
            show_label=False,
            columns=6,
            height="auto",
            buttons=[],
            allow_preview=False,
            interactive=False,
            object_fit="cover",
            elem_id="evidence-examples",
        )
        style_controls("evidence", shown=False)
        self.view = BoardView(kind="evidence", elem_id="evidence")
        self.photo = gr.State()
        common: dict[str, Any] = {"api_visibility": "private"}
        self.table.input(self.show, self.table, [self.column, self.text, self.plot], **common)
        for opened in (tab.select, self.column.input):
            opened(self.draw, [self.table, self.column], self.plot, **common)
        self.examples.select(
            self.open_example,
            self.table,
            [self.view, self.photo],
            show_progress="minimal",
            show_progress_on=self.examples,
            concurrency_id="look",
            **common,
        )
