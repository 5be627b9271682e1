"""Gradient baselines: Grad-CAM (Selvaraju et al., ICCV 2017) and generic relevance for ViTs (Chefer et al., ICCV
2021).

Grad-CAM of the last features needs no pass through the backbone: pooling, norm and head are differentiated from the
recorded features. Of another layer it runs the forward again.
Relevance runs the forward again with gradients. Of R <- R + mean_h(relu(dA * A)) R only one row is needed, as in
roll-outs, and the gradient of an attention matrix is dA_ij = dO_i . v_j with dO that of the attention's output. So it
is computed in tiles of rows, and no N x N matrix is ever in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simpool_viz.capture.block_attention import Attention
from simpool_viz.capture.hooks import AttentionCapture, check_calls
from simpool_viz.capture.recorded import Recorded
from simpool_viz.errors import OptionError
from simpool_viz.maps import rollout_chain as rollout
from simpool_viz.maps.attention_map import AttentionMap
from simpool_viz.maps.common import make_rows, needs_blocks, needs_classifier, wanted_classes
from simpool_viz.maps.registry import register_map
from simpool_viz.maps.rollout import readout_row
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.layers.sar import has_skip
from simpool_viz.modeling.pooling import Tokens
from simpool_viz.tensors import wide


@register_map(
    "gradcam",
    "Grad-CAM",
    "Features of one layer, weighted by the gradient of a class's logit and cut at 0. The usual baseline for CNNs.",
    formula="mᵢ = relu(Σ_d α_d x_id), α_d = (1/N) Σᵢ ∂y/∂x_id",
    paper="Selvaraju et al., ICCV 2017",
    why_not=needs_classifier,
)
def grad_cam(
    recording: Recorded, classes: Sequence[int | str] | int | str | None = None, layer: int | str | None = None
) -> AttentionMap:
    """relu(sum_d alpha_d A_d) with alpha_d the mean of d logit / d A_d over the positions (eq. 1 and 2): (K, h, w).

    Prefix tokens of a ViT take no part. The grid (h, w) is that of the layer, which may be finer than the tokens'.

    Args:
        recording: of a checkpoint with a classifier.
        classes: names or indices; the predicted class by default.
        layer: the name of a module of the backbone ("layer3", "blocks.8.norm1"), or of a ViT the number of a block,
            negative ones counted from the last. By default the last features of a CNN, and of a ViT the tokens after
            the last block but one, since no class token reads those after the last.

    Raises:
        OptionError: an unknown class, no such layer, or one whose output has no places in the picture.
    """
    encoder, (wanted, names) = recording.encoder, wanted_classes(recording, classes)
    if layer is None and encoder.depth:
        layer = -1 if encoder.lacks_matrices or encoder.depth == 1 else -2
    with torch.inference_mode(False), torch.enable_grad():
        if layer is None:
            activations, logits = _last_features(recording)
        else:
            activations, logits = _features_after(recording, layer)
        maps = []
        for c in wanted:
            (gradient,) = torch.autograd.grad(logits[c], activations, retain_graph=True)
            values, slopes = (_as_grid(recording, x.detach(), str(layer)) for x in (activations, gradient))
            maps.append((values @ slopes.mean((0, 1))).relu())  # (h, w, D) @ (D,)
    weights, geometry = torch.stack(maps), recording.geometry
    grid = (weights.shape[1], weights.shape[2])
    finer = replace(geometry, grid=grid, stride=geometry.input_size[1] // grid[0])
    return AttentionMap(weights.float().cpu().numpy(), tuple(names), finer, "gradcam", "mean")


def _last_features(recording: Recorded) -> tuple[Tensor, Tensor]:
    """The recorded features (1, N, D) as a leaf, and the logits (K,) that pooling, norm and head make of them."""
    encoder = recording.encoder
    assert encoder.classifier is not None, "why_not requires a head"
    patches = recording.tokens.patches.clone().requires_grad_()
    tokens = Tokens(patches, recording.tokens.grid, recording.tokens.prefix.clone())
    return patches, encoder.classifier(encoder.norm(encoder.pooling(tokens).vector))[0]


def _features_after(recording: Recorded, layer: int | str) -> tuple[Tensor, Tensor]:
    """The output of a layer in a second forward, and the logits (K,)."""
    encoder, seen = recording.encoder, []
    hook = _layer_of(encoder, layer).register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        # The input requires gradients, so that there is a graph even where the parameters are frozen.
        output = encoder(recording.image[None].clone().requires_grad_())
    finally:
        hook.remove()
    if len(seen) != 1 or not isinstance(seen[0], Tensor):
        raise OptionError(f"{encoder.facts.name}: layer {layer} does not give one map of features; choose another")
    assert output.logits is not None, "why_not requires a head"
    return seen[0], output.logits[0]


def _layer_of(encoder: Encoder, layer: int | str) -> nn.Module:
    """A module of the backbone by its name, or a block of a ViT by its number."""
    name = encoder.facts.name
    if isinstance(layer, str) and not layer.lstrip("-").isdigit():
        modules = dict(encoder.backbone.named_modules())
        if layer in modules and layer:
            return modules[layer]
        some = ", ".join(key for key, _ in encoder.backbone.named_children())
        raise OptionError(f"{name} has no layer {layer!r}; those of its first level are {some}")
    blocks: Any = encoder.backbone.blocks if encoder.depth else ()
    if not -len(blocks) <= int(layer) < len(blocks):
        numbers = f"blocks 0 to {len(blocks) - 1}" if len(blocks) else "no numbered blocks, so a layer is named"
        raise OptionError(f"{name} has {numbers}, not {layer}")
    chosen: nn.Module = blocks[int(layer)]
    return chosen


def _as_grid(recording: Recorded, features: Tensor, layer: str) -> Tensor:
    """Features of a layer of one picture, (1, D, h, w), (1, h, w, D) or (1, P + N, D), as (h, w, D) float32."""
    (h, w), prefix = recording.tokens.grid, recording.tokens.prefix.shape[1]
    one = wide(features[0])
    if one.ndim == 3 and one.shape[1] * w == one.shape[2] * h:
        return one.permute(1, 2, 0)
    if one.ndim == 3 and one.shape[0] * w == one.shape[1] * h:
        return one
    if one.ndim == 2 and one.shape[0] in (h * w, prefix + h * w):
        return one[one.shape[0] - h * w :].unflatten(0, (h, w))
    raise OptionError(
        f"{recording.encoder.facts.name}: the output of layer {layer} has shape {tuple(features.shape)}, which has no "
        "places in the picture; choose another layer"
    )


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
    if encoder.lacks_matrices:
        return f"{needs_blocks(encoder)}; there is 'gradcam'"
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

    Without a class token it is the row of the pooling, as for the roll-out (`readout_row`). A block without a skip
    connection (SAR's `nosn`) gives R <- mean_h(relu(dA * A)) R.

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
            steps = list(zip(encoder.blocks, capture.calls, capture.values, gradients, strict=False))
            for block, call, value, gradient in reversed(steps):
                with torch.no_grad():
                    through = _through(row, _Block(call.of(0), value[0], gradient[0]))
                    row = row + through if has_skip(block) else through
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
    product = torch.zeros_like(row)
    for rows in block.attention.row_tiles(rollout.TILE // 4):  # attention, its gradient and their product are in memory
        product += row[:, rows] @ block.relevance(rows).to(row.dtype)
    return product
