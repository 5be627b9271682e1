"""The board: pictures x checkpoints x maps, each with its mask and figures. What the app, the CLI and Python all
show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from simpool_viz.board.segmentation import segment
from simpool_viz.errors import AbsentClassError, MapError, OptionError
from simpool_viz.images import ImageSource, Picture, read_picture
from simpool_viz.maps.attention_map import FUSIONS, AttentionMap
from simpool_viz.maps.make import blocks_needed, make_each
from simpool_viz.maps.registry import map_methods, maps_of, resolve_map
from simpool_viz.maps.request import MapRequest, option_text, parse_map
from simpool_viz.masks import ObjectMask, parse_rule
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.layers.stem import stems_once
from simpool_viz.recording import Recording, record_shared, shares_forward
from simpool_viz.scores.localization import Reference, score_map
from simpool_viz.timing import Profile


@dataclass(frozen=True)
class Settings:
    """What is computed.

    Attributes:
        size: shorter side in pixels; None: each checkpoint's own.
        mask: rule and amount, as "mass:0.6".
        largest: keep only the largest component.
        fusion: of several maps into one: "mean", "max", "min", a name or an index; None: each map's own, mostly
            the mean.
    """

    size: int | None = None
    mask: str = "mass:0.6"
    largest: bool = False
    fusion: str | int | None = None


@dataclass(frozen=True)
class Row:
    """One map of one checkpoint on one picture.

    Attributes:
        picture: index into the board's pictures.
        pooling: the name of the checkpoint's.
        fusion: how several maps were made one, as asked for; None: the map's own way.
        prediction: (class, probability), or None without a classifier.
        found: what a dense head finds, in a line, else "".
        entropy: spatial entropy in nats.
        entropy_of: "logits" or "weights", whichever it was measured on.
        milliseconds: of the forward and of this map. What several rows share counts in each (the forward) or in
            equal parts (a walk of several roll-outs through the blocks); a stem that several checkpoints share
            counts in the first.
        scores: against the reference, {} without one.
    """

    picture: int
    checkpoint: str
    checkpoint_title: str
    pooling: str
    request: MapRequest
    map_title: str
    attention: AttentionMap
    fusion: str | int | None
    mask: ObjectMask
    prediction: tuple[str, float] | None
    found: str
    entropy: float
    entropy_of: str
    milliseconds: tuple[float, float]
    input_size: tuple[int, int]
    scores: dict[str, float]

    @property
    def map_label(self) -> str:
        """The map's title with the options it was asked for with, and the one of several maps that is shown."""
        options = [self._told(k, v) for k, v in self.request.options.items()]
        if self.fusion is not None and self._one_map:
            options.append(self._one_map)
        return self.map_title + (f" ({', '.join(options)})" if options else "")

    def _told(self, option: str, value: Any) -> str:
        """An option as a reader wants it: classes by their names, whatever they were asked for by."""
        if option != "classes":
            return f"{option} {option_text(value)}"
        return ("class " if len(self.attention.names) == 1 else "classes ") + ", ".join(self.attention.names)

    @property
    def _fused_by(self) -> str | int:
        return self.attention.fusion if self.fusion is None else self.fusion

    @property
    def _one_map(self) -> str:
        """The name of the single map that is shown where there are several, "" where they are fused."""
        names, how = self.attention.names, self._fused_by
        if len(names) == 1 or how in FUSIONS:
            return ""
        return names[how] if isinstance(how, int) else how

    @property
    def title(self) -> str:
        return f"{self.checkpoint_title}: {self.map_label}"

    @property
    def fixed_lines(self) -> list[str]:
        """The lines of the caption that do not depend on the mask."""
        h, w = self.attention.geometry.grid
        lines = [
            f"predicts {self.prediction[0]}, {100 * self.prediction[1]:.0f} %"
            if self.prediction
            else self.found or "no classifier head"
        ]
        if len(self.attention.names) > 1:
            count, by = len(self.attention.names), "" if self._fused_by == "mean" else f" by {self._fused_by}"
            one = self._one_map
            lines.append(
                f"{one}, one of {count} maps" if one else f"{count} maps ({self.attention.names[0]}, ...) fused{by}"
            )
        elif self.attention.signed or self.request.name == "dense_rollout":
            lines.append(f"for the class {self.attention.names[0]}")
        lines.append(f"spatial entropy {self.entropy:.2f} nats of {self.entropy_of}")
        forward, own = self.milliseconds
        lines.append(f"grid {w} x {h}, {forward + own:.0f} ms: forward {forward:.0f}, map {own:.1f}")
        return lines + ([self.attention.note] if self.attention.note else [])

    @property
    def mask_line(self) -> str:
        """What the mask covers."""
        if self.mask.constant:
            return "the map is constant: the mask is the whole picture"
        parts = "component" if self.mask.components == 1 else "components"
        return f"mask: {100 * self.mask.coverage:.0f} % of the picture, {self.mask.components} {parts}"

    @property
    def score_lines(self) -> list[str]:
        """The scores in a line, where there is a reference."""
        if not self.scores:
            return []
        hit = "hit" if self.scores["pointing"] else "miss"
        return [f"IoU {self.scores['iou']:.2f}, at true area {self.scores['iou_at_true_area']:.2f}, pointing {hit}"]

    @property
    def lines(self) -> list[str]:
        """The whole caption, line by line."""
        return [*self.fixed_lines, self.mask_line, *self.score_lines]


@dataclass(frozen=True)
class Board:
    """pictures, rows, the references given (by picture index), what could not be shown and why, and the settings."""

    pictures: list[Picture]
    rows: list[Row]
    references: dict[int, Reference]
    skipped: list[str]
    settings: Settings


def default_map(encoder: Encoder) -> MapRequest:
    """The map that shows how a checkpoint pools: its pooling attention, else CLS attention, else the contribution.

    A dense head pools nothing: for its class, the Dense Attention Roll-Out, else the logits of the tokens.

    Raises:
        MapError: it has none of these.
    """
    why_not = maps_of(encoder)
    for name in ("dense_rollout", "class_logits") if encoder.dense else ("pooling", "cls", "contribution"):
        if why_not[name] is None:
            return MapRequest(name)
    raise MapError(f"{encoder.facts.name} has neither pooling attention, CLS attention nor contribution; name a map")


def record_rows(
    recording: Recording,
    requests: Sequence[MapRequest],
    settings: Settings,
    reference: Reference | None = None,
    picture: int = 0,
    profile: Profile | None = None,
) -> tuple[list[Row], list[str]]:
    """The rows of one recording, and a sentence for each map that the checkpoint cannot have.

    Args:
        requests: the maps to make; where empty, the checkpoint's own (`default_map`).
        picture: the index of the recording's picture on the board.
        profile: where the time is counted.

    Raises:
        OptionError: an unknown map or rule, or options that do not fit.
    """
    asked = [(request, settings) for request in requests or [default_map(recording.encoder)]]
    rows, skipped = [], []
    for outcome in rows_or_reasons(recording, asked, reference, picture, profile):
        if isinstance(outcome, AbsentClassError):
            raise outcome
        if isinstance(outcome, MapError):
            skipped.append(f"{outcome}.")
        else:
            rows.append(outcome)
    return rows, skipped


def rows_or_reasons(
    recording: Recording,
    asked: Sequence[tuple[MapRequest, Settings]],
    reference: Reference | None = None,
    picture: int = 0,
    profile: Profile | None = None,
) -> list[Row | MapError]:
    """The rows of one recording, all made at once: roll-outs with the same options share a chain.

    Args:
        asked: each map with the settings of its mask.
        picture: the index of the recording's picture on the board.
        profile: where the time is counted.

    Returns:
        In the order of `asked`, a row; or, where the checkpoint cannot have the map or no token has its class
        (`AbsentClassError`), the error that says so, without a full stop.

    Raises:
        MapError, OptionError: an unknown map or rule, or options that do not fit.
    """
    profile = profile or Profile()
    reasons = [resolve_map(recording.encoder, request.name)[1] for request, _ in asked]
    wanted = [request for (request, _), reason in zip(asked, reasons, strict=True) if reason is None]
    with profile.part("maps"):
        made = iter(make_each(recording, [(request.name, request.options) for request in wanted]))
    maker = _RowMaker(
        recording, reference, picture, profile, segment(recording).told if recording.encoder.dense else ""
    )
    outcomes: list[Row | MapError] = []
    for (request, settings), reason in zip(asked, reasons, strict=True):
        one = MapError(reason) if reason else next(made)
        outcomes.append(one if isinstance(one, MapError) else maker.make(request, settings, *one))
    return outcomes


@dataclass(frozen=True)
class _RowMaker:
    """What the rows of one recording share. found: what a dense head finds, in a line."""

    recording: Recording
    reference: Reference | None
    picture: int
    profile: Profile
    found: str

    def make(self, request: MapRequest, settings: Settings, attention: AttentionMap, seconds: float) -> Row:
        """The row of a map that took `seconds`: its mask and figures."""
        with self.profile.part("masks"):
            rule, amount = parse_rule(settings.mask)
            mask = attention.mask(rule, amount, largest=settings.largest, fusion=settings.fusion)
        with self.profile.part("scores"):
            entropy, entropy_of = attention.entropy()
            scores = {} if self.reference is None else score_map(mask, self.reference)
        top = self.recording.top_classes(1)
        facts = self.recording.encoder.facts
        return Row(
            picture=self.picture,
            checkpoint=facts.name,
            checkpoint_title=facts.title or facts.name,
            pooling=self.recording.encoder.pooling.name,
            request=request,
            map_title=map_methods()[attention.method].title,
            attention=attention,
            fusion=settings.fusion,
            mask=mask,
            prediction=top[0][1:] if top else None,
            found=self.found,
            entropy=entropy,
            entropy_of=entropy_of,
            milliseconds=(1000 * self.recording.seconds, 1000 * seconds),
            input_size=self.recording.geometry.input_size,
            scores=scores,
        )


def require_rows(rows: Sequence[object], skipped: Sequence[str]) -> None:
    """Raise a MapError that says why nothing can be shown, where there are no rows."""
    if not rows:
        raise MapError("none of these checkpoints has any of these maps. " + " ".join(skipped))


def record_each(
    encoders: Sequence[Encoder],
    picture: Picture,
    size: int | None = None,
    requests: Sequence[MapRequest] | None = None,
    profile: Profile | None = None,
) -> Iterator[Recording]:
    """A picture as each encoder saw it, in their order; heads on one backbone share its forward, and models on one stem
    that stem's.

    Errors as in `record`.

    Args:
        requests: the maps that will be asked for, as in `record_rows`; the attention of blocks that none of them needs
            is not kept. None keeps all.
    """
    waiting: dict[int, Recording] = {}
    stems: dict[int, tuple[Tensor, Tensor]] = {}
    for i, encoder in enumerate(encoders):
        if i not in waiting:
            alike = [j for j in range(i, len(encoders)) if j == i or shares_forward(encoder, encoders[j], size)]
            keep = None if requests is None else blocks_of([encoders[j] for j in alike], requests)
            with stems_once(stems):
                shared = record_shared([encoders[j] for j in alike], [picture], size, keep, profile)
            waiting |= {j: recordings[0] for j, recordings in zip(alike, shared, strict=True)}
        yield waiting.pop(i)


def blocks_of(encoders: Sequence[Encoder], requests: Sequence[MapRequest]) -> set[int]:
    """The blocks whose attention some maps need of encoders that share a backbone. Errors as in `record_rows`."""
    wanted = [(encoder, requests or [default_map(encoder)]) for encoder in encoders]
    return {block for encoder, maps in wanted for block in blocks_needed(encoder, [(r.name, r.options) for r in maps])}


def iterate_board(
    pictures: Sequence[Picture],
    encoders: Sequence[Encoder],
    requests: Sequence[MapRequest],
    settings: Settings,
    references: dict[int, Reference] | None = None,
    profile: Profile | None = None,
) -> Iterator[Board]:
    """The growing board, once after each checkpoint has looked at each picture. Errors as in `record_rows`."""
    references = references or {}
    rows: list[Row] = []
    skipped: list[str] = []
    for index, picture in enumerate(pictures):
        for recording in record_each(encoders, picture, settings.size, requests, profile):
            new, reasons = record_rows(recording, requests, settings, references.get(index), index, profile)
            rows += new
            skipped += [reason for reason in reasons if reason not in skipped]
            yield Board(list(pictures), list(rows), references, list(skipped), settings)


def make_board(
    images: Sequence[ImageSource | Picture],
    encoders: Sequence[Encoder],
    maps: Sequence[str | MapRequest] = (),
    settings: Settings | None = None,
    references: dict[int, Reference] | None = None,
) -> Board:
    """Look at pictures with checkpoints and make every map asked for.

    Args:
        images: paths, PIL images, arrays or `Picture`s.
        encoders: from `load_checkpoint`.
        maps: names or texts as for `parse_map`; each checkpoint's own where left out.
        settings: size, mask rule, fusion.
        references: reference masks by index of the picture.

    Raises:
        SimpoolError: nothing to show, or any of the inputs does not fit; the sentence says which.
    """
    if not images or not encoders:
        raise OptionError("a board needs at least one picture and one checkpoint")
    if not set(references or ()) <= set(range(len(images))):
        raise OptionError(
            f"references {sorted(references or ())} are indices of pictures, of which there are {len(images)}"
        )
    requests = [m if isinstance(m, MapRequest) else parse_map(m) for m in maps]
    *_, board = iterate_board([read_picture(i) for i in images], encoders, requests, settings or Settings(), references)
    require_rows(board.rows, board.skipped)
    return board
