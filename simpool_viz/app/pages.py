"""The pages as tabs, and the event that opens a row of Compare in Inspect."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gradio as gr

from simpool_viz.app.compare import ComparePage, example_photos, first_example
from simpool_viz.app.events import checked_index, event_handler, refusal, sent_value
from simpool_viz.app.evidence import EvidencePage
from simpool_viz.app.inspect import InspectPage
from simpool_viz.app.own_checkpoint import OwnCheckpoints
from simpool_viz.app.tour import TourPage
from simpool_viz.app.video import VideoPage
from simpool_viz.board.inspection import QUESTIONS
from simpool_viz.board.tour import stops
from simpool_viz.checkpoints.load import split_size
from simpool_viz.checkpoints.published import is_offered
from simpool_viz.errors import DataError
from simpool_viz.evaluation.evidence import measured_tables
from simpool_viz.maps.request import parse_map
from simpool_viz.scores.results import Results, bundled_results

logger = logging.getLogger(__name__)
Choices = list[tuple[str, str]]
SIZES = [("the checkpoint's own", 0)] + [(f"{s} px", s) for s in (96, 128, 160, 224, 320, 448, 672, 896, 1344, 1792)]


def build_pages(compare: ComparePage) -> list[gr.Accordion]:
    """Create the pages inside a `gr.Blocks`.

    Args:
        compare: the first page.

    Returns:
        The panels of settings, which a narrow screen shows closed.
    """
    choices = [(title, name) for name, title in compare.checkpoints.items()]
    first = [name for name in ("vit_simpool",) if name in compare.checkpoints] or [name for _, name in choices[:1]]
    inspect_page = InspectPage(choices, compare.find, SIZES, first_example(), *first)
    video_page = VideoPage(choices, first, compare.maps, compare.find)
    measured = _measured(compare)
    here = stops(compare.checkpoints) if measured else []
    tour_page = TourPage(here, compare.find) if here else None
    tables = measured_tables(measured, compare.checkpoints) if measured else []
    evidence_page = EvidencePage(tables, example_photos(), compare.find) if tables else None
    with gr.Tabs() as tabs:
        with gr.Tab("Compare", id="compare"):
            compare.build()
        photo, checkpoints, maps, own, photos, _ = compare.inputs
        with gr.Tab("Inspect", id="inspect") as tab:
            inspect_page.build(own)
        with gr.Tab("Video", id="video") as video_tab:
            video_page.build(own)
        if tour_page:
            with gr.Tab("Tour", id="tour") as tour_tab:
                tour_page.build()
            tour_page.connect(tour_tab, tabs, [checkpoints, maps], compare.run_on)
        if evidence_page:
            with gr.Tab("Evidence", id="evidence") as evidence_tab:
                evidence_page.build(evidence_tab)
    into = [tabs, inspect_page.photo, inspect_page.checkpoint, inspect_page.size, inspect_page.question]
    open_row = _opener(choices, compare.title)
    opened = [compare.view.inspect(open_row, [photo, photos, own], into, api_visibility="private")]
    if tour_page:

        @event_handler
        def open_row_of_stop(event: gr.EventData, stop: str, own: OwnCheckpoints) -> list[Any]:
            return open_row(event, tour_page.photo(stop), None, own)

        opened.append(tour_page.view.inspect(open_row_of_stop, [tour_page.stop, own], into, api_visibility="private"))
    if evidence_page:

        @event_handler
        def open_row_of_example(event: gr.EventData, photo: str | None, own: OwnCheckpoints) -> list[Any]:
            return open_row(event, photo, None, own)

        view = evidence_page.view
        opened.append(view.inspect(open_row_of_example, [evidence_page.photo, own], into, api_visibility="private"))
    for event in opened:
        event.success(**inspect_page.recording_event)

    @event_handler
    def offer_own(own: OwnCheckpoints) -> tuple[Any, Any]:
        offered = _with_own(choices, own)
        return gr.update(choices=offered), gr.update(choices=offered)

    @event_handler
    def offer_one(own: OwnCheckpoints) -> Any:
        return gr.update(choices=_with_own(choices, own))

    offered = tab.select(offer_own, own, [inspect_page.checkpoint, inspect_page.others], api_visibility="private")
    offered.success(**inspect_page.recording_event | {"fn": inspect_page.begin})
    video_tab.select(offer_one, own, video_page.checkpoints, api_visibility="private")
    return [*compare.panels, *inspect_page.panels]


def _measured(compare: ComparePage) -> Results | None:
    """The results of the bundled checkpoints; where their file is damaged, pages that quote them are left out."""
    try:
        return bundled_results()
    except DataError as error:
        logger.warning("Tour and Evidence are left out: %s", error)
        compare.left_out["Tour and Evidence"] = "the file of measured results is missing or damaged"
        return None


def _with_own(choices: Choices, own: OwnCheckpoints) -> Choices:
    return [*choices, *((encoder.facts.title, name) for name, encoder in own.encoders.items())]


def _opener(choices: Choices, title: Callable[[str], str]) -> Callable[..., list[Any]]:
    """The event that opens a row in Inspect: its photo, checkpoint, size, and the question that its map answers.

    Args:
        choices: (title, name) of the bundled checkpoints.
        title: of another one, by its name.
    """

    @event_handler
    def open_row(event: gr.EventData, photo: str | None, photos: list[str] | None, own: OwnCheckpoints) -> list[Any]:
        here, index = [photo, *(photos or [])], checked_index(sent_value(event, "picture"), "the photo's place")
        if not 0 <= index < len(here) or here[index] is None:
            raise refusal("The photo of this row is no longer chosen; choose it again and press Run.")
        wanted, size = split_size(str(sent_value(event, "checkpoint")))
        offered = _with_own(choices, own)
        if wanted not in [key for _, key in offered]:
            if not is_offered(wanted):
                raise refusal("The checkpoint of this row is no longer here; choose another and press Run.")
            offered = [*offered, (title(wanted), wanted)]
        name = parse_map(str(sent_value(event, "map"))).name
        question = next((q.name for q in QUESTIONS.values() if name in q.maps), "pooling")
        sizes = SIZES if size is None else sorted({*SIZES, (f"{size} px", size)}, key=lambda one: one[1])
        chosen = gr.update(choices=offered, value=wanted), gr.update(choices=sizes, value=size or 0)
        return [gr.Tabs(selected="inspect"), here[index], *chosen, question]

    return open_row
