"""Checkpoint files: every container that people have loads to maps that equal a float64 computation from its raw
tensors."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from simpool_viz import load_checkpoint, record
from simpool_viz.checkpoints.files import convert, load_file
from simpool_viz.checkpoints.load import load_with_report
from simpool_viz.maps.registry import maps_of
from simpool_viz.modeling.encoder import Encoder
from tests import made_files as made
from tests.conftest import make_photo
from tests.oracles import backbones as oracle

SIZES = [(224, 224), (160, 256)]
State = dict[str, Tensor]


def images(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(3))


def double(state: State) -> State:
    return {k: v.double() for k, v in state.items()}


def save(folder: Path, content: Any, name: str = "weights.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def weights_of(encoder: Encoder, size: tuple[int, int]) -> Tensor:
    """The pooling's weights (N,) of the encoder for `images`, in float64."""
    with torch.inference_mode():
        weights = encoder(images(*size)).pooled.weights
    assert weights is not None
    return weights[0, 0].double()


def assert_same(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape and (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.max()))
    assert wanted.max() > 1.5 / len(wanted), "a map far from uniform, or nothing is proven"


# --- SimPool and DINO, self-supervised
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("beta", [False, True])
def test_self_supervised_vit_with_simpool_equals_its_raw_tensors_with_the_quirk(
    tmp_path: Path, size: tuple[int, int], beta: bool
) -> None:
    state = made.vit(cls=False) | made.simpool(128, "simpool.", beta)
    path = save(tmp_path, made.self_supervised(state, gamma=None))
    encoder, report = load_with_report(path, device="cpu")
    tokens, _ = oracle.vit_tokens(images(*size)[0].double(), double(state), heads=2, quirk=True)
    assert_same(weights_of(encoder, size), oracle.simpool_map(tokens, double(state), "simpool."))
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
    path = save(tmp_path, made.self_supervised(state, gamma=None))
    quirk, plain = load_checkpoint(path, device="cpu"), load_checkpoint(path, device="cpu", pos_embed="timm")
    assert (weights_of(quirk, (224, 224)) - weights_of(plain, (224, 224))).abs().max() > 1e-4
    tokens, _ = oracle.vit_tokens(images(224, 224)[0].double(), double(state), heads=2, quirk=True)
    values = oracle.layer_norm(tokens, double(state), "simpool.norm_patches")
    pooled = oracle.simpool_map(tokens, double(state), "simpool.") @ values
    with torch.inference_mode():
        vector = quirk(images(224, 224)).vector[0].double()
    assert (vector - oracle.layer_norm(pooled, double(state), "norm")).abs().max() < 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_self_supervised_vit_with_class_token_equals_its_raw_tensors(tmp_path: Path, size: tuple[int, int]) -> None:
    state = made.vit()
    encoder = load_checkpoint(
        save(tmp_path, made.self_supervised(state, mode="official", arch="vit_small")), device="cpu", num_heads=2
    )
    _, attentions = oracle.vit_tokens(images(*size)[0].double(), double(state), heads=2, quirk=True)
    with torch.inference_mode():
        x = images(*size)
        tokens = encoder.tokens(x)
    wanted, _ = oracle.vit_tokens(x[0].double(), double(state), heads=2, quirk=True)
    wanted = oracle.layer_norm(wanted, double(state), "norm")
    assert (torch.cat([tokens.prefix, tokens.patches], 1)[0].double() - wanted).abs().max() < 1e-4
    assert encoder.pooling.name == "cls" and len(attentions) == encoder.depth == 3


def test_cls_rows_of_a_file_equal_its_raw_tensors(tmp_path: Path) -> None:
    """Through the whole of a recording, at the size of a photo."""
    state = made.vit()
    encoder = load_checkpoint(save(tmp_path, made.self_supervised(state, mode="official")), device="cpu")
    recording = record(encoder, make_photo(), 96)
    from simpool_viz.images import preprocess

    x = preprocess(recording.picture, recording.geometry, encoder.facts.mean, encoder.facts.std)
    _, attentions = oracle.vit_tokens(x.double(), double(state), heads=2, quirk=True)
    rows = attentions[-1][:, 0, 1:].reshape(2, *recording.geometry.grid)
    assert (torch.tensor(recording.map("cls").weights).double() - rows).abs().max() < 1e-5


def test_teacher_is_taken_and_the_student_on_request(tmp_path: Path) -> None:
    state = made.vit(cls=False) | made.simpool(128, "simpool.")
    path = save(tmp_path, made.self_supervised(state, gamma=1.5))
    teacher, student = load_checkpoint(path, device="cpu"), load_checkpoint(f"{path}?weights=student", device="cpu")
    assert torch.equal(teacher.pooling.wq.weight, state["simpool.wq.weight"]) and teacher.pooling.gamma is None
    assert torch.equal(student.pooling.wq.weight, 1.5 * state["simpool.wq.weight"]) and student.pooling.gamma == 1.5
    with pytest.raises(ValueError, match=r"holds no weights called 'nobody'; it holds student, teacher, optimizer"):
        load_checkpoint(path, device="cpu", weights="nobody")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("prefix", ["simpool.", "attn."])
def test_resnet_with_simpool_equals_its_raw_tensors(tmp_path: Path, size: tuple[int, int], prefix: str) -> None:
    pool = made.simpool(512, prefix)
    if prefix == "attn.":  # an older upload
        pool = {k.removeprefix(prefix) if "norm_patches" in k else k: v for k, v in pool.items()}
    backbone = made.resnet()
    encoder = load_checkpoint(save(tmp_path, made.self_supervised(backbone | pool, gamma=2.0)), device="cpu")
    features = oracle.resnet_features(images(*size)[0].double(), double(backbone)).flatten(1).T
    assert_same(weights_of(encoder, size), oracle.simpool_map(features, double(made.simpool(512, ""))))
    assert encoder.pooling.gamma == 2.0 and encoder.head is None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("norm", ["norm", "norm_output"])
def test_convnext_with_simpool_equals_its_raw_tensors(tmp_path: Path, size: tuple[int, int], norm: str) -> None:
    backbone = made.convnext(norm=norm)
    encoder = load_checkpoint(
        save(tmp_path, made.self_supervised(backbone | made.simpool(40, "simpool."), gamma=2.0)), device="cpu"
    )
    features = oracle.convnext_features(images(*size)[0].double(), double(backbone)).flatten(1).T
    assert_same(weights_of(encoder, size), oracle.simpool_map(features, double(made.simpool(40, ""))))
    assert torch.equal(encoder.norm.weight, backbone[f"{norm}.weight"])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["resnet", "convnext", "vit"])
def test_timms_names_of_simpool_load_with_timms_minimum(tmp_path: Path, size: tuple[int, int], kind: str) -> None:
    backbone, dim = {
        "resnet": (made.resnet(), 512),
        "convnext": (made.convnext(), 40),
        "vit": (made.vit(cls=False), 128),
    }[kind]
    names = {"norm_patches": "norm", "wq": "q", "wk": "k"}
    pool = {f"pool.{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in made.simpool(dim, "").items()}
    encoder = load_checkpoint(save(tmp_path, backbone | pool), device="cpu", gamma=2.0)
    assert (
        encoder.pooling.min == "channel" and encoder.pooling.norm_patches.eps == 1e-5 and encoder.pooling.gamma == 2.0
    )
    if kind == "resnet":
        features = oracle.resnet_features(images(*size)[0].double(), double(backbone)).flatten(1).T
        assert_same(weights_of(encoder, size), oracle.simpool_map(features, double(made.simpool(512, "")), eps=1e-5))


# --- full size
# ----------------------------------------------------------------------------------------------------------------


def test_full_size_vit_small_simpool_has_the_published_counts(tmp_path: Path) -> None:
    state = made.vit(384, 12, cls=False) | made.simpool(384, "simpool.", beta=True)
    assert len(state) == 154 and len(made.vit(384, 12)) == 150
    assert sum(v.numel() for v in made.vit(384, 12).values()) == 21_665_664
    encoder, report = load_with_report(
        save(tmp_path, made.self_supervised(state, arch="vit_small", gamma=None)), device="cpu"
    )
    assert report.parameters == 21_960_577 and report.used == 154
    for size in SIZES:
        tokens, _ = oracle.vit_tokens(images(*size)[0].double(), double(state), heads=6, quirk=True)
        assert_same(weights_of(encoder, size), oracle.simpool_map(tokens, double(state), "simpool."))


def test_full_size_supervised_vit_small_simpool_has_the_published_counts(tmp_path: Path) -> None:
    state = made.vit(384, 12, cls=False, classes=1000) | made.simpool(384, "gp.pool.")
    assert len(state) == 155
    encoder, report = load_with_report(save(tmp_path, made.supervised(state)), device="cpu")
    assert report.parameters == 22_345_576 and report.used == 155
    for size in SIZES:
        tokens, _ = oracle.vit_tokens(images(*size)[0].double(), double(state), heads=6, quirk=False)
        normed = oracle.layer_norm(tokens, double(state), "norm")
        assert_same(weights_of(encoder, size), oracle.simpool_map(normed, double(state), "gp.pool."))


@pytest.mark.parametrize(
    ("prefix", "classes", "count"), [("simpool.", 0, 31_900_736), ("global_pool.pool.", 1000, 33_949_736)]
)
def test_full_size_resnet50_simpool_has_the_published_counts(
    tmp_path: Path, prefix: str, classes: int, count: int
) -> None:
    backbone = made.resnet((3, 4, 6, 3), 64, classes=classes)
    state = backbone | made.simpool(2048, prefix)
    content = made.supervised(state, mode="simpool", gamma=2.0) if classes else made.self_supervised(state, gamma=2.0)
    encoder, report = load_with_report(save(tmp_path, content), device="cpu")
    assert report.parameters == count and encoder.pooling.gamma == 2.0
    for size in SIZES:
        features = oracle.resnet_features(images(*size)[0].double(), double(backbone)).flatten(1).T
        assert_same(weights_of(encoder, size), oracle.simpool_map(features, double(state), prefix))


def test_full_size_convnext_small_simpool_has_the_published_counts(tmp_path: Path) -> None:
    backbone = made.convnext((3, 3, 27, 3), (96, 192, 384, 768))
    state = backbone | made.simpool(768, "simpool.")
    encoder, report = load_with_report(save(tmp_path, made.self_supervised(state, gamma=None)), device="cpu")
    assert len(state) == 346 and report.parameters == 50_635_872
    for size in SIZES:
        features = oracle.convnext_features(images(*size)[0].double(), double(backbone)).flatten(1).T
        assert_same(weights_of(encoder, size), oracle.simpool_map(features, double(state), "simpool."))


# --- supervised, plain, LIFE, SAR, SPE, probes
# ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ema", [True, False])
def test_supervised_vit_pools_after_the_final_norm(tmp_path: Path, ema: bool, size: tuple[int, int]) -> None:
    state = made.vit(cls=False, classes=1000) | made.simpool(128, "gp.pool.", beta=True)
    encoder, report = load_with_report(
        save(tmp_path, made.supervised(state, ema, mode="simpool", gamma=1.25), "a.pth.tar"), device="cpu"
    )
    tokens, _ = oracle.vit_tokens(images(*size)[0].double(), double(state), heads=2, quirk=False)
    normed = oracle.layer_norm(tokens, double(state), "norm")
    assert_same(weights_of(encoder, size), oracle.simpool_map(normed, double(state), "gp.pool."))
    assert encoder.pooling.gamma == 1.25 and len(encoder.facts.classes) == encoder.head.out_features == 1000
    assert ("state_dict_ema" in report.container) == ema


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", ["timm", "dino"])
def test_plain_vit_resizes_its_positions_as_asked_for(tmp_path: Path, size: tuple[int, int], way: str) -> None:
    state = made.vit()
    encoder = load_checkpoint(save(tmp_path, state), device="cpu", **({"pos_embed": "dino"} if way == "dino" else {}))
    assert_tokens(encoder, state, size, heads=2, quirk=way == "dino")


def assert_tokens(
    encoder: Encoder, state: State, size: tuple[int, int], tolerance: float = 1e-4, **options: Any
) -> None:
    """The tokens after the final norm, prefixes first, are those of the raw tensors."""
    tokens, _ = oracle.vit_tokens(images(*size)[0].double(), double(state), **options)
    with torch.inference_mode():
        found = encoder.tokens(images(*size))
    wanted = oracle.layer_norm(tokens, double(state), "norm")
    assert (torch.cat([found.prefix, found.patches], 1)[0].double() - wanted).abs().max() < tolerance


def test_supervised_cnns_load_without_their_auxiliary_norms(tmp_path: Path) -> None:
    resnet = made.resnet(classes=7) | made.simpool(512, "global_pool.pool.")
    encoder, report = load_with_report(save(tmp_path, made.supervised(resnet, mode="simpool", gamma=2.0)), device="cpu")
    assert encoder.head.out_features == 7 and "second half of split batch norm, used in training only" in report.dropped
    convnext = made.convnext(classes=7) | made.simpool(40, "head.global_pool.pool.")
    encoder = load_checkpoint(save(tmp_path, made.supervised(convnext)), device="cpu")
    assert encoder.head.out_features == 7 and encoder.pooling.name == "simpool"
    assert torch.equal(encoder.head.weight, convnext["head.weight"]) and torch.equal(
        encoder.norm.weight, convnext["norm.weight"]
    )


def test_plain_state_dicts_load_with_the_pooling_they_have(tmp_path: Path) -> None:
    import timm
    import torchvision

    for state, pooling, depth in (
        (made.vit(), "cls", 3),
        (torchvision.models.resnet18().state_dict(), "gap", 0),
        (torchvision.models.resnet50().state_dict(), "gap", 0),
        (made.convnext(classes=3), "gap", 0),
        (timm.create_model("vit_tiny_patch16_224", depth=2, reg_tokens=4, no_embed_class=True).state_dict(), "cls", 2),
        (
            timm.create_model("vit_tiny_patch16_224", depth=2, class_token=False, global_pool="avg").state_dict(),
            "gap",
            2,
        ),
    ):
        encoder = load_checkpoint(save(tmp_path, state), device="cpu")
        assert (encoder.pooling.name, encoder.depth) == (pooling, depth)
        assert sum(p.numel() for p in encoder.parameters()) == sum(
            v.numel()
            for k, v in state.items()
            if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))
        )


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
    encoder = load_checkpoint(save(tmp_path, model.state_dict()), device="cpu", **arch)
    with torch.inference_mode():
        found, wanted = encoder(images(224, 224)).logits, model(images(224, 224))
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max() and wanted.std() > 0


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
    encoder = load_checkpoint(save(tmp_path, theirs), device="cpu")
    with torch.inference_mode():
        tokens, wanted = encoder.tokens(images(224, 224)), model.forward_features(images(224, 224))
    assert tokens.prefix.shape[1] == 5
    assert (torch.cat([tokens.prefix, tokens.patches], 1) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("size", SIZES)
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
    path = save(tmp_path, content)
    encoder, report = load_with_report(path, device="cpu")
    assert_tokens(encoder, state, size, 1e-3, heads=3, quirk=False)
    assert "LIFE" in report.architecture and encoder(images(*size)).logits.shape == (1, 4)
    average = load_checkpoint(path, device="cpu", weights="model_ema")
    assert torch.equal(average.head.weight, other["head.weight"])


@pytest.mark.parametrize("size", SIZES)
def test_sar_checkpoint_without_a_last_norm_has_no_last_skip(tmp_path: Path, size: tuple[int, int]) -> None:
    state = {k: v for k, v in made.vit(classes=4).items() if not k.startswith("blocks.2.norm2")}
    encoder, report = load_with_report(save(tmp_path, {"model": state, "optimizer": {}, "args": None}), device="cpu")
    assert_tokens(encoder, state, size, heads=2, quirk=False, no_skip=True)
    assert "no skip in the last block" in report.architecture


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bottleneck", [True, False])
def test_spe_checkpoint_equals_its_raw_tensors(tmp_path: Path, size: tuple[int, int], bottleneck: bool) -> None:
    state = made.resnet(bottleneck=bottleneck, spe=True, classes=5)
    content = {
        "epoch": 3,
        "state_dict": {f"module.{k}": v for k, v in state.items()},
        "acc": 1.0,
        "best_acc": 2.0,
        "optimizer": {},
    }
    encoder, report = load_with_report(save(tmp_path, content), device="cpu")
    wanted = oracle.resnet_features(images(*size)[0].double(), double(state)).flatten(1).T
    with torch.inference_mode():
        found = encoder.tokens(images(*size)).patches[0].double()
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max() and "SPE" in report.architecture
    assert maps_of(encoder)["gates"] is None


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
    backbone = save(tmp_path, made.vit(), "backbone.pth")
    path = save(tmp_path, content, "head.pth")
    heads = {"num_heads": 4} if kind == "aim" else {}
    encoder, report = load_with_report(path, device="cpu", backbone=str(backbone), **heads)
    assert encoder.pooling.name == kind and encoder.facts.base == "backbone.pth" and "probing head" in report.container
    with torch.no_grad():
        output = encoder(images(224, 224))
    assert any("4 heads are assumed" in note for note in report.notes) == (kind == "aim")
    pooling.load_state_dict({k.removeprefix("0."): v for k, v in state.items() if k.startswith("0.")})
    pooled = pooling.eval()(output.tokens)
    normed = (pooled.vector - state["1.running_mean"]) / (state["1.running_var"] + 1e-6).sqrt()
    assert (output.logits - (normed @ state["2.weight"].T + state["2.bias"])).abs().max() < 1e-3
    with pytest.raises(
        ValueError, match=r"a probing head without a backbone; name the checkpoint it was trained on with backbone="
    ):
        load_checkpoint(path, device="cpu")
    other = save(tmp_path, made.vit(dim=192), "other.pth")
    with pytest.raises(ValueError, match=r"128 channels, and the backbone has 192|shape"):
        load_checkpoint(path, device="cpu", backbone=str(other), **heads)


def test_whole_model_of_an_efficient_probing_run_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, {"saved_module": "backbone", "model": made.vit()})
    with pytest.raises(ValueError, match=r"holds the module 'backbone' of an efficient-probing run, not its head"):
        load_checkpoint(path, device="cpu")


# --- safety
# -------------------------------------------------------------------------------------------------------------------


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_pickle_runs_nothing_and_is_named(tmp_path: Path, legacy: bool) -> None:
    path, touched = tmp_path / "bad.pth", tmp_path / "touched"
    torch.save({"state_dict": made.vit(), "extra": Malicious(touched)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"bad\.pth .*nothing in it was run and nothing was loaded") as caught:
        load_checkpoint(path, device="cpu")
    assert not touched.exists() and (legacy or "system" in str(caught.value))


def test_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Malicious(tmp_path / "touched")))
    with pytest.raises(ValueError, match=r"bad\.pkl"):
        load_checkpoint(tmp_path / "bad.pkl", device="cpu")
    assert not (tmp_path / "touched").exists()


def test_zip_bomb_is_not_opened(tmp_path: Path) -> None:
    path = save(tmp_path, {"a": torch.zeros(2_000_000)}, "good.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"bomb\.pth is compressed and unpacks to 8 MB, which PyTorch never writes"):
        load_checkpoint(tmp_path / "bomb.pth", device="cpu")


def test_tensor_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    state = made.vit() | {"head.weight": torch.zeros(1).expand(10**6, 10**5)}
    with pytest.raises(ValueError, match=r"head\.weight claims 100,000,000,000 numbers and holds fewer"):
        load_checkpoint(save(tmp_path, state), device="cpu")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "legacy.pth"])
@pytest.mark.parametrize(
    "damage", [truncate, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"hello, this is no checkpoint")]
)
def test_damaged_file_is_a_sentence_that_names_it(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(made.vit(), path)
    else:
        torch.save(made.vit(), path, _use_new_zipfile_serialization=name != "legacy.pth")
    damage(path)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as caught:
        load_checkpoint(path, device="cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("blocks.1.norm1.bias"), r"blocks\.1\.norm1\.bias is missing"),
        (lambda s: s.update({"blocks.1.extra.weight": torch.ones(3)}), r"blocks\.1\.extra\.weight is not known"),
        (
            lambda s: s.update({"blocks.1.norm1.bias": torch.ones(3)}),
            r"blocks\.1\.norm1\.bias has shape \(3,\), not \(128,\)",
        ),
        (
            lambda s: s.update({"simpool.wq.weight": torch.ones(128, 128)}),
            r"exactly one tensor norm_patches\.weight, and it has none",
        ),
        (lambda s: s.pop("pos_embed"), r"has no pos_embed"),
        (lambda s: s.update({"pos_embed": torch.ones(1, 200, 128)}), r"200 position embeddings are no square grid"),
        (
            lambda s: s.update(made.simpool(128, "a.") | made.simpool(128, "b.")),
            r"it has 2: a\.norm_patches\.weight, b\.norm_patches\.weight",
        ),
    ],
)
def test_state_dict_with_a_fault_is_refused_whole(tmp_path: Path, change: Callable[[State], Any], says: str) -> None:
    state = made.vit()
    change(state)
    with pytest.raises(ValueError, match=says):
        load_checkpoint(save(tmp_path, state), device="cpu")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"bert.embeddings.weight": torch.ones(3, 3)}, r"weights\.pth is not recognised as a ViT, ResNet or ConvNeXt"),
        ({"epoch": 3, "note": "hello"}, r"holds no weights that are known: it holds epoch, note"),
        ([torch.ones(3)], r"holds a list, not a table of tensors"),
        ({}, r"holds no weights that are known: it holds nothing"),
        ({"state_dict": {"a": 3, "b": torch.ones(2)}}, r"a is a int, not a tensor"),
    ],
)
def test_file_of_something_else_is_told(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load_checkpoint(save(tmp_path, content), device="cpu")


def test_options_are_checked(tmp_path: Path) -> None:
    path = save(tmp_path, made.vit())
    for query, says in (
        ("colour=red", "takes no option colour. It takes weights"),
        ("num_heads=many", "num_heads= takes a number"),
    ):
        with pytest.raises(ValueError, match=says):
            load_checkpoint(f"{path}?{query}", device="cpu")
    with pytest.raises(ValueError, match="pos_embed is timm or dino, not 'x'"):
        load_checkpoint(path, device="cpu", pos_embed="x")
    narrow = save(tmp_path, made.vit(dim=48), "narrow.pth")
    with pytest.raises(ValueError, match="48 channels do not tell how many heads there are; say num_heads="):
        load_checkpoint(narrow, device="cpu")
    assert load_checkpoint(f"{narrow}?num_heads=4&size=96", device="cpu").facts.size == 96


def test_loading_leaves_the_list_of_allowed_globals_as_it_was(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint(
        save(tmp_path, made.self_supervised(made.vit(cls=False) | made.simpool(128, "simpool."))), device="cpu"
    )
    assert set(torch.serialization.get_safe_globals()) == before


def test_training_checkpoints_of_numpy_1_and_2_both_load(tmp_path: Path) -> None:
    newer = save(tmp_path, made.self_supervised(made.vit(cls=False) | made.simpool(128, "simpool.")), "newer.pth")
    older = made.with_numpy_1_names(newer, tmp_path / "older.pth")
    first, second = (load_checkpoint(path, device="cpu") for path in (newer, older))
    assert torch.equal(first.pooling.wq.weight, second.pooling.wq.weight)


# --- conversion
# -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vit", "supervised", "resnet", "convnext"])
def test_converted_file_is_a_fifth_and_maps_identically(tmp_path: Path, kind: str) -> None:
    content = {
        "vit": lambda: made.self_supervised(
            made.vit(cls=False) | made.simpool(128, "simpool.", beta=True), arch="vit", gamma=None
        ),
        "supervised": lambda: made.supervised(
            made.vit(cls=False, classes=3) | made.simpool(128, "gp.pool."), mode="simpool", gamma=1.25
        ),
        "resnet": lambda: made.self_supervised(made.resnet() | made.simpool(512, "simpool."), gamma=2.0),
        "convnext": lambda: made.self_supervised(made.convnext() | made.simpool(40, "simpool."), gamma=2.0),
    }[kind]()
    source, target = save(tmp_path, content), tmp_path / "new" / "small.safetensors"
    report = convert(source, target)
    before, after = load_checkpoint(source, device="cpu"), load_checkpoint(target, device="cpu")
    for size in SIZES:
        assert torch.equal(weights_of(before, size), weights_of(after, size))
        with torch.inference_mode():
            assert torch.equal(before(images(*size)).vector, after(images(*size)).vector)
    if kind != "supervised":
        assert target.stat().st_size <= source.stat().st_size / 5
    assert report.used == len(load_tensors(target)) and list(target.parent.iterdir()) == [target]


def test_converting_twice_changes_nothing_and_the_student_can_be_taken(tmp_path: Path) -> None:
    source = save(tmp_path, made.self_supervised(made.vit(cls=False) | made.simpool(128, "simpool."), gamma=1.5))
    convert(source, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    one, two = (load_checkpoint(tmp_path / f"{n}.safetensors", device="cpu") for n in "ab")
    assert torch.equal(weights_of(one, (224, 224)), weights_of(two, (224, 224)))
    convert(source, tmp_path / "s.safetensors", "student")
    assert load_checkpoint(tmp_path / "s.safetensors", device="cpu").pooling.gamma == 1.5


def test_converted_file_keeps_the_options_with_which_it_loads(tmp_path: Path) -> None:
    source = save(tmp_path, made.vit(dim=48, cls=False) | made.simpool(48, "simpool."))
    with pytest.raises(ValueError, match="say num_heads="):
        convert(source, tmp_path / "a.safetensors")
    asked: dict[str, Any] = {"num_heads": 4, "gamma": 1.5, "pos_embed": "dino", "size": 96}
    convert(source, tmp_path / "a.safetensors", **asked)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    before = load_checkpoint(source, device="cpu", **asked)
    for name in ("a", "b"):
        after = load_checkpoint(tmp_path / f"{name}.safetensors", device="cpu")
        assert torch.equal(weights_of(before, SIZES[1]), weights_of(after, SIZES[1]))
        assert (after.pooling.gamma, after.facts.size) == (1.5, 96)
    assert load_checkpoint(tmp_path / "a.safetensors", device="cpu", gamma=2.0).pooling.gamma == 2.0


def test_converted_probing_head_goes_onto_its_backbone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {"0.cls_token": torch.randn(1, 4, 128), "0.v.weight": torch.randn(128, 128)}
    state |= {"2.weight": torch.randn(6, 128), "2.bias": torch.randn(6)}
    backbone = save(tmp_path, made.vit(), "backbone.pth")
    convert(save(tmp_path, {"saved_module": "head", "model": state}, "head.pth"), tmp_path / "head.safetensors")
    before, after = (
        load_checkpoint(tmp_path / f"head.{n}", device="cpu", backbone=str(backbone)) for n in ("pth", "safetensors")
    )
    with torch.inference_mode():
        assert torch.equal(before(images(*SIZES[1])).logits, after(images(*SIZES[1])).logits)
    del state["2.weight"]
    with pytest.raises(ValueError, match=r"head\.pth: 2\.weight, the classifier of a probing head, is missing"):
        load_checkpoint(
            save(tmp_path, {"saved_module": "head", "model": state}, "head.pth"), device="cpu", backbone=str(backbone)
        )


def test_what_cannot_be_converted_leaves_no_file(tmp_path: Path) -> None:
    bad = save(tmp_path, {"bert.weight": torch.ones(2)})
    with pytest.raises(ValueError, match="not recognised"):
        convert(bad, tmp_path / "out" / "a.safetensors")
    with pytest.raises(ValueError, match=r"ends in \.safetensors, which a\.pth does not"):
        convert(bad, tmp_path / "a.pth")
    assert not (tmp_path / "out").exists()


def test_a_base_is_for_heads_alone(tmp_path: Path) -> None:
    encoder, _ = load_file(save(tmp_path, made.vit()))
    assert dataclasses.asdict(encoder.facts)["license"] == "not told by the file"
    with pytest.raises(ValueError, match="has a backbone of its own"):
        load_file(tmp_path / "weights.pth", base=encoder)
