"""A student that inherits a ViT: exact where nothing has to go, nearer than a plain cut where something has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from simpool_viz.errors import TrainingError
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.training.inherit import inherit


def vit(depth: int = 3, hidden: float = 4.0, side: int = 4, seed: int = 0, **kwargs: Any) -> Encoder:
    """A ViT of 24 channels and 3 heads with LayerScale, patches of 8 px, its weights far from their start."""
    torch.manual_seed(seed)
    settings = {"img_size": 8 * side, "patch_size": 8, "embed_dim": 24, "depth": depth, "num_heads": 3}
    settings |= {"init_values": 0.5, "mlp_ratio": hidden, "class_token": True, **kwargs}
    encoder = EncoderSpec("vit_tiny_patch16_224", "cls", 0, settings).build(Facts("made up"))
    for parameter in encoder.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return encoder.eval().requires_grad_(False)


def sequence(encoder: Encoder, images: Tensor) -> Tensor:
    tokens = encoder.tokens(images)
    return torch.cat([tokens.prefix, tokens.patches], 1)


@pytest.fixture()
def images() -> Tensor:
    return torch.randn(24, 3, 32, 40, generator=torch.Generator().manual_seed(1))


def test_a_student_of_the_same_size_gives_what_the_teacher_gives(images: Tensor) -> None:
    teacher, student = vit(), vit(seed=1)
    inherit(student, teacher, images)
    torch.testing.assert_close(sequence(student, images), sequence(teacher, images))


def test_units_that_add_nothing_are_the_ones_that_go(images: Tensor) -> None:
    """Half of the teacher's units are without weight in its output, so that nothing is lost with them."""
    teacher, student = vit(), vit(hidden=2.0, seed=1)
    for block in teacher.blocks:
        block.mlp.fc2.weight[:, ::2] = 0  # type: ignore[union-attr, operator]
    inherit(student, teacher, images)
    torch.testing.assert_close(sequence(student, images), sequence(teacher, images), rtol=5e-2, atol=5e-2)


def test_fitted_columns_are_nearer_than_cut_ones_on_other_pictures(images: Tensor) -> None:
    teacher, fitted = vit(), vit(hidden=2.0, seed=1)
    inherit(fitted, teacher, images)
    cut = vit(hidden=2.0, seed=1)
    inherit(cut, teacher, images)
    for block, model in zip(cut.blocks, teacher.blocks, strict=True):
        kept = [torch.isclose(model.mlp.fc1.weight, row).all(1).nonzero()[0, 0] for row in block.mlp.fc1.weight]
        block.mlp.fc2.weight.copy_(model.mlp.fc2.weight[:, torch.stack(kept)])  # type: ignore[union-attr, operator]
        block.mlp.fc2.bias.copy_(model.mlp.fc2.bias)  # type: ignore[union-attr, operator]
    others = torch.randn(24, 3, 32, 40, generator=torch.Generator().manual_seed(2))
    truth = sequence(teacher, others)
    near, far = (float((sequence(e, others) - truth).pow(2).mean()) for e in (fitted, cut))
    assert near < 0.7 * far


def test_some_of_the_blocks_in_their_order(images: Tensor) -> None:
    teacher, student = vit(depth=4), vit(depth=2, seed=1)
    inherit(student, teacher, images, [0, 3])
    for block, number in zip(student.blocks, (0, 3), strict=True):
        for one, other in zip(block.parameters(), teacher.blocks[number].parameters(), strict=True):
            assert torch.equal(one, other)


def test_positions_are_brought_to_the_students_own_grid(images: Tensor) -> None:
    teacher, student = vit(side=6), vit(side=3, seed=1)
    inherit(student, teacher, images)
    assert student.backbone.pos_embed.shape == (1, 1 + 9, 24)
    torch.testing.assert_close(student.backbone.pos_embed[:, :1], teacher.backbone.pos_embed[:, :1])
    with torch.inference_mode():
        assert torch.cosine_similarity(sequence(student, images), sequence(teacher, images), dim=-1).mean() > 0.9


@pytest.mark.parametrize(
    ("student", "blocks", "sentence"),
    [
        ({"depth": 2}, None, r"2 blocks and is to inherit blocks \[0, 1, 2\] of 3"),
        ({"depth": 2}, [0, 7], "each one that the teacher has"),
        ({"num_heads": 2}, None, "24 channels, 2 heads and 96 hidden units cannot inherit from 24, 3 and 96"),
        ({"hidden": 5.0}, None, "120 hidden units cannot inherit"),
        ({"reg_tokens": 2}, None, "no place for"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    images: Tensor, student: dict[str, Any], blocks: list[int] | None, sentence: str
) -> None:
    with pytest.raises(TrainingError, match=sentence):
        inherit(vit(**student), vit(), images, blocks)
