"""Records one fused forward pass, from which every map is computed.

A recording holds features, pooling weights, logits, and the queries and keys of the blocks that maps need (see
capture/). Pictures of one input size share a forward, and so do several heads on one backbone; models on one trunk
share that.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from simpool_viz.capture.block_attention import Attention, Blocks, MeanAttention
from simpool_viz.capture.channel_gates import ChannelGate, GateCapture
from simpool_viz.capture.hooks import AttentionCapture, BlockCapture, Call, Keep, check_calls, one_of
from simpool_viz.capture.recorded import Recorded
from simpool_viz.errors import CheckpointError
from simpool_viz.images import Geometry, ImageSource, Picture, fit, preprocess, read_picture
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.make import make_map, make_maps
from simpool_viz.modeling.encoder import Encoder, Output
from simpool_viz.modeling.layers.sar import has_skip
from simpool_viz.modeling.pooling import Pooled, Tokens
from simpool_viz.modeling.sharing import backbones_of, shared_blocks, shares_forward
from simpool_viz.outputs import Displayed
from simpool_viz.tensors import enough_memory
from simpool_viz.timing import Profile


@dataclass(frozen=True)
class Recording(Displayed, Recorded):
    """The data recorded from one forward pass on one picture, and its maps. Fields as in `Recorded`."""

    def map(self, name: str, **options: Any) -> AttentionMap:
        """Make a map by name.

        Args:
            name: a name of `map_methods`, such as "cls", or that of the checkpoint's pooling, for its attention.
            options: those of the map's function in `simpool_viz.maps`, such as block, first, at or classes.

        Raises:
            MapError: the checkpoint does not have this map; the message says why.
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
        """Make several maps; roll-outs with the same options share one pass through the blocks.

        Args:
            requests: (name, options) of each map, as for `map`.

        Returns:
            The maps in the order of the requests.

        Raises:
            MapError: as in `map`.
            OptionError: as in `map`.

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


Kept = Keep | Collection[int] | None
Batch = Sequence[tuple[Picture, Geometry]]


def record(encoder: Encoder, image: ImageSource | Picture, size: int | None = None, keep: Kept = None) -> Recording:
    """Record one forward pass of a checkpoint on one picture.

    Args:
        encoder: from `load_checkpoint`.
        image: path, PIL image, array, or a `Picture`, as for `read_picture`.
        size: shorter side in pixels, rounded to whole tokens; the checkpoint's own (`encoder.facts.size`) by default.
        keep: numbers of the blocks whose attention is kept, or for given maps what `attention_needed` returns; all by
            default.

    Raises:
        PictureError: a picture that cannot be read.
        FileNotFoundError: no such file.
        OptionError: an impossible size, or one that needs more memory than the device has.
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
    encoder: Encoder, images: Sequence[ImageSource | Picture], size: int | None = None, keep: Kept = None
) -> list[Recording]:
    """Record several pictures; those of one input size share a forward.

    Args:
        encoder: from `load_checkpoint`.
        images: pictures, each as for `record`.
        size: as in `record`.
        keep: as in `record`.

    Returns:
        The recordings in the order of the pictures; errors are those of `record`.

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
    keep: Kept = None,
    profile: Profile | None = None,
) -> list[list[Recording]]:
    """Record pictures with heads on one backbone or models on one trunk, which runs once for all of them.

    Args:
        encoders: those of one of `sharing_groups`.
        images: pictures, each as for `record`.
        size: as in `record`.
        keep: as in `record`.
        profile: to which the seconds of preprocessing and forwards are added.

    Returns:
        The recordings of each encoder, in the order of the pictures.

    Raises:
        CheckpointError: as in `record`, or encoders that cannot share a forward.
        PictureError: as in `record`.
        OptionError: as in `record`.
    """
    encoder, profile = encoders[0], profile or Profile()
    unlike = [e.facts.name for e in encoders if not shares_forward(encoder, e, size)]
    if unlike:
        raise CheckpointError(
            f"{', '.join(unlike)} and {encoder.facts.name} have not the same backbone, or trunk, and size, so no "
            "forward serves both"
        )
    pictures = [read_picture(image) for image in images]
    side = encoder.facts.size if size is None else size
    geometries = [fit(p.size, side, encoder.stride, encoder.multiple) for p in pictures]
    recordings: dict[int, list[Recording]] = {}
    for grid in dict.fromkeys(g.grid for g in geometries):
        members = [i for i, g in enumerate(geometries) if g.grid == grid]
        batch = [(pictures[i], geometries[i]) for i in members]
        with profile.part("preprocess"):
            inputs = torch.stack([preprocess(*one, encoder.facts.mean, encoder.facts.std) for one in batch])
        with profile.part("forward"):
            by_encoder = record_prepared(encoders, batch, inputs, keep)
        recordings.update(zip(members, zip(*by_encoder, strict=True), strict=True))  # type: ignore[arg-type]
    return [[recordings[i][n] for i in range(len(pictures))] for n in range(len(encoders))]


@enough_memory()
def record_prepared(
    encoders: Sequence[Encoder], batch: Batch, images: Tensor, keep: Kept = None
) -> list[list[Recording]]:
    """Record a batch of prepared pictures with encoders that share a forward.

    Args:
        encoders: those of one of `sharing_groups`.
        batch: pictures of one input size, and their geometry.
        images: (B, 3, H, W) float32, the pictures as `preprocess` returns them.
        keep: as in `record`.

    Returns:
        The recordings of each encoder, in the order of the pictures.

    Raises:
        CheckpointError: a backbone whose attention cannot be captured, or whose grid does not fit its stride.
        OptionError: the batch needs more memory than the device has.
    """
    encoder = encoders[0]
    parameter = next(encoder.parameters())
    images = images.to(parameter.device, parameter.dtype, non_blocking=True)
    backbones = backbones_of(encoders)
    trunk = _run_trunk(encoder, shared_blocks(encoders), batch, images, keep) if len(backbones) > 1 else None
    recordings: dict[int, list[Recording]] = {}
    for members in backbones.values():
        forward = _run_backbone(encoders[members[0]], trunk, batch, images, keep)
        recordings |= {i: _record_head(encoders[i], forward) for i in members}
    return [recordings[i] for i in range(len(encoders))]


@dataclass(frozen=True)
class _Trunk:
    """The part of a forward that several backbones share.

    Attributes:
        hidden: (B, P + N, D), after the last shared block.
        attention: for each picture, that of the shared blocks.
        seconds: the time it took.
    """

    hidden: Tensor
    attention: list[Blocks]
    seconds: float


def _run_trunk(encoder: Encoder, blocks: int, batch: Batch, images: Tensor, keep: Kept) -> _Trunk:
    started = time.perf_counter()
    with torch.inference_mode(), BlockCapture(encoder.blocks[:blocks], keep) as capture:
        hidden = encoder.begin(images, blocks)
    return _Trunk(hidden, _attention_of(capture, encoder, len(batch)), _since(started, images))


def _run_backbone(encoder: Encoder, trunk: _Trunk | None, batch: Batch, images: Tensor, keep: Kept) -> _Forward:
    started, name = time.perf_counter(), encoder.facts.name
    before = len(trunk.attention[0]) if trunk else 0
    with (
        torch.inference_mode(),
        GateCapture(encoder.backbone) as gates,
        BlockCapture(encoder.blocks[before:], keep, before) as capture,
    ):
        tokens = encoder.finish(trunk.hidden, before, encoder.grid_of(images)) if trunk else encoder.tokens(images)
    seconds = _since(started, images) + (trunk.seconds if trunk else 0)
    if tokens.grid != batch[0][1].grid:
        raise CheckpointError(
            f"{name} gave a grid of {tokens.grid} where {batch[0][1].grid} was expected; its stride is not "
            f"{encoder.stride}"
        )
    own = _attention_of(capture, encoder, len(batch))
    attention = [first.then(rest) for first, rest in zip(trunk.attention, own, strict=True)] if trunk else own
    return _Forward(batch, images, tokens, attention, gates, seconds)


def _attention_of(capture: BlockCapture, encoder: Encoder, count: int) -> list[Blocks]:
    """The attention of each of `count` pictures in the blocks that were looked into."""
    calls = capture.calls(encoder.facts.name)
    blocks = encoder.blocks[capture.first : capture.first + len(calls)]
    skips = [has_skip(block) for block in blocks]

    def of(i: int) -> Blocks:
        kept: list[Attention | MeanAttention | None] = []
        for number, (call, skip) in enumerate(zip(calls, skips, strict=True), capture.first):
            share, mean = capture.skip_share(number, i), capture.mean(number, i)
            if call is not None:
                kept.append(replace(call.of(i), skip=skip, skip_share=share))
            else:
                kept.append(None if mean is None else MeanAttention(mean, skip, share))
        return Blocks(kept, encoder.facts.name)

    return [of(i) for i in range(count)]


def _since(started: float, images: Tensor) -> float:
    """Seconds since a reading of the clock, after the device of the images has finished."""
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - started


@dataclass(frozen=True)
class _Forward:
    """A forward of a backbone, which several heads may share.

    Attributes:
        batch: the pictures and their geometry.
        images: (B, 3, H, W), the input.
        tokens: the features of the batch.
        attention: for each picture, that of its blocks.
        gates: the channel gates of the backbone.
        seconds: the time it took.
    """

    batch: Batch
    images: Tensor
    tokens: Tokens
    attention: Sequence[Blocks]
    gates: GateCapture
    seconds: float


def _record_head(encoder: Encoder, forward: _Forward) -> list[Recording]:
    """The recordings of one head, in the order of the pictures."""
    started = time.perf_counter()
    with torch.inference_mode(), AttentionCapture() as capture:
        output = encoder.read(forward.tokens)
    seconds = (forward.seconds + _since(started, forward.tokens.patches)) / len(forward.batch)
    check_calls(encoder.facts.name, len(capture.calls), encoder.pooling.fused_calls)
    call = capture.calls[-1] if capture.calls else None
    return [_recording_of(i, encoder, forward, output, call, seconds) for i in range(len(forward.batch))]


def _recording_of(
    i: int, encoder: Encoder, forward: _Forward, output: Output, pool_call: Call | None, seconds: float
) -> Recording:
    """The recording of the picture with index `i` in the batch."""
    tokens, pooled = output.tokens, output.pooled

    def one(batch: Tensor) -> Tensor:
        return one_of(batch, i).unsqueeze(0)

    picture, geometry = forward.batch[i]
    return Recording(
        encoder=encoder,
        picture=picture,
        geometry=geometry,
        image=one_of(forward.images, i),
        blocks=forward.attention[i].named(encoder.facts.name),
        pool_attention=None if pool_call is None else pool_call.of(i),
        gates=_gates_of(encoder, forward.gates, tokens, i),
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
    """The channel gates of the picture with index `i` in the batch; that of the pooling itself comes last."""
    gates = [ChannelGate(name, one_of(values, i), None) for name, values in capture.calls]
    with torch.inference_mode():
        last = encoder.pooling.channel_gate(Tokens(tokens.patches[i : i + 1], tokens.grid, tokens.prefix[i : i + 1]))
    if last is not None:
        return (*gates, ChannelGate(encoder.pooling.name, last[0], one_of(tokens.patches, i)))
    if gates and capture.features is not None and capture.features.shape[-2:] == tokens.grid:
        gates[-1] = replace(gates[-1], features=one_of(capture.features, i).flatten(1).T)  # (C, h, w) -> (N, C)
    return tuple(gates)
