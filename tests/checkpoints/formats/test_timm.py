"""timm models keep their logits or are refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from simpool_viz import load_checkpoint, record
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import inputs_of, noisy_photos, random_images, random_timm, save_weights


@pytest.mark.parametrize(
    "tag", ["vit_tiny_patch16_224", "beit_base_patch16_224", "vit_base_patch16_siglip_224", "resnet18", "convnext_atto"]
)
def test_the_encoder_gives_the_logits_of_the_timm_model(tag: str):
    import timm

    depth = {} if "vit" not in tag and "beit" not in tag else {"depth": 2}
    torch.manual_seed(0)
    model = timm.create_model(tag, pretrained=False, **depth).eval()
    encoder = load_checkpoint(f"timm:{tag}", device="cpu", pretrained=False, **depth)
    encoder.backbone.load_state_dict(model.state_dict())
    recording = record(encoder, noisy_photos(1, (224, 224))[0], size=224)
    with torch.inference_mode():
        expected = model(inputs_of(encoder, [recording.picture.rgb], 224))[0]
    found = recording.vector if recording.logits is None else recording.logits
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


def test_beit_gives_the_same_at_its_trained_size_after_it_saw_another():
    encoder, picture = random_timm("beit_base_patch16_224"), noisy_photos(1, (100, 100))[0]
    before = record(encoder, picture, size=224)
    record(encoder, picture, size=96)
    record(encoder, noisy_photos(1)[0], size=128)
    after = record(encoder, picture, size=224)
    assert torch.equal(before.vector, after.vector)


@pytest.mark.parametrize(
    "tag, reason",
    [
        ("coatnet_nano_rw_224", "one size of picture alone"),
        ("mixer_s32_224", "not a supported"),
        ("crossvit_tiny_240", "not a supported"),
    ],
)
def test_backbones_that_cannot_be_shown_are_refused_in_a_sentence(tag: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        load_checkpoint(f"timm:{tag}", device="cpu", pretrained=False)


@pytest.mark.parametrize(
    ("tag", "options"),
    [
        ("deit_tiny_distilled_patch16_224", {}),
        ("resnet18", {"global_pool": "max"}),
        ("resnet18", {"global_pool": "avgmax"}),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "pool_include_prefix": True}),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"global_pool": "max"}),
        ("convnext_atto", {"head_hidden_size": 64}),
        ("convnext_tiny_hnf", {"depths": (1, 1, 1, 1)}),
        ("vit_relpos_small_patch16_224", {}),
        ("vit_srelpos_small_patch16_224", {}),
        ("naflexvit_base_patch16_gap", {"depth": 1}),
        ("xcit_nano_12_p16_224", {}),
        ("vit_small_r26_s32_224", {"depth": 1}),
        ("vit_base_mci_224", {"depth": 1}),
        ("beit_base_patch16_224", {"depth": 1}),
    ],
)
def test_a_timm_model_keeps_its_logits_or_is_refused_in_a_sentence(tag: str, options: dict):
    torch.manual_seed(0)
    try:
        encoder = load_checkpoint(f"timm:{tag}", device="cpu", pretrained=False, **options)
    except ValueError as error:
        assert len(str(error)) > 40
        return
    model = encoder.backbone
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    recording = record(encoder, noisy_photos(1, (224, 224))[0], size=224)
    with torch.inference_mode():
        expected = model(inputs_of(encoder, [recording.picture.rgb], 224))[0]
    np.testing.assert_allclose(recording.logits.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)


def test_timm_model_brings_its_facts(vit: Encoder) -> None:
    facts = vit.facts
    assert facts.name == "timm:vit_tiny_patch16_224" and facts.size == 224 and facts.source.endswith("random weights")
    assert facts.mean == facts.std == (0.5, 0.5, 0.5), "not ImageNet's: this model was trained with others"
    assert len(facts.classes) == 1000 and facts.classes[0] == "tench"
    assert not vit.training and vit.depth == 2


def test_weights_that_cannot_be_fetched_are_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(
        ValueError,
        match=r"weights of timm:resnet18 could not be fetched .*\(ConnectionError: no route to host\); check",
    ):
        load_checkpoint("timm:resnet18")
    with pytest.raises(ConnectionError):
        load_checkpoint("timm:resnet18", pretrained=False)


def test_timm_model_for_which_there_are_no_weights_is_told() -> None:
    with pytest.raises(ValueError, match="No pretrained weights exist for vit_base_patch16_18x2_224"):
        load_checkpoint("timm:vit_base_patch16_18x2_224", depth=1)


@pytest.mark.parametrize("tag", ["mixer_s32_224", "xcit_nano_12_p16_224"])
def test_family_that_cannot_be_shown_is_refused_in_a_sentence(tag: str) -> None:
    with pytest.raises(ValueError, match=r"Supported are"):
        load_checkpoint(f"timm:{tag}", device="cpu", pretrained=False)


@pytest.mark.parametrize(
    ("tag", "options"),
    [
        ("vit_tiny_patch16_224", {"depth": 2, "class_token": False, "global_pool": "map"}),
        ("vit_tiny_patch16_224", {"depth": 2, "reg_tokens": 2, "qk_norm": True, "init_values": 0.1}),
        ("resnet26", {}),
        ("convnext_atto", {}),
    ],
)
def test_plain_files_of_timm_give_the_models_own_logits(tmp_path: Path, tag: str, options: dict[str, Any]) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(tag, num_classes=5, **options).eval()
    arch = {"arch": tag} if tag in ("resnet26", "convnext_atto") else {}
    encoder = load_checkpoint(save_weights(tmp_path, model.state_dict()), device="cpu", **arch)
    with torch.inference_mode():
        found, wanted = encoder(random_images(224, 224)).logits, model(random_images(224, 224))
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max() and wanted.std() > 0
