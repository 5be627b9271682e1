"""Every map that is offered for a family of timm has been made on that family, and its logits are the model's own."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from simpool_viz import load_checkpoint, record
from simpool_viz.checkpoints.published import _MODULES, timm_tags
from simpool_viz.images import fit
from simpool_viz.maps.registry import map_methods, maps_of, own_map
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import image_of, noisy_photos

CNNS = [
    "convnext_atto", "convnextv2_atto", "convnext_tiny_hnf", "densenet121", "dla46_c", "efficientnet_b0",
    "ese_vovnet19b_dw", "ghostnet_050", "hgnetv2_b0", "inception_next_atto", "legacy_seresnet18", "mnasnet_small",
    "mobilenetv2_035", "mobilenetv3_small_050", "mobilenetv4_conv_small_035", "mobilevit_xxs", "regnetx_002",
    "regnety_002", "resnet18", "resnetv2_18", "rexnet_100", "starnet_s1", "tinynet_e",
]  # fmt: skip
WINDOWS = ["swin_tiny_patch4_window7_224", "maxvit_pico_rw_256", "pvt_v2_b0", "edgenext_xx_small", "tiny_vit_5m_224"]
SMALL: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (1, 1, 2, 1)},
    "swinv2_tiny_window8_256": {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 6)},
    "convnext_tiny_hnf": {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 40)},
    "samvit_base_patch16": {"embed_dim": 48, "depth": 2, "num_heads": 4, "neck_chans": 24, "global_attn_indexes": (1,)},
    "cait_xxs24_224": {"depth": 2, "embed_dim": 48, "num_heads": 4},
    "deit_tiny_distilled_patch16_224": {"depth": 3},
    "vit_tiny_patch16_224": {"depth": 3},
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 48, "num_heads": 4},
}
TAGS = list(dict.fromkeys([*CNNS, *WINDOWS, *SMALL]))


def random_encoder(tag: str) -> Encoder:
    torch.manual_seed(0)
    encoder = load_checkpoint(f"timm:{tag}", device="cpu", pretrained=False, num_classes=7, **SMALL.get(tag, {}))
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=(1.5 / math.prod(parameter.shape[1:])) ** 0.5)  # the signal does not fade
    return encoder


@pytest.mark.parametrize("tag", TAGS)
def test_every_map_that_is_offered_is_made_and_the_logits_are_the_models_own(tag: str) -> None:
    encoder = random_encoder(tag)
    recording = record(encoder, noisy_photos(1, (200, 100) if encoder.multiple > 1 else (150, 100))[0], size=96)
    h, w = recording.geometry.grid
    assert h != w
    if tag not in ("beit_base_patch16_224", "cait_xxs24_224"):  # whose own forward takes one size
        with torch.inference_mode():
            expected = encoder.backbone(image_of(recording))[0]
        assert (recording.logits - expected).abs().max() <= 1e-5 * expected.abs().max() and expected.std() > 1e-6
    offered = [name for name, why in maps_of(encoder).items() if why is None]
    assert {"gradcam", "how", "kmeans"} <= set(offered)
    for name in offered:
        found = recording.map(name)
        assert found.weights.shape[1:] == (h, w) and np.isfinite(found.weights).all(), name
    for name in map_methods():
        if name not in offered:
            with pytest.raises(ValueError, match=r"has no .* map: .{20}"):
                recording.map(name)
    assert own_map(encoder) in offered


@pytest.mark.parametrize("tag", ["efficientnet_b0", "regnetx_002", "densenet121", "resnetv2_18", *WINDOWS[:3]])
def test_cam_is_the_classifiers_weights_on_the_features(tag: str) -> None:
    encoder = random_encoder(tag)
    recording = record(encoder, noisy_photos(1, (150, 100))[0], size=96)
    with torch.inference_mode():
        features = encoder.backbone.forward_features(image_of(recording))[0].double()
    if tag.startswith("swin"):
        features = features.permute(2, 0, 1)
    weight = encoder.backbone.get_classifier().weight.double().flatten(1)  # (K, D), of a 1 x 1 convolution too
    expected = torch.einsum("kd,dhw->khw", weight[[1, 4]], features).numpy() / features[0].numel()
    found = recording.map("contribution", classes=[1, 4])
    np.testing.assert_allclose(found.weights, expected, atol=1e-5 * np.abs(expected).max())
    assert "CNN" in maps_of(encoder)["rollout"] if tag in CNNS else "all tokens" in maps_of(encoder)["rollout"]


@pytest.mark.parametrize("tag", ["convnext_atto", "edgenext_xx_small", "mobilenetv3_small_050"])
def test_class_logits_are_the_head_on_single_positions(tag: str) -> None:
    encoder = random_encoder(tag)
    recording = record(encoder, noisy_photos(1, (150, 100))[0], size=96)
    found = recording.map("class_logits", classes=[2]).weights[0]
    with torch.inference_mode():
        features = encoder.backbone.forward_features(image_of(recording))
        for row, column in [(0, 0), (1, 2)]:
            one = encoder.backbone.forward_head(features[:, :, row : row + 1, column : column + 1])[0, 2]
            assert abs(float(one) - found[row, column]) < 1e-4 * max(1, abs(float(one)))


def test_the_map_of_both_tokens_of_a_distilled_deit_is_that_of_its_attention() -> None:
    encoder = random_encoder("deit_tiny_distilled_patch16_224")
    recording = record(encoder, noisy_photos(1, (150, 100))[0], size=96)
    rows = recording.blocks[1].rows(slice(0, 2))  # (H, 2, 2 + N)
    found = recording.map("cls", block=1)
    assert found.names[0] == "class, head 0" and found.names[-1] == f"distillation, head {len(rows) - 1}"
    expected = torch.cat([rows[:, 0, 2:], rows[:, 1, 2:]]).reshape(-1, *recording.geometry.grid)
    np.testing.assert_allclose(found.weights, expected.numpy(), atol=1e-6)
    one = [recording.map("token").weights.shape, recording.map("rollout").note]
    assert one == [(len(rows), *recording.geometry.grid), "starts from the class and the distillation token alike"]


def test_cait_gives_the_attention_of_its_class_token_and_no_other() -> None:
    encoder = random_encoder("cait_xxs24_224")
    square = record(encoder, noisy_photos(1, (100, 100))[0], size=224)
    seen: list[torch.Tensor] = []
    block = encoder.backbone.blocks_token_only[-1].attn
    block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        logits = encoder.backbone(image_of(square))[0]
        tokens = seen[0][0].double()  # (1 + N, D), as the last block's attention gets them
        query = (block.q.double()(tokens[:1])).unflatten(1, (block.num_heads, -1)).transpose(0, 1)
        key = block.k.double()(tokens).unflatten(1, (block.num_heads, -1)).transpose(0, 1)
        expected = (query @ key.transpose(1, 2) * block.scale).softmax(-1)[:, 0, 1:]
    block.float()
    found = square.map("cls")
    np.testing.assert_allclose(found.weights.reshape(expected.shape), expected.numpy(), atol=1e-6)
    torch.testing.assert_close(square.logits, logits, rtol=1e-5, atol=1e-5)
    assert "talking heads" in maps_of(encoder)["rollout"] and "talking heads" in maps_of(encoder)["relevance"]


@pytest.mark.parametrize("tag", ["resnet18", "vit_tiny_patch16_224"])
def test_a_model_of_one_channel_sees_a_grey_picture(tag: str) -> None:
    options = {"depth": 2} if "vit" in tag else {}
    encoder = load_checkpoint(f"timm:{tag}", device="cpu", pretrained=False, in_chans=1, **options)
    picture = noisy_photos(1, (96, 96))[0]
    recording = record(encoder, picture, size=96)
    mean, std = encoder.facts.mean, encoder.facts.std
    grey = ((picture / 255 - mean) / std) @ [0.299, 0.587, 0.114]
    with torch.inference_mode():
        expected = encoder.backbone(torch.from_numpy(grey).float()[None, None])[0]
    torch.testing.assert_close(recording.logits, expected, rtol=1e-4, atol=1e-5)
    for name, why in maps_of(encoder).items():
        assert why is not None or np.isfinite(recording.map(name).weights).all()


def test_a_model_of_four_channels_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"takes pictures of 4 channels, and pictures have 3 \(RGB\) or, as grey, 1"):
        load_checkpoint("timm:resnet18", device="cpu", pretrained=False, in_chans=4)


def test_maxvit_gets_pictures_that_its_partition_divides() -> None:
    encoder = random_encoder("maxvit_pico_rw_256")
    recording = record(encoder, noisy_photos(1, (300, 100))[0], size=200)
    assert encoder.multiple == 8 and recording.geometry.grid == (8, 24) and recording.geometry.input_size == (768, 256)
    with pytest.raises(ValueError, match="does not split into parts of 256 px, as it needs"):
        encoder(torch.zeros(1, 3, 256, 96))
    with pytest.raises(ValueError, match="makes more than 16,384 tokens"):
        record(encoder, noisy_photos(1, (150, 100))[0], size=3700)


def test_a_grid_of_whole_partitions_keeps_the_aspect_as_well_as_it_can() -> None:
    assert fit((300, 100), 200, 32, multiple=8).grid == (8, 24)
    assert fit((100, 240), 500, 32, multiple=7).grid == (35, 14)
    assert fit((300, 100), 200, 32, multiple=1) == fit((300, 100), 200, 32)


def test_timm_has_the_families_that_are_named_as_supported() -> None:
    from simpool_viz.modeling import encoder

    named = {*encoder._CNNS, *encoder._WITHOUT_MATRICES, *encoder._TRANSFORMERS}
    modules = [module for module in vars(timm.models).values() if inspect.ismodule(module)]
    classes = {name for module in modules for name in vars(module)}
    assert named - {"DinoVisionTransformer", "CifarResNet", "TorchvisionCNN"} <= classes, (
        "but for those of this project"
    )


def test_no_coatnet_is_offered_from_timm_and_other_maxxvits_are() -> None:

    offered = [name for name in timm_tags() if "coat" in name or "maxvit" in name or "mci" in name]
    assert any("maxvit" in name for name in offered) and not any("coat" in name or "mci" in name for name in offered)


def offered() -> list[str]:
    """Offered models that build quickly, two of each module of timm; benchmarks/families.py goes through all."""
    names = [name.removeprefix("timm:").partition(".")[0] for name in timm_tags()]
    quick = ("beit_base", "tiny", "small", "atto", "nano", "_b0", "18", "002", "121", "11", "050", "xxs", "pico")
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        module = timm.models._registry._model_to_module[name]
        if any(word in name for word in quick) and len(found.setdefault(module, [])) < 2:
            found[module].append(name)
    return [name for pair in found.values() for name in pair]


def test_offered_models_of_every_module_are_encoders_that_say_which_maps_they_have() -> None:
    """Without weights: enough for the reasons, which the maps themselves give where they are asked for."""
    from simpool_viz.checkpoints.formats.timm import encoder_from_timm
    from simpool_viz.modeling.encoder import Facts
    from simpool_viz.modeling.spec import create_backbone

    names = offered()
    assert {timm.models._registry._model_to_module[name] for name in names} == set(_MODULES)
    for name in names:
        with torch.device("meta"):
            encoder = encoder_from_timm(create_backbone(name, pretrained=False), Facts(name))
        maps = maps_of(encoder)
        assert maps["how"] is None and all(why is None or len(why) > 15 for why in maps.values()), name
        assert (maps["rollout"] is None) == (not encoder.lacks_matrices), name
        assert (maps["gradcam"] is None) == (encoder.head is not None), name
