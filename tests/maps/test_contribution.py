"""Contributions sum to the logit less its bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from simpool_viz import load_checkpoint, record
from simpool_viz.modeling.pooling import poolings
from tests.helpers import PHOTO, SMALL_PHOTO, assert_close, bare_cnn, random_cnn

POOLINGS = {"gap": {}, "max": {}, "gem": {}, "ggem": {"groups": 4}, "lse": {}, "simpool": {"gamma": 2.0, "beta": True}}


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("normed", [False, True])
def test_contributions_sum_to_the_logit_less_the_bias(name: str, normed: bool):
    """sum over tokens = logit - b', with b' from the definition, to 1e-10 in float64."""
    encoder = random_cnn(name, **POOLINGS[name]).double()
    if normed:
        encoder.norm = nn.LayerNorm(16).double()
        nn.init.normal_(encoder.norm.weight), nn.init.normal_(encoder.norm.bias)
    if name == "simpool":
        encoder.pooling.beta.data.fill_(0.7)
    recording = record(encoder, PHOTO, 64)
    from simpool_viz.maps.contribution import folded_head

    weight, bias = folded_head(recording, [3, 1])
    given = encoder.pooling.contribution(recording.tokens, recording.pooled)[0]
    total = (weight @ given.T).sum(1) + bias
    np.testing.assert_allclose(total.numpy(), recording.logits[[3, 1]].numpy(), atol=1e-10)
    found = recording.map("contribution", classes=[3, 1])
    assert found.signed and found.names == ("d", "b")
    np.testing.assert_allclose(found.weights.reshape(2, -1), (weight @ given.T).numpy(), rtol=1e-5, atol=1e-7)


def test_contribution_with_gap_and_a_linear_head_is_cam():
    recording = record(random_cnn("gap"), PHOTO, 64)
    features = recording.tokens.patches[0].T.reshape(16, 8, 12)
    cam = torch.einsum("d,dhw->hw", recording.encoder.head.weight[int(recording.logits.argmax())], features) / 96
    assert_close(recording.map("contribution"), cam[None].numpy())


def test_contribution_through_convnexts_norm():
    encoder = load_checkpoint("timm:convnext_atto", device="cpu", pretrained=False).double()
    recording = record(encoder, PHOTO, 64)
    from simpool_viz.maps.contribution import folded_head

    top = int(recording.logits.argmax())
    _, bias = folded_head(recording, [top])
    found = recording.map("contribution").weights.sum()
    np.testing.assert_allclose(found, float(recording.logits[top] - bias[0]), atol=1e-5)


@pytest.mark.parametrize("norm", ["none", "layer", "batch", "batch affine"])
@pytest.mark.parametrize("pooling", [n for n, p in poolings().items() if p.additive])
def test_contributions_sum_to_the_logit_less_its_bias(pooling: str, norm: str):
    from simpool_viz.maps.contribution import folded_head

    torch.manual_seed(1)
    kinds = {
        "none": nn.Identity,
        "layer": nn.LayerNorm,
        "batch": lambda d: nn.BatchNorm1d(d, affine=False),
        "batch affine": nn.BatchNorm1d,
    }
    encoder = bare_cnn(pooling)
    encoder.norm = kinds[norm](24)
    for parameter in [*encoder.norm.parameters(), *encoder.norm.buffers()]:
        if parameter.is_floating_point():
            parameter.data.add_(torch.rand_like(parameter))
    encoder.double().eval()
    recording = record(encoder, SMALL_PHOTO)
    weight, bias = folded_head(recording, [0, 2])
    with torch.inference_mode():
        given = encoder.pooling.contribution(recording.tokens, recording.pooled)[0]
    torch.testing.assert_close(
        (weight @ given.T).sum(1) + bias, recording.logits[[0, 2]], rtol=1e-10, atol=1e-10  # type: ignore[index]
    )  # fmt: skip
    drawn = recording.map("contribution", classes=[0, 2]).weights.sum((1, 2))
    np.testing.assert_allclose(drawn, (recording.logits[[0, 2]] - bias).detach().numpy(), rtol=1e-4, atol=1e-4)  # type: ignore[index]
