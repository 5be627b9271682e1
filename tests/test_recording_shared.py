"""Several heads on one backbone: its forward runs once, and nothing else changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from simpool_viz import record
from simpool_viz.batch.boards import Job
from simpool_viz.board.board import Settings, iterate_board, make_board, record_each
from simpool_viz.checkpoints.load import load_checkpoints, share_backbones
from simpool_viz.images import read_picture
from simpool_viz.maps.request import MapRequest
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.sharing import shares_forward
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.recording import record_shared
from tests.helpers import hybrid, make_photo, small_resnet


@contextmanager
def counted(encoder: Encoder) -> Iterator[list[int]]:
    """The batch sizes of the backbone's forwards."""
    calls: list[int] = []
    own = encoder.backbone.forward_features
    encoder.backbone.forward_features = lambda x: (calls.append(len(x)), own(x))[1]
    yield calls
    del encoder.backbone.forward_features


def heads(kind: str) -> list[Encoder]:
    """Three heads on one backbone, and a stranger between them."""
    if kind == "resnet":
        base = small_resnet("gap", "base")
        others = [small_resnet("simpool", "base+a", seed=1), small_resnet("simpool", "base+b", seed=2)]
        stranger = small_resnet("gap", "stranger", seed=5)
    else:
        torch.manual_seed(0)
        options = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 3, "reg_tokens": 1}
        made = [
            EncoderSpec("vit_tiny_patch16_224", pooling, 3, options)
            .build(Facts(name, size=64))
            .eval()
            .requires_grad_(False)
            for pooling, name in (("cls", "base"), ("latent", "base+a"), ("simpool", "base+b"), ("gap", "stranger"))
        ]
        base, others, stranger = made[0], made[1:3], made[3]
    for head in others:
        head.backbone.load_state_dict(base.backbone.state_dict())
        head.facts = dataclasses.replace(head.facts, base="base")
    return share_backbones([base, others[0], stranger, others[1]])


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_one_forward_serves_all_heads_and_each_recording_is_as_alone(kind: str) -> None:
    encoders = heads(kind)
    picture = read_picture(make_photo())
    with counted(encoders[0]) as calls:
        together = list(record_each(encoders, picture))
    assert calls == [1]
    for encoder, recording in zip(encoders, together, strict=True):
        alone = record(encoder, picture)
        assert recording.encoder is encoder and len(recording.blocks) == encoder.depth
        assert torch.equal(recording.logits, alone.logits) and torch.equal(recording.vector, alone.vector)
        assert (recording.pool_attention is None) == (alone.pool_attention is None)
        for one, other in zip(recording.blocks, alone.blocks, strict=True):
            assert torch.equal(one.query, other.query)
        name = (
            "pooling"
            if encoder.pooling.name in ("simpool", "latent")
            else "contribution"
            if kind == "resnet"
            else "rollout"
        )
        assert np.array_equal(recording.map(name).weights, alone.map(name).weights)


def test_board_keeps_the_order_of_its_checkpoints_and_grows_one_by_one() -> None:
    encoders = heads("resnet")
    with counted(encoders[0]) as calls:
        boards = list(
            iterate_board([read_picture(make_photo())] * 2, encoders, [MapRequest("contribution")], Settings())
        )
    assert calls == [1, 1] and [len(board.rows) for board in boards] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row.checkpoint for row in boards[-1].rows] == ["base", "base+a", "stranger", "base+b"] * 2


def test_heads_of_different_sizes_look_for_themselves_unless_one_size_is_asked_for() -> None:
    base, head, *_ = heads("resnet")
    head.facts = dataclasses.replace(head.facts, size=96)
    assert not shares_forward(base, head) and shares_forward(base, head, size=64)
    board = make_board([make_photo()], [base, head], ["contribution"])
    assert board.rows[0].input_size != board.rows[1].input_size
    with pytest.raises(
        ValueError,
        match=r"base\+a and base have not the same backbone, or trunk, and size, so no forward serves both",
    ):
        record_shared([base, head], [make_photo()])


@pytest.mark.parametrize("change", [{"mean": (0.4, 0.5, 0.5)}, {"std": (0.2, 0.2, 0.25)}])
def test_heads_that_normalise_pictures_otherwise_run_a_forward_of_their_own(change: dict[str, Any]) -> None:
    base, head, *_ = heads("resnet")
    head.facts = dataclasses.replace(head.facts, **change)
    assert head.backbone is base.backbone and not shares_forward(base, head) and not shares_forward(head, base, size=64)
    alone = record(head, make_photo()).vector
    with counted(base) as calls:
        _, seen = record_each([base, head], read_picture(make_photo()))
    assert calls == [1, 1] and torch.equal(seen.vector, alone)
    assert Job([base, head]).groups == [[0], [1]], "nor in a folder"
    with pytest.raises(ValueError, match="have not the same backbone, or trunk, and size"):
        record_shared([base, head], [make_photo()], 64)


def test_backbones_that_differ_in_one_number_are_not_shared() -> None:
    base, head = small_resnet("gap", "base"), small_resnet("simpool", "base+a")
    head.facts = dataclasses.replace(head.facts, base="base")
    head.backbone.load_state_dict(base.backbone.state_dict())
    *_, last = head.backbone.parameters()
    last.data.flatten()[-1] += 1e-3
    share_backbones([base, head])
    assert head.backbone is not base.backbone and not shares_forward(base, head)
    last.data.copy_([*base.backbone.parameters()][-1])
    share_backbones([base, head])
    assert head.backbone is base.backbone and shares_forward(base, head)


def test_backbones_of_two_kinds_are_not_shared_though_their_numbers_agree() -> None:
    base, head = small_resnet("gap", "base"), small_resnet("simpool", "base+a", seed=0)
    head.facts = dataclasses.replace(head.facts, base="base")
    head.backbone.load_state_dict(base.backbone.state_dict())

    class Other(type(head.backbone)):  # type: ignore[misc]
        pass

    head.backbone.__class__ = Other
    share_backbones([base, head])
    assert head.backbone is not base.backbone


def test_batches_are_shared_too() -> None:
    encoders = [e for e in heads("vit") if e.facts.name != "stranger"]
    photos = [make_photo(), make_photo(), make_photo()]
    with counted(encoders[0]) as calls:
        recordings = record_shared(encoders, photos, 64)
    assert calls == [3] and [len(r) for r in recordings] == [3, 3, 3]
    assert torch.allclose(recordings[2][1].vector, record(encoders[2], photos[1], 64).vector, atol=1e-5)


def test_another_backbone_of_the_same_name_is_not_put_in_the_place_of_a_heads_own() -> None:
    one, other, same = (small_resnet("simpool", name, seed) for name, seed in (("a", 1), ("b", 2), ("c", 1)))
    for head in (one, other, same):
        head.facts = dataclasses.replace(head.facts, base="checkpoint.pth")
    wanted = record(other, make_photo()).map("pooling").weights
    share_backbones([one, other, same])
    assert other.backbone is not one.backbone and same.backbone is one.backbone
    assert np.array_equal(record(other, make_photo()).map("pooling").weights, wanted)


def test_bundled_heads_share_the_backbone_of_their_base() -> None:
    names = ["resnet_gap+simpool", "resnet_gap+slot", "resnet_gap"]
    first, second, base = load_checkpoints(names, device="cpu")
    assert first.backbone is second.backbone is base.backbone
    lonely, other = load_checkpoints(names[:2], device="cpu")
    assert lonely.backbone is other.backbone is not base.backbone


# --- a stem of several models
# --------------------------------------------------------------------------------------------


def hybrids(*names: str) -> list[Encoder]:
    """ViTs on one stem, each with its own copy of it as loading makes them."""
    torch.manual_seed(0)
    made = [hybrid().build(Facts(name, size=64, stem="base")).eval().requires_grad_(False) for name in names]
    for encoder in made[1:]:
        encoder.backbone.patch_embed.backbone.load_state_dict(made[0].backbone.patch_embed.backbone.state_dict())
    return made


def test_one_stem_runs_once_for_all_models_on_it_and_each_recording_is_as_alone() -> None:
    alone, picture = hybrids("a", "b", "c"), read_picture(make_photo())
    expected = [record(encoder, picture).vector for encoder in alone]
    encoders, runs = share_backbones(alone), []
    stem = encoders[0].backbone.patch_embed.backbone
    assert all(encoder.backbone.patch_embed.backbone is stem for encoder in encoders)
    stem.conv1.register_forward_hook(lambda *_: runs.append(1))
    together = list(record_each(encoders, picture))
    assert len(runs) == 1 and all(torch.equal(r.vector, e) for r, e in zip(together, expected, strict=True))
    list(record_each(encoders, read_picture(make_photo(seed=1))))
    assert len(runs) == 2, "another picture is looked at anew"
    record(encoders[1], picture)
    record(encoders[2], picture)
    assert len(runs) == 4, "nothing is kept beyond the board"


def test_stem_that_is_not_the_same_stays_a_models_own() -> None:
    one, other = hybrids("a", "b")
    other.backbone.patch_embed.backbone.bn1.running_mean += 1e-3
    share_backbones([one, other])
    assert one.backbone.patch_embed.backbone is not other.backbone.patch_embed.backbone
