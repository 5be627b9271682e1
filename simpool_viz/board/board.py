"""The board: pictures x checkpoints x maps, each with its mask and figures, for the app, the CLI and Python alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from simpool_viz.board.segmentation import segment
from simpool_viz.capture.hooks import Keep
from simpool_viz.errors import AbsentClassError, MapError, OptionError
from simpool_viz.images import ImageSource, Picture, read_picture
from simpool_viz.maps.attention_map import FUSIONS, AttentionMap
from simpool_viz.maps.make import attention_needed, make_each
from simpool_viz.maps.registry import OWN, map_methods, own_map, resolve_map
from simpool_viz.maps.request import MapRequest, option_text, parse_map
from simpool_viz.masks import Cut, ObjectMask, choose_cut, make_mask, parse_rule
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.layers.stem import stems_once
from simpool_viz.modeling.sharing import sharing_groups
from simpool_viz.outputs import Displayed
from simpool_viz.recording import Recording, record_shared
from simpool_viz.refinement import REFINEMENTS, refine
from simpool_viz.scores.faithfulness import Faithfulness, faithfulness
from simpool_viz.scores.localization import iou, score_map
from simpool_viz.scores.references import Reference, bounded, resized
from simpool_viz.tensors import precision_name
from simpool_viz.timing import Profile

IMPROBABLE = 0.5  # a best class below this probability is more likely wrong than right, by the model's own account


@dataclass(frozen=True)
class Settings:
    """What is computed.

    Attributes:
        size: shorter side in pixels; None: each checkpoint's own.
        mask: "default" for the cut that covers objects best over the bundled maps (`masks.DEFAULT_CUT`), or rule and
            amount, as "mass:0.6".
        largest: keep only the largest component; None: as the mask has it, a named rule not.
        smoothing: standard deviation in tokens of a blur before the threshold, from 0 (none) to 2; None likewise.
        smooth: smooth edges of masks, instead of whole patches; None likewise.
        refine: a name of `REFINEMENTS` by which masks are drawn and taken along; "" for none. Scores stay those of the
            map's own mask; that of the refined one stands beside them as iou_refined.
        faithfulness: steps of insertion and deletion, each of which is a forward; 0: they are not measured.
        fusion: of several maps into one: "mean", "max", "min", a name or an index; None: each map's own, mostly
            the mean.
    """

    size: int | None = None
    mask: str = "default"
    largest: bool | None = None
    fusion: str | int | None = None
    smoothing: float | None = None
    smooth: bool | None = None
    refine: str = ""
    faithfulness: int = 0

    @property
    def cut(self) -> Cut:
        """How masks are cut.

        Raises:
            OptionError: an unknown rule, an amount that does not fit it, or a smoothing out of range.
        """
        rule, amount = (None, None) if self.mask == "default" else parse_rule(self.mask)
        return choose_cut(rule, amount, smoothing=self.smoothing, largest=self.largest, smooth=self.smooth)


@dataclass(frozen=True)
class Row:
    """One map of one checkpoint on one picture.

    Attributes:
        picture: index into the board's pictures.
        checkpoint: its name.
        checkpoint_title: its title, or its name where it has none.
        pooling: the name of the checkpoint's pooling.
        request: the map and the options it was asked for with.
        map_title: the title of the map's method.
        attention: the map, (M, h, w).
        fusion: how several maps were made one, as asked for; None: the map's own way.
        mask: the object mask of the fused map.
        prediction: (class, probability), or None without a classifier.
        found: what a dense head finds, in a line, else "".
        entropy: spatial entropy in nats.
        entropy_of: "logits" or "weights", whichever it was measured on.
        milliseconds: of the forward and of this map. What several rows share counts in each (the forward) or in
            equal parts (a chain through the blocks that several roll-outs share); a stem that several checkpoints
            share counts in the first.
        input_size: (height, width) of the model's input in pixels.
        scores: against the reference, by name; {} without one.
        refine: by what its mask is refined to the photo's edges when it is drawn, as `Settings.refine`.
        curves: insertion and deletion, where they were asked for and there is a classifier.
        precision: of the forward pass, as in `tensors.PRECISIONS`.
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
    refine: str = ""
    curves: Faithfulness | None = None
    precision: str = "float32"

    @property
    def map_label(self) -> str:
        """The map's title with the options it was asked for with, and the one of several maps that is shown."""
        options = [self._option_label(key, value) for key, value in self.request.options.items()]
        if self.fusion is not None and self._one_map:
            options.append(self._one_map)
        return self.map_title + (f" ({', '.join(options)})" if options else "")

    def _option_label(self, option: str, value: Any) -> str:
        """An option for a reader: classes by their names, also where they were given by index."""
        if option != "classes":
            return f"{option} {option_text(value)}"
        return ("class " if len(self.attention.names) == 1 else "classes ") + ", ".join(self.attention.names)

    @property
    def _fused_by(self) -> str | int:
        return self.attention.fusion if self.fusion is None else self.fusion

    @property
    def _one_map(self) -> str:
        """The name of the single map that is shown where there are several, "" where they are fused."""
        names, fusion = self.attention.names, self._fused_by
        if len(names) == 1 or fusion in FUSIONS:
            return ""
        return names[fusion] if isinstance(fusion, int) else fusion

    @property
    def title(self) -> str:
        """Checkpoint and map, as "ResNet, GAP: Class contribution (class cat)"."""
        return f"{self.checkpoint_title}: {self.map_label}"

    @property
    def finding(self) -> str:
        """What the head finds, in a few words: a class that is probable, or the classes of a dense head; else ""."""
        if self.prediction is None:
            return self.found
        return self._predicted if self.prediction[1] >= IMPROBABLE else ""

    @property
    def _predicted(self) -> str:
        name, probability = self.prediction or ("", 0.0)
        return f"predicts {name}, {100 * probability:.0f} %"

    @property
    def fixed_lines(self) -> list[str]:
        """The lines of the caption that do not depend on the mask."""
        h, w = self.attention.geometry.grid
        names = self.attention.names
        if self.prediction:
            lines = [self._predicted + ("" if self.finding else ", improbable")]
        else:
            lines = [self.found or "no classifier head"]
        if len(names) > 1 and self._one_map:
            lines.append(f"{self._one_map}, one of {len(names)} maps")
        elif len(names) > 1:
            by = "" if self._fused_by == "mean" else f" by {self._fused_by}"
            lines.append(f"{len(names)} maps ({names[0]}, ...) fused{by}")
        elif self.attention.signed or self.request.name == "dense_rollout":
            lines.append(f"for the class {names[0]}")
        lines.append(f"spatial entropy {self.entropy:.2f} nats of {self.entropy_of}")
        forward, own = self.milliseconds
        within = "" if self.precision == "float32" else f" in {self.precision}"
        lines.append(f"grid {w} x {h}, {forward + own:.0f} ms: forward {forward:.0f}{within}, map {own:.1f}")
        return lines + ([self.attention.note] if self.attention.note else [])

    @property
    def mask_line(self) -> str:
        """The line of the caption on what the mask covers."""
        if self.mask.constant:
            return "the map is constant: the mask is the whole picture"
        parts = "component" if self.mask.components == 1 else "components"
        edges = f", drawn refined by {REFINEMENTS[self.refine].title}" if self.refine else ""
        return f"mask: {100 * self.mask.coverage:.0f} % of the picture, {self.mask.components} {parts}{edges}"

    @property
    def score_lines(self) -> list[str]:
        """The scores in a line, where there is a reference."""
        if not self.scores:
            return []
        own, hit = self.scores, "hit" if self.scores["pointing"] else "miss"
        return [
            f"IoU {own['iou']:.2f} of the mask, {own['iou_at_true_area']:.2f} at true area, "
            f"{own['iou_at_best_threshold']:.2f} at the best threshold",
            f"pointing {hit}, {100 * own['energy']:.0f} % of the energy inside",
            *([f"IoU {own['iou_refined']:.2f} of the refined mask"] if "iou_refined" in own else []),
        ]

    @property
    def lines(self) -> list[str]:
        """The whole caption, line by line."""
        return [*self.fixed_lines, self.mask_line, *self.score_lines, *self.curve_lines]

    @property
    def curve_lines(self) -> list[str]:
        """The areas of insertion and deletion in a line, where they were measured."""
        if self.curves is None:
            return []
        deletion, insertion = self.curves.areas["deletion"], self.curves.areas["insertion"]
        return [f"areas of deletion {deletion:.2f} and insertion {insertion:.2f} for {self.curves.class_name}"]


@dataclass(frozen=True)
class Board(Displayed):
    """Pictures and the maps made of them.

    Attributes:
        pictures: in the order given.
        rows: one per picture, checkpoint and map.
        references: reference masks by index of the picture.
        skipped: sentences that say what could not be shown and why, and what was assumed of pictures.
        settings: what was computed.
    """

    pictures: list[Picture]
    rows: list[Row]
    references: dict[int, Reference]
    skipped: list[str]
    settings: Settings


def record_rows(
    recording: Recording,
    requests: Sequence[MapRequest],
    settings: Settings,
    reference: Reference | None = None,
    picture: int = 0,
    profile: Profile | None = None,
) -> tuple[list[Row], list[str]]:
    """The rows of one recording.

    Args:
        recording: of one picture by one checkpoint.
        requests: the maps to make; where empty, the checkpoint's own (`own_map`).
        settings: of the masks.
        reference: the picture's reference mask, which the rows are scored against.
        picture: the index of the recording's picture on the board.
        profile: where the time is counted.

    Returns:
        The rows, and a sentence for each map that the checkpoint cannot have.

    Raises:
        OptionError: an unknown map or rule, or options that do not fit.
        MapError: no map was named, and the checkpoint has none of its own.
        AbsentClassError: a roll-out from a class that no token has.
    """
    expanded = _expanded(recording.encoder, requests or [MapRequest(OWN)])
    with_settings = [(request, settings) for request in expanded]
    rows, skipped = [], []
    for outcome in rows_or_reasons(recording, with_settings, reference, picture, profile):
        if isinstance(outcome, AbsentClassError):
            raise outcome
        if isinstance(outcome, MapError):
            skipped.append(f"{outcome}.")
        else:
            rows.append(outcome)
    return rows, skipped


def _expanded(encoder: Encoder, requests: Sequence[MapRequest]) -> list[MapRequest]:
    """The maps that are asked for, "own" by the name that it has for this checkpoint, where that is not asked for."""
    others = {resolve_map(encoder, r.name)[0].name for r in requests if r.name != OWN and not r.options}
    named = [MapRequest(own_map(encoder), r.options) if r.name == OWN else r for r in requests]
    return [n for n, r in zip(named, requests, strict=True) if r.name != OWN or r.options or n.name not in others]


def rows_or_reasons(
    recording: Recording,
    requests: Sequence[tuple[MapRequest, Settings]],
    reference: Reference | None = None,
    picture: int = 0,
    profile: Profile | None = None,
) -> list[Row | MapError]:
    """The rows of one recording, all made at once: roll-outs with the same options share a chain.

    Args:
        recording: of one picture by one checkpoint.
        requests: each map with the settings of its mask.
        reference: the picture's reference mask, which the rows are scored against.
        picture: the index of the recording's picture on the board.
        profile: where the time is counted.

    Returns:
        In the order of `requests`, a row; or, where the checkpoint cannot have the map or no token has its class
        (`AbsentClassError`), the error that says so, without a full stop.

    Raises:
        OptionError: an unknown map or rule, or options that do not fit.
    """
    profile = profile or Profile()
    reasons = [resolve_map(recording.encoder, request.name)[1] for request, _ in requests]
    wanted = [request for (request, _), reason in zip(requests, reasons, strict=True) if reason is None]
    with profile.part("maps"):
        made = iter(make_each(recording, [(request.name, request.options) for request in wanted]))
    found = segment(recording).summary if recording.encoder.dense else ""
    maker = _RowMaker(recording, reference, picture, profile, found)
    outcomes: list[Row | MapError] = []
    for (request, settings), reason in zip(requests, reasons, strict=True):
        outcome = MapError(reason) if reason else next(made)
        outcomes.append(outcome if isinstance(outcome, MapError) else maker.make(request, settings, *outcome))
    return outcomes


@dataclass(frozen=True)
class _RowMaker:
    """What the rows of one recording share. found: what a dense head finds, in a line."""

    recording: Recording
    reference: Reference | None
    picture: int
    profile: Profile
    found: str

    def _curves(self, weights: np.ndarray, steps: int) -> Faithfulness | None:
        if not steps or self.recording.encoder.classifier is None:
            return None
        with self.profile.part("faithfulness"):
            return faithfulness(self.recording, weights, steps)

    def make(self, request: MapRequest, settings: Settings, attention: AttentionMap, seconds: float) -> Row:
        """The row of a map that took `seconds`: its mask and figures."""
        with self.profile.part("masks"):
            mask = make_mask(attention.fused(settings.fusion), attention.geometry, settings.cut)
        with self.profile.part("scores"):
            entropy, entropy_of = attention.entropy()
            scores = {} if self.reference is None else score_map(mask, self.reference)
        if self.reference is not None and settings.refine:
            with self.profile.part("refinement"):
                scores["iou_refined"] = refined_iou(self.recording.picture, mask, settings.refine, self.reference)
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
            refine=settings.refine,
            curves=self._curves(mask.weights, settings.faithfulness),
            precision=precision_name(next(self.recording.encoder.parameters()).dtype),
        )


def refined_iou(picture: Picture, mask: ObjectMask, method: str, reference: Reference) -> float:
    """IoU with a reference of a mask that is moved to the edges of its photo.

    Args:
        picture: the photo.
        mask: the map's own.
        method: a name of `REFINEMENTS`.
        reference: of the photo, at any size.
    """
    rgb = cv2.resize(picture.rgb, reference.size, interpolation=cv2.INTER_AREA)
    return iou(refine(mask.pixels(size=reference.size), rgb, method), reference)


def require_rows(rows: Sequence[object], skipped: Sequence[str]) -> None:
    """Make sure that there is something to show.

    Args:
        rows: of a board, or of a table.
        skipped: sentences that say which maps could not be made and why.

    Raises:
        MapError: there are no rows; its text holds the reasons.
    """
    if not rows:
        raise MapError("none of these checkpoints has any of these maps. " + " ".join(skipped))


def record_each(
    encoders: Sequence[Encoder],
    picture: Picture,
    size: int | None = None,
    requests: Sequence[MapRequest] | None = None,
    profile: Profile | None = None,
) -> Iterator[Recording]:
    """The recording of a picture by each encoder, in their order.

    Heads on one backbone share its forward, models on one trunk that trunk's, and models on one stem that stem's.

    Args:
        encoders: the checkpoints.
        picture: the picture.
        size: shorter side in pixels; each checkpoint's own where None.
        requests: the maps that will be made, as in `record_rows`; the attention of blocks that none of them needs is
            not kept. None keeps all.
        profile: where the time is counted.

    Raises:
        SimpoolError: as in `record`.
    """
    waiting: dict[int, Recording] = {}
    stems: dict[int, tuple[Tensor, Tensor]] = {}
    groups = {group[0]: group for group in sharing_groups(encoders, size)}
    for i in range(len(encoders)):
        if i not in waiting:
            alike = groups[i]
            keep = None if requests is None else attention_of([encoders[j] for j in alike], requests)
            with stems_once(stems):
                shared = record_shared([encoders[j] for j in alike], [picture], size, keep, profile)
            waiting |= {j: recordings[0] for j, recordings in zip(alike, shared, strict=True)}
        yield waiting.pop(i)


def attention_of(encoders: Sequence[Encoder], requests: Sequence[MapRequest]) -> Keep:
    """What some maps need of the attention of encoders that share a backbone.

    Args:
        encoders: the checkpoints.
        requests: the maps; where empty, each checkpoint's own.

    Raises:
        SimpoolError: as in `record_rows`.
    """
    asked = [(request.name, request.options) for request in requests or [MapRequest(OWN)]]
    return reduce(or_, [attention_needed(encoder, asked) for encoder in encoders])


def iterate_board(
    pictures: Sequence[Picture],
    encoders: Sequence[Encoder],
    requests: Sequence[MapRequest],
    settings: Settings,
    references: dict[int, Reference] | None = None,
    profile: Profile | None = None,
) -> Iterator[Board]:
    """The growing board, once after each recording of a picture by a checkpoint.

    Args:
        pictures: in the order of the board.
        encoders: the checkpoints.
        requests: the maps; where empty, each checkpoint's own.
        settings: size, mask rule, fusion.
        references: reference masks by index of the picture.
        profile: where the time is counted.

    Raises:
        SimpoolError: as in `record_rows`.
    """
    # At the size of its photo, as `evaluate` scores it too.
    references = {i: bounded(resized(one, pictures[i].size)) for i, one in (references or {}).items()}
    rows: list[Row] = []
    skipped = list(dict.fromkeys(picture.note for picture in pictures if picture.note))
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
    """Record pictures with checkpoints and make every map asked for.

    Args:
        images: paths, PIL images, arrays or `Picture`s.
        encoders: from `load_checkpoint`.
        maps: names or texts as for `parse_map`; each checkpoint's own where left out.
        settings: size, mask rule, fusion.
        references: reference masks by index of the picture.

    Raises:
        SimpoolError: nothing to show, or any of the inputs does not fit; the sentence says which.

    Examples:
        >>> from simpool_viz import load_checkpoints, make_board
        >>> encoders = load_checkpoints(["resnet_simpool", "resnet_gap"])
        >>> board = make_board(["cat.jpg"], encoders, ["simpool", "gradcam"])
        >>> [(row.checkpoint, row.request.label) for row in board.rows]
        [('resnet_simpool', 'simpool'), ('resnet_simpool', 'gradcam'), ('resnet_gap', 'gradcam')]
        >>> board.skipped
        ['ResNet, GAP has no Pooling attention map: it pools by GAP, not by SimPool.']
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
