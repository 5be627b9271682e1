"""Inspection of one checkpoint on one photo: questions, and the maps that answer them.

A question about a `Recording` has options, a `Lens`: the block, the point, the class, and how heads and blocks are
combined. The answer is the rows of a board, the single maps (heads, queries) behind the first of them, and what cannot
be shown and why. Every map is one that `recording.map` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from simpool_viz.board.board import Row, Settings, rows_or_reasons
from simpool_viz.board.segmentation import percent, segment
from simpool_viz.errors import AbsentClassError, MapError, OptionError
from simpool_viz.maps.attention_map import FUSIONS, AttentionMap
from simpool_viz.maps.gated_features import gates_by_depth
from simpool_viz.maps.registry import maps_of
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.classes import class_name
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.layers.life import LIFE, scale_of_heads
from simpool_viz.modeling.layers.squeeze import shares_of_maximum
from simpool_viz.modeling.pooling.means import PowerMean
from simpool_viz.recording import Recording


@dataclass(frozen=True)
class Lens:
    """The options of an inspection.

    Attributes:
        at: (x, y) in pixels of the picture; its centre where None.
        block: number of an attention block from 0; negative from the last.
        fusion: of heads: "mean", "max", "min", or the index of one.
        first: number of the block at which roll-outs begin.
        residual: weight of the skip connection in roll-outs, in [0, 1], or "measured", as in `RolloutOptions`.
        target: a class by name or index; the predicted one where None.
        also: a second class, whose tokens join those of `target` in a Dense Attention Roll-Out.
        discard: share of each block's lowest weights that roll-outs set to 0, in [0, 1).
    """

    at: tuple[float, float] | None = None
    block: int = -1
    fusion: str | int = "mean"
    first: int = 0
    residual: float | str = 0.5
    target: str | int | None = None
    also: str | int | None = None
    discard: float = 0.0

    @property
    def rollout(self) -> dict[str, Any]:
        """Options of a roll-out that differ from its defaults.

        A single head cannot be followed through blocks, so the mean of the heads stands for it.
        """
        defaults = {"first": 0, "residual": 0.5, "fusion": "mean", "discard": 0.0}
        fusion = self.fusion if self.fusion in FUSIONS else "mean"
        chosen = {"first": self.first, "residual": self.residual, "fusion": fusion, "discard": self.discard}
        return {key: value for key, value in chosen.items() if value != defaults[key]}

    @property
    def classes(self) -> dict[str, Any]:
        """Options of a map of the class `target`."""
        return {} if self.target is None else {"classes": [self.target]}

    @property
    def together(self) -> dict[str, Any]:
        """Options of a Dense Attention Roll-Out from the tokens of both classes."""
        if self.also is None or self.target is None:
            return self.classes
        return {"classes": [self.target, self.also], "union": True}


MapsWithFusion = list[tuple[MapRequest, "str | int | None"]]


@dataclass(frozen=True)
class Question:
    """A question about a recording.

    Attributes:
        name: on the command line and in Python.
        title: the question in words.
        maps: names of maps; a checkpoint that has one of them can answer.
        requests: the maps of an answer with their fusions, from the lens and whether the head is dense.
    """

    name: str
    title: str
    maps: tuple[str, ...]
    requests: Callable[[Lens, bool], MapsWithFusion]


def _of_token(lens: Lens, dense: bool) -> MapsWithFusion:
    place = {} if lens.at is None else {"at": lens.at}
    rollout = {**place, "rollout": True, **lens.rollout}
    return [(MapRequest("token", {**place, "block": lens.block}), lens.fusion), (MapRequest("token", rollout), None)]


def _of_class_token(lens: Lens, dense: bool) -> MapsWithFusion:
    return [(MapRequest("cls", {"block": lens.block}), lens.fusion), (MapRequest("rollout", lens.rollout), None)]


def _of_pooling(lens: Lens, dense: bool) -> MapsWithFusion:
    return [(MapRequest("pooling"), lens.fusion), (MapRequest("rollout", lens.rollout), None)]


def _of_class(lens: Lens, dense: bool) -> MapsWithFusion:
    options = {**lens.together, **lens.rollout}
    rollout = MapRequest("dense_rollout", options)
    if dense:
        soft = MapRequest("dense_rollout", {**options, "soft": True})
        requests = [rollout, soft, MapRequest("class_logits", lens.classes), MapRequest("rollout", lens.rollout)]
    else:
        requests = [MapRequest("contribution", lens.classes), rollout, MapRequest("gradcam", lens.classes)]
    return [(request, None) for request in requests]


def _of_gates(lens: Lens, dense: bool) -> MapsWithFusion:
    return [(MapRequest("gates"), "gated"), (MapRequest("gates"), "ungated")]


QUESTIONS: dict[str, Question] = {
    question.name: question
    for question in (
        Question("token", "What does a token attend to?", ("token",), _of_token),
        Question("cls", "What does the class token attend to?", ("cls",), _of_class_token),
        Question("pooling", "What does the pooling attend to?", ("pooling",), _of_pooling),
        Question(
            "class",
            "What contributes to a class?",
            ("contribution", "dense_rollout", "class_logits", "gradcam"),
            _of_class,
        ),
        Question("gates", "What do the channel gates let through?", ("gates",), _of_gates),
    )
}


def questions_of(encoder: Encoder) -> dict[str, str | None]:
    """Which questions an encoder can answer.

    Args:
        encoder: a checkpoint.

    Returns:
        For every name of `QUESTIONS`, None where it can be answered, else why not.
    """
    return questions_by_maps(maps_of(encoder))


def questions_by_maps(why_not: Mapping[str, str | None]) -> dict[str, str | None]:
    """The same as `questions_of`, of a checkpoint whose maps are known.

    Args:
        why_not: as `maps_of` gives it.
    """
    reasons = {name: [why_not[m] for m in question.maps] for name, question in QUESTIONS.items()}
    return {name: None if None in why else why[0] for name, why in reasons.items()}


@dataclass(frozen=True)
class Inspection:
    """The answer to a question.

    Attributes:
        rows: of a board.
        parts: the maps that the first row fuses; None where it is a single map.
        groups: of the parts, (title, indices).
        notes: sentences that say which maps are missing and why, and what was assumed of the picture.
    """

    rows: list[Row]
    parts: AttentionMap | None
    groups: list[tuple[str, list[int]]]
    notes: list[str] = field(default_factory=list)


def inspect(
    recording: Recording, question: str, lens: Lens | None = None, settings: Settings | None = None
) -> Inspection:
    """Answer a question about a recording with maps.

    Args:
        recording: one picture's by one checkpoint.
        question: a name of `QUESTIONS`.
        lens: block, point, class, and how heads and blocks are combined; the default `Lens` where None.
        settings: of the masks; the fusion is the lens's.

    Raises:
        OptionError: an unknown question, or a block, point, head or class that does not exist.
        MapError: a question that this checkpoint cannot answer.

    Examples:
        >>> from simpool_viz import Lens, inspect, load_checkpoint, record
        >>> recording = record(load_checkpoint("resnet_simpool"), "cat.jpg")
        >>> answer = inspect(recording, "class", Lens(target="church"))
        >>> [(row.request.label, row.attention.names) for row in answer.rows]
        [('contribution:classes=church', ('church',)), ('gradcam:classes=church', ('church',))]
    """
    lens, settings = lens or Lens(), settings or Settings()
    if question not in QUESTIONS:
        raise OptionError(f"the questions are {', '.join(QUESTIONS)}, not {question!r}")
    reason = questions_of(recording.encoder)[question]
    if reason:
        raise MapError(f"{recording.encoder.facts.name} cannot answer {question!r}: {reason}")
    requests = QUESTIONS[question].requests(lens, recording.encoder.dense)
    outcomes = rows_or_reasons(recording, [(request, replace(settings, fusion=fusion)) for request, fusion in requests])
    rows = [outcome for outcome in outcomes if isinstance(outcome, Row)]
    notes = list(dict.fromkeys(_note_of(outcome) for outcome in outcomes if isinstance(outcome, MapError)))
    if recording.picture.note:
        notes.insert(0, recording.picture.note)
    first = rows[0].attention if rows else None
    parts = first if first is not None and len(first.names) > 1 and question != "gates" else None
    return Inspection(rows, parts, group_parts(recording, parts, lens.block) if parts else [], notes)


def _note_of(error: MapError) -> str:
    """Why a map of an answer is not there, in a sentence."""
    return f"Dense Attention Roll-Out: {error}." if isinstance(error, AbsentClassError) else f"{error}."


def group_parts(recording: Recording, attention: AttentionMap, block: int = -1) -> list[tuple[str, list[int]]]:
    """The maps of an AttentionMap in groups: heads by their scale where LIFE gives each one, else one group.

    Args:
        recording: which the maps were made from.
        attention: the maps.
        block: of which the heads are; negative from the last.

    Returns:
        (title, indices) of each group; the title of a single group is "".
    """
    indices = list(range(len(attention.names)))
    maps_are_heads = has_life(recording.encoder, block) and attention.method in ("cls", "token")
    scales = scale_of_heads(len(indices)) if maps_are_heads else None
    if scales is None:
        return [("", indices)]
    return [(f"scale {scale}", [i for i in indices if scales[i] == scale]) for scale in dict.fromkeys(scales)]


def has_life(encoder: Encoder, block: int = -1) -> bool:
    """Whether queries and keys of a block are made at three scales (LIFE); negative numbers count from the last."""
    return encoder.depth > 0 and any(isinstance(module, LIFE) for module in encoder.blocks[block].modules())


def recording_bytes(recording: Recording) -> int:
    """Bytes that a recording keeps in memory: its tensors' storages, each counted once, and its photo."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in recording.tensors()}
    return sum(storages.values()) + recording.picture.rgb.nbytes


# --- what is known beside the maps ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassFound:
    """A class of the head.

    Attributes:
        index: of the class.
        name: of the class.
        probability: in [0, 1]; None for a dense head.
        share: of the tokens that the head assigns to the class, in [0, 1]; None where tokens have no scores.
    """

    index: int
    name: str
    probability: float | None
    share: float | None

    @property
    def summary(self) -> str:
        """Such as "road: 31 % of tokens" or "tench: 80 %, 12 % of tokens"."""
        probability = [] if self.probability is None else [f"{100 * self.probability:.0f} %"]
        share = [] if self.share is None else [f"{percent(self.share)} of tokens"]
        return f"{self.name}: {', '.join(probability + share)}"


def classes_found(recording: Recording, count: int = 5) -> list[ClassFound]:
    """The classes of a recording.

    Args:
        recording: one picture's by one checkpoint.
        count: how many of the most probable classes, and how many of those that most tokens have.

    Returns:
        The most probable classes, then those that most tokens have; of a dense head all that it finds; [] without a
        head.
    """
    encoder = recording.encoder
    if encoder.dense:
        segmentation = segment(recording)
        tokens = segmentation.shares()
        return [ClassFound(i, segmentation.names[i], None, float(tokens[i])) for i in segmentation.found()]
    top = recording.top_classes(count)
    if not top or recording.logits is None:
        return []
    shares: np.ndarray | None = None
    if maps_of(encoder)["class_logits"] is None:
        best = recording.token_scores.argmax(1).cpu().numpy()
        shares = np.bincount(best, minlength=len(recording.logits)) / len(best)
    probability = {index: value for index, _, value in recording.top_classes(len(recording.logits))}
    wanted = [index for index, *_ in top]
    if shares is not None:
        wanted += [int(i) for i in np.argsort(-shares, kind="stable")[:count] if shares[i] > 0 and int(i) not in wanted]
    return [
        ClassFound(i, class_name(encoder, i), probability[i], None if shares is None else float(shares[i]))
        for i in wanted
    ]


def exponents(encoder: Encoder) -> tuple[float, ...]:
    """The learned exponents p of GeM (one) or GGeM (one per group of channels), as used; () for other poolings."""
    mean = encoder.pooling.mean
    if not isinstance(mean, PowerMean) or not mean.learnable:
        return ()
    return tuple(float(p) for p in mean.p.detach().float().clamp(1.0, 50.0).cpu())


@dataclass(frozen=True)
class ExponentGroup:
    """A group of channels of GeM or GGeM that has one exponent, and what this does on a picture.

    Attributes:
        channels: (first, last + 1).
        exponent: p, in [1, 50], as used.
        positions: the effective number of positions that are pooled, in [1, N]: the exponential of the entropy of the
            positions' shares in a channel, its mean over the group's channels. N where all give the same, 1 where one
            position gives all.
    """

    channels: tuple[int, int]
    exponent: float
    positions: float


def exponent_groups(recording: Recording) -> list[ExponentGroup]:
    """The groups of channels of GeM or GGeM with their exponents and effects on a picture.

    The shares are those of the contributions to the power mean, y^p / sum of y^p over the positions, y = max(x, eps)
    (Ko et al., 2022, eq. 3).

    Args:
        recording: one picture's by one checkpoint.

    Raises:
        MapError: the pooling is neither.

    Examples:
        >>> from simpool_viz import load_checkpoint, record
        >>> from simpool_viz.board.inspection import exponent_groups
        >>> groups = exponent_groups(record(load_checkpoint("resnet_gap+ggem"), "cat.jpg", size=64))
        >>> [group.channels for group in groups]
        [(0, 64), (64, 128), (128, 192), (192, 256)]
    """
    encoder = recording.encoder
    powers = exponents(encoder)
    if not powers:
        raise MapError(
            f"{encoder.facts.name} has no exponents: its pooling is {encoder.pooling.title}, and GeM and GGeM have them"
        )
    given = encoder.pooling.contribution(recording.tokens, recording.pooled)[0].double().cpu().numpy()  # (N, D)
    shares = given / given.sum(0, keepdims=True).clip(min=1e-30)
    entropy = -(shares * np.log(shares.clip(min=1e-30))).sum(0)  # (D,)
    width = len(entropy) // len(powers)
    return [
        ExponentGroup((g * width, (g + 1) * width), p, float(np.exp(entropy[g * width : (g + 1) * width]).mean()))
        for g, p in enumerate(powers)
    ]


@dataclass(frozen=True)
class GateProfile:
    """The values of one channel gate on a picture.

    Attributes:
        name: of the gate's module.
        channels: how many channels it multiplies.
        quantiles: 0, 0.25, 0.5, 0.75 and 1 of its values over the channels.
        share: lambda, the weight of the maximum in [0, 1] where it squeezes by maximum and minimum (SPE and others),
            of which the minimum has the rest; else None.
    """

    name: str
    channels: int
    quantiles: tuple[float, float, float, float, float]
    share: float | None = None


def gate_profiles(recording: Recording) -> list[GateProfile]:
    """The profile of every channel gate (SE, SPE, CBAM) in the order of the forward; [] where there is none."""
    profiles, shares = [], shares_of_maximum(recording.encoder.backbone)
    for name, values in gates_by_depth(recording).items():
        low, q1, median, q3, high = (float(v) for v in np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
        profiles.append(GateProfile(name, len(values), (low, q1, median, q3, high), shares.get(name)))
    return profiles


@dataclass(frozen=True)
class RecordingFacts:
    """What is known of a checkpoint on a photo beside its maps.

    Attributes:
        checkpoint: its title.
        picture: its name.
        grid: (h, w) of the tokens.
        blocks: number of attention blocks.
        classes: found by the head.
        pooling: its title.
        exponents: of GeM or GGeM, () for other poolings.
        gates: profiles in the order of the forward.
        answers: names of the questions that have an answer.
        absent: why the other questions have none, by name.
    """

    checkpoint: str
    picture: str
    grid: tuple[int, int]
    blocks: int
    classes: list[ClassFound]
    pooling: str
    exponents: tuple[float, ...]
    gates: list[GateProfile]
    answers: list[str]
    absent: dict[str, str]

    @property
    def lines(self) -> list[str]:
        """The same in sentences."""
        lines = [
            f"{self.checkpoint} on {self.picture}: grid {self.grid[1]} x {self.grid[0]}, {self.blocks} attention "
            f"blocks, {self.pooling}"
        ]
        for found in self.classes:
            lines.append(f"  class {found.summary}")
        if self.exponents:
            lines.append(f"  exponents p: {', '.join(f'{p:.3g}' for p in self.exponents)}")
        for gate in self.gates:
            low, q1, median, q3, high = (f"{v:.3g}" for v in gate.quantiles)
            lines.append(
                f"  gate {gate.name}, {gate.channels} channels: median {median}, half in {q1} to {q3}, all in {low} to "
                f"{high}"
                + ("" if gate.share is None else f"; squeezed with {gate.share:.2f} of the maximum, the rest minimum")
            )
        lines += [f"can be asked: {name} ({QUESTIONS[name].title})" for name in self.answers]
        return lines + [f"cannot be asked: {name}, since {why}" for name, why in self.absent.items()]


def facts_of(recording: Recording) -> RecordingFacts:
    """Everything about a recording that is not a map: classes, exponents, gates, and which questions have an answer."""
    encoder, why_not = recording.encoder, questions_of(recording.encoder)
    return RecordingFacts(
        checkpoint=encoder.facts.title or encoder.facts.name,
        picture=recording.picture.name,
        grid=recording.geometry.grid,
        blocks=encoder.depth,
        classes=classes_found(recording),
        pooling=f"{encoder.pooling.title} pooling",
        exponents=exponents(encoder),
        gates=gate_profiles(recording),
        answers=[name for name, why in why_not.items() if why is None],
        absent={name: why for name, why in why_not.items() if why},
    )
