"""ViT files of every container load to maps that equal a float64 computation from their raw tensors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from simpool_viz import load_checkpoint, record
from simpool_viz.checkpoints.load import load_with_report
from simpool_viz.modeling.encoder import Encoder
from tests import made_files as made
from tests.helpers import (
    INPUT_SIZES,
    State,
    assert_same,
    double,
    make_photo,
    pooling_weights,
    random_images,
    save_weights,
)
from tests.oracles import backbones as oracle


@pytest.mark.parametrize("size", INPUT_SIZES)
@pytest.mark.parametrize("beta", [False, True])
def test_self_supervised_vit_with_simpool_equals_its_raw_tensors_with_the_quirk(
    tmp_path: Path, size: tuple[int, int], beta: bool
) -> None:
    state = made.vit(cls=False) | made.simpool(128, "simpool.", beta)
    path = save_weights(tmp_path, made.self_supervised(state, gamma=None))
    encoder, report = load_with_report(path, device="cpu")
    tokens, _ = oracle.vit_tokens(random_images(*size)[0].double(), double(state), heads=2, quirk=True)
    assert_same(pooling_weights(encoder, size), oracle.simpool_map(tokens, double(state), "simpool."))
    assert encoder.pooling.gamma == (1.25 if beta else None) and not encoder.has_class_token
    told = " ".join(report.lines())
    assert (
        "self-supervised checkpoint, entry teacher" in told
        and "3 blocks of 128 channels" in told
        and "DINO's code" in told
    )
    assert report.dropped == {"projection head of the self-supervised training": 4} and report.used == len(state)


def test_the_quirk_changes_the_map_at_224_and_the_vector_is_normed_after_pooling(tmp_path: Path) -> None:
    state = made.vit(cls=False) | made.simpool(128, "simpool.")
    path = save_weights(tmp_path, made.self_supervised(state, gamma=None))
    quirk, plain = load_checkpoint(path, device="cpu"), load_checkpoint(path, device="cpu", pos_embed="timm")
    assert (pooling_weights(quirk, (224, 224)) - pooling_weights(plain, (224, 224))).abs().max() > 1e-4
    tokens, _ = oracle.vit_tokens(random_images(224, 224)[0].double(), double(state), heads=2, quirk=True)
    values = oracle.layer_norm(tokens, double(state), "simpool.norm_patches")
    pooled = oracle.simpool_map(tokens, double(state), "simpool.") @ values
    with torch.inference_mode():
        vector = quirk(random_images(224, 224)).vector[0].double()
    assert (vector - oracle.layer_norm(pooled, double(state), "norm")).abs().max() < 1e-4


@pytest.mark.parametrize("size", INPUT_SIZES)
def test_self_supervised_vit_with_class_token_equals_its_raw_tensors(tmp_path: Path, size: tuple[int, int]) -> None:
    state = made.vit()
    encoder = load_checkpoint(
        save_weights(tmp_path, made.self_supervised(state, mode="official", arch="vit_small")),
        device="cpu",
        num_heads=2,
    )
    _, attentions = oracle.vit_tokens(random_images(*size)[0].double(), double(state), heads=2, quirk=True)
    with torch.inference_mode():
        x = random_images(*size)
        tokens = encoder.tokens(x)
    wanted, _ = oracle.vit_tokens(x[0].double(), double(state), heads=2, quirk=True)
    wanted = oracle.layer_norm(wanted, double(state), "norm")
    assert (torch.cat([tokens.prefix, tokens.patches], 1)[0].double() - wanted).abs().max() < 1e-4
    assert encoder.pooling.name == "cls" and len(attentions) == encoder.depth == 3


def test_cls_rows_of_a_file_equal_its_raw_tensors(tmp_path: Path) -> None:
    """Through the whole of a recording, at the size of a photo."""
    state = made.vit()
    encoder = load_checkpoint(save_weights(tmp_path, made.self_supervised(state, mode="official")), device="cpu")
    recording = record(encoder, make_photo(), 96)
    from simpool_viz.images import preprocess

    x = preprocess(recording.picture, recording.geometry, encoder.facts.mean, encoder.facts.std)
    _, attentions = oracle.vit_tokens(x.double(), double(state), heads=2, quirk=True)
    rows = attentions[-1][:, 0, 1:].reshape(2, *recording.geometry.grid)
    assert (torch.tensor(recording.map("cls").weights).double() - rows).abs().max() < 1e-5


def test_full_size_vit_small_simpool_has_the_published_counts(tmp_path: Path) -> None:
    state = made.vit(384, 12, cls=False) | made.simpool(384, "simpool.", beta=True)
    assert len(state) == 154 and len(made.vit(384, 12)) == 150
    assert sum(v.numel() for v in made.vit(384, 12).values()) == 21_665_664
    encoder, report = load_with_report(
        save_weights(tmp_path, made.self_supervised(state, arch="vit_small", gamma=None)), device="cpu"
    )
    assert report.parameters == 21_960_577 and report.used == 154
    for size in INPUT_SIZES:
        tokens, _ = oracle.vit_tokens(random_images(*size)[0].double(), double(state), heads=6, quirk=True)
        assert_same(pooling_weights(encoder, size), oracle.simpool_map(tokens, double(state), "simpool."))


def test_full_size_supervised_vit_small_simpool_has_the_published_counts(tmp_path: Path) -> None:
    state = made.vit(384, 12, cls=False, classes=1000) | made.simpool(384, "gp.pool.")
    assert len(state) == 155
    encoder, report = load_with_report(save_weights(tmp_path, made.supervised(state)), device="cpu")
    assert report.parameters == 22_345_576 and report.used == 155
    for size in INPUT_SIZES:
        tokens, _ = oracle.vit_tokens(random_images(*size)[0].double(), double(state), heads=6, quirk=False)
        normed = oracle.layer_norm(tokens, double(state), "norm")
        assert_same(pooling_weights(encoder, size), oracle.simpool_map(normed, double(state), "gp.pool."))


@pytest.mark.parametrize("size", INPUT_SIZES)
@pytest.mark.parametrize("ema", [True, False])
def test_supervised_vit_pools_after_the_final_norm(tmp_path: Path, ema: bool, size: tuple[int, int]) -> None:
    state = made.vit(cls=False, classes=1000) | made.simpool(128, "gp.pool.", beta=True)
    encoder, report = load_with_report(
        save_weights(tmp_path, made.supervised(state, ema, mode="simpool", gamma=1.25), "a.pth.tar"), device="cpu"
    )
    tokens, _ = oracle.vit_tokens(random_images(*size)[0].double(), double(state), heads=2, quirk=False)
    normed = oracle.layer_norm(tokens, double(state), "norm")
    assert_same(pooling_weights(encoder, size), oracle.simpool_map(normed, double(state), "gp.pool."))
    assert encoder.pooling.gamma == 1.25 and len(encoder.facts.classes) == encoder.head.out_features == 1000
    assert ("state_dict_ema" in report.container) == ema


@pytest.mark.parametrize("size", INPUT_SIZES)
@pytest.mark.parametrize("way", ["timm", "dino"])
def test_plain_vit_resizes_its_positions_as_asked_for(tmp_path: Path, size: tuple[int, int], way: str) -> None:
    state = made.vit()
    encoder = load_checkpoint(
        save_weights(tmp_path, state), device="cpu", **({"pos_embed": "dino"} if way == "dino" else {})
    )
    assert_tokens(encoder, state, size, heads=2, quirk=way == "dino")


def assert_tokens(
    encoder: Encoder, state: State, size: tuple[int, int], tolerance: float = 1e-4, **options: Any
) -> None:
    """The tokens after the final norm, prefixes first, are those of the raw tensors."""
    tokens, _ = oracle.vit_tokens(random_images(*size)[0].double(), double(state), **options)
    with torch.inference_mode():
        found = encoder.tokens(random_images(*size))
    wanted = oracle.layer_norm(tokens, double(state), "norm")
    assert (torch.cat([found.prefix, found.patches], 1)[0].double() - wanted).abs().max() < tolerance


def test_dinov2s_own_names_with_registers_give_the_same_tokens_as_timms(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", depth=2, reg_tokens=4, no_embed_class=True, init_values=1.0, num_classes=0
    ).eval()
    theirs = dict(model.state_dict())
    place = torch.randn(1, 1, 192)
    theirs["pos_embed"] = torch.cat([place, theirs["pos_embed"]], 1)
    theirs["cls_token"] = theirs["cls_token"] - place
    theirs["register_tokens"] = theirs.pop("reg_token")
    theirs["mask_token"] = torch.zeros(1, 192)
    encoder = load_checkpoint(save_weights(tmp_path, theirs), device="cpu")
    with torch.inference_mode():
        tokens, wanted = encoder.tokens(random_images(224, 224)), model.forward_features(random_images(224, 224))
    assert tokens.prefix.shape[1] == 5
    assert (torch.cat([tokens.prefix, tokens.patches], 1) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("size", INPUT_SIZES)
def test_life_checkpoint_follows_the_released_code(tmp_path: Path, size: tuple[int, int]) -> None:
    state = made.vit(192, 2, classes=4, life=True)
    other = {k: v + 1 for k, v in state.items()}
    content = {
        "model": state,
        "model_ema": other,
        "optimizer": {"state": {}},
        "epoch": 3,
        "args": argparse.Namespace(model="life"),
    }
    path = save_weights(tmp_path, content)
    encoder, report = load_with_report(path, device="cpu")
    assert_tokens(encoder, state, size, 1e-3, heads=3, quirk=False)
    assert "LIFE" in report.architecture and encoder(random_images(*size)).logits.shape == (1, 4)
    average = load_checkpoint(path, device="cpu", weights="model_ema")
    assert torch.equal(average.head.weight, other["head.weight"])


@pytest.mark.parametrize("size", INPUT_SIZES)
def test_sar_checkpoint_without_a_last_norm_has_no_last_skip(tmp_path: Path, size: tuple[int, int]) -> None:
    state = {k: v for k, v in made.vit(classes=4).items() if not k.startswith("blocks.2.norm2")}
    encoder, report = load_with_report(
        save_weights(tmp_path, {"model": state, "optimizer": {}, "args": None}), device="cpu"
    )
    assert_tokens(encoder, state, size, heads=2, quirk=False, no_skip=True)
    assert "no skip in the last block" in report.architecture


def test_grid_of_positions_that_is_not_square_is_asked_for(tmp_path: Path) -> None:
    """As re-identification (256 x 128) and pose (256 x 192) have it; no tensor tells 6 x 2 from 3 x 4."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", depth=1, img_size=(96, 32), num_classes=3, dynamic_img_size=True
    ).eval()
    path = save_weights(tmp_path, model.state_dict())
    with pytest.raises(ValueError, match=r"13 position embeddings are no square grid; say .* as in grid=16x8"):
        load_checkpoint(path, device="cpu")
    with pytest.raises(ValueError, match=r"13 position embeddings are not those of 6 x 3 patches and 1 tokens"):
        load_checkpoint(f"{path}?grid=6x3", device="cpu")
    with pytest.raises(ValueError, match=r"grid= takes rows and columns, as in 16x8"):
        load_checkpoint(path, device="cpu", grid=[6])
    for rule in ("timm", "dino"):
        encoder = load_checkpoint(f"{path}?grid=6x2&pos_embed={rule}", device="cpu")
        for size in ((96, 32), (64, 96)):
            x = random_images(*size)
            with torch.inference_mode():
                found, wanted = encoder(x).logits, model(x)
            same = (found - wanted).abs().max() < 1e-5
            assert same == (rule == "timm" or size == (96, 32))
    with pytest.raises(ValueError, match=r"does not fit.*blocks\.1\.norm1\.weight is missing"):  # of twelve blocks
        load_checkpoint(f"{path}?grid=6x2&arch=vit_tiny_patch16_224", device="cpu")


@pytest.mark.parametrize("heads", [True, False])
def test_distilled_deit_has_both_tokens(tmp_path: Path, heads: bool) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(
        "deit_tiny_distilled_patch16_224", depth=2, num_classes=5, img_size=64, dynamic_img_size=True
    ).eval()
    state = {key: value for key, value in model.state_dict().items() if heads or not key.startswith("head")}
    path = save_weights(tmp_path, {"model": state})
    encoder, report = load_with_report(path, device="cpu")
    for size in ((64, 64), (48, 96)):
        x = random_images(*size)
        with torch.inference_mode():
            tokens, wanted = encoder.tokens(x), model.forward_features(x)
            assert (torch.cat([tokens.prefix, tokens.patches], 1) - wanted).abs().max() < 1e-5
            if heads:
                assert (encoder(x).logits - model(x)).abs().max() < 1e-5
    assert (encoder.head is None) == (not heads) and "CLS and distillation" in " ".join(report.lines())
    recording = record(encoder, make_photo(), 64)
    assert {name.split(",")[0] for name in recording.map("cls").names} == {"class", "distillation"}
    if heads:
        state.pop("head_dist.weight"), state.pop("head_dist.bias")
        with pytest.raises(ValueError, match=r"head_dist\.weight is missing"):
            load_checkpoint(save_weights(tmp_path, state), device="cpu")
    with pytest.raises(ValueError, match="a distilled DeiT's position embedding is resized by timm's rule"):
        load_checkpoint(path, device="cpu", pos_embed="dino")


def deit_of_meta() -> tuple[Any, State]:
    """A DeiT III of timm, and its tensors by the names of Meta's own files."""
    import timm

    torch.manual_seed(0)
    sizes = {"depth": 2, "embed_dim": 128, "num_heads": 2, "img_size": 64, "num_classes": 5}
    model = timm.create_model("deit3_small_patch16_224", dynamic_img_size=True, **sizes).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    names = {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}
    state = {key: value for key, value in model.state_dict().items()}
    return model, {key.replace(key[9:], names.get(key[9:], key[9:])): value for key, value in state.items()}


@pytest.mark.parametrize("named", [True, False])
def test_deit_iii_is_read_by_the_names_of_its_own_files(
    tmp_path: Path, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    model, state = deit_of_meta()
    assert "blocks.1.gamma_2" in state and not any(".ls1." in key for key in state)
    path, create = save_weights(tmp_path, {"model": state}), timm.create_model
    small = {"depth": 2, "embed_dim": 128, "num_heads": 2, "img_size": 64}
    monkeypatch.setattr(timm, "create_model", lambda *given, **options: create(*given, **(options | small)))
    encoder, report = load_with_report(path, device="cpu", **({"arch": "deit3_small_patch16_224"} if named else {}))
    for size in ((64, 64), (96, 64)):
        x = random_images(*size)
        with torch.inference_mode():
            wanted = model(x)
            assert (encoder(x).logits - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert any("in DeiT III's own naming" in note and "rope_ape" in note for note in report.notes) != named


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_other_precisions_give_what_their_numbers_say(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    """Also where two tensors are added on the way, as for DINOv2's registers: the sum is not rounded again."""
    state = {key: value.to(dtype) for key, value in made.vit(192, 2, grid=4).items()}
    state["register_tokens"] = torch.randn(1, 2, 192).to(dtype)
    exact = {key: value.float() for key, value in state.items()}
    path = tmp_path / f"a.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    found = load_checkpoint(path, device="cpu")
    wanted = load_checkpoint(save_weights(tmp_path, exact, "exact.pth"), device="cpu")
    x = random_images(96, 64)
    assert all(parameter.dtype == torch.float32 for parameter in found.parameters())
    with torch.inference_mode():
        assert torch.equal(found.tokens(x).patches, wanted.tokens(x).patches)


def test_file_of_a_grey_model_sees_a_grey_picture(tmp_path: Path) -> None:
    import timm

    for tag, options in (
        ("vit_tiny_patch16_224", {"depth": 1, "img_size": 64}),
        ("resnet18", {}),
        ("convnext_atto", {}),
    ):
        torch.manual_seed(0)
        model = timm.create_model(tag, in_chans=1, num_classes=3, **options).eval()
        encoder = load_checkpoint(save_weights(tmp_path, model.state_dict()), device="cpu")
        x = random_images(64, 64)
        grey = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        with torch.inference_mode():
            assert encoder.grey and (encoder(x).logits - model(grey)).abs().max() < 1e-4
    four = timm.create_model("vit_tiny_patch16_224", depth=1, in_chans=4, img_size=64).state_dict()
    with pytest.raises(ValueError, match=r"\(192, 4, 16, 16\), not that of square patches of 3 colours"):
        load_checkpoint(save_weights(tmp_path, four), device="cpu")
