"""One fused forward pass -> everything that every map needs.

A `TorchFunctionMode` around an ordinary forward sees each call of `F.scaled_dot_product_attention` with its queries and
keys as the kernel gets them: after their norms and rotary embeddings, with bias and scale. Keeping references to them
costs nothing, and any row of any attention matrix follows from them exactly.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from simpool_viz.attention import Attention
from simpool_viz.attention_map import AttentionMap, make_map
from simpool_viz.encoder import Encoder, Output
from simpool_viz.gates import ChannelGate, GateCapture
from simpool_viz.images import Geometry, ImageSource, Picture, fit, preprocess, read_picture
from simpool_viz.pooling import Pooled, Tokens
from simpool_viz.precision import wide


@dataclass(frozen=True)
class Recording:
    """A picture as one checkpoint saw it; every map of it is computed from here.

    blocks: the attention of every block, from first to last; empty for a CNN.
    pool_attention: the captured attention of a pooling that runs the fused kernel itself (SigLIP's), else None.
    gates: the channel gates (SE, SPE, CBAM) of the backbone and of the pooling, in the order of the forward.
    tokens, pooled: features and pooling result of a batch of one.
    vector: (D,) after the norm. logits: (K,), or None without a head.
    seconds: of the forward, divided by the pictures of its batch.
    """

    encoder: Encoder
    picture: Picture
    geometry: Geometry
    blocks: tuple[Attention, ...]
    pool_attention: Attention | None
    gates: tuple[ChannelGate, ...]
    tokens: Tokens
    pooled: Pooled
    vector: Tensor
    logits: Tensor | None
    seconds: float

    def map(self, name: str, **options: Any) -> AttentionMap:
        """Make a map: "pooling" (or the pooling's name), "cls", "rollout", "dense_rollout", "token", "contribution".

        Options are those of the map's function in `simpool_viz.maps`: block, first, at, classes, ...

        Raises:
            ValueError: the checkpoint cannot have this map, or an option does not fit; the sentence says why.
        """
        return make_map(self, name, **options)

    def top_classes(self, count: int = 1) -> list[tuple[int, str, float]]:
        """The most probable classes as (index, name, probability in [0, 1]); [] without a head."""
        if self.logits is None:
            return []
        values, indices = wide(self.logits).softmax(0).topk(min(count, len(self.logits)))
        return [(int(i), class_name(self.encoder, int(i)), float(v)) for i, v in zip(indices, values, strict=True)]

    def block(self, index: int) -> tuple[int, Attention]:
        """(number, attention) of a block, negative indices counting from the last.

        Raises:
            ValueError: no such block.
        """
        depth = len(self.blocks)
        if not isinstance(index, int) or not -depth <= index < depth:
            raise ValueError(f"{self.encoder.facts.name} has blocks 0 to {depth - 1} (or -{depth} to -1), not {index}")
        return index % depth, self.blocks[index]


def class_name(encoder: Encoder, index: int) -> str:
    """The name of a class, or "class 7" where names are unknown."""
    names = encoder.facts.classes
    return names[index] if index < len(names) else f"class {index}"


def class_index(encoder: Encoder, wanted: int | str, count: int) -> int:
    """The index of a class given by index or name.

    Raises:
        ValueError: no such class.
    """
    if isinstance(wanted, str) and not wanted.isdigit():
        lowered = [name.lower() for name in encoder.facts.classes]
        if wanted.lower() not in lowered:
            near = [n for n in encoder.facts.classes if wanted.lower() in n.lower()]
            raise ValueError(f"{encoder.facts.name} has no class {wanted!r}" + (f"; did you mean {', '.join(near[:5])}?" if near else ""))
        return lowered.index(wanted.lower())
    if not 0 <= int(wanted) < count:
        raise ValueError(f"{encoder.facts.name} has classes 0 to {count - 1}, not {wanted}")
    return int(wanted)


def class_indices(encoder: Encoder, wanted: Sequence[int | str] | int | str, count: int) -> list[int]:
    """The indices of one class or several. Errors as in `class_index`, and ValueError for none at all."""
    several = [wanted] if isinstance(wanted, (str, int)) else list(wanted)
    if not several:
        raise ValueError("name at least one class, or leave classes out")
    return [class_index(encoder, c, count) for c in several]


# --- capture ----------------------------------------------------------------------------------------------------------


class AttentionCapture(TorchFunctionMode):
    """Keeps query, key, bias and scale of every fused attention call made inside its `with` block."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, Tensor | None, float]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._keep(*args, **kwargs)
        return func(*args, **kwargs)

    def _keep(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        if is_causal or enable_gqa or query.ndim != 4:
            raise ValueError("this model's attention is causal, grouped or not over one sequence of tokens; its maps cannot be shown")
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros(attn_mask.shape, device=query.device).masked_fill(~attn_mask, float("-inf"))
        self.calls.append((query, key, attn_mask, query.shape[-1] ** -0.5 if scale is None else scale))


def attention_of(call: tuple[Tensor, Tensor, Tensor | None, float], index: int) -> Attention:
    """The attention of one picture of a captured batch."""
    query, key, bias, scale = call
    if bias is not None:
        shape = (query.shape[0], bias.shape[-3] if bias.ndim > 2 else 1, query.shape[2], key.shape[2])
        bias = bias.expand(shape)[index]
    return Attention(_one_of(query, index), _one_of(key, index), bias, scale)


def _one_of(batch: Tensor, index: int) -> Tensor:
    """One picture's part, which does not keep the rest of its batch in memory."""
    return batch[index].clone() if len(batch) > 1 else batch[index]


def check_calls(encoder: Encoder, seen: int) -> None:
    """Raise a ValueError unless as many fused attention calls were seen as the encoder's depth says."""
    expected = encoder.depth + encoder.pooling.fused_calls
    if seen != expected:
        raise ValueError(
            f"{encoder.facts.name}: {seen} fused attention calls were seen where {expected} were expected, "
            "so this model's attention cannot be shown exactly; choose another backbone"
        )


# --- recording --------------------------------------------------------------------------------------------------------


def record(encoder: Encoder, image: ImageSource | Picture, size: int | None = None) -> Recording:
    """Look at one picture once.

    Args:
        encoder: from `load_checkpoint`.
        image: path, PIL image, array, or a `Picture`.
        size: shorter side in pixels, rounded to whole tokens; the checkpoint's own (`encoder.facts.size`) by default.

    Raises:
        ValueError: an unreadable picture, an impossible size, or a model whose attention cannot be captured.
    """
    return record_batch(encoder, [image], size)[0]


def record_batch(encoder: Encoder, images: Sequence[ImageSource | Picture], size: int | None = None) -> list[Recording]:
    """Look at several pictures; those of one input size share a forward. Arguments and errors as in `record`."""
    return record_shared([encoder], images, size)[0]


def record_shared(encoders: Sequence[Encoder], images: Sequence[ImageSource | Picture], size: int | None = None) -> list[list[Recording]]:
    """Look at pictures with several heads on one backbone, which runs once for all of them (`shares_forward`).

    Returns:
        The recordings of each encoder, in the order of the pictures.

    Raises:
        ValueError: as in `record`, or encoders that cannot share a forward.
    """
    encoder = encoders[0]
    strangers = [e.facts.name for e in encoders if not shares_forward(encoder, e, size)]
    if strangers:
        raise ValueError(f"{', '.join(strangers)} and {encoder.facts.name} have not the same backbone and size, so no forward serves both")
    pictures = [read_picture(image) for image in images]
    geometries = [fit(p.size, encoder.facts.size if size is None else size, encoder.stride) for p in pictures]
    recordings: dict[int, list[Recording]] = {}
    for grid in dict.fromkeys(g.grid for g in geometries):
        members = [i for i, g in enumerate(geometries) if g.grid == grid]
        batch = [(pictures[i], geometries[i]) for i in members]
        recordings.update(zip(members, zip(*_record_alike(encoders, batch), strict=True), strict=True))  # type: ignore[arg-type]
    return [[recordings[i][n] for i in range(len(pictures))] for n in range(len(encoders))]


def shares_forward(one: Encoder, other: Encoder, size: int | None = None) -> bool:
    """Whether two encoders have the same backbone object and see pictures alike, so that one forward serves both."""
    a, b = one.facts, other.facts
    return one.backbone is other.backbone and (a.mean, a.std) == (b.mean, b.std) and (size is not None or a.size == b.size)


def _record_alike(encoders: Sequence[Encoder], batch: list[tuple[Picture, Geometry]]) -> list[list[Recording]]:
    """The recordings of each encoder; pictures of one input size."""
    encoder = encoders[0]
    parameter = next(encoder.parameters())
    facts = encoder.facts
    images = torch.stack([preprocess(picture, geometry, facts.mean, facts.std) for picture, geometry in batch])
    images = images.to(parameter.device, parameter.dtype)
    started = time.perf_counter()
    with torch.inference_mode(), GateCapture(encoder.backbone) as gates, AttentionCapture() as blocks:
        tokens = encoder.tokens(images)
    shared = _since(started, images)
    if tokens.grid != batch[0][1].grid:
        raise ValueError(
            f"{facts.name} gave a grid of {tokens.grid} where {batch[0][1].grid} was expected; its stride is not {encoder.stride}"
        )
    return [_read(head, tokens, blocks, gates, shared, batch) for head in encoders]


def _since(started: float, images: Tensor) -> float:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - started


def _read(
    encoder: Encoder, tokens: Tokens, blocks: AttentionCapture, gates: GateCapture, shared: float, batch: list[tuple[Picture, Geometry]]
) -> list[Recording]:
    """The recordings of one head from the tokens and the calls of the backbone's forward, which took `shared` seconds."""
    started = time.perf_counter()
    with torch.inference_mode(), AttentionCapture() as own:
        output = encoder.read(tokens)
    seconds = (shared + _since(started, tokens.patches)) / len(batch)
    calls = [*blocks.calls, *own.calls]
    check_calls(encoder, len(calls))
    make = partial(_single, encoder, calls, gates, output, seconds)
    return [make(i, picture, geometry) for i, (picture, geometry) in enumerate(batch)]


def _single(
    encoder: Encoder,
    captured: list[tuple[Tensor, Tensor, Tensor | None, float]],
    gates: GateCapture,
    output: Output,
    seconds: float,
    i: int,
    picture: Picture,
    geometry: Geometry,
) -> Recording:
    calls = [attention_of(call, i) for call in captured]
    tokens, pooled = output.tokens, output.pooled

    def one(batch: Tensor) -> Tensor:
        return _one_of(batch, i).unsqueeze(0)

    return Recording(
        encoder=encoder,
        picture=picture,
        geometry=geometry,
        blocks=tuple(calls[: encoder.depth]),
        pool_attention=calls[-1] if len(calls) > encoder.depth else None,
        gates=_gates_of(encoder, gates, tokens, i),
        tokens=Tokens(one(tokens.patches), tokens.grid, one(tokens.prefix)),
        pooled=Pooled(
            one(pooled.vector),
            None if pooled.weights is None else one(pooled.weights),
            None if pooled.scores is None else one(pooled.scores),
        ),
        vector=_one_of(output.vector, i),
        logits=None if output.logits is None else _one_of(output.logits, i),
        seconds=seconds,
    )


def _gates_of(encoder: Encoder, capture: GateCapture, tokens: Tokens, i: int) -> tuple[ChannelGate, ...]:
    """The gates of one picture; a pooling's own gate is the last."""
    gates = [ChannelGate(name, _one_of(values, i), None) for name, values in capture.calls]
    with torch.inference_mode():
        last = encoder.pooling.channel_gate(Tokens(tokens.patches[i : i + 1], tokens.grid, tokens.prefix[i : i + 1]))
    if last is not None:
        return (*gates, ChannelGate(encoder.pooling.name, last[0], _one_of(tokens.patches, i)))
    if gates and capture.features is not None and capture.features.shape[-2:] == tokens.grid:
        gates[-1] = replace(gates[-1], features=_one_of(capture.features, i).flatten(1).T)  # (C, h, w) -> (N, C)
    return tuple(gates)
