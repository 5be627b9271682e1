"""The measured weight of a skip connection: the formula on each kind of block, and its place in roll-outs."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from simpool_viz import load_checkpoint, record, record_batch
from simpool_viz.capture.hooks import BlockCapture, skip_shares
from simpool_viz.errors import MapError, OptionError
from simpool_viz.maps.rollout_chain import roll_out
from tests.helpers import make_photo, small_resnet, small_vit

# LayerScale, gamma of its own (BEiT), rotary positions (EVA), norms behind the branches, and none of these.
KINDS = [
    "vit_tiny_patch16_224",
    "vit_small_patch14_dinov2",
    "beit_base_patch16_224",
    "eva02_tiny_patch14_224",
    "vit_base_patch16_rpn_224",
]


def by_hand(block: torch.nn.Module, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """From the output of the branch, by the code of the block."""
    if "ResPost" in type(block).__name__:
        added = block.norm1(output)
    elif getattr(block, "gamma_1", None) is not None:
        added = block.gamma_1 * output
    else:
        added = getattr(block, "ls1", torch.nn.Identity())(output)
    skipped, mixed = x.norm(dim=-1), added.norm(dim=-1)
    return (skipped / (skipped + mixed)).mean(1)


@pytest.mark.parametrize("tag", KINDS)
def test_share_of_each_block_is_its_formula(tag: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(tag, num_classes=0, depth=2, img_size=56).eval()
    for name, parameter in model.named_parameters():
        if "ls1" in name or "gamma_1" in name:
            parameter.data.uniform_(0.1, 2.0)
    seen: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for i, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda module, inputs, i=i: seen[i].append(inputs[0]))
        block.attn.register_forward_hook(lambda module, inputs, output, i=i: seen[i].append(output))
    with torch.inference_mode(), BlockCapture(model.blocks) as capture:
        model.forward_features(torch.randn(3, 3, 56, 56))
    with torch.inference_mode():
        for i, block in enumerate(model.blocks):
            expected = by_hand(block, *seen[i])
            found = [capture.skip_share(i, picture) for picture in range(3)]
            assert torch.allclose(torch.stack(found), expected, atol=1e-5)  # type: ignore[arg-type]
            assert expected.std() > 0


def test_extremes() -> None:
    x = torch.randn(2, 5, 7)
    assert torch.allclose(skip_shares(x, x), torch.ones(2))  # nothing is added
    assert torch.allclose(skip_shares(torch.zeros_like(x), x), torch.zeros(2))
    assert torch.allclose(skip_shares(x, 2 * x), torch.full((2,), 0.5))
    assert torch.equal(skip_shares(torch.zeros_like(x), torch.zeros_like(x)), torch.zeros(2))


def test_roll_out_takes_the_share_of_each_block() -> None:
    recording = record(small_vit(), make_photo(), 64)
    shares = [float(block.skip_share) for block in recording.blocks]
    assert len({round(share, 6) for share in shares}) == len(shares)
    count = recording.blocks[0].query.shape[1]
    matrix = torch.eye(count)
    for block, share in zip(recording.blocks, shares, strict=True):
        matrix = ((1 - share) * block.rows(slice(None)).mean(0) + share * torch.eye(count)) @ matrix
    rolled = roll_out(torch.eye(count), recording.blocks, residual="measured")
    assert torch.allclose(rolled, matrix, atol=1e-5) and torch.allclose(rolled.sum(1), torch.ones(count), atol=1e-5)
    by_name = recording.map("rollout", residual="measured")
    assert not np.allclose(by_name.weights, recording.map("rollout").weights)


def test_each_picture_of_a_batch_has_its_own() -> None:
    encoder, photos = small_vit(), [make_photo(seed=1), make_photo(seed=2)]
    together = record_batch(encoder, photos, 64)
    for recording, photo in zip(together, photos, strict=True):
        alone = record(encoder, photo, 64)
        for block, other in zip(recording.blocks, alone.blocks, strict=True):
            assert float(block.skip_share) == pytest.approx(float(other.skip_share), abs=1e-6)


def test_faults_are_sentences() -> None:
    recording = record(small_vit(), make_photo(), 64)
    with pytest.raises(OptionError, match=r"in \[0, 1\] or is 'measured', not mean"):
        recording.map("rollout", residual="mean")
    with pytest.raises(MapError, match="was not measured in block 1"):
        blocks = list(recording.blocks)
        blocks[1] = type(blocks[1])(blocks[1].query, blocks[1].key, None, blocks[1].scale)
        roll_out(torch.eye(blocks[0].query.shape[1]), blocks, residual="measured")
    assert small_resnet().depth == 0


def test_trunk_that_several_share_measures_the_same() -> None:
    names = ["vit_cls", "vit_simpool"]
    from simpool_viz.checkpoints.load import load_checkpoints
    from simpool_viz.recording import record_shared

    encoders = load_checkpoints(names, device="cpu")
    for (recording,), name in zip(record_shared(encoders, [make_photo()], 64), names, strict=True):
        alone = record(load_checkpoint(name, device="cpu"), make_photo(), 64)
        for block, other in zip(recording.blocks, alone.blocks, strict=True):
            assert float(block.skip_share) == pytest.approx(float(other.skip_share), abs=1e-6)
