"""Models of transformers, from memory, folders and shards, give what their own eager attention gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from simpool_viz import load_checkpoint, record
from simpool_viz.capture.recorded import Recorded
from simpool_viz.checkpoints.load import load_with_report
from simpool_viz.images import preprocess
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import make_photo

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 64,
    "patch_size": 16,
    "attn_implementation": "eager",
}
LETTERS = {0: "a", 1: "b", 2: "c"}


def random_model(kind: str) -> Any:
    t = transformers
    makers = {
        "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**SIZES, id2label=LETTERS)),
        "deit": lambda: t.DeiTForImageClassification(t.DeiTConfig(**SIZES, id2label=LETTERS)),
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**SIZES, mlp_ratio=2)),
        "dinov2_reg": lambda: t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**SIZES, use_swiglu_ffn=True)),
        "dinov3": lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**SIZES, num_register_tokens=4)),
        "dinov3_gated": lambda: t.DINOv3ViTModel(
            t.DINOv3ViTConfig(**SIZES, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu")
        ),
        "siglip": lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**SIZES)),
        "clip": lambda: t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**SIZES)),
    }
    torch.manual_seed(0)
    model = makers[kind]().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
        else:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


KINDS = ("vit", "deit", "dinov2", "dinov2_reg", "dinov3", "dinov3_gated", "siglip", "clip")


def attentions_of(model: Any, pictures: torch.Tensor) -> Any:
    """The output, with attentions (B, H, T, T) of all blocks."""
    resize = {} if type(model).__name__.startswith(("Dinov2", "DINOv3")) else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        return model(pictures, output_attentions=True, **resize)


def assert_same_maps(encoder: Encoder, model: Any) -> None:
    """At a size that is neither square nor that of the training; the first row of a SigLIP is none of a class token."""
    recording = record(encoder, make_photo(), 80)
    x = preprocess(recording.picture, recording.geometry, encoder.facts.mean, encoder.facts.std)
    output = attentions_of(model, x[None])
    rows, columns = recording.geometry.grid
    assert rows != columns
    for block, wanted in enumerate(output.attentions):
        found = _attention(recording, block)
        assert (found - wanted[0]).abs().max() < 1e-5


def _attention(recording: Recorded, block: int) -> torch.Tensor:
    captured = recording.blocks[block]
    scores = captured.query.double() @ captured.key.double().transpose(-2, -1) * captured.scale
    return scores.softmax(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_model_in_memory_has_its_own_attention(kind: str) -> None:
    model = random_model(kind)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    encoder = load_checkpoint(model, device="cpu")
    assert_same_maps(encoder, model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    if kind in ("vit", "deit"):
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert (encoder(x).logits - model(x).logits).abs().max() < 1e-5
        assert encoder.facts.classes == ("a", "b", "c")
    if kind == "siglip":
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert (encoder(x).vector - model(x).pooler_output).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_saved_folder_has_the_models_attention_and_says_what_it_took(tmp_path: Path, kind: str) -> None:
    model = random_model(kind)
    model.save_pretrained(tmp_path / "mine")
    described = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "size": {"height": 64, "width": 64}}
    (tmp_path / "mine" / "preprocessor_config.json").write_text(json.dumps(described | {"resample": 2}))
    encoder, report = load_with_report(tmp_path / "mine", device="cpu")
    assert_same_maps(encoder, model)
    facts = encoder.facts
    assert (facts.name, facts.mean, facts.std, facts.size) == ("mine", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 64)
    told = " ".join(report.lines())
    assert "transformers'" in told and "from preprocessor_config.json" in told and "bilinear" in told


@pytest.mark.parametrize("form", ["pytorch_model.bin", "shards", "bin shards"])
def test_other_forms_of_a_folder_load_the_same(tmp_path: Path, form: str) -> None:
    model = random_model("vit")
    model.save_pretrained(tmp_path, max_shard_size="100KB" if form == "shards" else "5GB")
    if form != "shards":
        state = load_file(tmp_path / "model.safetensors")
        (tmp_path / "model.safetensors").unlink()
        if form == "pytorch_model.bin":
            torch.save(state, tmp_path / form)
        else:
            table = {key: f"part{n % 2}.bin" for n, key in enumerate(state)}
            for name in ("part0.bin", "part1.bin"):
                torch.save({key: state[key] for key in state if table[key] == name}, tmp_path / name)
            (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    else:
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
    encoder = load_checkpoint(tmp_path, device="cpu")
    assert_same_maps(encoder, model)
    if form == "bin shards":
        (tmp_path / "part1.bin").unlink()
        with pytest.raises(ValueError, match=r"names part1\.bin, which is not beside it"):
            load_checkpoint(tmp_path, device="cpu")
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "../other.bin"}}))
        with pytest.raises(ValueError, match="does not name the files of the weights beside it"):
            load_checkpoint(tmp_path, device="cpu")


def test_heads_that_no_pooling_here_gives_are_dropped_with_the_reason(tmp_path: Path) -> None:
    t = transformers
    torch.manual_seed(0)
    model = t.Dinov2ForImageClassification(t.Dinov2Config(**SIZES, mlp_ratio=2))
    encoder, report = load_with_report(model, device="cpu")
    assert encoder.head is None and any("class token and the mean" in why for why in report.dropped)
    teacher = t.DeiTForImageClassificationWithTeacher(t.DeiTConfig(**SIZES, id2label=LETTERS)).eval()
    encoder, report = load_with_report(teacher, device="cpu")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (encoder(x).logits - teacher(x).cls_logits).abs().max() < 1e-5
    assert any("distillation token's classifier" in why for why in report.dropped)


def test_both_towers_load_as_the_one_for_pictures(tmp_path: Path) -> None:
    t = transformers
    torch.manual_seed(0)
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 50,
    }
    config = t.CLIPConfig(text_config=text, vision_config=SIZES, projection_dim=16, attn_implementation="eager")
    model = t.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    encoder, report = load_with_report(tmp_path, device="cpu")
    assert_same_maps(encoder, model.vision_model)
    assert "the part for texts" in report.dropped and encoder.facts.mean[0] == pytest.approx(0.48145466)


def test_activation_that_is_not_known_is_refused(tmp_path: Path) -> None:
    model = random_model("vit")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "mish"}))
    with pytest.raises(ValueError, match=r"config\.json: the activation 'mish' is not one of"):
        load_checkpoint(tmp_path, device="cpu")
