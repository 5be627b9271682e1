"""One fused forward pass -> everything that every map needs.

A recording holds features, pooling weights, logits, and the queries and keys of the blocks that maps need (see
capture.py). Pictures of one input size share a forward, and so do several heads on one backbone.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from simpool_viz.capture.block_attention import Attention, Blocks
from simpool_viz.capture.channel_gates import ChannelGate, GateCapture
from simpool_viz.capture.hooks import AttentionCapture, BlockCapture, Call, check_calls, one_of
from simpool_viz.capture.recorded import Recorded
from simpool_viz.errors import CheckpointError
from simpool_viz.images import Geometry, ImageSource, Picture, fit, preprocess, read_picture
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.make import make_map, make_maps
from simpool_viz.modeling.encoder import Encoder, Output
from simpool_viz.modeling.pooling import Pooled, Tokens
from simpool_viz.tensors import enough_memory
from simpool_viz.timing import Profile


@dataclass(frozen=True)
class Recording(Recorded):
    """What was recorded of a picture, and its maps. Fields as in `Recorded`."""

    def map(self, name: str, **options: Any) -> AttentionMap:
        """Make a map: "pooling" (or the pooling's name), "cls", "rollout", "dense_rollout", "token", "contribution".

        Options are those of the map's function in `simpool_viz.maps`: block, first, at, classes, ...

        Raises:
            MapError: the checkpoint cannot have this map; the sentence says why.
            OptionError: there is no such map, or an option does not fit it.

        Examples:
            >>> from simpool_viz import load_checkpoint, record
            >>> encoder = load_checkpoint("resnet_simpool")
            >>> recording = record(encoder, "cat.jpg")
            >>> attention = recording.map("simpool")
            >>> attention.names, attention.weights.shape, attention.unit
            (('SimPool',), (1, 16, 24), 'uniform')
            >>> recording.map("gradcam", classes=["golf ball", "church"]).names
            ('golf ball', 'church')
        """
        return make_map(self, name, **options)

    def maps(self, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[AttentionMap]:
        """Several maps, as (name, options); roll-outs among them share one walk through the blocks. Errors as in
        `map`.

        Examples:
            >>> from simpool_viz import load_checkpoint, record
            >>> encoder = load_checkpoint("resnet_simpool")
            >>> recording = record(encoder, "cat.jpg")
            >>> pooled, gradient = recording.maps([("pooling", {}), ("gradcam", {"classes": ["church"]})])
            >>> pooled.method, gradient.method, gradient.names
            ('pooling', 'gradcam', ('church',))
        """
        return [attention for attention, _ in make_maps(self, requests)]


# --- recording --------------------------------------------------------------------------------------------------------


Keep = Collection[int] | None


def record(encoder: Encoder, image: ImageSource | Picture, size: int | None = None, keep: Keep = None) -> Recording:
    """Look at one picture once.

    Args:
        encoder: from `load_checkpoint`.
        image: path, PIL image, array, or a `Picture`.
        size: shorter side in pixels, rounded to whole tokens; the checkpoint's own (`encoder.facts.size`) by default.
        keep: numbers of the blocks whose attention is kept (`blocks_needed` tells them for some maps); all by default.

    Raises:
        PictureError: a picture that cannot be read.
        OptionError: an impossible size, or one that needs more memory than there is.
        CheckpointError: a model whose attention cannot be captured.

    Examples:
        >>> from simpool_viz import load_checkpoint, record
        >>> encoder = load_checkpoint("resnet_simpool")
        >>> recording = record(encoder, "cat.jpg", size=96)  # 451 x 300 pixels, tokens of 8 pixels
        >>> recording.geometry.input_size, recording.tokens.grid
        ((144, 96), (12, 18))
        >>> [(index, name, probability)] = recording.top_classes(1)
        >>> name == encoder.facts.classes[index] and 0 < probability < 1
        True
    """
    return record_batch(encoder, [image], size, keep)[0]


def record_batch(
    encoder: Encoder, images: Sequence[ImageSource | Picture], size: int | None = None, keep: Keep = None
) -> list[Recording]:
    """Look at several pictures; those of one input size share a forward. Arguments and errors as in `record`.

    Examples:
        >>> from simpool_viz import load_checkpoint, record_batch
        >>> encoder = load_checkpoint("resnet_simpool")
        >>> recordings = record_batch(encoder, ["cat.jpg", "street.jpg"])
        >>> [(recording.picture.name, recording.tokens.grid) for recording in recordings]
        [('cat.jpg', (16, 24)), ('street.jpg', (16, 24))]
    """
    return record_shared([encoder], images, size, keep)[0]


def record_shared(
    encoders: Sequence[Encoder],
    images: Sequence[ImageSource | Picture],
    size: int | None = None,
    keep: Keep = None,
    profile: Profile | None = None,
) -> list[list[Recording]]:
    """Look at pictures with several heads on one backbone, which runs once for all of them (`shares_forward`).

    Returns:
        The recordings of each encoder, in the order of the pictures.

    Raises:
        CheckpointError: as in `record`, or encoders that cannot share a forward.
    """
    encoder, profile = encoders[0], profile or Profile()
    strangers = [e.facts.name for e in encoders if not shares_forward(encoder, e, size)]
    if strangers:
        raise CheckpointError(
            f"{', '.join(strangers)} and {encoder.facts.name} have not the same backbone and size, so no forward "
            "serves both"
        )
    pictures = [read_picture(image) for image in images]
    geometries = [fit(p.size, encoder.facts.size if size is None else size, encoder.stride) for p in pictures]
    recordings: dict[int, list[Recording]] = {}
    for grid in dict.fromkeys(g.grid for g in geometries):
        members = [i for i, g in enumerate(geometries) if g.grid == grid]
        batch = [(pictures[i], geometries[i]) for i in members]
        with profile.part("preprocess"):
            inputs = torch.stack([preprocess(*one, encoder.facts.mean, encoder.facts.std) for one in batch])
        with profile.part("forward"):
            alike = record_prepared(encoders, batch, inputs, keep)
        recordings.update(zip(members, zip(*alike, strict=True), strict=True))  # type: ignore[arg-type]
    return [[recordings[i][n] for i in range(len(pictures))] for n in range(len(encoders))]


def shares_forward(one: Encoder, other: Encoder, size: int | None = None) -> bool:
    """Whether two encoders have the same backbone object and see pictures alike, so that one forward serves both."""
    a, b = one.facts, other.facts
    return (
        one.backbone is other.backbone and (a.mean, a.std) == (b.mean, b.std) and (size is not None or a.size == b.size)
    )


@enough_memory()
def record_prepared(
    encoders: Sequence[Encoder], batch: Sequence[tuple[Picture, Geometry]], images: Tensor, keep: Keep = None
) -> list[list[Recording]]:
    """The recordings of each of some encoders that share a forward.

    Args:
        batch: pictures of one input size.
        images: what `preprocess` makes of them, (B, 3, H, W).
        keep: as in `record`.

    Raises:
        CheckpointError: a backbone whose attention cannot be captured, or whose grid is not what its stride says.
    """
    encoder = encoders[0]
    parameter, facts = next(encoder.parameters()), encoder.facts
    images = images.to(parameter.device, parameter.dtype, non_blocking=True)
    started = time.perf_counter()
    with torch.inference_mode(), GateCapture(encoder.backbone) as gates, BlockCapture(encoder.blocks, keep) as blocks:
        tokens = encoder.tokens(images)
    shared = _since(started, images)
    if tokens.grid != batch[0][1].grid:
        raise CheckpointError(
            f"{facts.name} gave a grid of {tokens.grid} where {batch[0][1].grid} was expected; its stride is not "
            f"{encoder.stride}"
        )
    calls = blocks.calls(facts.name)
    attention = [[None if call is None else call.of(i) for call in calls] for i in range(len(batch))]
    return [_read(head, images, tokens, attention, gates, shared, batch) for head in encoders]


def _since(started: float, images: Tensor) -> float:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - started


def _read(
    encoder: Encoder,
    images: Tensor,
    tokens: Tokens,
    blocks: Sequence[Sequence[Attention | None]],
    gates: GateCapture,
    shared: float,
    batch: Sequence[tuple[Picture, Geometry]],
) -> list[Recording]:
    """The recordings of one head from the tokens and each picture's blocks of the backbone's forward, which took
    `shared` seconds."""
    started = time.perf_counter()
    with torch.inference_mode(), AttentionCapture() as own:
        output = encoder.read(tokens)
    seconds = (shared + _since(started, tokens.patches)) / len(batch)
    check_calls(encoder.facts.name, len(own.calls), encoder.pooling.fused_calls)
    make = partial(_single, encoder, images, own.calls, gates, output, seconds)
    return [make(blocks[i], i, picture, geometry) for i, (picture, geometry) in enumerate(batch)]


def _single(
    encoder: Encoder,
    images: Tensor,
    own: Sequence[Call],
    gates: GateCapture,
    output: Output,
    seconds: float,
    blocks: Sequence[Attention | None],
    i: int,
    picture: Picture,
    geometry: Geometry,
) -> Recording:
    tokens, pooled = output.tokens, output.pooled

    def one(batch: Tensor) -> Tensor:
        return one_of(batch, i).unsqueeze(0)

    return Recording(
        encoder=encoder,
        picture=picture,
        geometry=geometry,
        image=one_of(images, i),
        blocks=Blocks(blocks, encoder.facts.name),
        pool_attention=own[-1].of(i) if own else None,
        gates=_gates_of(encoder, gates, tokens, i),
        tokens=Tokens(one(tokens.patches), tokens.grid, one(tokens.prefix)),
        pooled=Pooled(
            one(pooled.vector),
            None if pooled.weights is None else one(pooled.weights),
            None if pooled.scores is None else one(pooled.scores),
        ),
        vector=one_of(output.vector, i),
        logits=None if output.logits is None else one_of(output.logits, i),
        dense_logits=None if output.dense_logits is None else one_of(output.dense_logits, i),
        seconds=seconds,
    )


def _gates_of(encoder: Encoder, capture: GateCapture, tokens: Tokens, i: int) -> tuple[ChannelGate, ...]:
    """The gates of one picture; a pooling's own gate is the last."""
    gates = [ChannelGate(name, one_of(values, i), None) for name, values in capture.calls]
    with torch.inference_mode():
        last = encoder.pooling.channel_gate(Tokens(tokens.patches[i : i + 1], tokens.grid, tokens.prefix[i : i + 1]))
    if last is not None:
        return (*gates, ChannelGate(encoder.pooling.name, last[0], one_of(tokens.patches, i)))
    if gates and capture.features is not None and capture.features.shape[-2:] == tokens.grid:
        gates[-1] = replace(gates[-1], features=one_of(capture.features, i).flatten(1).T)  # (C, h, w) -> (N, C)
    return tuple(gates)
