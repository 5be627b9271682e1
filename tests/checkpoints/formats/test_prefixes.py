"""A model is found inside the module of any training, whose other parts are dropped for a reason that is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from simpool_viz.checkpoints.load import load_with_report
from tests import made_files as made
from tests.helpers import State, random_images, save_weights


def behind(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def assert_loads_as(path: Path, state: State, **options: Any) -> Any:
    """The tokens are those of the plain state dict; returns the report."""
    plain, _ = load_with_report(save_weights(path.parent, state, "plain.pth"), device="cpu")
    found, report = load_with_report(path, device="cpu", **options)
    x = random_images(224, 224)
    with torch.no_grad():
        assert torch.equal(found.tokens(x).patches, plain.tokens(x).patches)
    return report


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("_orig_mod.", "_orig_mod."),
        ("module._orig_mod.", "_orig_mod., module."),
        ("model.", "model."),
        ("net.", "net."),
        ("model.backbone.", "model.backbone."),
        ("model._orig_mod.encoder.", "_orig_mod., model.encoder."),
        ("module.", ""),
    ],
)
def test_prefix_is_taken_away_and_said(tmp_path: Path, prefix: str, said: str) -> None:
    state = made.vit(64, 2, grid=4)
    report = assert_loads_as(save_weights(tmp_path, behind(prefix, state)), state)
    assert any(f"the prefix {said} is taken" in note for note in report.notes) == bool(said)


@pytest.mark.parametrize(
    "entry", ["state_dict", "model", "model_state_dict", "net", "ema", "model_ema", "weights", "backbone"]
)
def test_container_is_opened(tmp_path: Path, entry: str) -> None:
    state = made.resnet()
    report = assert_loads_as(save_weights(tmp_path, {entry: state, "epoch": 3, "optimizer": {"state": {}}}), state)
    assert f"entry {entry}" in report.container


def test_any_entry_can_be_named(tmp_path: Path) -> None:
    state, other = made.vit(64, 2, grid=4), made.vit(64, 2, grid=4, seed=1)
    path = save_weights(tmp_path, {"model": other, "swa_weights": state})
    assert "entry swa_weights" in assert_loads_as(path, state, weights="swa_weights").container


def test_lightning_checkpoint_loads_with_the_head_beside_its_backbone(tmp_path: Path) -> None:
    state = made.vit(64, 2, grid=4)
    head = {"head.1.weight": torch.randn(5, 64), "head.1.bias": torch.randn(5)}
    parts = {"criterion.weight": torch.ones(5), "val_acc.total": torch.tensor(3)}
    content = {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": behind("backbone.", state) | head | parts,
        "hyper_parameters": {"lr": 0.1},
        "loops": {},
    }
    path = save_weights(tmp_path, content, "last.ckpt")
    report = assert_loads_as(path, state)
    encoder, _ = load_with_report(path, device="cpu")
    assert torch.equal(encoder.head.weight, head["head.1.weight"]) and "lightning" in report.container
    assert report.dropped == {"part of a loss or a metric": 2}


@pytest.mark.parametrize("head", ["head.1", "classifier.1", "head", "classifier", "fc"])
def test_classifier_after_dropout_is_a_head(tmp_path: Path, head: str) -> None:
    state = made.vit(64, 2, grid=4)
    linear = {f"{head}.weight": torch.randn(5, 64), f"{head}.bias": torch.randn(5)}
    encoder, _ = load_with_report(save_weights(tmp_path, state | linear), device="cpu")
    assert torch.equal(encoder.head.weight, linear[f"{head}.weight"])


def test_moco_takes_the_query_encoder_and_the_other_on_request(tmp_path: Path) -> None:
    query, key = made.resnet(), {k: v * 2 for k, v in made.resnet().items()}
    projection = {"encoder_q.fc.0.weight": torch.ones(8, 512), "encoder_q.fc.2.weight": torch.ones(4, 8)}
    state = behind("module.encoder_q.", query) | behind("module.encoder_k.", key)
    state |= behind("module.", projection) | {"module.queue": torch.ones(4, 9), "module.queue_ptr": torch.tensor([0])}
    path = save_weights(tmp_path, {"state_dict": state, "epoch": 1})
    report = assert_loads_as(path, query)
    assert report.dropped == {
        "another copy of the model, encoder_k": len(key),
        "projection head of the self-supervised training": 2,
        "memory of the contrastive training": 2,
    }
    assert_loads_as(path, key, weights="encoder_k")


def test_moco_v3s_small_vit_has_twelve_heads(tmp_path: Path) -> None:
    state = behind("module.base_encoder.", made.vit(384, 1, grid=4))
    path = save_weights(tmp_path, {"state_dict": state, "arch": "vit_small"})
    assert "12 heads" in load_with_report(path, device="cpu")[1].architecture
    assert "6 heads" in load_with_report(path, device="cpu", num_heads=6)[1].architecture


def test_masked_autoencoder_loses_its_decoder(tmp_path: Path) -> None:
    state = made.vit(64, 2, grid=4)
    more = {"mask_token": torch.zeros(1, 1, 64), "decoder_pos_embed": torch.zeros(1, 17, 32)}
    more |= {"decoder_blocks.0.norm1.weight": torch.ones(32)}
    report = assert_loads_as(save_weights(tmp_path, {"model": state | more}), state)
    assert report.dropped == {
        "decoder of the masked training": 2,
        "stands for masked patches in training only": 1,
    }


def test_several_models_without_a_usual_one_ask_for_a_name(tmp_path: Path) -> None:
    one, two = made.vit(64, 1, grid=4), made.vit(64, 1, grid=4, seed=1)
    path = save_weights(tmp_path, behind("left.", one) | behind("right.", two))
    with pytest.raises(ValueError, match="holds several models: name one with weights=, of left, right"):
        load_with_report(path, device="cpu")


def test_what_is_neither_used_nor_known_stays_an_error(tmp_path: Path) -> None:
    state = behind("model.", made.vit(64, 1, grid=4)) | {"neck.conv.weight": torch.ones(3, 3)}
    with pytest.raises(ValueError, match=r"neck\.conv\.weight is not known"):
        load_with_report(save_weights(tmp_path, state), device="cpu")


def test_torchscript_is_refused_in_a_sentence(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(ValueError, match=r"a\.pt is TorchScript, a program with its weights"):
        load_with_report(tmp_path / "a.pt", device="cpu")


def test_simsiam_loses_its_projection_and_predictor(tmp_path: Path) -> None:
    state = made.resnet()
    head = {f"encoder.fc.{n}.weight": torch.ones(8, width) for n, width in ((0, 512), (3, 8))}
    head |= {f"encoder.fc.1.{part}": torch.ones(8) for part in ("weight", "bias", "running_mean", "running_var")}
    more = {"predictor.0.weight": torch.ones(4, 8), "predictor.3.weight": torch.ones(8, 4)}
    content = {"state_dict": behind("module.", behind("encoder.", state) | head | more), "arch": "resnet50"}
    report = assert_loads_as(save_weights(tmp_path, content), state)
    assert report.dropped == {
        "projection head of the self-supervised training": 2,
        "a head of several layers, since no tensor says what is between them": 6,
    }


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_head_of_several_layers_is_dropped_with_the_reason(tmp_path: Path, kind: str) -> None:
    state, name, width = (made.resnet(), "fc", 512) if kind == "resnet" else (made.vit(64, 2, grid=4), "head", 64)
    mlp = {f"{name}.0.weight": torch.randn(9, width), f"{name}.0.bias": torch.randn(9)}
    mlp |= {f"{name}.3.weight": torch.randn(5, 9), f"{name}.3.bias": torch.randn(5)}
    path = save_weights(tmp_path, state | mlp)
    report = assert_loads_as(path, state)
    assert report.dropped == {"a head of several layers, since no tensor says what is between them": 4}
    assert load_with_report(path, device="cpu")[0].head is None


def test_ijepa_takes_the_encoder_that_its_paper_evaluates(tmp_path: Path) -> None:
    context, target = (made.vit(64, 2, grid=4, cls=False, seed=seed) for seed in (0, 1))
    content = {
        "encoder": behind("module.", context),
        "predictor": {"module.predictor_embed.weight": torch.ones(2, 2)},
        "target_encoder": behind("module.", target),
        "opt": {},
    }
    path = save_weights(tmp_path, content, "in1k-ep300.pth.tar")
    assert "entry target_encoder" in assert_loads_as(path, target).container
    assert_loads_as(path, context, weights="encoder")


def test_classifier_beside_the_model_inside_a_lightning_module(tmp_path: Path) -> None:
    """transformers' model as `self.model`: both parts stand behind the same words."""
    state = made.vit(64, 2, grid=4)
    linear = {"model.classifier.weight": torch.randn(5, 64), "model.classifier.bias": torch.randn(5)}
    content = {"pytorch-lightning_version": "2", "state_dict": behind("model.vit.", state) | linear}
    path = save_weights(tmp_path, content, "last.ckpt")
    assert_loads_as(path, state)
    assert torch.equal(load_with_report(path, device="cpu")[0].head.weight, linear["model.classifier.weight"])


def test_student_and_teacher_of_a_lightning_module_with_heads_of_their_own(tmp_path: Path) -> None:
    student, teacher = (made.vit(64, 2, grid=4, seed=seed) for seed in (0, 1))
    heads = {f"{who}_head.mlp.0.weight": torch.ones(3, 3) for who in ("student", "teacher")}
    content = behind("student.backbone.", student) | behind("teacher.backbone.", teacher) | heads
    path = save_weights(tmp_path, {"state_dict": content, "pytorch-lightning_version": "2"})
    report = assert_loads_as(path, teacher)
    assert report.dropped["projection head of the self-supervised training"] == 2
    assert_loads_as(path, student, weights="student")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ema_model.module.", "model."),
        ("model_ema.module.", "model."),
        ("swa_model.module.", "net."),
        ("teacher_backbone.", "student_backbone."),
        ("online_encoder.net.", "target_encoder.net."),
        ("backbone.", "momentum_backbone."),
        ("backbone.", "backbone_momentum."),
    ],
)
def test_of_two_copies_the_one_that_is_evaluated_is_taken_and_the_other_on_request(
    tmp_path: Path, first: str, second: str
) -> None:
    """By the words of Lightning, timm, lightly, solo-learn and BYOL; what they train beside them is dropped."""
    one, other = (made.vit(64, 1, grid=4, seed=seed) for seed in (0, 1))
    heads = ("projection_head", "momentum_projector", "student_projection_head", "prediction_head_momentum")
    beside = {f"{name}.layers.0.weight": torch.ones(2, 2) for name in heads}
    state = behind(second, other) | behind(first, one) | beside
    path = save_weights(tmp_path, {"state_dict": state})
    report = assert_loads_as(path, one)
    assert report.dropped == {
        f"another copy of the model, {second.rstrip('.')}": len(other),
        "projection head of the self-supervised training": 4,
    }
    assert_loads_as(path, other, weights=second.rstrip("."))


def test_two_copies_of_which_either_may_be_evaluated_ask_for_a_name(tmp_path: Path) -> None:
    """BYOL evaluates the one that it trains, I-JEPA the target."""
    one, other = (made.vit(64, 1, grid=4, seed=seed) for seed in (0, 1))
    path = save_weights(tmp_path, {"state_dict": behind("encoder.", one) | behind("target_encoder.", other)})
    with pytest.raises(ValueError, match="holds several models: name one with weights=, of encoder, target_encoder"):
        load_with_report(path, device="cpu")
    assert_loads_as(path, other, weights="target_encoder")


@pytest.mark.parametrize("head", ["online_classifier", "online_classifier.linear", "classifier"])
def test_classifier_that_was_trained_beside_a_self_supervised_model(tmp_path: Path, head: str) -> None:
    state, linear = made.vit(64, 1, grid=4), {f"{head}.weight": torch.randn(5, 64), f"{head}.bias": torch.randn(5)}
    more = behind("momentum_", linear) if head == "classifier" else {}
    content = behind("backbone.", state) | behind("momentum_backbone.", state) | linear | more
    path = save_weights(tmp_path, {"state_dict": content})
    report = assert_loads_as(path, state)
    assert torch.equal(load_with_report(path, device="cpu")[0].head.weight, linear[f"{head}.weight"])
    assert sum(report.dropped.values()) == len(state) + len(more)


def test_mask_token_of_ibot_has_another_name(tmp_path: Path) -> None:
    state = made.vit(64, 1, grid=4)
    teacher = behind("backbone.", state) | {"head.last_layer2.weight_g": torch.ones(2, 1)}
    student = behind("module.backbone.", state | {"masked_embed": torch.zeros(1, 64)})
    path = save_weights(tmp_path, {"teacher": teacher, "student": student})
    assert assert_loads_as(path, state, pos_embed="timm").dropped == {
        "projection head of the self-supervised training": 1
    }
    report = assert_loads_as(path, state, weights="student", pos_embed="timm")
    assert report.dropped == {"stands for masked patches in training only": 1}


def test_part_of_a_training_in_shards_is_refused_in_a_sentence(tmp_path: Path) -> None:
    state = {"teacher.backbone._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module._flat_param": torch.ones(100)}
    with pytest.raises(ValueError, match=r"one process's part of a training in shards \(FSDP\).* save the full state"):
        load_with_report(save_weights(tmp_path, {"model": state}, "model.rank_0.pth"), device="cpu")


@pytest.mark.parametrize("tag", ["mobilenetv2_035", "resnetv2_18", "convnext_atto"])
def test_model_that_is_named_is_found_behind_a_prefix_with_its_head_in_a_sequence(tmp_path: Path, tag: str) -> None:
    """As in a LightningModule: timm calls the three classifiers classifier, head.fc (a convolution) and head.fc."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(tag, num_classes=3).eval()
    head = timm.get_pretrained_cfg(tag).classifier
    state = {
        f"model.{head}.1.{key.rpartition('.')[2]}" if key.startswith(f"{head}.") else f"model.{key}": value
        for key, value in model.state_dict().items()
    }
    assert f"model.{head}.1.weight" in state
    content = {"pytorch-lightning_version": "2", "state_dict": state | {"val_acc.total": torch.tensor(3)}}
    encoder, report = load_with_report(save_weights(tmp_path, content, "last.ckpt"), device="cpu", arch=tag)
    x = random_images(64, 96)
    with torch.no_grad():
        assert (encoder(x).logits - model(x)).abs().max() < 1e-5
    assert "the prefix model. is taken from its names" in report.notes
    assert report.dropped == {"part of a loss or a metric": 1}
