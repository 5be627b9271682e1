"""Grad-CAM against the grad-cam package, relevance against eager N x N matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from simpool_viz.maps import rollout_chain as rollout
from simpool_viz.maps.registry import maps_of
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.recording import Recording, record
from tests.helpers import SMALL_PHOTO, bare_cnn, bare_vit, image_of
from tests.oracles.attention import Softmaxes


class _Logits(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images).logits


@pytest.mark.parametrize("pooling", ["gap", "gem", "simpool", "cbam"])
def test_grad_cam_equals_the_grad_cam_package(pooling: str):
    encoder = bare_cnn(pooling)
    recording = record(encoder, SMALL_PHOTO)
    found = recording.map("gradcam", classes=[1, 4])
    assert found.weights.shape == (2, 2, 3) and found.unit == "mean" and (found.weights >= 0).all()
    image = image_of(recording)
    with GradCAM(_Logits(encoder), [encoder.backbone.layer4]) as package:  # type: ignore[list-item]
        for c, ours in zip([1, 4], found.weights, strict=True):
            package(image, [ClassifierOutputTarget(c)])
            activations = package.activations_and_grads.activations[0].numpy()
            gradients = package.activations_and_grads.gradients[0].numpy()
            layer = encoder.backbone.layer4
            # Before its scaling.
            raw = package.get_cam_image(image, layer, [ClassifierOutputTarget(c)], activations, gradients, False)
            np.testing.assert_allclose(ours, np.maximum(raw[0], 0), rtol=1e-5, atol=1e-5 * np.abs(raw).max())


@pytest.mark.parametrize("layer", ["layer3", "layer4.0.conv1"])
def test_grad_cam_of_any_layer_equals_the_grad_cam_package_on_that_layers_grid(layer: str):
    encoder = bare_cnn()
    recording = record(encoder, SMALL_PHOTO)
    found = recording.map("gradcam", classes=[1], layer=layer)
    module = encoder.backbone.get_submodule(layer)
    with GradCAM(_Logits(encoder), [module]) as package:
        package(image_of(recording), [ClassifierOutputTarget(1)])
        activations = package.activations_and_grads.activations[0].numpy()
        gradients = package.activations_and_grads.gradients[0].numpy()
        raw = package.get_cam_image(
            image_of(recording), module, [ClassifierOutputTarget(1)], activations, gradients, False
        )
    assert found.weights.shape == raw.shape == ((1, 4, 6) if layer == "layer3" else (1, 2, 3))
    assert found.geometry.input_size == recording.geometry.input_size
    np.testing.assert_allclose(found.weights, np.maximum(raw, 0), rtol=1e-5, atol=1e-5 * np.abs(raw).max())


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("layer", [0, -2, "blocks.2.norm1", None])
def test_grad_cam_of_a_vit_equals_the_grad_cam_package_without_prefix_tokens(layer: int | str | None, registers: int):
    encoder = bare_vit(reg_tokens=registers)
    recording = record(encoder, SMALL_PHOTO)
    found = recording.map("gradcam", classes=[2], layer=layer)
    blocks, (h, w) = encoder.backbone.blocks, recording.geometry.grid
    module = {0: blocks[0], -2: blocks[1], None: blocks[1]}.get(layer, blocks[2].norm1)

    def as_map(tokens: Tensor) -> Tensor:
        return tokens[:, encoder.num_prefix_tokens :].unflatten(1, (h, w)).permute(0, 3, 1, 2)

    with GradCAM(_Logits(encoder), [module], reshape_transform=as_map) as package:
        package(image_of(recording), [ClassifierOutputTarget(2)])
        activations = package.activations_and_grads.activations[0].numpy()
        gradients = package.activations_and_grads.gradients[0].numpy()
        raw = package.get_cam_image(
            image_of(recording), module, [ClassifierOutputTarget(2)], activations, gradients, False
        )
    assert np.abs(raw).max() > 0
    np.testing.assert_allclose(found.weights, np.maximum(raw, 0), rtol=1e-4, atol=1e-5 * np.abs(raw).max())


@pytest.mark.parametrize(
    ("layer", "says"),
    [("layer9", "has no layer 'layer9'; those of its first level are conv1"), (2, "no numbered blocks"),
     ("global_pool", "does not give one map"), ("conv1", "")],
)  # fmt: skip
def test_a_layer_that_cannot_be_is_refused_in_a_sentence(layer: int | str, says: str):
    recording = record(bare_cnn(), SMALL_PHOTO)
    if not says:
        assert recording.map("gradcam", layer=layer).weights.shape == (1, 32, 48)
        return
    with pytest.raises(ValueError, match=says):
        recording.map("gradcam", layer=layer)
    assert not any(module._forward_hooks for module in recording.encoder.modules())
    with pytest.raises(ValueError, match="blocks 0 to 2, not 3"):
        record(bare_vit(), SMALL_PHOTO).map("gradcam", layer=3)


def test_gradients_are_made_inside_inference_mode_and_leave_nothing_behind():
    for encoder, name in ((bare_cnn(), "gradcam"), (bare_vit(), "relevance")):
        recording = record(encoder, SMALL_PHOTO)
        expected = recording.map(name).weights
        with torch.inference_mode():
            np.testing.assert_array_equal(recording.map(name).weights, expected)
            assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
        assert all(p.grad is None for p in encoder.parameters())
        encoder.requires_grad_(False)
        np.testing.assert_array_equal(recording.map(name).weights, expected)


def eager_relevance(recording: Recording, wanted: int) -> np.ndarray:
    """R by N x N matrices, from the unfused path and the gradients of its softmaxes: float64."""
    encoder = recording.encoder
    attentions = [m for m in encoder.modules() if hasattr(m, "fused_attn")]
    try:
        for m in attentions:
            m.fused_attn = False  # type: ignore[assignment]
        with Softmaxes() as softmaxes:
            logits = encoder(image_of(recording).to(next(encoder.parameters()).dtype).requires_grad_()).logits[0]
    finally:
        for m in attentions:
            m.fused_attn = True  # type: ignore[assignment]
    gradients = torch.autograd.grad(logits[wanted], softmaxes.seen)
    r = np.eye(softmaxes.seen[0].shape[-1])
    for a, g in zip(softmaxes.seen, gradients, strict=True):
        r = r + (a * g).detach().relu()[0].mean(0).double().numpy() @ r
    return r


@pytest.mark.parametrize(
    ("tag", "pooling", "options"),
    [
        ("vit_tiny_patch16_224", "cls", {}),
        ("vit_tiny_patch16_224", "cls", {"reg_tokens": 3}),
        ("vit_tiny_patch16_224", "simpool", {"class_token": False, "global_pool": ""}),
        ("beit_base_patch16_224", "cls", {}),
    ],
)
@pytest.mark.parametrize("tile", [rollout.TILE, 700])
def test_relevance_equals_n_by_n_matrices(
    monkeypatch: pytest.MonkeyPatch, tag: str, pooling: str, options: dict[str, Any], tile: int
):
    monkeypatch.setattr(rollout, "TILE", tile)
    encoder = bare_vit(tag, pooling, **options)
    recording = record(encoder, SMALL_PHOTO)
    found = recording.map("relevance", classes=[3])
    assert found.weights.shape == (1, *recording.geometry.grid)
    r, prefix = eager_relevance(recording, 3), encoder.num_prefix_tokens
    row = r[0] if pooling == "cls" else recording.pooled.weights[0, 0].double().numpy() @ r
    np.testing.assert_allclose(found.weights.ravel(), row[prefix:], rtol=1e-4, atol=1e-5 * np.abs(row).max())
    assert found.weights.max() > 0


def test_baselines_are_offered_where_they_apply():
    assert maps_of(bare_cnn())["gradcam"] is None and "gradcam" in (maps_of(bare_cnn())["relevance"] or "")
    assert maps_of(bare_vit())["relevance"] is None and maps_of(bare_vit())["gradcam"] is None
    with pytest.raises(ValueError, match="classes 0 to 4"):
        record(bare_cnn(), SMALL_PHOTO).map("gradcam", classes=[9])
