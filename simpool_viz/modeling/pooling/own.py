"""Poolings that belong to one model's own head. They are not registered, since no other model can have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from simpool_viz.modeling.pooling.attentive import ClassToken
from simpool_viz.modeling.pooling.framework import Pooled, Pooling, Tokens


class OwnHead(Pooling):
    """All that a timm model does between its map of features and its classifier, as in VGG.

    Args:
        model: whose `forward_head` is called; it is not a submodule, since the encoder holds it as its backbone.
        classifier: the model's last layer, whose inputs are the vector.
    """

    name, title, additive = "own_head", "Own head", False
    summary = (
        "The model's own layers between its features and its classifier: not a mean that weighs positions. Grad-CAM "
        "shows the positions behind a class."
    )

    def __init__(self, model: Any, classifier: nn.Module) -> None:
        super().__init__(int(model.num_features))
        self.__dict__["_model"] = model
        self._width = int(getattr(classifier, "in_features", 0)) or int(model.head_hidden_size)

    @property
    def out_dim(self) -> int:
        """Width D' of the vector."""
        return self._width

    def forward(self, tokens: Tokens) -> Pooled:
        """Run the head up to its classifier: (B, N, D) -> (B, D')."""
        features = tokens.patches.transpose(1, 2).unflatten(2, tokens.grid)  # (B, N, D) -> (B, D, h, w)
        model: Any = self.__dict__["_model"]
        return Pooled(model.forward_head(features, pre_logits=True).flatten(1), None, None)


class BothTokens(ClassToken):
    """The class token and the distillation token of DeiT, one after the other: (B, 2 D).

    Source: Touvron et al., Training data-efficient image transformers & distillation through attention, ICML 2021.
    """

    title = "CLS and distillation"
    paper = "Touvron et al., Training data-efficient image transformers, ICML 2021"
    tokens_read = ("class", "distillation")

    @property
    def out_dim(self) -> int:
        """Width D' = 2 D of the vector."""
        return 2 * self.dim

    def init(self, tokens: Tokens) -> Tensor:
        """U0 (B, 1, 2 D)."""
        return torch.cat([tokens.prefix[:, :1], tokens.prefix[:, 1:2]], dim=2)
