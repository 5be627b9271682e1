"""Grad-CAM against the grad-cam package, relevance against eager N x N matrices, channel gates against the modules' own
numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from simpool_viz.images import preprocess
from simpool_viz.maps import rollout_chain as rollout
from simpool_viz.maps.gated_features import gates_by_depth
from simpool_viz.maps.registry import maps_of
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.pooling import create_pooling, poolings
from simpool_viz.recording import Recording, record, record_batch

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))


def cnn(pooling: str = "gap", **options: Any) -> Encoder:
    torch.manual_seed(0)
    backbone = timm.create_model("resnet18", num_classes=0, channels=[8, 8, 16, 24], zero_init_last=False, **options)
    extra: dict[str, Any] = {"gamma": 2.0} if pooling == "simpool" else {}
    return Encoder(
        backbone, create_pooling(pooling, 24, **extra), head=nn.Linear(24, 5), facts=Facts("cnn", size=64)
    ).eval()


def vit(tag: str = "vit_tiny_patch16_224", pooling: str = "cls", **options: Any) -> Encoder:
    torch.manual_seed(0)
    kwargs = {} if tag.startswith("beit") else {"dynamic_img_size": True}
    backbone = timm.create_model(
        tag, num_classes=0, embed_dim=24, depth=3, num_heads=3, img_size=64, patch_size=8, **kwargs, **options
    )
    return Encoder(backbone, create_pooling(pooling, 24), head=nn.Linear(24, 5), facts=Facts("vit", size=64)).eval()


def image_of(recording: Recording) -> Tensor:
    facts = recording.encoder.facts
    return preprocess(recording.picture, recording.geometry, facts.mean, facts.std)[None]


class _Logits(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images).logits


@pytest.mark.parametrize("pooling", ["gap", "gem", "simpool", "cbam"])
def test_grad_cam_equals_the_grad_cam_package(pooling: str):
    encoder = cnn(pooling)
    recording = record(encoder, PHOTO)
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


def test_gradients_are_made_inside_inference_mode_and_leave_nothing_behind():
    for encoder, name in ((cnn(), "gradcam"), (vit(), "relevance")):
        recording = record(encoder, PHOTO)
        expected = recording.map(name).weights
        with torch.inference_mode():
            np.testing.assert_array_equal(recording.map(name).weights, expected)
            assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
        assert all(p.grad is None for p in encoder.parameters())
        encoder.requires_grad_(False)
        np.testing.assert_array_equal(recording.map(name).weights, expected)


class _Softmaxes(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is Tensor.softmax and result.ndim == 4:
            self.seen.append(result)
        return result


def eager_relevance(recording: Recording, wanted: int) -> np.ndarray:
    """R by N x N matrices, from the unfused path and the gradients of its softmaxes: float64."""
    encoder = recording.encoder
    attentions = [m for m in encoder.modules() if hasattr(m, "fused_attn")]
    try:
        for m in attentions:
            m.fused_attn = False  # type: ignore[assignment]
        with _Softmaxes() as softmaxes:
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
    encoder = vit(tag, pooling, **options)
    recording = record(encoder, PHOTO)
    found = recording.map("relevance", classes=[3])
    assert found.weights.shape == (1, *recording.geometry.grid)
    r, prefix = eager_relevance(recording, 3), encoder.num_prefix_tokens
    row = r[0] if pooling == "cls" else recording.pooled.weights[0, 0].double().numpy() @ r
    np.testing.assert_allclose(found.weights.ravel(), row[prefix:], rtol=1e-4, atol=1e-5 * np.abs(row).max())
    assert found.weights.max() > 0


def test_baselines_are_offered_where_they_apply():
    assert maps_of(cnn())["gradcam"] is None and "gradcam" in (maps_of(cnn())["relevance"] or "")
    assert maps_of(vit())["relevance"] is None and "CNNs" in (maps_of(vit())["gradcam"] or "")
    with pytest.raises(ValueError, match="classes 0 to 4"):
        record(cnn(), PHOTO).map("gradcam", classes=[9])


# --- channel gates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["se", "ese", "eca", "cbam"])
def test_gates_equal_what_the_modules_multiply_by(layer: str):
    encoder = cnn(block_args={"attn_layer": layer})
    recording = record(encoder, PHOTO)
    found = recording.map("gates")
    gate = recording.gates[-1]
    assert found.names == ("gated", "ungated") and np.array_equal(found.fused(), found.weights[0])
    assert len(recording.gates) == 8 and list(gates_by_depth(recording)) == [g.name for g in recording.gates]
    seen: list[tuple[Tensor, Tensor]] = []
    module = encoder.backbone.get_submodule(gate.name)
    hook = module.register_forward_hook(lambda m, inputs, output: seen.append((inputs[0].clone(), output.clone())))
    with torch.no_grad():
        encoder(image_of(recording))
    hook.remove()  # copies, since the block adds its shortcut to the output in place
    x, y = (t[0].flatten(1).double().numpy() for t in seen[0])  # (C, N)
    v = np.array([(b[np.abs(a).argmax()] / a[np.abs(a).argmax()]) for a, b in zip(x, y, strict=True)])
    np.testing.assert_allclose(gate.values.numpy(), v, rtol=1e-4)
    np.testing.assert_allclose(found.weights[0].ravel(), v @ np.maximum(x, 0), rtol=1e-4)
    np.testing.assert_allclose(found.weights[1].ravel(), np.maximum(x, 0).mean(0), rtol=1e-4)


def test_a_poolings_own_gate_is_the_last():
    encoder = cnn("se")
    recording = record(encoder, PHOTO)
    x = recording.tokens.patches[0]
    gate = encoder.pooling.query(x.mean(0)[None, None])[0, 0]
    np.testing.assert_allclose(recording.map("gates").weights[0].ravel(), (x.relu() @ gate).detach().numpy(), rtol=1e-5)


def test_gates_of_a_batch_equal_singles_and_hooks_are_gone_also_after_an_exception():
    encoder = cnn(block_args={"attn_layer": "se"})
    other = PHOTO.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for together, photo in zip(record_batch(encoder, [PHOTO, other]), (PHOTO, other), strict=True):
        np.testing.assert_allclose(
            together.map("gates").weights, record(encoder, photo).map("gates").weights, rtol=1e-4, atol=1e-6
        )
    handle = encoder.backbone.layer4.register_forward_hook(lambda *_: 1 / 0)  # type: ignore[union-attr, operator]
    with pytest.raises(ZeroDivisionError):
        record(encoder, PHOTO)
    handle.remove()
    assert not any(m._forward_hooks for m in encoder.modules())


def test_gates_are_offered_only_where_there_are_gates():
    assert "gates channels" in (maps_of(cnn())["gates"] or "") and "gates channels" in (maps_of(vit())["gates"] or "")
    assert all(maps_of(cnn(p))["gates"] is None for p in ("se", "cbam", "ge"))


# --- contributions, and poolings without training ---------------------------------------------------------------------


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
    encoder = cnn(pooling)
    encoder.norm = kinds[norm](24)
    for parameter in [*encoder.norm.parameters(), *encoder.norm.buffers()]:
        if parameter.is_floating_point():
            parameter.data.add_(torch.rand_like(parameter))
    encoder.double().eval()
    recording = record(encoder, PHOTO)
    weight, bias = folded_head(recording, [0, 2])
    with torch.inference_mode():
        given = encoder.pooling.contribution(recording.tokens, recording.pooled)[0]
    torch.testing.assert_close(
        (weight @ given.T).sum(1) + bias, recording.logits[[0, 2]], rtol=1e-10, atol=1e-10  # type: ignore[index]
    )  # fmt: skip
    drawn = recording.map("contribution", classes=[0, 2]).weights.sum((1, 2))
    np.testing.assert_allclose(drawn, (recording.logits[[0, 2]] - bias).detach().numpy(), rtol=1e-4, atol=1e-4)  # type: ignore[index]


def test_kmeans_and_how_are_maps_of_any_checkpoint():
    for encoder in (cnn(), vit()):
        recording = record(encoder, PHOTO)
        clusters = recording.map("kmeans", k=3)
        assert clusters.names == ("centre 0", "centre 1", "centre 2") and clusters.method == "kmeans"
        own = create_pooling("kmeans", 24, k=3)(recording.tokens).weights[0]  # type: ignore[index]
        np.testing.assert_array_equal(clusters.weights.reshape(3, -1), own.numpy())
        assert np.array_equal(clusters.fused(), clusters.weights.max(0))
        squared = recording.tokens.patches[0].square().sum(1)
        np.testing.assert_allclose(recording.map("how").weights.ravel(), squared.numpy(), rtol=1e-5)
