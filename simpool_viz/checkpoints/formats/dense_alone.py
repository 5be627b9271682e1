"""Heads on every token in files of their own, as those of DINOv2's segmentation, on a backbone that is named."""

from __future__ import annotations

from simpool_viz.checkpoints.filling import fill
from simpool_viz.checkpoints.formats.containers import Weights
from simpool_viz.checkpoints.formats.dense import read_dense_head
from simpool_viz.checkpoints.formats.parts import LoadOptions
from simpool_viz.checkpoints.formats.probing import BEFORE, check_tokens, on_backbone, without_norm
from simpool_viz.checkpoints.formats.report import Report
from simpool_viz.errors import CheckpointError
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.pooling import create_pooling


def build_dense(weights: Weights, base: Encoder | None, facts: Facts, settings: LoadOptions) -> tuple[Encoder, Report]:
    """Put a head on tokens, from a file of its own, on the backbone of another encoder.

    Args:
        weights: of the head.
        base: the encoder with the backbone that the head was trained on.
        facts: name and classes of the head.
        settings: options that the tensors do not determine: `tokens`, `between`.

    Returns:
        The encoder, in evaluation mode, and the report.

    Raises:
        CheckpointError: no backbone, one of another width, or a head that is not read.
    """
    if base is None:
        raise CheckpointError(
            f"{facts.name} is a segmentation head without a backbone; name the checkpoint it was trained on with "
            "backbone="
        )
    check_tokens(settings, facts.name)
    head = read_dense_head(weights.state, base.dim, settings)
    if isinstance(head, str):
        raise CheckpointError(f"{facts.name}: {head}")
    module, names = head
    fill(module, weights.state, facts.name, names)
    module.eval().requires_grad_(False)
    backbone = without_norm(base.backbone) if settings.tokens == BEFORE else base.backbone
    encoder = Encoder(backbone, create_pooling("gap", base.dim), head=module, facts=facts, dense=True)
    note = f"its scores are of tokens {'before' if settings.tokens == BEFORE else 'after'} the final norm"
    if not settings.tokens:
        note += f", as DINOv2's are; else say tokens={BEFORE}"
    return on_backbone("segmentation head", weights, base, encoder, [note])
