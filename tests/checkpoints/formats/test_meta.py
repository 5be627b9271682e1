"""Meta's own files of DINOv2 and DINOv3 give what timm's models give."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import SwiGLUPacked
from torch import nn

from simpool_viz.checkpoints.formats.recognise import SAM_TAGS
from simpool_viz.checkpoints.load import load_with_report
from tests.helpers import save_weights

SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 0}


def randomised(model: Any) -> Any:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def assert_same_tokens(encoder: Any, model: Any, size: tuple[int, int] = (64, 64)) -> None:
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        tokens, wanted = encoder.tokens(x), model.forward_features(x)
    assert (torch.cat([tokens.prefix, tokens.patches], 1) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("gated", [False, True])
def test_shards_of_a_dinov2_training_load_as_its_teacher(tmp_path: Path, gated: bool) -> None:
    mlp = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 4} if gated else {}
    model = randomised(timm.create_model("vit_tiny_patch16_224", img_size=64, init_values=1.0, **SMALL, **mlp))
    state = {}
    for key, value in model.state_dict().items():
        key = re.sub(r"^blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) // 1}.{m[1]}.", key)
        if gated:
            key = key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        state[f"backbone.{key}"] = value
    state["backbone.mask_token"] = torch.zeros(1, 64)
    state |= {"dino_head.mlp.0.weight": torch.ones(4, 64), "ibot_head.last_layer.weight_v": torch.ones(4, 4)}
    path = save_weights(tmp_path, {"teacher": state})
    encoder, report = load_with_report(path, device="cpu", num_heads=4)
    assert_same_tokens(encoder, model)
    assert sum(report.dropped.values()) == 3 and "by factors" in " ".join(report.lines())


@pytest.mark.parametrize(("gated", "biased"), [(False, True), (True, False)])
def test_metas_dinov3_gives_timms_tokens(tmp_path: Path, gated: bool, biased: bool) -> None:
    model = timm.create_model(
        "vit_small_patch16_dinov3", qkv_bias=biased, swiglu_mlp=gated, swiglu_align_to=8 if gated else 0,
        norm_layer=partial(nn.LayerNorm, eps=1e-5), global_pool="token", **SMALL,
    )  # fmt: skip
    model = randomised(model)
    state: dict[str, torch.Tensor] = {}
    for key, value in model.state_dict().items():
        for ours, theirs in (
            ("reg_token", "storage_tokens"), ("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"),
            ("mlp.fc1_g", "mlp.w1"), ("mlp.fc1_x", "mlp.w2"),
        ):  # fmt: skip
            key = key.replace(ours, theirs)
        state[key.replace("mlp.fc2", "mlp.w3") if gated else key] = value
    for i in range(2):
        q, v = (state.pop(f"blocks.{i}.attn.{part}_bias", None) for part in "qv")
        if q is not None:
            state[f"blocks.{i}.attn.qkv.bias"] = torch.cat([q, torch.full_like(q, 9.0), v])
            mask = torch.cat([torch.ones(64), torch.zeros(64), torch.ones(64)])
            state[f"blocks.{i}.attn.qkv.bias_mask"] = mask
    state |= {"mask_token": torch.zeros(1, 64), "rope_embed.periods": torch.ones(4)}
    encoder, report = load_with_report(save_weights(tmp_path, state), device="cpu")
    assert_same_tokens(encoder, model, (64, 96))
    assert "4 heads" in report.architecture and encoder.pooling.name == "cls"


def test_plain_file_of_dinov2_is_resized_by_its_own_code(tmp_path: Path) -> None:
    model = randomised(timm.create_model("vit_tiny_patch16_224", img_size=64, init_values=1.0, **SMALL))
    path = save_weights(tmp_path, model.state_dict() | {"mask_token": torch.zeros(1, 64)})
    said = {way: load_with_report(path, device="cpu", num_heads=4, **way_of(way))[1] for way in ("", "timm", "dino")}
    assert any("by factors" in note for note in said[""].notes) and any("timm" in note for note in said["timm"].notes)
    own, timms, dino = (load_with_report(path, device="cpu", num_heads=4, **way_of(w))[0] for w in ("", "timm", "dino"))
    x = torch.randn(1, 3, 48, 96)
    with torch.no_grad():
        one, two, three = (encoder.tokens(x).patches for encoder in (own, timms, dino))
    assert torch.equal(one, three) and (one - two).abs().max() > 1e-3


def way_of(way: str) -> dict[str, str]:
    return {"pos_embed": way} if way else {}


def test_sams_own_file_is_the_encoder_of_timm_without_its_decoder(tmp_path: Path) -> None:
    """A narrow one, as config.json describes it; by its width a file alone is one of the three published."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 48, "depth": 2, "num_heads": 4, "neck_chans": 24, "global_attn_indexes": [1]}
    model = timm.create_model("samvit_base_patch16", num_classes=0, img_size=64, **sizes).eval()
    state = {f"image_encoder.{key.replace('mlp.fc', 'mlp.lin')}": value for key, value in model.state_dict().items()}
    state |= {
        "mask_decoder.iou_token.weight": torch.ones(1, 4),
        "prompt_encoder.no_mask_embed.weight": torch.ones(1, 4),
    }
    torch.save(state, tmp_path / "pytorch_model.bin")
    config = {"architecture": "samvit_base_patch16", "num_classes": 0, "model_args": sizes | {"img_size": 64}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder, report = load_with_report(tmp_path, device="cpu")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = model.forward_features(x).flatten(2).transpose(1, 2)
        assert (encoder.tokens(x).patches - wanted).abs().max() < 1e-4
    assert report.dropped == {"the part of SAM that makes masks": 2} and encoder.facts.size == 1024
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="no encoder of SAM has 48 channels"):
        load_with_report(tmp_path / "pytorch_model.bin", device="cpu")


def test_published_sams_are_known_by_their_width() -> None:
    for width, tag in SAM_TAGS.items():
        with torch.device("meta"):
            assert timm.create_model(tag, num_classes=0, depth=1).embed_dim == width


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("dino_deitsmall16_pretrain.pth", True),
        ("dino_deitsmall8_300ep_pretrain.pth", True),
        ("dino_vitbase8_pretrain.pth", True),
        ("dino_xcit_small_12_p16_pretrain.pth", False),
        ("vit_small.pth", False),
    ],
)
def test_dinos_own_plain_file_is_resized_by_its_own_code(tmp_path: Path, name: str, known: bool) -> None:
    """Its tensors are those of any ViT, so the name of the published file says it, and the notes that it did."""
    model = randomised(timm.create_model("vit_tiny_patch16_224", img_size=64, **SMALL))
    path = save_weights(tmp_path, model.state_dict(), name)
    found, report = load_with_report(path, device="cpu", num_heads=4)
    wanted = load_with_report(path, device="cpu", num_heads=4, pos_embed="dino" if known else "timm")[0]
    other = load_with_report(path, device="cpu", num_heads=4, pos_embed="timm" if known else "dino")[0]
    x = torch.randn(1, 3, 48, 96)
    with torch.no_grad():
        one, two, three = (encoder.tokens(x).patches for encoder in (found, wanted, other))
    assert torch.equal(one, two) and (one - three).abs().max() > 1e-3
    assert any("as in DINO's code, by factors" in note for note in report.notes) == known
    assert any("from DINO's code, since the file is called so" in note for note in report.notes) == known
