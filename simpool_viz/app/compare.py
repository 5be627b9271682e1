"""The Compare page: photos, several checkpoints, several maps."""

from __future__ import annotations

import base64
import filecmp
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from time import monotonic, time
from typing import Any

import cv2
import gradio as gr
from gradio import processing_utils

from simpool_viz.app.address import LOOK, NOT_HELD, Choice, asked, read_address, script
from simpool_viz.app.board.component import BoardState, BoardView, Photo, Ran, Sent, row_payload
from simpool_viz.app.checkpoint_list import CheckpointList, bundled_groups, hub_groups
from simpool_viz.app.choice import FORGET_CHOICE, compare_choice, first_choice, open_link, remember_choice
from simpool_viz.app.class_rows import ClassRows
from simpool_viz.app.downloads import download
from simpool_viz.app.events import checked_index, event_handler, refusal, sent_value
from simpool_viz.app.first_board import WHERE, FirstBoard, board_digest, read_first_board, timeless, without_times
from simpool_viz.app.outlines import Outline, described
from simpool_viz.app.own_checkpoint import OwnCheckpoints, OwnPanel
from simpool_viz.app.reference import ReferencePanel, References, photo_key, photo_of, reference_payload
from simpool_viz.app.store import EncoderStore
from simpool_viz.app.style_controls import dispatch, style_controls
from simpool_viz.app.take_away import TakeAway
from simpool_viz.app.visits import upload_folder
from simpool_viz.app.zero import BoardMaker, ZeroGpu
from simpool_viz.board.board import Board, Settings
from simpool_viz.board.ready_made import comparisons
from simpool_viz.bundled import bundled_folder
from simpool_viz.checkpoints.load import at_size, split_size
from simpool_viz.checkpoints.published import is_offered
from simpool_viz.drawing.render import render_board
from simpool_viz.errors import OptionError, SimpoolError
from simpool_viz.images import read_picture
from simpool_viz.maps.registry import OWN, map_methods
from simpool_viz.maps.request import MapRequest, parse_map
from simpool_viz.mask_files import mask_of_runs, run_lengths
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.recording import record
from simpool_viz.refinement import LONGEST, refine
from simpool_viz.scores.faithfulness import STEPS, iterate_faithfulness
from simpool_viz.scores.references import Reference, read_reference

logger = logging.getLogger(__name__)
MOST_PHOTOS = 12  # of one run
APART = 0.8  # seconds between two states of a growing board: models and a browser may share the cores
FIRST_PHOTO = "chelsea.jpg"
FIRST_CHECKPOINTS = ("vit_gap", "vit_simpool")  # of the board that the page opens with


def example_photos() -> list[Path]:
    """The photos that travel with the package."""
    return sorted(p for p in bundled_folder("assets").glob("*.jpg"))


def first_example() -> str | None:
    """The photo that a visit begins with."""
    return next((str(p) for p in example_photos() if p.name == FIRST_PHOTO), None)


def reference_of(photo: str) -> Reference | None:
    """The reference mask of an example photo; None for another photo.

    Photos are compared by their bytes, since a visitor's file may have any name.

    Args:
        photo: a file.
    """
    example = bundled_folder("assets") / Path(photo).name
    mask = example.parent / "masks" / f"{example.stem}.png"
    same = example.is_file() and mask.is_file() and filecmp.cmp(photo, example, shallow=False)
    return read_reference(mask) if same else None


class ComparePage:
    """Builds the page's controls inside a `gr.Blocks` and answers its events.

    Args:
        store: the bundled checkpoints.
        zero: where boards are made on a ZeroGPU Space.
    """

    def __init__(self, store: EncoderStore, zero: ZeroGpu | None = None) -> None:
        self.store = store
        self.boards, self._here = BoardMaker(self.find, zero), BoardMaker(self.find)
        # Classifiers first. What is damaged is left out: its folder's name and the reason.
        here, self.left_out = described()
        entries = sorted((entry for entry, _ in here.values()), key=lambda entry: entry.spec.dense)
        outlines = {entry.name: outline for entry, outline in here.values()}
        self.groups = [*bundled_groups(entries, outlines), *hub_groups()]
        self.checkpoints = {e.name: e.facts.title or e.name for e in entries}
        self.whole = [e.name for e in entries if not e.is_head]
        self.first_checkpoints = [name for name in self.whole if name in FIRST_CHECKPOINTS] or self.whole[:2]
        self.maps = _offered_maps(outlines.values())
        self.reference = ReferencePanel(reference_of)
        self.titles = {line.name: line.title for group in self.groups for line in group.lines}
        self.panels: list[gr.Accordion] = []  # what a narrow screen shows closed, filled by `build`

    # --- events ---------------------------------------------------------------------------------------------------

    @event_handler
    def run(
        self,
        photo: str | None,
        checkpoints: list[str],
        maps: list[str],
        own: OwnCheckpoints | None = None,
        photos: list[str] | None = None,
        references: References | None = None,
    ) -> Iterator[BoardState]:
        """Record the photos with the checkpoints: states of the growing board, some time apart, and the whole one.

        A recording may take less time than the browser needs to take in a state. So a state is left out where another
        will soon follow, which the same step with the photo before tells.

        Args:
            photo: a file.
            checkpoints: names as in `EncoderStore.get`, or of the visitor's own.
            maps: names.
            own: the visitor's own checkpoints.
            photos: further photos.
            references: what the visitor said of where objects are.
        """
        for value, name in (
            (photo, "Choose a photo first"),
            (checkpoints, "Choose at least one checkpoint"),
            (maps, "Choose at least one map"),
        ):
            if not value:
                raise refusal(f"{name}.")
        state, shown, before, taken = None, -APART, monotonic(), list[float]()
        try:
            for state in self._states([str(photo), *(photos or [])], checkpoints, maps, own, references):
                now, done = monotonic(), state.ran.steps if state.ran else 0
                if done > len(taken):
                    taken.append(now - before)
                before, next_one = now, done - len(checkpoints)
                if state.waiting and next_one >= 0 and taken[next_one] < APART and now - shown < APART:
                    continue
                yield state
                before = monotonic()
                shown = before if done else shown
        except Exception:
            if state is not None:
                yield replace(state, waiting="")  # the board must not wait for what will not come
            raise

    def _states(
        self,
        photos: Sequence[str],
        checkpoints: list[str],
        maps: list[str],
        own: OwnCheckpoints | None = None,
        references: References | None = None,
        boards: BoardMaker | None = None,
    ) -> Iterator[BoardState]:
        if len(photos) > MOST_PHOTOS:
            raise OptionError(f"{len(photos)} photos were given; at most {MOST_PHOTOS} are compared here at once")
        pictures, sent = [read_picture(photo) for photo in photos], Sent(begun=time())
        keys = tuple(photo_key(photo) for photo in photos)
        ran = Ran(tuple(photos), tuple(checkpoints), tuple(maps))
        found = [self.reference.of(photo, references) for photo in photos]
        given = {i: one for i, one in enumerate(found) if one is not None}
        payloads = {keys[i]: reference_payload(one) for i, one in given.items()}

        def state(board: Board, waiting: str, steps: int = 0) -> BoardState:
            made_of = replace(ran, steps=steps)
            return BoardState(board, waiting, sent, keys, payloads, "" if waiting else _said(board), made_of)

        settings = Settings()
        empty = Board(pictures, [], {}, [], settings)
        yield state(empty, self._waiting(checkpoints, 0, len(pictures)))
        for name in checkpoints:
            for waiting in self._fetched(name, own):
                yield state(empty, waiting)
        requests = [MapRequest(name) for name in maps]
        scored = {i: one.reference for i, one in given.items()}
        growing = (boards or self.boards).iterate(pictures, checkpoints, requests, settings, scored, own)
        for done, board in enumerate(growing, 1):
            yield state(board, self._waiting(checkpoints, done, len(pictures)), done)

    def _fetched(self, name: str, own: OwnCheckpoints | None) -> Iterator[str]:
        """Wait for a checkpoint of the hub, and say now and then how much of it is here."""
        if _own(name, own) is not None or self.store.has(name):
            return
        title = self.title(name)
        arrived, of = 0, 0

        def told(now: int, whole: int) -> None:
            nonlocal arrived, of
            arrived, of = now, whole

        with ThreadPoolExecutor(1) as pool:
            fetching = pool.submit(self.store.get, name, told)
            while not fetching.done():
                mega = f", {arrived / 1e6:.0f} of {of / 1e6:.0f} MB" if of else ""
                yield f"Fetching {title} from the hub{mega} ..."
                wait([fetching], timeout=1)
            fetching.result()

    def _waiting(self, checkpoints: list[str], done: int, photos: int) -> str:
        """What comes next after `done` steps, "" where nothing does."""
        photo, next_one = divmod(done, len(checkpoints))
        which = f", photo {photo + 1} of {photos}" if photos > 1 else ""
        return f"Recording with {self.title(checkpoints[next_one])}{which} ..." if photo < photos else ""

    def title(self, name: str) -> str:
        """The title of a checkpoint that the page lists, else its name."""
        plain = split_size(name)[0]
        return self.titles.get(plain, plain)

    def find(self, name: str, own: OwnCheckpoints | None = None) -> Encoder:
        """A checkpoint by name, the visitor's own or one that the page lists.

        Raises:
            SimpoolError: as in `EncoderStore.get`.
        """
        return _own(name, own) or self.store.get(name)

    @staticmethod
    def names(
        photo: str | None,
        checkpoints: list[str],
        maps: list[str],
        own: OwnCheckpoints | None = None,
        *_: Any,
    ) -> tuple[list[str], list[str], OwnCheckpoints | None]:
        """The checkpoints and maps of what `run` takes, and the visitor's own checkpoints."""
        return checkpoints, maps, own

    @event_handler
    def curves(
        self, event: gr.EventData, photo: str | None, photos: list[str] | None, own: OwnCheckpoints
    ) -> Iterator[dict[str, Any]]:
        """Insertion and deletion of a row of the board, so far after every few steps."""
        here, name = photo_of(event, photo, photos, "row"), str(sent_value(event, "checkpoint"))
        request = parse_map(str(sent_value(event, "map")))
        recording = record(self.find(name, own), read_picture(here), keep=None)
        row = {"picture": sent_value(event, "picture"), "checkpoint": name, "name": sent_value(event, "map")}
        attention = recording.map(request.name, **request.options)
        for found in iterate_faithfulness(recording, attention):
            yield {
                **row,
                "shares": found.shares.tolist(),
                "deletion": found.deletion.tolist(),
                "insertion": found.insertion.tolist(),
                "areas": found.areas,
                "of": found.class_name,
                "done": len(found.shares) == STEPS + 1,
            }

    @event_handler
    def refine(self, event: gr.EventData, photo: str | None, photos: list[str] | None) -> dict[str, Any]:
        """A mask of the board, moved to the edges of its photo."""
        here = photo_of(event, photo, photos, "row")
        size, counts, method = (sent_value(event, name) for name in ("size", "counts", "method"))
        if not (isinstance(size, list) and len(size) == 2 and isinstance(counts, list)):
            raise OptionError("a mask is its size and its run lengths, which is not what this page sent; load it again")
        height, width = (checked_index(side, "a side of the mask", LONGEST + 1) for side in size)
        mask = mask_of_runs((height, width), [checked_index(count, "a run of the mask") for count in counts])
        rgb = cv2.resize(read_picture(here).rgb, (width, height), interpolation=cv2.INTER_AREA)
        found = run_lengths(refine(mask, rgb, str(method)))
        return {**found, "key": sent_value(event, "key"), "method": method, "asked": sent_value(event, "asked")}

    @event_handler
    def run_ready(self, name: str | None, *given: Any) -> Iterator[BoardState]:
        """Run a ready-made comparison; the visitor's own choice waits for Run.

        Args:
            name: of the comparison; "" for the visitor's own choice.
            given: as `run` takes them.
        """
        if not name:
            yield gr.skip()
        else:
            yield from self.run(*given)

    @event_handler
    def choose_ready(self, name: str | None) -> tuple[Any, Any, str]:
        """The checkpoints and maps of a ready-made comparison, and the question it answers."""
        chosen = comparisons(self.checkpoints).get(name or "")
        if chosen is None:
            return gr.skip(), gr.skip(), ""
        checkpoints = [c for c in chosen.checkpoints if c in self.checkpoints]
        return checkpoints, [m for m in chosen.maps if m in self.maps], chosen.question

    @event_handler
    async def fetch(self, address: str | None) -> str:
        """Download a picture from a public address; returns its file."""
        wanted = (address or "").strip()
        if not wanted.startswith(("http://", "https://")):
            raise refusal("An address of a picture starts with https:// or http://.")
        try:
            return await download(wanted, upload_folder())
        except Exception as error:  # of the HTTP client, of the guard, of the name look-up
            raise refusal(
                f"The picture could not be fetched ({type(error).__name__}). Save it and upload the file instead."
            ) from error

    def first_board(self) -> tuple[BoardState, str] | None:
        """The finished board of the example and what to see on it: as it travels with the package, or made now."""
        if (choice := self._first_run()) is None:
            return None
        stored = read_first_board(board_digest(*choice)) if self.store.where() == WHERE else None
        if stored is None:
            state = self._make_first_board()
            return (state, _point_of(state.board)) if state else None
        photo, names, maps = choice
        state = next(self._states([str(photo)], names, maps))  # before any model is read
        assert state.ran is not None, "of a run"
        board = replace(state.board, skipped=stored.skipped)
        sent = replace(state.sent, rows=dict(enumerate(stored.rows)))
        ran = replace(state.ran, steps=stored.steps)
        return replace(state, board=board, sent=sent, waiting="", said=stored.said, ran=ran), stored.point

    def first_board_as_data(self, view: BoardView) -> FirstBoard:
        """The finished board of the example, made now, as it travels with the package.

        Args:
            view: the component that shows it.
        """
        choice, state = self._first_run(), self._make_first_board()
        assert choice is not None and state is not None and state.ran is not None, "the bundled checkpoints are whole"
        board = state.board
        rows = [view.sent_row(without_times(row_payload(board, row, i))) for i, row in enumerate(board.rows)]
        file = BytesIO()
        render_board(board, caption=lambda row: timeless(row.lines)).save(file, "webp", quality=75, method=6)
        picture = base64.b64encode(file.getvalue()).decode()
        said, point = state.said, _point_of(board)
        return FirstBoard(board_digest(*choice), rows, board.skipped, said, point, state.ran.steps, picture)

    def warm_up(self) -> None:
        """Read and run the models of the first board, so that the first answer does not wait for it."""
        self._make_first_board()

    def _first_run(self) -> tuple[Path, list[str], list[str]] | None:
        """Photo, checkpoints and maps of the first board; None where there is no photo or no checkpoint."""
        photo = first_example()
        if photo is None or not self.checkpoints:
            return None
        return Path(photo), self.first_checkpoints, self._first_maps()

    def _make_first_board(self) -> BoardState | None:
        if (choice := self._first_run()) is None:
            return None
        photo, names, maps = choice
        # Twice: the first forward of a process is slow, and its milliseconds would stay on the page.
        try:
            for _ in range(2):
                *_, last = self._states([str(photo)], names, maps, boards=self._here)
        except SimpoolError as error:  # a damage that only the tensors show; the page opens without a board
            logger.warning("no first board: %s", error)
            return None
        return last

    def _first_maps(self) -> list[str]:
        return [OWN, *(m for m in ("contribution",) if m in self.maps)]

    # --- the page -------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Create the components and connect their events."""
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                with gr.Column(elem_id="run-bar"):
                    with gr.Row():
                        run = gr.Button("Run", variant="primary", elem_id="run", min_width=90)
                        cancel = gr.Button("Cancel", elem_id="cancel", min_width=90)
                    lines = '<p class="stale" role="status"></p><p class="linked" role="status"></p>'
                    gr.HTML(lines, elem_id="stale", apply_default_css=False)
                with gr.Accordion("Photos, checkpoints, maps", elem_id="settings") as settings:
                    inputs, controls = self._inputs()
            with gr.Column(scale=3):
                first = self.first_board()
                if first:
                    gr.Markdown(first[1], elem_id="point")
                drawing = style_controls("board")
                self.panels = [settings, drawing.panel]
                self.drawing = drawing.controls | {"baselines": self.reference.baselines}
                view = BoardView(value=first and first[0], elem_id="board")
                taken = TakeAway(self.run, self.find, self.names)
                taken.build(inputs)
        self.view, self.inputs = view, inputs
        self._connect(inputs, {**controls, "run": run, "cancel": cancel}, view)

    def _inputs(self) -> tuple[list[Any], dict[str, Any]]:
        """The controls: inputs of `run` in its order, and what starts or stops it by name."""
        examples = example_photos()
        first = first_example()
        sources: Any = ["upload", "webcam", "clipboard"]
        photo = Photo(value=first, type="filepath", sources=sources, label="Photo", height=260, elem_id="photo")
        gallery = gr.Gallery(
            value=[str(p) for p in examples],
            label="Example photos",
            show_label=False,
            columns=6,
            height=130,
            buttons=[],
            allow_preview=False,
            interactive=False,
            object_fit="cover",
            elem_id="examples",
        )
        with gr.Accordion("More photos, for the matrix", open=False, elem_id="more-photos"):
            photos = gr.File(
                label=f"Further photos, up to {MOST_PHOTOS - 1}",
                file_count="multiple",
                file_types=["image"],
                height=150,
            )
            four = gr.Button("All example photos", elem_id="all-examples")
        references = self.reference.build(photo, photos)
        with gr.Accordion("Photo by address", open=False):
            address = gr.Textbox(label="Address of a picture", placeholder="https://", max_lines=1)
            fetch = gr.Button("Fetch")
        ready = gr.Dropdown(
            [("my own choice", ""), *((c.title, c.name) for c in comparisons(self.checkpoints).values())],
            value="",
            label="Ready-made comparison",
            elem_id="ready",
        )
        question = gr.Markdown(elem_classes="simpool-question")
        gr.HTML("<h2>Checkpoints</h2>", elem_classes="simpool-heading", apply_default_css=False)
        checkpoints = CheckpointList(self.groups, self.first_checkpoints, elem_id="checkpoints")
        choices = [(title, name) for name, title in self.maps.items()]
        maps = gr.CheckboxGroup(choices, value=self._first_maps(), label="Maps", elem_id="maps")
        own = OwnPanel(self.store.device, self.maps, self.store.precision).build(checkpoints, maps)
        four.click(self._other_examples, photo, photos, api_visibility="private")
        controls = {"gallery": gallery, "fetch": fetch, "address": address, "ready": ready, "question": question}
        return [photo, checkpoints, maps, own, photos, references], controls

    def _connect(self, inputs: list[Any], controls: dict[str, Any], view: BoardView) -> None:
        photo, checkpoints, maps, own, photos, _ = inputs
        self.reference.connect(view)
        ClassRows(self.find).connect(view, "board", [photo, photos, own])
        curves = gr.JSON(visible="hidden", elem_id="curves-payload")
        asked = view.curves(
            self.curves,
            [photo, photos, own],
            curves,
            concurrency_id="look",
            show_progress="hidden",
            api_visibility="private",
        )
        refined = gr.JSON(visible="hidden", elem_id="refined-payload")
        view.refine(self.refine, [photo, photos], refined, show_progress="hidden", api_visibility="private")
        refined.change(
            None,
            [refined],
            None,
            js=dispatch("board", "simpool-refined", "payload", takes="payload"),
            queue=False,
            api_visibility="private",
        )
        send = dispatch("board", "simpool-curves", "payload", takes="payload")
        curves.change(None, [curves], None, js=send, queue=False, api_visibility="private")
        self._running: list[Any] = [asked]
        self._run_event: dict[str, Any] = {
            "fn": self.run,
            "inputs": inputs,
            "outputs": view,
            "js": remember_choice(),
            "show_progress": "hidden",
            "concurrency_id": "look",
        }
        ready = controls["ready"]
        made_ready = ready.input(
            self.choose_ready, ready, [checkpoints, maps, controls["question"]], api_visibility="private"
        )
        chosen = controls["gallery"].select(self._choose_example, None, photo, api_visibility="private")
        fetched = controls["fetch"].click(self.fetch, controls["address"], photo, api_visibility="private")
        self.run_on(controls["run"].click, trigger_mode=None)
        for listen in (photo.upload, chosen.then, fetched.success):
            self.run_on(listen)
        self.run_on(made_ready.success, fn=self.run_ready, inputs=[ready, *inputs], js=remember_choice(1))
        for changed in (checkpoints.change, maps.change, photos.change, photo.clear):
            changed(None, inputs, None, js=compare_choice(), queue=False, api_visibility="private")
        self._cancel = controls["cancel"]

    def run_on(self, listen: Any, **changed: Any) -> None:
        """Run what is chosen when an event happens. Cancel stops it too, and a failure ends what waits for it.

        Args:
            listen: adds a function to the event, as `button.click`.
            changed: what differs from the arguments of Run.
        """
        # Another photo that is chosen while one is recorded comes next, and is not forgotten.
        usual = {"trigger_mode": "always_last", "api_visibility": "private"}
        started = listen(**self._run_event | usual | changed)
        ended = dispatch("board", "simpool-failed", after=FORGET_CHOICE)  # be it the connection: nothing more will come
        started.failure(None, None, None, js=ended, queue=False, api_visibility="private")
        self._running.append(started)

    def begin(self, blocks: gr.Blocks) -> None:
        """Connect what needs all runs (`run_on`) and a page that opens: Cancel, the first choice, names of examples."""
        self._cancel.click(None, None, None, cancels=self._running, api_visibility="private")
        stopping = dispatch("board", "simpool-stopping")
        self._cancel.click(None, None, None, js=stopping, queue=False, api_visibility="private")
        named = (
            f"const names = {json.dumps([p.stem for p in example_photos()])}; "
            "document.querySelectorAll('#examples .thumbnail-item').forEach((item, i) => "
            "item.setAttribute('aria-label', `Example photo: ${names[i]}`));"
        )
        js = first_choice(after=named)
        blocks.load(None, self.inputs, None, js=js, queue=False, api_visibility="private")
        self._connect_address(blocks)

    def _connect_address(self, blocks: gr.Blocks) -> None:
        """A page that opens reads its address where it says something, and from then on keeps it."""
        photo, checkpoints, maps, _, photos, _ = self.inputs
        query, link = gr.Textbox(visible="hidden"), gr.JSON(visible="hidden")
        private: dict[str, Any] = {"queue": False, "api_visibility": "private"}
        folders = {processing_utils.hash_file(p): p.stem for p in example_photos()}
        keep = script(self._first_choice(), folders)
        blocks.load(None, None, query, js=asked(), **private).then(
            None, None, None, js=f"() => {{ if (!({asked()})()) ({keep})(); }}", **private
        )
        shown = [self.drawing[key] for key in LOOK]
        read = query.change(
            self.open_link, query, [photo, photos, checkpoints, maps, *shown, link], api_visibility="private"
        )
        read.failure(None, None, None, js=keep, **private)
        self.run_on(read.success, fn=self.run_link, inputs=[link, *self.inputs], js=open_link(keep))

    def _first_choice(self) -> Choice:
        names = [Path(photo).stem for photo in filter(None, [first_example()])]
        return Choice(names, self.first_checkpoints, self._first_maps())

    @event_handler
    def open_link(self, query: str) -> list[Any]:
        """What an address says: photo, further photos, checkpoints, maps, controls of the drawing, and all for the
        browser, with whether another board than the first is meant, and whether it can be run at once."""
        first, examples = self._first_choice(), {p.stem: str(p) for p in example_photos()}
        link = read_address(query, first, list(examples), self._is_here, list(self.maps), MOST_PHOTOS)
        chosen, own = link.choice, NOT_HELD in link.choice.photos
        if own:
            link.notes.append("The link was made with a photo of one's own: choose yours, and the board is drawn.")
        main, *more = [None if name == NOT_HELD else examples[name] for name in chosen.photos] or [None]
        told = {
            "style": link.style,
            "view": link.view,
            "notes": link.notes,
            "classes": link.classes,
            "boxes": [[place, boxes] for place, boxes in link.boxes.items()],
            "another": chosen != first or own,
            "run": chosen != first and main is not None,
        }
        drawing = [link.style[key] for key in LOOK]
        return [main, [file for file in more if file] or None, chosen.checkpoints, chosen.maps, *drawing, told]

    def _is_here(self, name: str) -> bool:
        return name in self.titles or is_offered(name)

    @event_handler
    def run_link(self, link: dict[str, Any], *given: Any) -> Iterator[BoardState]:
        """Run what a link chose, where that is not the board that the page opens with.

        Args:
            link: as `open_link` tells the browser.
            given: as `run` takes them.
        """
        if link.get("run"):
            yield from self.run(*given)
        else:
            yield gr.skip()

    @event_handler
    def _other_examples(self, photo: str | None) -> list[str]:
        """The example photos that are not chosen already."""
        return [str(p) for p in example_photos() if not photo or p.name != Path(photo).name]

    @event_handler
    def _choose_example(self, event: gr.SelectData) -> str:
        examples = example_photos()
        return str(examples[checked_index(sent_value(event, "index"), "the example's place", len(examples))])


def _offered_maps(outlines: Iterable[Outline]) -> dict[str, str]:
    """The maps that at least one checkpoint has, by name."""
    had = [outline.maps for outline in outlines]
    offered = {name: m.title for name, m in map_methods().items() if any(why[name] is None for why in had)}
    return {OWN: "How each one pools"} | offered


def _own(name: str, own: OwnCheckpoints | None) -> Encoder | None:
    """A visitor's own checkpoint, at the size that its name gives; None for another name."""
    plain, size = split_size(name)
    encoder = own.encoders.get(plain) if own else None
    return at_size(encoder, size) if encoder is not None and size is not None else encoder


def _said(board: Board) -> str:
    """What is announced once a board is complete."""
    rows, photos = len(board.rows), len(board.pictures)
    return f"Done: {rows} {'map' if rows == 1 else 'maps'} of {photos} {'photo' if photos == 1 else 'photos'}."


def _point_of(board: Board) -> str:
    """What to see on the board that the page opens with, in a sentence or two, with the board's own figures."""
    rows = {row.pooling: row for row in reversed(board.rows)}
    if not {"gap", "simpool"} <= set(rows):
        return ""
    text = (
        "**What to see here.** The same network, pooled in two ways. *GAP* gives every place of the photo the same "
        "weight, so its evidence lies anywhere; *SimPool* learns which places to take, and its map keeps to the object."
    )
    gap, simpool = (rows[name].scores.get("iou") for name in ("gap", "simpool"))
    if gap is None or simpool is None:
        return text
    return f"{text} Its mask overlaps the true one by {100 * simpool:.0f} % (IoU), GAP's by {100 * gap:.0f} %."
