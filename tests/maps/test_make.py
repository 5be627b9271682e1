"""Several maps of one recording: those that go alike through the blocks do it once, the token head runs once, and each
map is as it is alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from simpool_viz import Recording, record
from simpool_viz.board.inspection import Lens, facts_of, inspect, recording_bytes
from simpool_viz.board.segmentation import segment
from simpool_viz.maps import make
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.spec import EncoderSpec
from tests.helpers import PHOTO, make_photo, random_vit

WAYS: list[dict[str, Any]] = [
    {},
    {"residual": 0.1},
    {"residual": 0.9},
    {"first": 1},
    {"first": 1, "residual": 0.9},
    {"fusion": "max"},
    {"fusion": "min"},
]


@pytest.mark.parametrize(("name", "options"), [("rollout", {}), ("dense_rollout", {"soft": True})])
def test_roll_outs_that_differ_in_one_option_are_made_each_in_its_own_way(
    monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]
) -> None:
    recording = record(random_vit(), PHOTO, 96)
    requests = [(name, options | way) for way in WAYS]
    alone = [recording.map(asked, **how).weights for asked, how in requests]
    for one, other in itertools.combinations(alone, 2):
        assert np.abs(one - other).max() > 0.01 * one.max(), "maps that are alike could be taken for each other"
    ways: list[tuple[Any, ...]] = []
    original = make.roll_out

    def counted(weights: Any, blocks: Any, **how: Any) -> Any:
        ways.append((len(weights), *sorted(how.items())))
        return original(weights, blocks, **how)

    monkeypatch.setattr(make, "roll_out", counted)
    together = recording.maps([*requests, ("rollout", {"residual": 0.1}), ("cls", {})])
    assert len(ways) == len(set(ways)) == len(WAYS), "each way once"
    assert sorted(count for count, *_ in ways) == [1] * (len(WAYS) - 1) + [2], "two of residual 0.1 went together"
    for found, expected in zip(together, alone, strict=False):
        np.testing.assert_allclose(found.weights, expected, rtol=1e-5, atol=1e-9)


SIZE = 64


def small(dense: bool) -> Encoder:
    """A ViT of three blocks whose head gives different classes to different tokens."""
    torch.manual_seed(0)
    kwargs = {"img_size": SIZE, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
    encoder = EncoderSpec("vit_tiny_patch16_224", "cls", 5, kwargs, dense=dense).build(
        Facts("small", "Small", SIZE, classes=tuple("abcde"))
    )
    for name, parameter in encoder.named_parameters():
        if "qkv" in name or name.startswith("head"):
            parameter.data.mul_(12)
    return encoder.eval().requires_grad_(False)


@contextmanager
def counted_chains(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The options of every chain through the blocks that is run meanwhile, with its number of rows."""
    chains: list[dict[str, Any]] = []

    def counted(weights: torch.Tensor, blocks: Any, **options: Any) -> torch.Tensor:
        chains.append({**options, "rows": len(weights)})
        return roll_out(weights, blocks, **options)

    roll_out = make.roll_out
    with monkeypatch.context() as patch:
        patch.setattr(make, "roll_out", counted)
        yield chains


@contextmanager
def counted_heads(encoder: Encoder) -> Iterator[list[tuple[int, ...]]]:
    """The shapes that the head was given meanwhile."""
    shapes: list[tuple[int, ...]] = []
    assert encoder.head is not None
    handle = encoder.head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(inputs[0].shape)))
    try:
        yield shapes
    finally:
        handle.remove()


@pytest.mark.parametrize("dense", [True, False])
def test_class_question_runs_one_chain_and_no_head_twice(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = small(dense)
    with counted_heads(encoder) as heads, counted_chains(monkeypatch) as chains:
        recording = record(encoder, make_photo(150, 90))
        target = next(found.index for found in facts_of(recording).classes if found.share)
        first = inspect(recording, "class", Lens(target=target))
        inspect(recording, "class", Lens(target=target, residual=0.2, fusion="max"))
        segment(recording) if dense else recording.map("class_logits", classes=[target])
    h, w = recording.geometry.grid
    assert h != w and [shape for shape in heads if len(shape) == 3] == [(1, h * w, 48)]
    assert [chain["rows"] for chain in chains] == ([3, 3] if dense else [1, 1])
    assert [(chain["residual"], chain["fusion"]) for chain in chains] == [(0.5, "mean"), (0.2, "max")]
    names = [row.request.name for row in first.rows]
    assert names == (
        ["dense_rollout", "dense_rollout", "class_logits", "rollout"] if dense else ["dense_rollout", "gradcam"]
    )
    for row in first.rows:
        alone = recording.map(row.request.name, **row.request.options)
        np.testing.assert_allclose(row.attention.weights, alone.weights, rtol=1e-5, atol=1e-7)


def test_roll_outs_of_other_options_do_not_share_a_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = record(small(True), make_photo(150, 90))
    options = [{}, {"residual": 0.1}, {"first": 1}, {"fusion": "min"}, {"residual": 0.5, "fusion": "mean"}]
    with counted_chains(monkeypatch) as chains:
        together = recording.maps([("rollout", chosen) for chosen in options])
    assert sorted(chain["rows"] for chain in chains) == [1, 1, 1, 2]
    for chosen, found in zip(options, together, strict=True):
        np.testing.assert_allclose(found.weights, recording.map("rollout", **chosen).weights, rtol=1e-5, atol=1e-7)
    assert not any(np.allclose(together[0].weights, other.weights, rtol=1e-3) for other in together[1:4])


def test_absent_class_drops_its_own_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = small(True)
    encoder.head.weight.data[3], encoder.head.bias.data[3] = 0, -1e4  # type: ignore[union-attr, operator, index]
    recording = record(encoder, make_photo(150, 90))
    with counted_chains(monkeypatch) as chains:
        answer = inspect(recording, "class", Lens(target="d"))
    assert [row.request.name for row in answer.rows] == ["class_logits", "rollout"]
    assert len(answer.notes) == 1 and "absent from this picture: d" in answer.notes[0] and len(chains) == 1
    with pytest.raises(ValueError, match="absent from this picture: d"):
        recording.maps([("rollout", {}), ("dense_rollout", {"classes": ["d"]})])


@pytest.mark.parametrize("dense", [True, False])
def test_kept_scores_count_as_memory_of_their_recording(dense: bool) -> None:
    recording: Recording = record(small(dense), make_photo(150, 90))
    before, (h, w) = recording_bytes(recording), recording.geometry.grid
    scores = recording.token_scores
    assert scores.shape == (h * w, 5) and recording.token_scores is scores
    assert recording_bytes(recording) - before == (0 if dense else 4 * 5 * h * w), "of a dense head they are there"
    expected = recording.encoder.token_logits(recording.tokens)[0].flatten(1).T
    assert torch.allclose(scores, expected, atol=1e-5)
    assert recording_bytes(recording) > recording.image.nbytes + recording.picture.rgb.nbytes
