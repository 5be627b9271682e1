"""State dicts are recognised whole, or refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from simpool_viz import load_checkpoint
from tests import made_files as made
from tests.helpers import State, save_weights


def test_teacher_is_taken_and_the_student_on_request(tmp_path: Path) -> None:
    state = made.vit(cls=False) | made.simpool(128, "simpool.")
    path = save_weights(tmp_path, made.self_supervised(state, gamma=1.5))
    teacher, student = load_checkpoint(path, device="cpu"), load_checkpoint(f"{path}?weights=student", device="cpu")
    assert torch.equal(teacher.pooling.wq.weight, state["simpool.wq.weight"]) and teacher.pooling.gamma is None
    assert torch.equal(student.pooling.wq.weight, 1.5 * state["simpool.wq.weight"]) and student.pooling.gamma == 1.5
    with pytest.raises(ValueError, match=r"holds no weights called 'nobody'; it holds student, teacher, optimizer"):
        load_checkpoint(path, device="cpu", weights="nobody")


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
        encoder = load_checkpoint(save_weights(tmp_path, state), device="cpu")
        assert (encoder.pooling.name, encoder.depth) == (pooling, depth)
        assert sum(p.numel() for p in encoder.parameters()) == sum(
            v.numel()
            for k, v in state.items()
            if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))
        )


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
        load_checkpoint(save_weights(tmp_path, state), device="cpu")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"bert.embeddings.weight": torch.ones(3, 3)}, r"weights\.pth is not recognised as a ViT or a CNN"),
        ({"epoch": 3, "note": "hello"}, r"holds no weights that are known: it holds epoch, note"),
        ([torch.ones(3)], r"holds a list, not a table of tensors"),
        ({}, r"holds no weights that are known: it holds nothing"),
        ({"state_dict": {"a": 3, "b": torch.ones(2)}}, r"a is a int, not a tensor"),
    ],
)
def test_file_of_something_else_is_told(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load_checkpoint(save_weights(tmp_path, content), device="cpu")
