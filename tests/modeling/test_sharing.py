"""ViTs on one trunk: it runs once for all of them, and nothing else changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from simpool_viz import record
from simpool_viz.batch.boards import Job
from simpool_viz.board.board import record_each
from simpool_viz.checkpoints.load import share_backbones
from simpool_viz.errors import MapError
from simpool_viz.images import read_picture
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.sharing import forward_shared, is_of_trunk, shared_blocks, shares_forward, sharing_groups
from simpool_viz.recording import record_shared
from tests.helpers import make_photo, small_resnet, vit_spec

KWARGS = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 3, "class_token": True}


def siblings() -> list[Encoder]:
    """A base, a sibling with CLS, one with LIFE in its own block and SimPool, and a stranger; three have one trunk."""
    torch.manual_seed(0)
    kinds = (
        ("base", "cls", {}),
        ("a", "cls", {}),
        ("b", "simpool", {"inside": "life", "inside_options": {"first": 2}}),
    )
    made = [
        vit_spec(pooling, backbone_kwargs=KWARGS, **extra).build(Facts(name, size=64)).eval().requires_grad_(False)
        for name, pooling, extra in (*kinds, ("stranger", "cls", {}))
    ]
    for sibling in made[1:3]:
        given = {key: value for key, value in made[0].state_dict().items() if is_of_trunk(key, 2)}
        sibling.load_state_dict({**sibling.state_dict(), **given})
        sibling.facts = dataclasses.replace(sibling.facts, trunk="base", trunk_blocks=2)
    return [made[0], made[1], made[3], made[2]]


def runs_of(encoder: Encoder, block: int) -> list[int]:
    """The batch sizes of a block's forwards, from now on."""
    runs: list[int] = []
    encoder.blocks[block].register_forward_hook(lambda module, inputs, output: runs.append(len(inputs[0])))
    return runs


def test_trunk_is_the_embedding_and_the_first_blocks() -> None:
    keys = siblings()[3].state_dict()
    trunk = {key for key in keys if is_of_trunk(key, 2)}
    roots = {".".join(key.split(".")[1 : 3 if ".blocks." in key else 2]) for key in trunk}
    assert roots == {"cls_token", "pos_embed", "patch_embed", "blocks.0", "blocks.1"}
    assert not any(key.startswith(("pooling", "head", "norm")) for key in trunk)


def test_trunk_runs_once_and_each_recording_is_as_alone() -> None:
    picture = read_picture(make_photo())
    alone = [record(encoder, picture) for encoder in siblings()]
    encoders = share_backbones(siblings())
    first, own = runs_of(encoders[0], 0), runs_of(encoders[0], 2)
    together = list(record_each(encoders, picture))
    assert len(first) == 1 and len(own) == 1, "the trunk once; the base's own block once"
    for encoder, recording, expected in zip(encoders, together, alone, strict=True):
        assert recording.encoder is encoder and len(recording.blocks) == 3
        assert torch.equal(recording.logits, expected.logits) and torch.equal(recording.vector, expected.vector)
        for one, other in zip(recording.blocks, expected.blocks, strict=True):
            assert torch.equal(one.query, other.query) and torch.equal(one.key, other.key)
        for name in ("rollout", "pooling" if encoder.pooling.name == "simpool" else "cls"):
            assert np.array_equal(recording.map(name).weights, expected.map(name).weights)


@pytest.mark.parametrize(("options", "wanted"), [({"block": 0}, 0), ({"block": 1}, 1), ({}, 2)])
def test_only_the_blocks_that_maps_need_are_kept_on_either_side_of_the_trunks_end(
    options: dict[str, int], wanted: int
) -> None:
    base, one, *_ = share_backbones(siblings())
    for recording in record_each([base, one], read_picture(make_photo()), None, [MapRequest("cls", options)]):
        assert recording.map("cls", **options).weights.shape[0] == 3
        for block in {0, 1, 2} - {wanted}:
            with pytest.raises(MapError, match=f"the attention of block {block} was not kept"):
                recording.blocks[block]


def test_groups_and_batches() -> None:
    encoders = share_backbones(siblings())
    assert sharing_groups(encoders) == [[0, 1, 3], [2]] and Job(encoders).groups == [[0, 1, 3], [2]]
    assert shared_blocks([encoders[0], encoders[3]]) == 2 and shared_blocks([encoders[0], encoders[2]]) == 0
    assert shared_blocks(encoders[:1]) == 3 and shared_blocks([small_resnet("gap")]) == 0
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        for group in sharing_groups(encoders):
            members = [encoders[i] for i in group]
            for encoder, output in zip(members, forward_shared(members, images), strict=True):
                assert torch.equal(output.logits, encoder(images).logits)
    first, second = record_shared([encoders[0], encoders[3]], [make_photo(), make_photo(seed=1)], 64)
    for recordings, encoder in ((first, encoders[0]), (second, encoders[3])):
        alone = record(encoder, make_photo(seed=1), 64)
        assert torch.allclose(recordings[1].vector, alone.vector, atol=1e-5)
        assert torch.allclose(recordings[1].blocks[0].query, alone.blocks[0].query, atol=1e-5)


def test_base_that_is_not_loaded_is_not_needed() -> None:
    one, other = (encoder for encoder in siblings() if encoder.facts.trunk)
    share_backbones([one, other])
    assert shared_blocks([one, other]) == 2 and shares_forward(one, other)


@pytest.mark.parametrize(
    "where", ["backbone.cls_token", "backbone.blocks.1.mlp.fc2.bias", "backbone.patch_embed.proj.bias"]
)
def test_trunk_that_differs_in_one_number_stays_a_models_own(where: str) -> None:
    base, one, *_ = siblings()
    one.state_dict()[where].flatten()[-1] += 1e-3
    share_backbones([base, one])
    assert one.blocks[0] is not base.blocks[0] and not shares_forward(base, one)


def test_first_blocks_of_another_kind_are_not_shared() -> None:
    base, one, *_ = siblings()

    class Other(type(one.blocks[1])):  # type: ignore[misc]
        pass

    one.blocks[1].__class__ = Other
    share_backbones([base, one])
    assert one.blocks[0] is not base.blocks[0]


def test_other_sizes_and_normalisations_need_a_forward_of_their_own() -> None:
    base, one, *_ = share_backbones(siblings())
    one.facts = dataclasses.replace(one.facts, size=96)
    assert not shares_forward(base, one) and shares_forward(base, one, 64)
    one.facts = dataclasses.replace(one.facts, mean=(0.1, 0.2, 0.3))
    assert not shares_forward(base, one, 64)


def test_begin_and_finish_are_one_forward() -> None:
    encoder = siblings()[3]
    images = torch.randn(1, 3, 32, 64)
    with torch.inference_mode():
        whole = encoder.tokens(images)
        for blocks in range(4):
            parts = encoder.finish(encoder.begin(images, blocks), blocks, encoder.grid_of(images))
            assert torch.equal(parts.patches, whole.patches) and torch.equal(parts.prefix, whole.prefix)
    with pytest.raises(ValueError, match="a picture of 60 x 32 does not split into tokens of 16 px"):
        encoder.begin(torch.randn(1, 3, 32, 60), 1)


def test_what_is_in_use_is_left_as_it_is_and_lends_to_the_new_one() -> None:
    base, one, *_ = siblings()
    before = list(one.blocks)
    share_backbones([one, base], [one])
    assert list(one.blocks) == before and base.blocks[0] is one.blocks[0] and base.blocks[2] is not one.blocks[2]
    assert shared_blocks([base, one]) == 2
