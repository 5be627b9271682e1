"""CLIP's and SigLIP's files of other programs: open_clip's and OpenAI's names, and transformers' classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor

from simpool_viz.checkpoints.load import load_with_report
from tests.checkpoints.formats.test_transformers import LETTERS, SIZES
from tests.helpers import State, save_weights

BLOCK = {
    "norm1.": "ln_1.",
    "norm2.": "ln_2.",
    "attn.qkv.": "attn.in_proj_",
    "attn.proj.": "attn.out_proj.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}
REST = {
    "cls_token": "class_embedding",
    "pos_embed": "positional_embedding",
    "patch_embed.proj.": "conv1.",
    "norm_pre.": "ln_pre.",
    "norm.": "ln_post.",
}


def small_clip(quick: bool) -> Any:
    torch.manual_seed(0)
    tag = f"vit_base_patch16_clip_{'quickgelu_' if quick else ''}224"
    model = timm.create_model(
        tag, depth=2, embed_dim=64, num_heads=4, num_classes=0, img_size=64, dynamic_img_size=True
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def as_open_clip(model: Any) -> State:
    """The names of open_clip, and of a part for texts, for the model of timm."""
    state: State = {
        "logit_scale": torch.ones(()),
        "text_projection": torch.ones(2, 2),
        "ln_final.weight": torch.ones(2),
    }
    state |= {"positional_embedding": torch.ones(77, 2), "token_embedding.weight": torch.ones(9, 2)}
    state |= {"transformer.resblocks.0.ln_1.weight": torch.ones(2), "visual.proj": torch.ones(64, 3)}
    for key, value in model.state_dict().items():
        if key.startswith("blocks."):
            _, number, rest = key.split(".", 2)
            start = next(s for s in BLOCK if rest.startswith(s))
            key = f"transformer.resblocks.{number}.{BLOCK[start]}{rest.removeprefix(start)}"
        else:
            start = next(s for s in REST if key.startswith(s))
            key = REST[start] + key.removeprefix(start)
        state[f"visual.{key}"] = value.reshape(-1, 64) if "positional" in key else value
    state["visual.class_embedding"] = state["visual.class_embedding"].flatten()
    return state


def tokens_of(encoder: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        found = encoder.tokens(x)
    return torch.cat([found.prefix, found.patches], 1)


@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
@pytest.mark.parametrize("kind", ["open_clip", "openai", "asked"])
def test_names_of_open_clip_and_openai_give_timms_tokens(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    """OpenAI's own files have QuickGELU; those of open_clip do not say it, and it is said that GELU is taken."""
    model = small_clip(quick=kind == "openai")
    state = as_open_clip(model)
    if kind == "openai":  # as torch.jit.load(...).state_dict() gives it, in half precision with three numbers
        state = {key: value.half() for key, value in state.items()}
        model.load_state_dict({key: value.half().float() for key, value in model.state_dict().items()})
        state |= {
            "context_length": torch.tensor(77),
            "input_resolution": torch.tensor(64),
            "vocab_size": torch.tensor(9),
        }
    options = {"mean": 0.5} if kind == "asked" else {}
    encoder, report = load_with_report(save_weights(tmp_path, state), device="cpu", num_heads=4, **options)
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        wanted = model.forward_features(x)
    assert (tokens_of(encoder, x) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert report.dropped["the part for texts"] == 6 + 3 * (kind == "openai")
    told = " ".join(report.notes)
    assert ("since these are OpenAI's own names" in told) == (kind == "openai")
    assert ("taken to have GELU" in told) == (kind != "openai")
    assert encoder.facts.mean[0] == (0.5 if kind == "asked" else pytest.approx(0.48145466))


def test_open_clips_trunks_of_timm_are_read_behind_their_prefix(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_siglip_224", depth=1, embed_dim=192, num_heads=3, img_size=64).eval()
    state = {f"visual.trunk.{key}": value for key, value in model.state_dict().items()}
    state |= {"text.ln_final.weight": torch.ones(2), "logit_scale": torch.ones(()), "logit_bias": torch.ones(())}
    encoder, report = load_with_report(save_weights(tmp_path, state), device="cpu")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (encoder(x).vector - model(x)).abs().max() < 1e-5
    assert report.dropped == {"the part for texts": 3}


def classifier(kind: str) -> Any:
    t = transformers
    torch.manual_seed(0)
    if kind == "clip":
        config = t.CLIPConfig(vision_config=SIZES, id2label=LETTERS, projection_dim=16)
        model: Any = t.CLIPForImageClassification(config)
    else:
        model = t.SiglipForImageClassification(t.SiglipConfig(vision_config=SIZES, id2label=LETTERS))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("way", ["memory", "lightning"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_classifiers_of_transformers_read_what_theirs_read(tmp_path: Path, kind: str, way: str) -> None:
    """The mean of the patches, not the class token or the attention pooling, of which they have weights too."""
    model = classifier(kind)
    if way == "memory":
        source: Any = model
    else:
        state = {f"model.{key}": value for key, value in model.state_dict().items()}
        source = save_weights(tmp_path, {"pytorch-lightning_version": "2", "state_dict": state}, "last.ckpt")
    encoder, report = load_with_report(source, device="cpu", num_heads=4)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = model(x).logits
        assert (encoder(x).logits - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert encoder.pooling.name == "gap" and any("its classifier does not read" in why for why in report.dropped)


def test_classifier_that_was_trained_beside_a_clip_reads_its_class_token(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vision = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SIZES)).eval()
    linear = torch.nn.Linear(64, 3)
    state = {f"backbone.{key}": value for key, value in vision.state_dict().items()}
    state |= {f"classifier.{key}": value for key, value in linear.state_dict().items()}
    encoder, _ = load_with_report(save_weights(tmp_path, {"state_dict": state}), device="cpu", num_heads=4)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = linear(vision(x).pooler_output)
        assert (encoder(x).logits - wanted).abs().max() < 1e-5 and encoder.pooling.name == "cls"
