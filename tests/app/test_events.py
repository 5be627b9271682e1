"""The events of the page: every failure is a sentence, a bug leaves its trace in the log, forged values are refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from simpool_viz import errors
from simpool_viz.app.board.component import BoardState
from simpool_viz.app.compare import ComparePage
from simpool_viz.app.events import OUR_FAULT, event_handler
from simpool_viz.app.inspect import InspectPage, Visit
from simpool_viz.app.launch import build
from simpool_viz.app.own_checkpoint import OwnCheckpoints
from simpool_viz.app.pages import _opener
from simpool_viz.app.store import EncoderStore
from simpool_viz.app.tour import TourPage
from simpool_viz.board.ready_made import available
from simpool_viz.board.tour import stops
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import KINDS, plant_bug, small_resnet


def raising(error: BaseException, kind: str) -> Callable[[], Any]:
    """What an event calls and awaits: a function, a generator or a coroutine that ends in an error."""

    @event_handler
    def plain() -> None:
        raise error

    @event_handler
    def steps() -> Iterator[int]:
        yield 1
        raise error

    @event_handler
    async def awaited() -> None:
        raise error

    return {
        "function": plain,
        "generator": lambda: list(steps()),
        "coroutine": lambda: asyncio.run(awaited()),
    }[kind]


@pytest.mark.parametrize("kind", ["function", "generator", "coroutine"])
@pytest.mark.parametrize("error", KINDS, ids=lambda error: error.__name__)
def test_every_kind_of_error_reaches_the_visitor_as_its_sentence(
    error: type[errors.SimpoolError], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(gr.Error) as told:
        raising(error("that is <no> such thing"), kind)()
    assert told.value.message == "that is &lt;no&gt; such thing." and not told.value.print_exception
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("kind", ["function", "generator", "coroutine"])
@pytest.mark.parametrize("bug", [ZeroDivisionError("secret"), ValueError("secret"), KeyError("secret")])
def test_a_bug_leaves_its_trace_in_the_log_and_the_visitor_reads_that_it_is_ours(
    bug: Exception, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(gr.Error) as told:
        raising(bug, kind)()
    assert told.value.message.startswith("This is a fault of ours") and "Nothing is lost" in told.value.message
    assert "secret" not in told.value.message and not told.value.print_exception
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.name == "simpool_viz.app.events" and record.exc_info and record.exc_info[1] is bug
    assert "in raising" not in told.value.message and "line " in caplog.text and "secret" in caplog.text


def test_folders_of_the_machine_are_told_to_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    for error in (PermissionError(13, "Permission denied", "/home/us/file"), FileNotFoundError(2, "No", "/home/us/f")):
        with pytest.raises(gr.Error) as told:
            raising(error, "function")()
        assert "/home" not in told.value.message and told.value.message.endswith(".")
    assert caplog.text.count("/home/us") == 2


def test_a_cancelled_run_and_an_interrupt_are_no_failures() -> None:
    for error in (KeyboardInterrupt(), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            raising(error, "function")()


@pytest.fixture(scope="module")
def compare() -> ComparePage:
    return ComparePage(EncoderStore("cpu"))


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {"simpool": small_resnet()}


def test_a_bug_planted_in_a_map_ends_the_wait_and_the_page_goes_on(
    compare: ComparePage, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run() -> list[BoardState]:
        return list(compare.run(str(photos["wide"]), ["resnet_simpool?size=64"], ["pooling"]))

    with monkeypatch.context() as planted:
        plant_bug(planted, "pooling")
        states: list[BoardState] = []
        with pytest.raises(gr.Error, match="a fault of ours"):
            states.extend(compare.run(str(photos["wide"]), ["resnet_simpool?size=64"], ["pooling"]))
        steps = compare.run(str(photos["wide"]), ["resnet_simpool?size=64"], ["pooling"])
        states = [next(steps), next(steps)]
    assert states[0].waiting.startswith("Recording with") and states[1].waiting == ""
    assert states[1].board.pictures, "what was shown stays"
    assert "ZeroDivisionError" in caplog.text and "Traceback" in caplog.text
    assert len(run()[-1].board.rows) == 1 and run()[-1].waiting == ""


def test_a_wrong_photo_ends_the_wait_of_a_second_one_too(
    compare: ComparePage, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/tmp/x")

    monkeypatch.setattr("simpool_viz.app.zero.iterate_board", full)
    states = []
    with pytest.raises(gr.Error, match=r"^'No space left on device\.'$"):
        for state in compare.run(str(photos["wide"]), ["resnet_simpool?size=64"], ["pooling"]):
            states.append(state)
    assert [bool(state.waiting) for state in states] == [True, False]


FORGED: list[Any] = [
    None,
    {},
    "x index picture",
    [1, 2],
    {"x": "12", "y": 3, "index": "1", "picture": "0"},
    {"x": float("nan"), "y": 1.0, "index": float("inf"), "picture": float("nan")},
    {"x": True, "y": True, "index": True, "picture": True},
    {"x": [1], "y": {}, "index": [0], "picture": [0]},
    {"x": -1e300, "y": 1.0, "index": 1.5, "picture": -7},
    {"x": 1.0, "y": 1e9, "index": 10**9, "picture": 10**9, "checkpoint": "simpool", "map": "pooling"},
]


@pytest.mark.parametrize("forged", FORGED, ids=str)
def test_forged_events_are_refused_in_a_sentence_and_the_page_goes_on(
    page: InspectPage, photos: dict[str, Path], forged: Any, caplog: pytest.LogCaptureFixture
) -> None:
    visit = Visit()
    page.record(str(photos["wide"]), "simpool", 0, "class", OwnCheckpoints(), visit)
    opener = _opener([("simpool", "simpool")], str)
    calls: list[Callable[[], Any]] = [
        lambda: page.point(gr.EventData(None, forged), visit),
        lambda: page.choose_class(gr.EventData(None, forged), visit),
        lambda: opener(gr.EventData(None, forged), str(photos["wide"]), None, OwnCheckpoints()),
    ]
    for call in calls:
        with pytest.raises(gr.Error) as told:
            call()
        assert "fault of ours" not in told.value.message
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    shown, *_ = page.ask("class", 0, "mean", 0, 0, 0.5, 0.0, 0, -1, visit)
    assert shown.answer.rows, "a refused value has not spoilt what the visit looks at"


@pytest.mark.parametrize(
    "values",
    [
        ("beauty", 0, "mean", 0, 0, 0.5, 0.0, 0, -1),
        (["class"], 0, "mean", 0, 0, 0.5, 0.0, 0, -1),
        ("class", "last", "mean", 0, 0, 0.5, 0.0, 0, -1),
        ("class", None, "mean", 0, 0, 0.5, 0.0, 0, -1),
        ("class", 0, "one head", "x", 0, 0.5, 0.0, 0, -1),
        ("class", 0, "mean", 0, 0.5, 0.5, 0.0, 0, -1),
        ("class", 0, "mean", 0, 0, float("nan"), 0.0, 0, -1),
        ("class", 0, "mean", 0, 0, "half", 0.0, 0, -1),
        ("class", 0, "mean", 0, 0, 0.5, 0.0, 999, -1),
        ("class", 0, "mean", 0, 0, 0.5, 0.0, -3, -1),
        ("class", 0, "mean", 0, 0, 0.5, 0.0, "square; drop", -1),
        ("class", 0, "mean", 0, 0, 0.5, 0.0, 0, [1]),
        ("class", 0, "mean", 0, 0, 0.5, float("nan"), 0, -1),
        ("class", 0, "mean", 0, 0, 0.5, "some", 0, -1),
    ],
    ids=str,
)
def test_forged_controls_are_refused_in_a_sentence(
    page: InspectPage, photos: dict[str, Path], values: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    visit = Visit()
    page.record(str(photos["wide"]), "simpool", 0, "class", OwnCheckpoints(), visit)
    with pytest.raises(gr.Error) as told:
        page.ask(*values, visit)
    assert "fault of ours" not in told.value.message
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_row_of_a_checkpoint_that_is_not_here_is_refused(photos: dict[str, Path]) -> None:
    event = gr.EventData(None, {"picture": 0, "checkpoint": "/etc/passwd", "map": "pooling"})
    with pytest.raises(gr.Error, match="no longer here"):
        _opener([("simpool", "simpool")], str)(event, str(photos["wide"]), None, OwnCheckpoints())


def test_a_stop_that_the_tour_does_not_have_is_refused() -> None:
    tour = TourPage(stops(available())[:1], lambda name: small_resnet())
    for call in (tour.show, tour.to_next, tour.to_previous, tour.take_along):
        with pytest.raises(gr.Error, match="the tour has no stop 'nowhere'"):
            call("nowhere")


def test_an_example_that_is_not_there_is_refused(compare: ComparePage) -> None:
    for index in (-1, 99, "0", None):
        with pytest.raises(gr.Error, match="load it again"):
            compare._choose_example(gr.SelectData(None, {"index": index, "value": None}))


@pytest.mark.parametrize("address", [None, "", "ftp://x", "file:///etc/passwd"])
def test_an_address_that_is_none_is_refused(compare: ComparePage, address: str | None) -> None:
    with pytest.raises(gr.Error, match="An address of a picture starts with"):
        asyncio.run(compare.fetch(address))


def test_every_event_of_the_page_and_what_draws_its_boards_is_guarded() -> None:
    blocks = build("cpu")
    bare = [f.name for f in blocks.fns.values() if f.fn is not None and not hasattr(f.fn, "__wrapped__")]
    assert not bare and sum(f.fn is not None for f in blocks.fns.values()) > 10
    boards = [block for block in blocks.blocks.values() if type(block).__name__ in ("BoardView", "InspectView")]
    assert len(boards) == 4 and all(hasattr(type(board).postprocess, "__wrapped__") for board in boards)


def test_our_fault_names_where_to_report() -> None:
    assert OUR_FAULT.format(errors.where_to_report()).endswith(f"at {errors.where_to_report()}.")


def test_cancel_stops_every_run_from_wherever_it_was_started() -> None:
    blocks = build("cpu")
    runs = {i for i, event in blocks.fns.items() if event.name in ("run", "run_ready")}
    cancelled = {i for event in blocks.fns.values() for i in event.cancels}
    assert len(runs) == 6 and runs <= cancelled  # Run, a photo, an example, an address, a ready-made one, the tour
