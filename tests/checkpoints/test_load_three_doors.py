"""A file loads the same in Python, on the command line and in the app, with the attention of the model it came from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from simpool_viz import load_checkpoint, record
from simpool_viz.app import own_checkpoint as own_module
from simpool_viz.app.own_checkpoint import OwnCheckpoints, OwnPanel
from simpool_viz.checkpoints import load as load_module
from simpool_viz.checkpoints.files import convert
from simpool_viz.modeling.encoder import Encoder
from tests import made_files as made
from tests.checkpoints.formats.test_flax import as_flax
from tests.checkpoints.formats.test_torchvision import random_model as torchvision_model
from tests.checkpoints.formats.test_transformers import SIZES
from tests.helpers import image_of, run_command

OPTIONS = "num_heads=4&mean=0.5&std=0.25+0.5+0.25&size=64"
Attend = Callable[[Tensor], Tensor]  # a picture (1, 3, H, W) -> the last block's attention (H, T, T)


def vit(**options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"depth": 2, "embed_dim": 64, "num_heads": 4, "img_size": 64, "num_classes": 5, "dynamic_img_size": True}
    model = timm.create_model("vit_tiny_patch16_224", **(sizes | options)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def eager(model: Any) -> Attend:
    """Of timm's own module, without the fused kernel."""

    def attend(x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        attention = model.blocks[-1].attn
        attention.fused_attn = False
        hook = attention.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
        with torch.no_grad():
            model(x)
        hook.remove()
        return seen[0][0]

    return attend


def eager_of_torchvision(model: Any) -> Attend:
    def attend(x: Tensor) -> Tensor:
        layers = model.encoder.layers
        with torch.no_grad():
            tokens = torch.cat([model.class_token, model._process_input(x)], 1) + model.encoder.pos_embedding
            normed = layers[-1].ln_1(layers[:-1](tokens))
            return layers[-1].self_attention(normed, normed, normed, average_attn_weights=False)[1][0]

    return attend


def lightning(folder: Path) -> tuple[Path, Attend]:
    model = vit()
    content = {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"net.{key}": value for key, value in model.state_dict().items()}
        | {"loss.weight": torch.ones(2)},
        "hyper_parameters": {"lr": 1e-3},
        "optimizer_states": [{"state": {}}],
    }
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt", eager(model)


def compiled(folder: Path) -> tuple[Path, Attend]:
    model = vit(reg_tokens=2)
    state = {f"_orig_mod.module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"model": state, "epoch": 3}, folder / "compiled.bin")
    return folder / "compiled.bin", eager(model)


def of_torchvision(folder: Path) -> tuple[Path, Attend]:
    model = torchvision_model("vit")
    torch.save(model.state_dict(), folder / "vit_b_16.pth")
    return folder / "vit_b_16.pth", eager_of_torchvision(model)


def of_google(folder: Path) -> tuple[Path, Attend]:
    model = vit()
    np.savez(folder / "augreg.npz", **as_flax(model.state_dict(), 2, 4))
    return folder / "augreg.npz", eager(model)


KINDS = {"lightning": lightning, "compiled": compiled, "torchvision": of_torchvision, "npz": of_google}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(256, size=(64, 96, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    Image.fromarray(rng.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(tmp_path / "square.png")
    return tmp_path / "photo.png"


def assert_eager(encoder: Encoder, attend: Attend, photo: Path) -> np.ndarray:
    """The map of the class token is the row of the model's own attention; returns it."""
    recording = record(encoder, photo)
    found, (h, w) = recording.map("cls"), recording.geometry.grid
    rows = attend(image_of(recording))[:, 0, encoder.num_prefix_tokens :].reshape(-1, h, w)
    assert found.weights.shape == rows.shape and np.abs(found.weights - rows.numpy()).max() < 1e-5
    assert rows.std() > 1e-3
    return found.weights


def on_the_command_line(capsys: pytest.CaptureFixture[str], name: str, photo: Path, out: Path) -> np.ndarray:
    status, _, err = run_command(
        capsys, "compare", photo, "-c", name, "-m", "cls", "-o", out, "--device", "cpu", "--overwrite"
    )
    assert status == 0, err
    with np.load(out / "maps.npz") as maps:
        (key,) = [key for key in maps.files if key.endswith(".cls")]
        return maps[key]


def in_the_app(monkeypatch: pytest.MonkeyPatch, path: Path, options: str) -> tuple[Encoder, str]:
    """The encoder that a visitor gets, and the report; read and converted as by the worker, in this process."""

    def here(source: Path, target: Path, which: str, hints: Any, **given: Any) -> Any:
        return convert(source, target, which, hints=hints, **json.loads(json.dumps(given)))

    monkeypatch.setattr(load_module, "convert_untrusted", here)
    folder = path.parent / "upload"
    folder.mkdir(exist_ok=True)
    own = OwnCheckpoints()
    told, *_ = OwnPanel("cpu", {}).recognise(str(shutil.copy(path, folder / path.name)), f"?{options}", own)
    assert own.waiting is not None and not list(folder.iterdir())
    return own.waiting, told


@pytest.mark.parametrize("kind", KINDS)
def test_kind_of_file_gives_the_models_own_attention_by_every_door(
    kind: str, tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, attend = KINDS[kind](tmp_path)
    photo = photo.with_name("square.png") if kind == "torchvision" else photo  # torchvision's own takes one size
    encoder = load_checkpoint(f"{path}?{OPTIONS}", device="cpu")
    assert (encoder.facts.mean, encoder.facts.std) == ((0.5,) * 3, (0.25, 0.5, 0.25)) and encoder.facts.size == 64
    weights = assert_eager(encoder, attend, photo)
    np.testing.assert_array_equal(on_the_command_line(capsys, f"{path}?{OPTIONS}", photo, tmp_path / "out"), weights)
    visitors, told = in_the_app(monkeypatch, path, OPTIONS)
    np.testing.assert_array_equal(assert_eager(visitors, attend, photo), weights)
    assert visitors.facts.std == encoder.facts.std and "ViT, 2 blocks of 64 channels and 4 heads" in told


def test_folder_of_transformers_and_a_model_in_memory_give_the_same(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model: Any = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)

    def attend(x: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x, output_attentions=True, interpolate_pos_encoding=True).attentions[-1][0]

    model.save_pretrained(tmp_path / "mine")
    options = OPTIONS.removeprefix("num_heads=4&")
    weights = assert_eager(load_checkpoint(f"{tmp_path / 'mine'}?{options}", device="cpu"), attend, photo)
    line = on_the_command_line(capsys, f"{tmp_path / 'mine'}?{options}", photo, tmp_path / "out")
    np.testing.assert_array_equal(line, weights)
    memory = load_checkpoint(model, device="cpu", mean=0.5, std=[0.25, 0.5, 0.25], size=64)
    np.testing.assert_array_equal(assert_eager(memory, attend, photo), weights)


def test_model_of_timm_in_memory_takes_two_lines(photo: Path) -> None:
    model = vit()
    encoder = load_checkpoint(model, device="cpu", mean=0.5, std=0.5, classes=list("abcde"), size=64)
    assert_eager(encoder, eager(model), photo)
    assert encoder.facts.classes == tuple("abcde")


def self_supervised(folder: Path) -> Path:
    content = made.self_supervised(made.vit(64, 1, grid=4, cls=False) | made.simpool(64, "simpool.", True), gamma=1.25)
    torch.save(content, folder / "ssl.pth")
    return folder / "ssl.pth"


@pytest.mark.parametrize(
    ("query", "seen"),
    [
        ("weights=student", lambda e: round(float(e.backbone.blocks[0].norm1.weight[0]), 5)),
        ("gamma=2", lambda e: e.pooling.gamma),
        ("gamma=none", lambda e: e.pooling.gamma),
        ("pos_embed=timm", lambda e: type(e.backbone).__name__),
        ("pos_embed=transformers", lambda e: e.backbone.rule),
        ("num_heads=2", lambda e: e.blocks[0].attn.num_heads),
        ("size=48", lambda e: e.facts.size),
        ("mean=0.5", lambda e: e.facts.mean),
        ("std=0.1+0.2+0.3", lambda e: e.facts.std),
        ("grid=2x8", lambda e: getattr(e.backbone.patch_embed, "grid_size", None)),
    ],
)
def test_option_of_a_file_means_the_same_by_every_door(
    query: str,
    seen: Callable[[Encoder], Any],
    tmp_path: Path,
    photo: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it changes is the same in all three, and not what it is without the option."""
    path = self_supervised(tmp_path)
    plain, found = load_checkpoint(path, device="cpu"), load_checkpoint(f"{path}?{query}", device="cpu")
    assert seen(found) != seen(plain)
    visitors, _ = in_the_app(monkeypatch, path, query)
    assert seen(visitors) == seen(found)
    weights = record(found, photo).map("pooling").weights
    np.testing.assert_array_equal(record(visitors, photo).map("pooling").weights, weights)
    out = tmp_path / "out"
    status, _, err = run_command(
        capsys, "compare", photo, "-c", f"{path}?{query}", "-m", "pooling", "-o", out, "--device", "cpu"
    )
    assert status == 0, err
    with np.load(out / "maps.npz") as maps:
        (key,) = [key for key in maps.files if key.endswith(".pooling")]
        np.testing.assert_array_equal(maps[key], weights)


def test_classes_are_named_by_a_file_but_not_by_a_visitor(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(made.vit(64, 1, grid=4, classes=3), tmp_path / "a.pth")
    (tmp_path / "names.json").write_text('{"0": "ant", "1": "bee", "2": "cat"}')
    name = f"{tmp_path / 'a.pth'}?classes={tmp_path / 'names.json'}"
    assert load_checkpoint(name, device="cpu").facts.classes == ("ant", "bee", "cat")
    status, _, err = run_command(
        capsys,
        "compare",
        photo,
        "-c",
        name,
        "-m",
        "gradcam:classes=bee",
        "-o",
        tmp_path / "out",
        "--device",
        "cpu",
    )
    assert status == 0, err
    assert "bee" in (tmp_path / "out" / "manifest.json").read_text()
    with pytest.raises(gr.Error, match="a file of classes can be named in Python and on the command line only"):
        in_the_app(monkeypatch, tmp_path / "a.pth", f"classes={tmp_path / 'names.json'}")


def test_tokens_of_a_probing_head_are_for_python_and_the_command_line(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the app a head has no backbone, which is said."""
    torch.manual_seed(0)
    torch.save(made.vit(64, 1, grid=4), tmp_path / "base.pth")
    state = {"0.cls_token": torch.randn(1, 2, 64), "0.v.weight": torch.randn(64, 64)}
    state |= {"2.weight": torch.randn(3, 64), "2.bias": torch.randn(3)}
    torch.save({"saved_module": "head", "model": state}, tmp_path / "head.pth")
    maps = {}
    for tokens in ("before_norm", "after_norm"):
        name = f"{tmp_path / 'head.pth'}?backbone={tmp_path / 'base.pth'}&tokens={tokens}"
        maps[tokens] = record(load_checkpoint(name, device="cpu"), photo, size=64).map("pooling").weights
        out = tmp_path / tokens
        options = ["-m", "pooling", "--size", "64", "-o", out, "--device", "cpu"]
        status, _, err = run_command(capsys, "compare", photo, "-c", name, *options)
        assert status == 0, err
        with np.load(out / "maps.npz") as found:
            (key,) = [key for key in found.files if key.endswith(".pooling")]
            np.testing.assert_array_equal(found[key], maps[tokens])
    assert np.abs(maps["before_norm"] - maps["after_norm"]).max() > 1e-4
    with pytest.raises(gr.Error, match="probing head"):
        in_the_app(monkeypatch, tmp_path / "head.pth", "tokens=after_norm")


def test_files_of_the_app_end_as_those_of_the_package() -> None:
    from simpool_viz.checkpoints.hub import SUFFIXES

    assert {suffix.replace(".pth.tar", ".tar") for suffix in SUFFIXES} == set(own_module.SUFFIXES)
