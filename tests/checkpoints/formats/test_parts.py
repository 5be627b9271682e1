"""Probing heads go onto their backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from simpool_viz import load_checkpoint
from simpool_viz.checkpoints.load import load_with_report
from tests import made_files as made
from tests.helpers import random_images, save_weights


@pytest.mark.parametrize("kind", ["ep", "aim", "abmilp"])
@pytest.mark.parametrize("container", ["saved", "released"])
def test_probing_head_goes_onto_its_backbone(tmp_path: Path, kind: str, container: str) -> None:
    from simpool_viz.modeling.pooling import create_pooling

    torch.manual_seed(0)
    options = {"ep": {"num_queries": 8, "d_out": 2}, "aim": {"num_heads": 4}, "abmilp": {}}[kind]
    pooling = create_pooling(kind, 128, **options)
    state = {f"0.{k}": torch.randn_like(v) if v.is_floating_point() else v for k, v in pooling.state_dict().items()}
    state |= {"0.bn.running_var": torch.rand(128) + 0.5} if kind == "aim" else {}
    state |= {"1.running_mean": torch.randn(pooling.out_dim), "1.running_var": torch.rand(pooling.out_dim) + 0.5}
    state |= {
        "1.num_batches_tracked": torch.tensor(3),
        "2.weight": torch.randn(6, pooling.out_dim),
        "2.bias": torch.randn(6),
    }
    content = (
        {"saved_module": "head", "model": state, "epoch": 3}
        if container == "saved"
        else {"state_dict": state, "meta": {"k": 1}}
    )
    backbone = save_weights(tmp_path, made.vit(), "backbone.pth")
    path = save_weights(tmp_path, content, "head.pth")
    heads = {"tokens": "after_norm"} | ({"num_heads": 4} if kind == "aim" else {})
    encoder, report = load_with_report(path, device="cpu", backbone=str(backbone), **heads)
    assert encoder.pooling.name == kind and encoder.facts.base == "backbone.pth" and "probing head" in report.container
    with torch.no_grad():
        output = encoder(random_images(224, 224))
    assert not any("heads are assumed" in note for note in report.notes)
    pooling.load_state_dict({k.removeprefix("0."): v for k, v in state.items() if k.startswith("0.")})
    pooled = pooling.eval()(output.tokens)
    normed = (pooled.vector - state["1.running_mean"]) / (state["1.running_var"] + 1e-6).sqrt()
    assert (output.logits - (normed @ state["2.weight"].T + state["2.bias"])).abs().max() < 1e-3
    with pytest.raises(
        ValueError, match=r"a probing head without a backbone; name the checkpoint it was trained on with backbone="
    ):
        load_checkpoint(path, device="cpu")
    other = save_weights(tmp_path, made.vit(dim=192), "other.pth")
    with pytest.raises(ValueError, match=r"128 channels, and the backbone has 192|shape"):
        load_checkpoint(path, device="cpu", backbone=str(other), **heads)


def test_whole_model_of_an_efficient_probing_run_is_refused(tmp_path: Path) -> None:
    path = save_weights(tmp_path, {"saved_module": "backbone", "model": made.vit()})
    with pytest.raises(ValueError, match=r"holds the module 'backbone' of an efficient-probing run, not its head"):
        load_checkpoint(path, device="cpu")
