"""Pooling attention: the weights of the tokens in the pooled vector (Psomas et al., SimPool, ICCV 2023, section 3).

The map "pooling" shows the checkpoint's own pooling. A pooling whose weights need no training (k-means, HOW) can also
be applied to the recorded features of any other checkpoint; each of these is a map under the pooling's name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from simpool_viz.capture.recorded import Recorded
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.common import head_names, make_rows
from simpool_viz.maps.registry import MapMethod, no_blocks, register_map, register_maps
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.pooling import Pooled, Pooling, create_pooling
from simpool_viz.modeling.pooling.create import poolings


def _why_not(encoder: Encoder) -> str | None:
    pooling = encoder.pooling
    if pooling.attentive:
        return None
    if pooling.name == "cls":
        return "its pooling is the class token, whose attention is the map 'cls'"
    return (
        f"{pooling.title} does not weigh positions by attention; 'contribution' shows what each position gives to a "
        "class"
    )


@register_map(
    "pooling",
    "Pooling attention",
    "The weights with which the pooling gathers the tokens into one vector. One map per query or head.",
    formula="A = h(s(φ_K(X), φ_Q(U)))",
    paper="Psomas et al., ICCV 2023, section 3",
    why_not=_why_not,
)
def pooling_attention(recording: Recorded) -> AttentionMap:
    """The weights A of the pooling: (M, h, w), one map per query, head, slot or centre.

    Weights from a softmax over positions sum to 1 over patches and prefixes; gates and norms (CBAM, HOW) have their own
    scale.

    Args:
        recording: of a checkpoint with an attentive pooling.
    """
    if recording.pool_attention is None:
        return _weights_as_map(recording, recording.encoder.pooling, recording.pooled)
    attention = recording.pool_attention
    heads, queries, _ = attention.query.shape
    names = (
        head_names(heads)
        if queries == 1
        else tuple(f"head {i // queries} query {i % queries}" for i in range(heads * queries))
    )
    every = slice(None)
    return make_rows(
        recording, "pooling", attention.rows(every).flatten(0, 1), names, logits=attention.logits(every).flatten(0, 1)
    )


def pooled_again(recording: Recorded, name: str, options: dict[str, Any]) -> AttentionMap:
    """The weights of the recorded features in an untrained pooling: (M, h, w).

    Args:
        recording: of any checkpoint.
        name: of a pooling that is attentive and not learned.
        options: of that pooling, such as k.

    Raises:
        OptionError: options that do not fit it.
    """
    if name == recording.encoder.pooling.name and not options:
        return pooling_attention(recording)
    pooling = create_pooling(name, recording.tokens.patches.shape[-1], **options).to(recording.tokens.patches)
    with torch.inference_mode():
        pooled = pooling.eval()(recording.tokens)
    note = (
        ""
        if name == recording.encoder.pooling.name
        else f"{pooling.title} of this checkpoint's features, which were trained with another pooling"
    )
    return _weights_as_map(recording, pooling, pooled, note)


def _weights_as_map(recording: Recorded, pooling: Pooling, pooled: Pooled, note: str = "") -> AttentionMap:
    assert pooled.weights is not None, "an attentive pooling returns its weights or is captured"
    count = pooled.weights.shape[1]
    names = (pooling.title,) if count == 1 else tuple(f"{pooling.part} {i}" for i in range(count))
    logits = None if pooled.scores is None else pooled.scores[0]
    return make_rows(
        recording,
        "pooling",
        pooled.weights[0],
        names,
        logits=logits,
        unit=pooling.unit,
        fusion=pooling.fusion,
        note=note,
    )


@register_maps
def untrained_poolings() -> dict[str, MapMethod]:
    """The map methods of all poolings whose weights need no training, by name; they apply to any features."""
    return {p.name: _pooled_again(p) for p in poolings().values() if p.attentive and not p.learned}


def _pooled_again(pooling: type[Pooling]) -> MapMethod:
    def make(recording: Recorded, **options: Any) -> AttentionMap:
        return replace(pooled_again(recording, pooling.name, options), method=pooling.name)

    title = f"{pooling.title} of the features"
    return MapMethod(
        pooling.name, title, pooling.summary, pooling.formula, pooling.paper, make, lambda encoder: None, no_blocks
    )
