"""Questions to a recording: each answer is the maps of the plain calls; figures beside them against computations of
their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simpool_viz import record
from simpool_viz.board.inspection import (
    QUESTIONS,
    Lens,
    classes_found,
    exponent_groups,
    exponents,
    gate_profiles,
    group_parts,
    has_life,
    inspect,
    questions_of,
    recording_bytes,
)
from simpool_viz.errors import MapError
from simpool_viz.modeling.encoder import Encoder, Facts
from simpool_viz.modeling.layers.life import insert_life
from simpool_viz.modeling.spec import EncoderSpec
from simpool_viz.recording import Recording
from tests.helpers import bare_cnn, random_timm, small_resnet, small_vit


@pytest.fixture(scope="module")
def seen(photos: dict[str, Path]) -> Recording:
    return record(small_vit(), photos["wide"])


def test_token_is_asked_in_a_block_and_through_the_rollout(seen: Recording) -> None:
    lens = Lens(at=(70.0, 20.0), block=1, fusion="max", first=1, residual=0.3)
    answer = inspect(seen, "token", lens)
    in_block = seen.map("token", at=(70, 20), block=1)
    through = seen.map("token", at=(70, 20), rollout=True, first=1, residual=0.3, fusion="max")
    assert [row.attention.weights.shape[0] for row in answer.rows] == [6, 1]
    assert np.array_equal(answer.rows[0].mask.weights, in_block.weights.max(axis=0))
    assert np.array_equal(answer.rows[1].mask.weights, through.weights[0])
    assert answer.parts is not None and np.array_equal(answer.parts.weights, in_block.weights)
    assert answer.groups == [("", [0, 1, 2, 3, 4, 5])] and answer.notes == []
    assert inspect(seen, "token").rows[0].request.label == "token:block=-1"


def test_one_head_is_shown_alone_and_the_rollout_then_takes_their_mean(seen: Recording) -> None:
    answer = inspect(seen, "cls", Lens(block=0, fusion=4))
    assert np.array_equal(answer.rows[0].mask.weights, seen.map("cls", block=0).weights[4])
    assert np.array_equal(answer.rows[1].mask.weights, seen.map("rollout").weights[0])
    with pytest.raises(ValueError, match="6 is no fusion"):
        inspect(seen, "cls", Lens(fusion=6))


def test_heads_are_grouped_by_scale_for_life_and_only_there(photos: dict[str, Path], seen: Recording) -> None:
    recording = record(small_vit(inside="life"), photos["wide"])
    assert has_life(recording.encoder) and not has_life(seen.encoder)
    groups = inspect(recording, "cls").groups
    assert groups == [("scale 1 x 1", [0, 1]), ("scale 3 x 3", [2, 3]), ("scale 5 x 5", [4, 5])]
    assert inspect(recording, "token").groups == groups
    assert group_parts(seen, seen.map("cls")) == [("", [0, 1, 2, 3, 4, 5])]
    assert group_parts(recording, recording.map("rollout")) == [("", [0])]


def test_heads_are_grouped_by_scale_only_in_blocks_that_have_life(photos: dict[str, Path]) -> None:
    encoder = small_vit()
    insert_life(encoder.backbone, first=1)
    recording = record(encoder.eval(), photos["wide"])
    last = recording.encoder.depth - 1
    assert [has_life(recording.encoder, block) for block in (0, 1, -1)] == [False, True, True]
    assert len(inspect(recording, "cls", Lens(block=0)).groups) == 1
    for block in (last, -1):
        assert len(inspect(recording, "cls", Lens(block=block)).groups) == 3


def test_class_is_shown_by_every_map_that_has_classes(seen: Recording) -> None:
    found = classes_found(seen)
    scores = (
        seen.tokens.patches[0].double() @ seen.encoder.head.weight.double().T + seen.encoder.head.bias.double()
    ).argmax(1)  # type: ignore[union-attr]
    for entry in found:
        assert entry.share == pytest.approx(float((scores == entry.index).double().mean()))
        assert entry.probability == pytest.approx(float(seen.logits.softmax(0)[entry.index]), abs=1e-6)  # type: ignore[union-attr]
    assert [e.index for e in found][:1] == [int(seen.logits.argmax())] and sorted(e.index for e in found) == [
        0,
        1,
        2,
        3,
        4,
    ]  # type: ignore[union-attr]
    present = next(e for e in found if e.share)
    answer = inspect(seen, "class", Lens(target=present.name, residual=0.7))
    assert [row.request.name for row in answer.rows] == ["dense_rollout", "gradcam"]
    assert np.array_equal(
        answer.rows[0].mask.weights, seen.map("dense_rollout", classes=[present.name], residual=0.7).weights[0]
    )
    assert len(answer.notes) == 1 and "no Contribution map" in answer.notes[0]


def test_class_that_no_token_has_is_told_and_the_other_maps_are_shown(photos: dict[str, Path]) -> None:
    encoder = small_vit("gap")
    encoder.head.weight.data[3], encoder.head.bias.data[3] = 0, -1e4  # type: ignore[union-attr, operator, index]
    answer = inspect(record(encoder, photos["wide"]), "class", Lens(target="d"))
    assert [row.request.name for row in answer.rows] == ["contribution", "gradcam"]
    assert any("absent from this picture: d" in note for note in answer.notes)


def test_cnn_answers_what_applies_and_says_why_not(photos: dict[str, Path], resnet: Encoder) -> None:
    reasons = questions_of(resnet)
    assert list(reasons) == list(QUESTIONS)
    assert [name for name, why in reasons.items() if why is None] == ["pooling", "class"]
    assert reasons["token"] == reasons["cls"] == "its backbone is a CNN, which has no attention blocks"
    recording = record(resnet, photos["wide"])
    answer = inspect(recording, "pooling")
    assert [row.request.name for row in answer.rows] == ["pooling"] and answer.parts is None
    assert "no Attention Roll-Out map: its backbone is a CNN" in answer.notes[0]
    assert [row.request.name for row in inspect(recording, "class", Lens(target=1)).rows] == ["contribution", "gradcam"]
    best = recording.map("class_logits", classes=[0, 1, 2]).weights.argmax(0)
    assert {found.index: found.share for found in classes_found(recording)} == {
        i: float((best == i).mean()) for i in range(3)
    }
    with pytest.raises(ValueError, match="small_simpool cannot answer 'token': its backbone is a CNN"):
        inspect(recording, "token")
    with pytest.raises(ValueError, match="the questions are token, cls, pooling, class, gates, not 'why'"):
        inspect(recording, "why")


def test_exponents_are_those_that_the_pooling_uses(resnet: Encoder) -> None:
    encoder = small_vit("ggem", groups=3)
    encoder.pooling.mean.p.data = torch.tensor([0.2, 3.5, 77.0])  # type: ignore[union-attr]
    assert exponents(encoder) == (1.0, 3.5, 50.0)
    assert len(exponents(small_resnet("gem"))) == 1 and exponents(resnet) == () == exponents(small_resnet("gap"))


def with_tokens(recording: Recording, patches: torch.Tensor) -> Recording:
    """A recording whose backbone had given these tokens (N, D)."""
    tokens = dataclasses.replace(recording.tokens, patches=patches[None])
    return dataclasses.replace(recording, tokens=tokens, pooled=recording.encoder.pooling(tokens))


def test_positions_that_a_group_of_channels_pools_are_all_or_one_or_what_its_exponent_leaves(
    photos: dict[str, Path],
) -> None:
    encoder = small_vit("ggem", groups=3)
    encoder.pooling.mean.p.data = torch.tensor([1.0, 2.0, 10.0])  # type: ignore[union-attr]
    recording = record(encoder, photos["wide"])
    count, width = recording.tokens.patches.shape[1:]
    alike = exponent_groups(with_tokens(recording, torch.full((count, width), 0.7)))
    assert [group.channels for group in alike] == [(0, 32), (32, 64), (64, 96)]
    assert [group.exponent for group in alike] == [1.0, 2.0, 10.0]
    assert [group.positions for group in alike] == pytest.approx([count] * 3, rel=1e-4)
    peak = torch.full((count, width), -1.0)
    peak[5] = 3.0
    assert [group.positions for group in exponent_groups(with_tokens(recording, peak))] == pytest.approx(
        [1] * 3, abs=0.01
    )
    steps = torch.linspace(0.1, 2, count)[:, None].repeat(1, width)
    for group in exponent_groups(with_tokens(recording, steps)):
        shares = steps[:, 0].double().numpy() ** group.exponent
        shares /= shares.sum()
        assert group.positions == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
    with pytest.raises(MapError, match="small_gap has no exponents: its pooling is GAP, and GeM and GGeM have them"):
        exponent_groups(record(small_resnet("gap"), photos["wide"]))


def arrays_of(value: Any) -> Iterator[torch.Tensor | np.ndarray]:
    """Every tensor and array that a recording holds, however deep, but for those of its encoder."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if field.name != "encoder":
                yield from arrays_of(getattr(value, field.name))
    elif isinstance(value, (Sequence, Mapping)) and not isinstance(value, str):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from arrays_of(part)


@pytest.mark.parametrize("kind", ["vit", "siglip", "resnet", "gates"])
def test_bytes_of_a_recording_are_those_of_all_that_it_holds(photos: dict[str, Path], kind: str) -> None:
    make: dict[str, Callable[[], Encoder]] = {
        "vit": lambda: small_vit(),
        "siglip": lambda: random_timm("vit_base_patch16_siglip_224"),
        "resnet": lambda: small_resnet(),
        "gates": lambda: bare_cnn(block_args={"attn_layer": "se"}).requires_grad_(False),
    }
    recording = record(make[kind](), photos["wide"], 64)
    held = [*arrays_of(recording)]
    storages = {
        a.untyped_storage().data_ptr(): a.untyped_storage().nbytes() for a in held if isinstance(a, torch.Tensor)
    }
    arrays = {id(a): a.nbytes for a in held if isinstance(a, np.ndarray)}
    assert recording_bytes(recording) == sum(storages.values()) + sum(arrays.values())
    assert recording_bytes(recording) > recording.image.nbytes + recording.picture.rgb.nbytes


def test_gates_are_told_by_depth(photos: dict[str, Path]) -> None:
    torch.manual_seed(0)
    spec = EncoderSpec("resnet18", "gap", 3, {"channels": (8, 8, 16, 16), "stem_width": 8}, inside="spe")
    encoder = spec.build(Facts("spe", "SPE", 64)).eval().requires_grad_(False)
    for name, parameter in encoder.named_parameters():
        if name.endswith((".w1", ".w2")):
            parameter.data.normal_()
    recording = record(encoder, photos["wide"])
    profiles = gate_profiles(recording)
    assert [p.name for p in profiles] == [gate.name for gate in recording.gates] and len(profiles) == 8
    for profile, gate in zip(profiles, recording.gates, strict=True):
        values = sorted(gate.values.tolist())
        n = len(values)
        assert profile.channels == n and (profile.quantiles[0], profile.quantiles[4]) == pytest.approx(
            (values[0], values[-1])
        )
        assert profile.quantiles[2] == pytest.approx((values[n // 2 - 1] + values[n // 2]) / 2)
        assert list(profile.quantiles) == sorted(profile.quantiles)
    rows = inspect(recording, "gates").rows
    weights = recording.map("gates").weights
    assert np.array_equal(rows[0].mask.weights, weights[0]) and np.array_equal(rows[1].mask.weights, weights[1])
    assert gate_profiles(record(small_resnet("gap"), photos["wide"])) == []
