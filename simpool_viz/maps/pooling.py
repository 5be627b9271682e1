"""Pooling attention: the weights with which the pooling step itself gathers the tokens (SimPool paper, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simpool_viz.attention_map import AttentionMap, register_map
from simpool_viz.maps.common import head_names, make_rows
from simpool_viz.recording import Recording

if TYPE_CHECKING:
    from simpool_viz.encoder import Encoder


def _why_not(encoder: Encoder) -> str | None:
    pooling = encoder.pooling
    if pooling.attentive:
        return None
    if pooling.name == "cls":
        return "its pooling is the class token, whose attention is the map 'cls'"
    return f"{pooling.title} does not weigh positions by attention; 'contribution' shows what each position gives to a class"


@register_map(
    "pooling",
    "Pooling attention",
    "The weights with which the pooling gathers the tokens into one vector. One map per query or head.",
    paper="Psomas et al., ICCV 2023, section 3",
    why_not=_why_not,
)
def pooling_attention(recording: Recording) -> AttentionMap:
    """The weights A of the pooling step: (M, h, w), each summing to 1 over patches and prefixes."""
    if recording.pool_attention is not None:
        attention = recording.pool_attention
        heads, queries, _ = attention.query.shape
        names = head_names(heads) if queries == 1 else tuple(f"head {i // queries} query {i % queries}" for i in range(heads * queries))
        every = slice(None)
        return make_rows(recording, "pooling", attention.rows(every).flatten(0, 1), names, logits=attention.logits(every).flatten(0, 1))
    weights, scores = recording.pooled.weights, recording.pooled.scores
    assert weights is not None, "an attentive pooling returns its weights or is captured"
    names = (recording.encoder.pooling.title,) if weights.shape[1] == 1 else tuple(f"query {i}" for i in range(weights.shape[1]))
    return make_rows(recording, "pooling", weights[0], names, logits=None if scores is None else scores[0])
