"""Gradient baselines: Grad-CAM for CNNs (Selvaraju et al., ICCV 2017) and generic relevance for ViTs (Chefer et al.,
ICCV 2021).

Grad-CAM needs no pass through the backbone: pooling, norm and head are differentiated from the recorded features.
Relevance runs the forward again with gradients. Of R <- R + mean_h(relu(dA * A)) R only one row is needed, as in
roll-outs, and the gradient of an attention matrix is dA_ij = dO_i . v_j with dO that of the attention's output. So it
is computed in tiles of rows, and no N x N matrix is ever in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from simpool_viz.capture.block_attention import Attention
from simpool_viz.capture.hooks import AttentionCapture, check_calls
from simpool_viz.capture.recorded import Recorded
from simpool_viz.maps import rollout_chain as rollout
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.common import make_rows, needs_blocks, needs_classifier, wanted_classes
from simpool_viz.maps.registry import register_map
from simpool_viz.maps.rollout import readout_row
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.pooling import Tokens
from simpool_viz.tensors import wide


def _why_no_gradcam(encoder: Encoder) -> str | None:
    if encoder.depth:
        return "it is a baseline for CNNs; for ViTs there is 'relevance'"
    return needs_classifier(encoder)


@register_map(
    "gradcam",
    "Grad-CAM",
    "The last features, weighted by the gradient of a class's logit and cut at 0. The usual baseline for CNNs.",
    formula="mᵢ = relu(Σ_d α_d x_id), α_d = (1/N) Σᵢ ∂y/∂x_id",
    paper="Selvaraju et al., ICCV 2017",
    why_not=_why_no_gradcam,
)
def grad_cam(recording: Recorded, classes: Sequence[int | str] | int | str | None = None) -> AttentionMap:
    """relu(sum_d alpha_d A_d) with alpha_d the mean of d logit / d A_d over the positions (eq. 1 and 2): (K, h, w).

    Args:
        recording: of a CNN with a classifier.
        classes: names or indices; the predicted class by default.

    Raises:
        OptionError: an unknown class.
    """
    encoder, (wanted, names) = recording.encoder, wanted_classes(recording, classes)
    assert encoder.classifier is not None, "why_not requires a head"
    with torch.inference_mode(False), torch.enable_grad():
        patches = recording.tokens.patches.clone().requires_grad_()
        tokens = Tokens(patches, recording.tokens.grid, recording.tokens.prefix.clone())
        logits = encoder.classifier(encoder.norm(encoder.pooling(tokens).vector))[0]
        rows = []
        for c in wanted:
            (gradient,) = torch.autograd.grad(logits[c], patches, retain_graph=True)
            rows.append((wide(patches.detach()[0]) @ wide(gradient[0]).mean(0)).relu())  # (N, D) @ (D,)
    return make_rows(recording, "gradcam", torch.stack(rows), names, unit="mean")


@dataclass(frozen=True)
class _Block:
    """The attention of one block with its values and the gradient of its output.

    Attributes:
        attention: its queries and keys.
        value: (H, N, d).
        gradient: (H, N, d) of the attention's output.
    """

    attention: Attention
    value: Tensor
    gradient: Tensor

    def relevance(self, rows: slice) -> Tensor:
        """mean_h(relu(dA * A)) of n query rows: (n, N)."""
        gradient = wide(self.gradient[:, rows]) @ wide(self.value).transpose(1, 2)
        return gradient.mul_(self.attention.rows(rows)).relu_().mean(0)


class _OutputCapture(AttentionCapture):
    """An `AttentionCapture` that also captures the values and outputs of the calls.

    Attributes:
        values: (B, H, N, d) of each call.
        outputs: (B, H, N, d) of each call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = super().__torch_function__(func, types, args, kwargs)
        if func is F.scaled_dot_product_attention:
            self.values.append(args[2] if len(args) > 2 else (kwargs or {})["value"])
            self.outputs.append(output)
        return output


def _why_no_relevance(encoder: Encoder) -> str | None:
    if not encoder.depth:
        return f"{needs_blocks(encoder)}; for CNNs there is 'gradcam'"
    return needs_classifier(encoder)


@register_map(
    "relevance",
    "Gradient relevance",
    "Attention weighted by the gradient of a class's logit and followed through all blocks. It runs the model once "
    "more, backwards too.",
    formula="R ← R + meanₕ(relu(∇A ∘ A)) R",
    paper="Chefer et al., Generic attention-model explainability, ICCV 2021",
    why_not=_why_no_relevance,
)
def relevance(recording: Recorded, classes: Sequence[int | str] | int | str | None = None) -> AttentionMap:
    """The class token's row of R, where R <- R + mean_h(relu(dA * A)) R over the blocks (eq. 5 and 6): (K, h, w).

    Without a class token it is the row of the pooling, as for the roll-out (`readout_row`).

    Args:
        recording: of a ViT with a classifier.
        classes: names or indices; the predicted class by default.

    Raises:
        OptionError: an unknown class.
    """
    encoder, (wanted, names) = recording.encoder, wanted_classes(recording, classes)
    start, note = readout_row(recording)
    start = start.clone()
    with torch.inference_mode(False), torch.enable_grad():
        capture, logits = _forward_with_graph(encoder, recording)
        depth, rows = encoder.depth, []
        for c in wanted:
            gradients = torch.autograd.grad(logits[c], capture.outputs[:depth], retain_graph=True)
            row = start.clone()
            for call, value, gradient in reversed(list(zip(capture.calls, capture.values, gradients, strict=False))):
                with torch.no_grad():
                    row = row + _through(row, _Block(call.of(0), value[0], gradient[0]))
            rows.append(row[0])
    return make_rows(recording, "relevance", torch.stack(rows), names, unit="mean", note=note)


def _forward_with_graph(encoder: Encoder, recording: Recorded) -> tuple[_OutputCapture, Tensor]:
    """A forward that can be differentiated: its captured attention calls and the logits (K,)."""
    with _OutputCapture() as capture:
        # The input requires gradients, so that there is a graph even where the parameters are frozen.
        output = encoder(recording.image[None].clone().requires_grad_())
    check_calls(encoder.facts.name, len(capture.calls), encoder.depth + encoder.pooling.fused_calls)
    assert output.logits is not None, "why_not requires a head"
    return capture, output.logits[0]


def _through(row: Tensor, block: _Block) -> Tensor:
    """row @ mean_h(relu(dA * A)), a tile of query rows at a time: (1, N) -> (1, N)."""
    heads, count, _ = block.attention.query.shape
    step = max(1, rollout.TILE // (4 * heads * count))  # attention, its gradient and their product are in memory
    product = torch.zeros_like(row)
    for first in range(0, count, step):
        rows = slice(first, min(first + step, count))
        product += row[:, rows] @ block.relevance(rows).to(row.dtype)
    return product
