"""Gated features against what the modules multiply by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from simpool_viz.maps.gated_features import gates_by_depth
from simpool_viz.maps.registry import maps_of
from simpool_viz.recording import record
from tests.helpers import SMALL_PHOTO, bare_cnn, bare_vit, image_of


@pytest.mark.parametrize("layer", ["se", "ese", "eca", "cbam"])
def test_gates_equal_what_the_modules_multiply_by(layer: str):
    encoder = bare_cnn(block_args={"attn_layer": layer})
    recording = record(encoder, SMALL_PHOTO)
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
    encoder = bare_cnn("se")
    recording = record(encoder, SMALL_PHOTO)
    x = recording.tokens.patches[0]
    gate = encoder.pooling.query(x.mean(0)[None, None])[0, 0]
    np.testing.assert_allclose(recording.map("gates").weights[0].ravel(), (x.relu() @ gate).detach().numpy(), rtol=1e-5)


def test_gates_are_offered_only_where_there_are_gates():
    assert "gates channels" in (maps_of(bare_cnn())["gates"] or "") and "gates channels" in (
        maps_of(bare_vit())["gates"] or ""
    )
    assert all(maps_of(bare_cnn(p))["gates"] is None for p in ("se", "cbam", "ge"))
