"""The Inspect page: one checkpoint on one photo. Recordings are kept for the visit that made them, and for it alone."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar, cast

import gradio as gr

from simpool_viz.app.board.component import Photo
from simpool_viz.app.board.inspected import InspectState, InspectView, KeptRecording
from simpool_viz.app.events import checked_index, checked_number, event_handler, refusal, sent_value
from simpool_viz.app.own_checkpoint import VISIT, OwnCheckpoints
from simpool_viz.app.reference import photo_key
from simpool_viz.app.style_controls import style_controls
from simpool_viz.app.visits import upload_folder
from simpool_viz.board.board import Board, Settings
from simpool_viz.board.every_head import every_head, why_no_blocks
from simpool_viz.board.inspection import QUESTIONS, ClassFound, Lens, facts_of, recording_bytes
from simpool_viz.board.side_by_side import ask_each
from simpool_viz.drawing.film import check_film, write_film
from simpool_viz.drawing.layer_film import RATE, layer_frames
from simpool_viz.errors import OptionError
from simpool_viz.export import plain_name
from simpool_viz.images import read_picture
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.recording import Recording, record

KEPT = 3  # recordings of one visit,
BYTES = 256 * 2**20  # and what they may hold together; the newest stays in any case
MOST_OTHERS = 3  # checkpoints that are asked beside the first
LISTED = 2000  # classes that a list offers; of more, any is found by its name
Key = tuple[str, str, int]
ONE_HEAD = "one head"
ALONE = ("no other class", -1)
NOT_RECORDED = "Press Run first; recordings are kept for an hour."
Handler = TypeVar("Handler", bound=Callable[..., Any])


class Overtaken(Exception):
    """The visitor has asked for something else since, whose answer must not be replaced by this one."""


def dropped_if_overtaken(handler: Handler) -> Handler:
    """Decorator of an event's function: nothing on the page changes where it raises `Overtaken`.

    Events of one visitor run beside each other, and may end in another order than they began.
    """

    @wraps(handler)
    def handle(*given: Any, **named: Any) -> Any:
        try:
            return handler(*given, **named)
        except Overtaken:
            return gr.skip()

    return cast(Handler, handle)


class Visit:
    """The recordings of one visit and the options of its last answer.

    Attributes:
        kept: recordings by photo, checkpoint and size, the newest last.
        lens: of the last answer.
        facts_sent: key of the recording whose facts the browser was sent last.
        others: recordings of the same photo by checkpoints that are asked the same, by photo, checkpoint and size.
        question: of the last answer.
        blocks_wanted: whether the maps of every block and head are shown.
        recording: held by an event while it records, so that recordings are made in the order they are asked for.
        asked: number of recordings that were asked for.
        questions: number of questions that were asked.
    """

    def __init__(self) -> None:
        self.kept: OrderedDict[Key, KeptRecording] = OrderedDict()
        self.lens = Lens()
        self.facts_sent = ""
        self.others: dict[Key, KeptRecording] = {}
        self.question = ""
        self.blocks_wanted = False
        self.recording = RLock()
        self.asked = 0
        self.questions = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Visit:
        return Visit()  # each visit begins with nothing

    @property
    def now(self) -> KeptRecording | None:
        """The recording that is shown at the moment, None before the first."""
        return next(reversed(self.kept.values()), None)

    def record(self, photo: str, encoder: Encoder, size: int) -> KeptRecording:
        """The recording of a photo, made unless it is kept.

        Args:
            photo: a file.
            encoder: the checkpoint.
            size: shorter side in pixels; 0: the checkpoint's own.

        Raises:
            SimpoolError: as in `record`.
        """
        [(key, kept)] = self.prepare(photo, encoder, size).items()
        self.kept.pop(key, None)
        self.kept[key] = kept
        self._drop()
        return kept

    def prepare(self, photo: str, encoder: Encoder, size: int) -> dict[Key, KeptRecording]:
        """A recording by its key, not yet kept; arguments and errors as in `record`."""
        key = (photo, encoder.facts.name, size)
        return {key: self._made(key, encoder)}

    def record_others(self, encoders: Sequence[Encoder]) -> None:
        """Record the photo that is shown with further checkpoints, which are asked the same from now on.

        Args:
            encoders: the checkpoints, without the one that is shown.

        Raises:
            SimpoolError: as in `record`.
        """
        if not self.kept:
            return
        photo, shown, size = next(reversed(self.kept))
        wanted = {(photo, one.facts.name, size): one for one in encoders if one.facts.name != shown}
        self.others = {key: self._made(key, encoder) for key, encoder in wanted.items()}
        self._drop()

    def _made(self, key: Key, encoder: Encoder) -> KeptRecording:
        kept = self.kept.get(key) or self.others.get(key)
        if kept is None or kept.recording.encoder is not encoder:
            recording = record(encoder, read_picture(key[0]), key[2] or None)
            kept = KeptRecording(recording, facts_of(recording), photo=photo_key(key[0]))
        return kept

    def _drop(self) -> None:
        while len(self.kept) > KEPT or (len(self.kept) > 1 and self._bytes() > BYTES):
            self.kept.popitem(last=False)

    def _bytes(self) -> int:
        return sum(recording_bytes(kept.recording) for kept in (self.kept | self.others).values())

    def clear(self) -> None:
        """Forget all recordings, as when the visit ends."""
        self.kept.clear()
        self.others = {}


def class_choices(recording: Recording, found: Sequence[ClassFound]) -> list[tuple[str, int]]:
    """Classes as a list offers them: those found first, then all others by name, unless there are too many.

    Args:
        recording: that is inspected.
        found: its most probable classes, and those that most of its tokens have.
    """
    first = [(one.summary, one.index) for one in found]
    names = recording.encoder.facts.classes
    here = {index for _, index in first}
    others = sorted((name, index) for index, name in enumerate(names) if index not in here)
    return first + (others if first and len(names) <= LISTED else [])


def checked_class(value: Any, what: str) -> int | str:
    """A class as a list or a visitor gives it: its index, or its name as it was typed."""
    return value.strip() if isinstance(value, str) else checked_index(value, what)


class InspectPage:
    """Builds the page's controls inside a `gr.Blocks` and answers its events.

    Args:
        choices: (title, name) of the checkpoints.
        find: an encoder by name, the visitor's own among them.
        sizes: (title, pixels of the shorter side).
        example: the photo shown at first.
        first: name of the checkpoint chosen at first; the list's first by default.
    """

    def __init__(
        self,
        choices: list[tuple[str, str]],
        find: Callable[[str, OwnCheckpoints | None], Encoder],
        sizes: list[tuple[str, int]],
        example: str | None,
        first: str | None = None,
    ) -> None:
        self.choices, self.find, self.sizes, self.example = choices, find, sizes, example
        self.first = first or (choices[0][1] if choices else None)
        self.panels: list[gr.Accordion] = []

    # --- events ---------------------------------------------------------------------------------------------------

    @event_handler
    @dropped_if_overtaken
    def record(
        self,
        photo: str | None,
        checkpoint: str | None,
        size: int,
        question: str,
        own: OwnCheckpoints,
        visit: Visit,
        others: list[str] | None = None,
    ) -> list[Any]:
        """Record the photo and answer the question; the controls follow what the checkpoint has."""
        for value, sentence in ((photo, "Choose a photo first."), (checkpoint, "Choose a checkpoint first.")):
            if not value:
                raise refusal(sentence)
        visit.asked += 1
        mine = visit.asked
        encoder, beside = self.find(str(checkpoint), own), [self.find(name, own) for name in others or []]
        with visit.recording:
            if visit.asked > mine:
                raise Overtaken
            kept = visit.record(str(photo), encoder, size)
            answers = kept.facts.answers
            question = question if question in answers else (answers or [""])[0]
            lens = Lens(block=max(0, len(kept.recording.blocks) - 1))
            visit.record_others(beside)
            visit.questions += 1  # answers about what was shown before come too late
            answer = self._answer(kept, visit, question, lens)
            visit.lens, visit.question, visit.facts_sent = lens, question, kept.key
        if visit.asked > mine:
            raise Overtaken
        return [answer, visit, *self._follow(kept, question)]

    @event_handler
    def begin(
        self,
        photo: str | None,
        checkpoint: str | None,
        size: int,
        question: str,
        own: OwnCheckpoints,
        visit: Visit,
        others: list[str] | None = None,
    ) -> list[Any] | dict[str, Any]:
        """As `record`, where the page is opened for the first time; what the visitor asks for has precedence."""
        if not visit.asked and photo and checkpoint:
            made = visit.prepare(photo, self.find(checkpoint, own), size)
            if not visit.asked:  # meanwhile
                visit.kept |= made
                return self.record(photo, checkpoint, size, question or "pooling", own, visit, others)
        return gr.skip()

    def _follow(self, kept: KeptRecording, question: str) -> list[Any]:
        """Updates of the controls: question, block, fusion, head, first, residual, discard, target, also."""
        recording, found = kept.recording, kept.facts.classes
        depth, weights = len(recording.blocks), recording.pooled.weights
        heads = max(recording.blocks[0].query.shape[0] if depth else 1, 1 if weights is None else weights.shape[1])
        classes = class_choices(recording, found)
        return [
            gr.update(choices=[(QUESTIONS[name].title, name) for name in kept.facts.answers], value=question),
            gr.update(maximum=max(depth - 1, 1), value=max(depth - 1, 0), visible=depth > 1),
            gr.update(value="mean", visible=heads > 1),
            gr.update(maximum=max(heads - 1, 1), value=0, visible=False),
            gr.update(maximum=max(depth - 1, 1), value=0, visible=depth > 1),
            gr.update(value=0.5, visible=depth > 0),
            gr.update(value=0, visible=depth > 0),
            gr.update(choices=classes, value=found[0].index if found else None, visible=bool(found)),
            gr.update(
                choices=[ALONE, *classes],
                value=ALONE[1],
                visible=bool(found) and "class" in kept.facts.answers and depth > 0,
            ),
        ]

    @event_handler
    @dropped_if_overtaken
    def ask(
        self,
        question: str,
        block: int,
        fusion: str,
        head: int,
        first: int,
        residual: float,
        discard: float,
        target: int | str | None,
        also: int | str,
        visit: Visit,
    ) -> tuple[Any, Any]:
        """The answer by the controls, and the slider of heads where one is shown alone."""
        heads: str | int = checked_index(head, "the head") if fusion == ONE_HEAD else str(fusion)
        chosen = None if target in (None, "") else checked_class(target, "the class")
        other = None if also in (ALONE[1], target, "") else checked_class(also, "the other class")
        lens = replace(visit.lens, block=checked_index(block, "the block"), fusion=heads, target=chosen, also=other)
        begin, weight = checked_index(first, "the first block"), checked_number(residual, "the weight")
        lens = replace(lens, first=begin, residual=weight, discard=checked_number(discard, "the share"))
        return self._reply(visit, question, lens), gr.update(visible=fusion == ONE_HEAD)

    @event_handler
    @dropped_if_overtaken
    def point(self, event: gr.EventData, visit: Visit) -> tuple[Any, Any]:
        """What the token at (x, y), in pixels of the photo, attends to."""
        at = checked_number(sent_value(event, "x"), "x"), checked_number(sent_value(event, "y"), "y")
        return self._reply(visit, "token", replace(visit.lens, at=at)), gr.update(value="token")

    @event_handler
    @dropped_if_overtaken
    def choose_class(self, event: gr.EventData, visit: Visit) -> tuple[Any, Any, Any, Any]:
        """The maps of a class that was clicked in the segmentation."""
        index = checked_index(sent_value(event, "index"), "the class")
        return (
            self._reply(visit, "class", replace(visit.lens, target=index, also=None)),
            gr.update(value="class"),
            gr.update(value=index),
            gr.update(value=ALONE[1]),
        )

    @event_handler
    @dropped_if_overtaken
    def choose_others(self, others: list[str] | None, own: OwnCheckpoints, visit: Visit) -> InspectState | Any:
        """The same question to other checkpoints too, beside the first."""
        if len(others or []) > MOST_OTHERS:
            raise OptionError(f"at most {MOST_OTHERS} checkpoints are asked beside the first; take one away")
        beside = [self.find(str(name), own) for name in others or []]
        with visit.recording:
            visit.record_others(beside)
        return self._reply(visit, visit.question, visit.lens) if visit.kept else gr.skip()

    @event_handler
    @dropped_if_overtaken
    def show_blocks(self, event: gr.EventData, visit: Visit) -> InspectState:
        """The same answer, with or without the maps of every block and head."""
        visit.blocks_wanted = sent_value(event, "wanted") is True
        return self._reply(visit, visit.question, visit.lens)

    @event_handler
    @dropped_if_overtaken
    def open_cell(self, event: gr.EventData, visit: Visit) -> tuple[Any, Any, Any, Any]:
        """The map of one head of one block that was clicked, large: updates of view, block, fusion and head."""
        block = checked_index(sent_value(event, "block"), "the block")
        head = checked_index(sent_value(event, "head"), "the head")
        answer = self._reply(visit, visit.question, replace(visit.lens, block=block, fusion=head))
        return answer, gr.update(value=block), gr.update(value=ONE_HEAD), gr.update(value=head, visible=True)

    @event_handler
    def film(self, event: gr.EventData, visit: Visit) -> str:
        """The maps of all blocks as a film; returns its file."""
        kept, suffix = visit.now, f".{sent_value(event, 'format')}"
        if kept is None:
            raise refusal(NOT_RECORDED)
        maps = every_head(kept.recording, visit.question, visit.lens)
        name = f"{kept.recording.encoder.facts.name}.{visit.question}.blocks{suffix}"
        check_film(Path(name))
        path = Path(tempfile.mkdtemp(dir=upload_folder())) / plain_name(name)
        width, height = kept.recording.geometry.original
        at = (visit.lens.at or (width / 2, height / 2)) if visit.question == "token" else None
        write_film(path, layer_frames(kept.recording.picture, maps, visit.lens.fusion, at=at), RATE)
        return str(path)

    def _reply(self, visit: Visit, question: str, lens: Lens) -> InspectState:
        """The answer to a question about what is shown; its lens becomes the visit's, unless the answer fails.

        Raises:
            Overtaken: another question was asked since, or another recording is shown.
        """
        kept = visit.now
        if kept is None:
            raise refusal(NOT_RECORDED)
        visit.questions += 1
        mine = visit.questions
        answer = replace(self._answer(kept, visit, question, lens), facts_wanted=kept.key != visit.facts_sent)
        if visit.questions > mine:
            raise Overtaken
        visit.lens, visit.question, visit.facts_sent = lens, answer.question, kept.key
        return answer

    def _answer(self, kept: KeptRecording, visit: Visit, question: str, lens: Lens) -> InspectState:
        """The answer to a question about a recording, with its facts."""
        settings, question = Settings(), str(question)
        recordings = [kept.recording, *(other.recording for other in visit.others.values())]
        answers = ask_each(recordings, question, lens, settings) if question else None
        has_blocks = visit.blocks_wanted and not why_no_blocks(kept.recording, question)
        blocks = every_head(kept.recording, question, lens) if has_blocks else None
        rows, notes = ([*answers.first.rows, *answers.others], answers.notes) if answers else ([], [])
        board = Board([kept.recording.picture], rows, {}, notes, settings)
        return InspectState(board, kept, answers.first if answers else None, lens, question=question, blocks=blocks)

    # --- the page -------------------------------------------------------------------------------------------------

    def build(self, own: gr.State) -> InspectPage:
        """Create the components and connect their events.

        Args:
            own: state that holds the visitor's own checkpoints, an `OwnCheckpoints`.

        Returns:
            The page itself.
        """
        self.visit = gr.State(Visit(), time_to_live=VISIT, delete_callback=Visit.clear)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                with gr.Accordion("Photo and checkpoint", elem_id="inspect-settings") as settings:
                    sources: Any = ["upload", "webcam", "clipboard"]
                    self.photo = Photo(
                        value=self.example,
                        type="filepath",
                        sources=sources,
                        label="Photo",
                        height=200,
                        elem_id="inspect-photo",
                    )
                    self.checkpoint = gr.Dropdown(self.choices, value=self.first, label="Checkpoint")
                    self.size = gr.Dropdown(self.sizes, value=0, label="Size")
                    self.others = gr.Dropdown(
                        self.choices,
                        value=[],
                        multiselect=True,
                        max_choices=MOST_OTHERS,
                        label="Ask these checkpoints the same",
                        info=f"Up to {MOST_OTHERS}, whose maps stand beside the first.",
                        elem_id="others",
                    )
                    run = gr.Button("Run", variant="primary", elem_id="look")
                lens = self._lens_controls()
            with gr.Column(scale=3):
                self.panels = [settings, self.asking, style_controls("inspected").panel]
                self.view = InspectView(elem_id="inspected")
        self.question = lens[0]
        self.recording_event: dict[str, Any] = {
            "fn": self.record,
            "inputs": [self.photo, self.checkpoint, self.size, self.question, own, self.visit, self.others],
            "outputs": [self.view, self.visit, *lens],
            "concurrency_id": "look",
            "show_progress": "minimal",
            "show_progress_on": self.checkpoint,  # the board stays readable until the new one is there
            "api_visibility": "private",
        }
        run.click(**self.recording_event)
        self._connect(lens, own)
        return self

    def _lens_controls(self) -> list[Any]:
        """The controls that `_follow` updates, in its order."""
        with gr.Accordion("Question, block, heads, class", elem_id="lens") as self.asking:
            question = gr.Radio(
                [(q.title, q.name) for q in QUESTIONS.values()], label="Question", show_label=False, elem_id="question"
            )
            block = gr.Slider(0, 11, 11, step=1, label="Block", visible=False, elem_id="block")
            fusion = gr.Radio(
                ["mean", "max", "min", ONE_HEAD], value="mean", label="Heads as one", visible=False, elem_id="fusion"
            )
            head = gr.Slider(0, 11, 0, step=1, label="Head", visible=False, elem_id="head")
            first = gr.Slider(0, 11, 0, step=1, label="Roll-out: first block", visible=False, elem_id="first")
            residual = gr.Slider(
                0, 1, 0.5, step=0.05, label="Roll-out: weight of the skip connection", visible=False, elem_id="residual"
            )
            discard = gr.Slider(
                0, 0.99, 0, step=0.01, label="Roll-out: share of low weights dropped", visible=False, elem_id="discard"
            )
            target = gr.Dropdown(
                [],
                label="Class",
                info="The most probable ones come first; type to find any other.",
                allow_custom_value=True,
                visible=False,
                elem_id="target",
            )
            also = gr.Dropdown(
                [],
                label="Roll-out of the class together with",
                allow_custom_value=True,
                visible=False,
                elem_id="also",
            )
        return [question, block, fusion, head, first, residual, discard, target, also]

    def _connect(self, lens: list[Any], own: gr.State) -> None:
        shared: dict[str, Any] = {
            "queue": True,
            "show_progress": "hidden",
            "concurrency_id": "ask",
            "concurrency_limit": 2,
        }
        shared |= {"trigger_mode": "always_last", "api_visibility": "private"}
        head = lens[3]
        for control in lens:
            control.input(self.ask, [*lens, self.visit], [self.view, head], **shared)
        self.view.point(self.point, [self.visit], [self.view, self.question], **shared)
        self.view.choose(self.choose_class, [self.visit], [self.view, self.question, *lens[-2:]], **shared)
        self.view.blocks(self.show_blocks, [self.visit], [self.view], **shared)
        self.view.cell(self.open_cell, [self.visit], [self.view, *lens[1:4]], **shared)
        made = gr.File(visible="hidden", elem_id="blocks-film")
        self.view.film(self.film, [self.visit], [made], **shared)
        save = "(file) => { if (!file) return; const link = document.createElement('a'); "
        save += "Object.assign(link, { href: file.url, download: file.orig_name }); link.click(); }"
        made.change(None, [made], None, js=save, queue=False, api_visibility="private")
        shared |= {"concurrency_id": "look", "show_progress": "minimal", "show_progress_on": self.others}
        del shared["concurrency_limit"]
        self.others.input(self.choose_others, [self.others, own, self.visit], [self.view], **shared)
