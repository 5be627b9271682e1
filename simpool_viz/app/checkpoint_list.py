"""The list of checkpoints: searched and chosen in the browser (checkpoint_list.js), in groups, each at its own size.

Its value is the names that are chosen, in the list's order: "vit_simpool?size=448" for one at another size than its
own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from simpool_viz.app.events import event_handler
from simpool_viz.app.outlines import Outline
from simpool_viz.checkpoints import hub
from simpool_viz.checkpoints.catalogue import Entry
from simpool_viz.checkpoints.load import LARGEST, split_size
from simpool_viz.checkpoints.published import backbones, offered, published, timm_tags
from simpool_viz.errors import OptionError
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.pooling import poolings

DOM = Path(__file__).parent / "board" / "dom.js"  # comes first in one scope
FACTORS = (0.5, 0.75, 1, 1.5, 2, 3, 4)  # of a checkpoint's own size that its choice of sizes offers
MOST_CHOSEN = 24


@dataclass(frozen=True)
class Listed:
    """A line of the list.

    Attributes:
        name: with which it is chosen.
        title: of the line.
        about: one line on it.
        size: shorter side of its input in pixels at which its maps are best.
        stride: of its tokens in pixels.
    """

    name: str
    title: str
    about: str
    size: int
    stride: int


@dataclass(frozen=True)
class Group:
    """Lines under one heading.

    Attributes:
        title: of the heading.
        lines: in their order.
        hub: whether the weights come from the hub.
        open: whether the lines are shown at first.
        most: how many are shown at once, the others by search; 0 for all.
        later: whether the browser asks for the lines when it shows them (`timm_lines`), as they are many.
    """

    title: str
    lines: tuple[Listed, ...]
    hub: bool = False
    open: bool = False
    most: int = 0
    later: bool = False


def bundled_groups(entries: Iterable[Entry], outlines: Mapping[str, Outline]) -> list[Group]:
    """The bundled checkpoints by family, heads on a frozen backbone last.

    Args:
        entries: of the catalogue.
        outlines: of each, by name.
    """
    groups: dict[str, list[Listed]] = {}
    for entry in entries:
        groups.setdefault(_family(entry), []).append(_line(entry, outlines[entry.name]))
    order = [title for title, _ in _FAMILIES]
    return [Group(title, tuple(groups[title]), open=title in _OPEN) for title in order if title in groups]


_FAMILIES: list[tuple[str, Any]] = [
    ("ViT, one base", lambda e: e.spec.num_classes and not e.spec.backbone.startswith("resnet")),
    ("ViT, self-supervised", lambda e: not e.spec.num_classes),
    ("ResNet, from scratch", lambda e: e.spec.backbone.startswith("resnet")),
    ("Street scenes", lambda e: e.spec.dense),
    ("Poolings on a frozen backbone", lambda e: e.is_head),
]
_OPEN = [title for title, _ in _FAMILIES[:4]]


def _family(entry: Entry) -> str:
    """The last family that it belongs to."""
    return next(title for title, belongs in reversed(_FAMILIES) if belongs(entry))


def _line(entry: Entry, outline: Outline) -> Listed:
    pooling, facts = poolings()[entry.spec.pooling], entry.facts
    summary, million = pooling.summary.partition(". ")[0].rstrip("."), outline.parameters / 1e6
    about = f"{summary}. {million:.1f} M parameters; {facts.accuracy}"
    return Listed(entry.name, facts.title or entry.name, about, facts.size, outline.stride)


def hub_groups() -> list[Group]:
    """What the hub holds: SimPool's published weights and DINO's, with the size of the download; and timm's."""
    return [
        *(
            Group(
                title,
                tuple(
                    Listed(p.name, p.title, f"{p.accuracy or p.license}; downloads {p.download}", p.size, p.stride)
                    for p in known.values()
                ),
                hub=True,
            )
            for title, known in (
                ("SimPool, published weights", published()),
                ("DINO, DINOv2, DINOv3", backbones()),
            )
        ),
        Group("timm", (), hub=True, most=40, later=True),
    ]


def timm_lines(_: object = None) -> list[dict[str, Any]]:
    """The lines of timm's models.

    Args:
        _: what the browser sends with its question.
    """
    return [asdict(Listed(name, name.removeprefix("timm:"), "", *place)) for name, place in timm_tags().items()]


def own_lines(encoders: Mapping[str, Encoder]) -> list[dict[str, Any]]:
    """Lines of a visit's own checkpoints, as the list's property `own`."""
    return [
        asdict(Listed(name, one.facts.title or name, "of this visit", one.facts.size, one.stride))
        for name, one in encoders.items()
    ]


def hub_state(_: object = None) -> dict[str, Any]:
    """Whether the hub can be reached, and which of the listed weights are here already.

    Args:
        _: what the browser sends with its question.
    """
    cached = [p.name for p in offered().values() if hub.is_in_cache(_repository(p.address))]
    return {"reached": hub.is_reachable(), "cached": cached}


def _repository(address: str) -> str:
    return address.removeprefix("hf:") if address.startswith("hf:") else f"timm/{address.removeprefix('timm:')}"


class CheckpointList(gr.HTML):
    """A list from which checkpoints are chosen; its value is their names, each with its size where that is another.

    Args:
        groups: of lines.
        value: names that are chosen at first.
    """

    def __init__(self, groups: list[Group] | None = None, value: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(
            value=value or [],
            html_template='<div class="simpool-list"></div>',
            css_template="",
            js_on_load="\n".join(path.read_text(encoding="utf-8") for path in (DOM, Path(__file__).with_suffix(".js"))),
            apply_default_css=False,
            listing=[asdict(group) for group in groups or []],
            factors=FACTORS,
            largest=LARGEST,
            server_functions=[hub_state, timm_lines],
            **{"own": [], **kwargs},
        )
        self.groups = None  # Gradio copies what is called like an argument, and takes an unknown name for an event's

    def get_block_name(self) -> str:
        return "html"

    @event_handler
    def preprocess(self, payload: Any) -> list[str]:  # type: ignore[override]
        return checked_names(payload or [])

    def postprocess(self, value: list[str] | None) -> list[str]:  # type: ignore[override]
        return list(value or [])

    def api_info(self) -> dict[str, Any]:
        return {
            "type": "array",
            "items": {"type": "string"},
            "description": "names of checkpoints, as vit_gap?size=448",
        }


def checked_names(payload: Any) -> list[str]:
    """Names of checkpoints that a browser sent.

    Raises:
        OptionError: they are no list of distinct names, too many, or a size is out of range.
    """
    if not (isinstance(payload, list) and all(isinstance(name, str) for name in payload)):
        raise OptionError("checkpoints are a list of names, which is not what this page sent; load it again")
    if len(payload) > MOST_CHOSEN:
        raise OptionError(f"{len(payload)} checkpoints were chosen; at most {MOST_CHOSEN} are compared here at once")
    for name in payload:
        split_size(name)
    return list(dict.fromkeys(payload))
