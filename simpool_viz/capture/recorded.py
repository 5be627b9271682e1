"""The data of one forward pass: features, pooling weights, logits, and the attention of the blocks that maps need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from simpool_viz.capture.block_attention import Attention, Blocks
from simpool_viz.capture.channel_gates import ChannelGate
from simpool_viz.errors import OptionError
from simpool_viz.images import Geometry, Picture
from simpool_viz.modeling.classes import class_name
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.pooling import Pooled, Tokens
from simpool_viz.tensors import wide


@dataclass(frozen=True)
class Recorded:
    """The data recorded from one forward pass of a checkpoint on one picture; all its maps are computed from it.

    Attributes:
        encoder: the checkpoint.
        picture: the picture to draw maps on. For pictures of a folder it may be smaller than the original, whose size
            is in `geometry`, or a single pixel where nothing is drawn; maps depend on `image` alone.
        geometry: the position of the tokens in the picture.
        image: (3, H, W), the normalised input of the encoder, in the precision of the forward.
        blocks: the attention of every block that was kept, from first to last; empty for a CNN.
        pool_attention: the captured attention of a pooling that calls the fused kernel itself (SigLIP's), else None.
        gates: the channel gates (SE, SPE, CBAM) of the backbone and of the pooling, in the order of the forward.
        tokens: the features, as a batch of one.
        pooled: the result of the pooling, as a batch of one.
        vector: (D,), the pooled vector after the norm.
        logits: (K,), or None without a head.
        dense_logits: (K, h, w) of a dense head, else None.
        seconds: of the forward, divided by the number of pictures in its batch.
    """

    encoder: Encoder
    picture: Picture
    geometry: Geometry
    image: Tensor
    blocks: Blocks
    pool_attention: Attention | None
    gates: tuple[ChannelGate, ...]
    tokens: Tokens
    pooled: Pooled
    vector: Tensor
    logits: Tensor | None
    dense_logits: Tensor | None
    seconds: float

    def top_classes(self, count: int = 1) -> list[tuple[int, str, float]]:
        """The `count` most probable classes as (index, name, probability in [0, 1]); [] without a head."""
        if self.logits is None:
            return []
        values, indices = wide(self.logits).softmax(0).topk(min(count, len(self.logits)))
        return [(int(i), class_name(self.encoder, int(i)), float(v)) for i, v in zip(indices, values, strict=True)]

    @cached_property
    def token_scores(self) -> Tensor:
        """Class scores S of the patch tokens: the head applied to each of them after the norm.

        They come from the forward where the head is dense; else the head runs at the first access.

        Returns:
            (N, K) float32 (float64 of a float64 model).

        Raises:
            CheckpointError: the checkpoint has no head.
        """
        with torch.inference_mode():
            scores = self.encoder.token_logits(self.tokens)[0] if self.dense_logits is None else self.dense_logits
            return wide(scores.flatten(1).T)

    def tensors(self) -> list[Tensor]:
        """Every tensor that the recording holds, the token scores included once they have been computed."""
        found = [self.image, self.tokens.patches, self.tokens.prefix, self.vector, self.logits, self.dense_logits]
        found += [self.pooled.vector, self.pooled.weights, self.pooled.scores, vars(self).get("token_scores")]
        calls = [self.blocks[i] for i in self.blocks.kept] + [self.pool_attention]
        for call in calls:
            if call is not None:
                found += [call.query, call.key, call.bias, call.lse, call.skip_share]
        found += [tensor for mean in self.blocks.means.values() for tensor in (mean.matrix, mean.skip_share)]
        found += [t for gate in self.gates for t in (gate.values, gate.features)]
        return [tensor for tensor in found if tensor is not None]

    def block(self, index: int) -> tuple[int, Attention]:
        """The number of a block and its attention.

        Args:
            index: the block's number, negative ones counted from the last.

        Raises:
            OptionError: no such block.
            MapError: a block that was not kept.
        """
        depth = len(self.blocks)
        if not isinstance(index, int) or not -depth <= index < depth:
            raise OptionError(f"{self.encoder.facts.name} has blocks 0 to {depth - 1} (or -{depth} to -1), not {index}")
        return index % depth, self.blocks[index]
