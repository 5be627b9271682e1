"""The Compare page: one photo, several checkpoints, several maps."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils

from simpool_viz.app.component import LOOK, BoardState, BoardView, Photo
from simpool_viz.app.own import OwnCheckpoints, OwnPanel
from simpool_viz.attention_map import map_methods, maps_of
from simpool_viz.board import Board, MapRequest, Settings, iterate_board
from simpool_viz.checkpoints import bundled_folder, catalogue, load_checkpoint, share_backbones
from simpool_viz.device import choose_device
from simpool_viz.drawing import SEQUENTIAL
from simpool_viz.encoder import Encoder
from simpool_viz.images import read_picture
from simpool_viz.masks import mask_rules

SIZES = [("each checkpoint's own", 0)] + [(f"{s} px", s) for s in (96, 128, 160, 224, 320, 448, 672, 896)]
FIRST_PHOTO = "chelsea.jpg"


class EncoderStore:
    """Checkpoints in memory, loaded at first use, the least recently used dropped beyond `limit`. Safe between threads."""

    def __init__(self, device: str = "auto", limit: int = 8) -> None:
        self.device, self.limit = device, limit
        self._loaded: OrderedDict[str, Encoder] = OrderedDict()
        self._lock = threading.Lock()

    def where(self) -> str:
        """Device and precision, such as "cpu, float32"."""
        device, dtype = choose_device(self.device)
        return f"{device}, {str(dtype).removeprefix('torch.')}"

    def get(self, name: str) -> Encoder:
        """The checkpoint of that name. Errors as in `load_checkpoint`."""
        with self._lock:
            if name not in self._loaded:
                if name not in catalogue():  # what a visitor sends names nothing on this machine, and nothing on the network
                    raise ValueError(f"no bundled checkpoint is called {name!r}; add your own under 'Your own checkpoint'")
                self._loaded[name] = load_checkpoint(name, device=self.device)
                share_backbones(list(self._loaded.values()))
            self._loaded.move_to_end(name)
            while len(self._loaded) > self.limit:
                self._loaded.popitem(last=False)
            return self._loaded[name]


def example_photos() -> list[Path]:
    """The photos that travel with the package."""
    return sorted(p for p in bundled_folder("assets").glob("*.jpg"))


class ComparePage:
    """Builds the page's controls inside a `gr.Blocks` and answers its events."""

    def __init__(self, store: EncoderStore) -> None:
        self.store = store
        entries = [e for e in catalogue().values() if e.available]
        self.checkpoints = {e.name: e.facts.title or e.name for e in entries}
        self.first_checkpoints = [e.name for e in entries if not e.is_head]
        self.heads = {e.name: e.facts.title for e in entries if e.is_head}
        self.maps = self._offered_maps()

    def _offered_maps(self) -> dict[str, str]:
        """The maps that at least one checkpoint has."""
        had = [maps_of(entry.outline()) for entry in catalogue().values() if entry.available]  # no weights are read for that
        return {name: method.title for name, method in map_methods().items() if any(why[name] is None for why in had)}

    # --- events ---------------------------------------------------------------------------------------------------

    def look(
        self,
        photo: str | None,
        checkpoints: list[str],
        maps: list[str],
        size: int,
        more: list[str] | None = None,
        own: OwnCheckpoints | None = None,
    ) -> Iterator[BoardState]:
        """Show where the checkpoints look on the photo, one state of the board after each checkpoint.

        Args:
            more: further checkpoints: heads on frozen backbones, or the visitor's own by name.
            own: the visitor's own checkpoints.
        """
        checkpoints = [*checkpoints, *(more or [])]
        for value, name in (
            (photo, "Choose a photo first"),
            (checkpoints, "Choose at least one checkpoint"),
            (maps, "Choose at least one map"),
        ):
            if not value:
                raise gr.Error(f"{name}.", print_exception=False)
        try:
            yield from self._states(str(photo), checkpoints, maps, Settings(size=size or None), own)
        except (ValueError, OSError) as error:
            raise gr.Error(_sentence(error), print_exception=False) from error

    def _states(
        self, photo: str, checkpoints: list[str], maps: list[str], settings: Settings, own: OwnCheckpoints | None = None
    ) -> Iterator[BoardState]:
        picture = read_picture(photo)
        yield BoardState(Board([picture], [], {}, [], settings), self._waiting(checkpoints, 0))
        theirs = own.encoders if own else {}
        encoders = [theirs[name] if name in theirs else self.store.get(name) for name in checkpoints]
        for done, board in enumerate(iterate_board([picture], encoders, [MapRequest(m) for m in maps], settings), 1):
            yield BoardState(board, self._waiting(checkpoints, done))

    def _waiting(self, checkpoints: list[str], done: int) -> str:
        left = [self.checkpoints.get(name, name) for name in checkpoints[done:]]
        return f"Looking with {left[0]} ..." if left else ""

    async def fetch(self, address: str) -> str:
        """Download a picture through Gradio's guarded client, which refuses private addresses."""
        if not address.strip().startswith(("http://", "https://")):
            raise gr.Error("An address of a picture starts with https:// or http://.", print_exception=False)
        try:
            return await processing_utils.async_ssrf_protected_download(address.strip(), processing_utils.utils.get_upload_folder())
        except Exception as error:  # of the HTTP client, of the guard, of the name look-up
            raise gr.Error(
                f"The picture could not be fetched ({type(error).__name__}). Save it and upload the file instead.",
                print_exception=False,
            ) from error

    def first_board(self) -> BoardState | None:
        """The finished board of the example, made once when the app starts."""
        photos = {p.name: p for p in example_photos()}
        if FIRST_PHOTO not in photos or not self.checkpoints:
            return None
        for _ in range(2):  # the first forward of a process is slow, and its milliseconds would stand on the page for good
            *_, last = self._states(str(photos[FIRST_PHOTO]), self.first_checkpoints, self._first_maps(), Settings())
        return last

    def _first_maps(self) -> list[str]:
        return [m for m in ("pooling", "contribution") if m in self.maps] or list(self.maps)[:1]

    # --- the page -------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Create the components and connect their events."""
        photos = {p.name: p for p in example_photos()}
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photo = Photo(
                    value=str(photos[FIRST_PHOTO]) if FIRST_PHOTO in photos else None,
                    type="filepath",
                    sources=["upload", "webcam", "clipboard"],
                    label="Photo",
                    height=260,
                    elem_id="photo",
                )
                examples = gr.Gallery(
                    value=[str(p) for p in photos.values()],
                    label="Example photos",
                    show_label=False,
                    columns=4,
                    height=130,
                    buttons=[],
                    allow_preview=False,
                    interactive=False,
                    object_fit="cover",
                    elem_id="examples",
                )
                with gr.Accordion("Photo by address", open=False):
                    address = gr.Textbox(label="Address of a picture", placeholder="https://", max_lines=1)
                    fetch = gr.Button("Fetch")
                checkpoints = gr.CheckboxGroup(
                    [(self.checkpoints[name], name) for name in self.first_checkpoints],
                    value=self.first_checkpoints,
                    label="Checkpoints",
                    elem_id="checkpoints",
                )
                more = gr.Dropdown(
                    [(title, name) for name, title in self.heads.items()],
                    value=[],
                    multiselect=True,
                    label="More: poolings on a frozen backbone, and your own",
                    elem_id="more",
                )
                maps = gr.CheckboxGroup(
                    [(title, name) for name, title in self.maps.items()], value=self._first_maps(), label="Maps", elem_id="maps"
                )
                size = gr.Dropdown(
                    SIZES,
                    value=0,
                    label="Size",
                    info="The photo's shorter side as the model sees it. Maps are best at each checkpoint's own.",
                )
                with gr.Row():
                    run = gr.Button("Run", variant="primary", elem_id="run")
                    cancel = gr.Button("Cancel", elem_id="cancel")
                own = OwnPanel(self.store.device, self.heads, self.maps).build(more, maps)
            with gr.Column(scale=3):
                self._look_controls()
                view = BoardView(value=self.first_board(), elem_id="board")
        inputs = [photo, checkpoints, maps, size, more, own]
        shared: dict[str, Any] = {"fn": self.look, "inputs": inputs, "outputs": view, "show_progress": "hidden", "concurrency_id": "look"}
        runs = [
            run.click(**shared, api_name="compare"),
            photo.upload(**shared, api_visibility="private"),
            examples.select(self._choose_example, None, photo, api_visibility="private").then(**shared, api_visibility="private"),
            fetch.click(self.fetch, address, photo, api_visibility="private").success(**shared, api_visibility="private"),
        ]
        cancel.click(None, None, None, cancels=runs, api_visibility="private")
        cancel.click(None, None, None, js=_dispatch("simpool-stopped"), queue=False, api_visibility="private")

    def _choose_example(self, event: gr.SelectData) -> str:
        return str(example_photos()[event.index])

    def _look_controls(self) -> None:
        """Controls that act in the browser alone: each tells the board what changed, without a request."""
        rules = [(r.title, r.name) for r in mask_rules().values()]
        with gr.Accordion("Drawing: changes at once, nothing is computed again", open=True):
            with gr.Row():
                rule = gr.Dropdown(rules, value=LOOK["rule"], label="Mask rule", min_width=150)
                amount = gr.Slider(0.01, 1, LOOK["amount"], step=0.01, label="Amount", min_width=170, elem_id="amount")
                opacity = gr.Slider(0, 1, LOOK["opacity"], step=0.01, label="Opacity", min_width=150, elem_id="opacity")
                colours = gr.Dropdown(list(SEQUENTIAL), value=LOOK["colours"], label="Colours", min_width=120)
            with gr.Row(elem_id="switches"):
                smooth = gr.Checkbox(LOOK["smooth"], label="Smooth", min_width=140, elem_id="smooth")
                shared = gr.Checkbox(LOOK["shared"], label="One scale for all rows", min_width=200)
                boxes = gr.Checkbox(LOOK["boxes"], label="Boxes", min_width=140)
                largest = gr.Checkbox(LOOK["largest"], label="Largest component only", min_width=200, elem_id="largest")
        controls: dict[str, Any] = {"amount": amount, "opacity": opacity, "colours": colours}
        controls |= {"smooth": smooth, "shared": shared, "boxes": boxes, "largest": largest}
        for key, control in controls.items():
            control.input(None, [control], None, js=_tell(key), queue=False, api_visibility="private")
        rule.input(None, [rule, amount], [amount], js=_tell_rule(), queue=False, api_visibility="private")


def _dispatch(event: str, detail: str = "{}", before: str = "", after: str = "", takes: str = "") -> str:
    """JavaScript that sends the board an event."""
    target = "document.querySelector('#board .simpool-board')"
    return f"({takes}) => {{ {before} {target}.dispatchEvent(new CustomEvent('{event}', {{ bubbles: true, detail: {detail} }})); {after} }}"


def _tell(key: str) -> str:
    """JavaScript that tells the board of a changed control."""
    return _dispatch("simpool-look", f"{{ {key}: value }}", takes="value")


def _tell_rule() -> str:
    """The same for the mask rule, which brings its own default amount; rules without an amount leave the slider as it is."""
    defaults = json.dumps({rule.name: rule.default for rule in mask_rules().values()})
    chosen = f"const amount = {defaults}[rule] ?? old;"
    return _dispatch("simpool-look", "{ rule, amount }", before=chosen, after="return amount;", takes="rule, old")


def _sentence(error: Exception) -> str:
    text = str(error)  # not capitalised: it may begin with the name of the visitor's file
    return text if text.endswith((".", "!", "?")) else f"{text}."
