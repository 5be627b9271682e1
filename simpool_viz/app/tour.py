"""The Tour page: the stops of the guided tour one after another, each a text and a board."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from simpool_viz.app.board.component import BoardState, BoardView
from simpool_viz.app.events import event_handler
from simpool_viz.app.style_controls import style_controls
from simpool_viz.board.tour import Stop, stop_board
from simpool_viz.bundled import bundled_folder
from simpool_viz.errors import OptionError
from simpool_viz.modeling.encoder import Encoder


class TourPage:
    """Builds the page inside a `gr.Blocks`.

    Its boards are the same for every visitor, so each is made once, when it is first opened.

    Args:
        stops: those whose checkpoints are here; at least one.
        find: an encoder by name.
    """

    def __init__(self, stops: Sequence[Stop], find: Callable[[str], Encoder]) -> None:
        self.stops = {stop.name: stop for stop in stops}
        self.find = find
        self._made: dict[str, BoardState] = {}
        self._lock = threading.Lock()

    # --- events ---------------------------------------------------------------------------------------------------

    @event_handler
    def show(self, name: str) -> tuple[str, BoardState]:
        """The text and the board of a stop."""
        stop = self._stop(name)
        with self._lock:
            if name not in self._made:
                encoders = [self.find(checkpoint) for checkpoint in stop.checkpoints]
                self._made[name] = BoardState(stop_board(stop, encoders))
            return stop.markdown, self._made[name]

    def step(self, name: str, by: int) -> str:
        """The name of the stop that lies `by` stops behind one, within the tour.

        Raises:
            OptionError: the tour has no stop of that name.
        """
        names, name = list(self.stops), self._stop(name).name
        return names[min(len(names) - 1, max(0, names.index(name) + by))]

    @event_handler
    def to_previous(self, name: str) -> str:
        """The stop before one; the first stays."""
        return self.step(name, -1)

    @event_handler
    def to_next(self, name: str) -> str:
        """The stop after one; the last stays."""
        return self.step(name, 1)

    def photo(self, name: str) -> str:
        """The file of a stop's photo.

        Raises:
            OptionError: the tour has no stop of that name.
        """
        return str(bundled_folder("assets") / self._stop(name).photo)

    @event_handler
    def take_along(self, name: str) -> tuple[Any, ...]:
        """Open Compare with the stop's checkpoints and maps: updates of tabs, checkpoints, maps."""
        stop = self._stop(name)
        return gr.Tabs(selected="compare"), list(stop.checkpoints), [m.partition(":")[0] for m in stop.maps]

    def _stop(self, name: str) -> Stop:
        if name not in self.stops:
            raise OptionError(f"the tour has no stop {name!r}; load the page again")
        return self.stops[name]

    # --- the page -------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Create the components; `connect` joins their events to the tab and to Compare."""
        first = next(iter(self.stops.values()))
        choices = [(f"{n}. {stop.title}", stop.name) for n, stop in enumerate(self.stops.values(), 1)]
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                self.stop = gr.Radio(choices, value=first.name, label="Stops of the tour", elem_id="stops")
                with gr.Row():
                    self.back = gr.Button("Back", elem_id="tour-back")
                    self.next = gr.Button("Next", variant="primary", elem_id="tour-next")
                self.own = gr.Button("Compare these on my own photo", elem_id="tour-own")
            with gr.Column(scale=3):
                self.text = gr.Markdown(first.markdown, elem_id="tour-text")
                style_controls("tour", shown=False)
                self.view = BoardView(elem_id="tour")

    def connect(self, tab: gr.Tab, tabs: gr.Tabs, chosen: list[Any], run_on: Callable[[Any], None]) -> None:
        """Join the events.

        Args:
            tab: of this page.
            tabs: of all pages.
            chosen: the controls of Compare for checkpoints and maps.
            run_on: runs what they choose when an event happens, as `ComparePage.run_on`.
        """
        # One event for both, which ends with the last stop that was chosen, however fast they are.
        gr.on(
            [tab.select, self.stop.change],
            self.show,
            self.stop,
            [self.text, self.view],
            trigger_mode="always_last",
            show_progress="minimal",
            show_progress_on=self.stop,
            concurrency_id="look",
            api_visibility="private",
        )
        for button, move in ((self.back, self.to_previous), (self.next, self.to_next)):
            button.click(move, self.stop, self.stop, queue=False, api_visibility="private")
        taken = self.own.click(self.take_along, self.stop, [tabs, *chosen], api_visibility="private")
        run_on(taken.success)
