"""A visitor's own checkpoint: read safely, shown before it is used, in the memory of that visit alone."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from pathlib import Path
from typing import Any

import gradio as gr

from simpool_viz.app.checkpoint_list import CheckpointList, own_lines
from simpool_viz.app.events import event_handler, plain_markdown, refusal
from simpool_viz.app.store import MOST_PARAMETERS
from simpool_viz.app.visits import HELD
from simpool_viz.checkpoints.formats.parts import parse_options
from simpool_viz.checkpoints.formats.report import Report
from simpool_viz.checkpoints.load import load_for_visitor, load_untrusted, refuse_local, split_size
from simpool_viz.checkpoints.published import published
from simpool_viz.errors import CheckpointError
from simpool_viz.maps.registry import OWN, map_methods, maps_of
from simpool_viz.modeling.encoder import Encoder

SUFFIXES = [".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt", ".npz"]
LARGEST = 512 * 2**20  # bytes of a file or a download
SECONDS = 180
OWN_PREFIX = "own:"  # of the names of a visit's own checkpoints
KEPT = 3  # of one visit; the oldest makes room
_CLEAR = "() => ['', { __type__: 'update', visible: false }, null]"  # report, "Use it" and file after a failure
VISIT = 3600  # seconds after which an idle visit's checkpoints go


class OwnCheckpoints:
    """The checkpoints that one visit has brought.

    Attributes:
        encoders: by name, the newest last.
        waiting: one that was recognised and is not yet used.
    """

    def __init__(self) -> None:
        self.encoders: dict[str, Encoder] = {}
        self.waiting: Encoder | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> OwnCheckpoints:
        return OwnCheckpoints()  # each visit begins with none

    def add(self) -> str:
        """Move the waiting encoder among the others, of which the oldest makes room; returns its name."""
        assert self.waiting is not None, "the button is shown only then"
        encoder, self.waiting = self.waiting, None
        self.encoders.pop(encoder.facts.name, None)
        self.encoders[encoder.facts.name] = encoder
        for name in list(self.encoders)[:-KEPT]:
            del self.encoders[name]
        return encoder.facts.name

    def clear(self) -> None:
        """Forget everything, as when the visit ends."""
        self.encoders.clear()
        self.waiting = None


class OwnPanel:
    """The part of the page that takes a file or a name, shows what it is, and adds it to the choices.

    Args:
        device: as in `load_checkpoint`.
        maps: titles of the maps that the page offers, by name.
        precision: as in `load_checkpoint`.
    """

    def __init__(self, device: str, maps: dict[str, str], precision: str = "auto") -> None:
        self.device, self.maps, self.precision = device, maps, precision

    def build(self, checkpoints: CheckpointList, maps: gr.CheckboxGroup) -> gr.State:
        """Create the controls.

        Args:
            checkpoints: gets the new checkpoints as lines.
            maps: gets the maps of the new checkpoints as choices.

        Returns:
            The visit's state, an `OwnCheckpoints`.
        """
        own = gr.State(OwnCheckpoints(), time_to_live=VISIT, delete_callback=OwnCheckpoints.clear)
        with gr.Accordion("Your own checkpoint", open=False, elem_id="own"):
            file = gr.File(
                label="A file: .safetensors, .pth, .pt, .pth.tar, .bin, .ckpt, .npz",
                file_types=SUFFIXES,
                height=150,
                elem_id="own-file",
            )
            address = gr.Dropdown(
                [(f"{p.title} ({p.download})", p.name) for p in published().values()],
                value="",
                allow_custom_value=True,
                label="or a name on the hub",
                info=(
                    "Choose, or write hf:user/repository or timm:tag. Options follow a ?, for a file too: "
                    "?gamma=1.25&num_heads=6"
                ),
                elem_id="own-address",
            )
            recognise = gr.Button("Recognise", elem_id="recognise")
            report = gr.Markdown(elem_id="own-report")
            use = gr.Button("Use it", variant="primary", visible=False, elem_id="use-own")
        shared: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "own", "api_visibility": "private"}
        asked = recognise.click(self.recognise, [file, address, own], [report, use, file, own], **shared)
        # The file is deleted in any case, so that the page must not go on showing it.
        asked.failure(None, None, [report, use, file], js=_CLEAR, queue=False, api_visibility="private")
        use.click(self.use, [own, checkpoints, maps], [checkpoints, maps, use, report, own], api_visibility="private")
        return own

    @event_handler
    def recognise(
        self, file: str | None, address: str | None, own: OwnCheckpoints
    ) -> tuple[str, Any, None, OwnCheckpoints]:
        """Read a file or fetch a name; the file is deleted whatever comes of it."""
        own.waiting, address = None, address or ""
        if not file and not address.strip():
            raise refusal("Choose a file, or write a name on the hub.")
        try:
            encoder, report = _within(SECONDS, lambda: self._load(file, address.strip()))
        except TookTooLong as error:
            raise CheckpointError(
                f"Reading it took longer than {SECONDS} s; convert it with `simpool-viz convert` and bring the small "
                "file"
            ) from error
        finally:
            if file and not HELD.shared(str(file)):  # equal uploads of two visits are one file
                with contextlib.suppress(OSError):
                    Path(file).unlink()
        own.waiting = encoder
        first, *others = [
            plain_markdown(line[0].upper() + line[1:] if i else line) for i, line in enumerate(report.lines())
        ]
        items = [f"- {line}" for line in [*others, *map(plain_markdown, self._offers(encoder))]]
        return "\n".join([f"**{first}**", "", *items]), gr.update(visible=True), None, own

    def _load(self, file: str | None, address: str) -> tuple[Encoder, Report]:
        where = {"device": self.device, "precision": self.precision}
        if file:
            path = Path(file)
            if path.stat().st_size > LARGEST:
                raise CheckpointError(
                    f"{path.name} has {path.stat().st_size / 2**20:,.0f} MB; at most {LARGEST / 2**20:.0f} MB are read "
                    "here"
                )
            options = parse_options(address.removeprefix("?")) if address.startswith("?") else {}
            refuse_local(options)
            encoder, report = load_untrusted(path, **where, **options)
        else:
            encoder, report = load_for_visitor(address, **where, limit=LARGEST)
        if report.parameters > MOST_PARAMETERS:
            raise CheckpointError(
                f"{report.source} has {report.parameters:,} parameters; at most {MOST_PARAMETERS:,} are taken here"
            )
        encoder.facts = dataclasses.replace(
            encoder.facts, name=f"{OWN_PREFIX}{encoder.facts.name}", title=f"{encoder.facts.title} (yours)"
        )
        return encoder, report

    def _offers(self, encoder: Encoder) -> list[str]:
        """The maps it has, and why it has not the others."""
        reasons, titles = maps_of(encoder), {name: method.title for name, method in map_methods().items()}
        had = [titles[name] for name, reason in reasons.items() if reason is None]
        return [
            f"Maps: {', '.join(had)}.",
            *(f"No {titles[name]}: {reason}." for name, reason in reasons.items() if reason),
        ]

    @event_handler
    def use(self, own: OwnCheckpoints, chosen: list[str], maps: list[str]) -> tuple[Any, Any, Any, str, OwnCheckpoints]:
        """Put the recognised checkpoint among the choices, chosen, with the maps it brings."""
        if own.waiting is None:
            raise refusal("Nothing is waiting; choose a file and press Recognise first.")
        name = own.add()
        kept = [key for key in chosen if split_size(key)[0] != name and not _is_gone(key, own)]
        had = set(self.maps) | {m for e in own.encoders.values() for m, reason in maps_of(e).items() if reason is None}
        offered = [(self.maps[OWN], OWN)] if OWN in self.maps else []
        offered += [(method.title, key) for key, method in map_methods().items() if key in had]
        asked = [] if OWN in maps else ["pooling", "cls", "contribution"]
        first = [m for m in asked if maps_of(own.encoders[name])[m] is None][:1]
        return (
            gr.update(own=own_lines(own.encoders), value=[*kept, name]),
            gr.update(choices=offered, value=[*maps, *(m for m in first if m not in maps)]),
            gr.update(visible=False),
            f"{plain_markdown(own.encoders[name].facts.title)} is among the checkpoints of this visit. Press Run.",
            own,
        )


def _is_gone(name: str, own: OwnCheckpoints) -> bool:
    """Whether a checkpoint was the visit's own and made room for another."""
    plain = split_size(name)[0]
    return plain.startswith(OWN_PREFIX) and plain not in own.encoders


def _within(seconds: float, work: Callable[[], Any]) -> Any:
    """What `work` returns, if it takes no longer."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work).result(timeout=seconds)
    finally:
        pool.shutdown(wait=False)
