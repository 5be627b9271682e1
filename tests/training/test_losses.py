"""SAR's loss and the losses of dense heads: measures, gradients, schedule."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from simpool_viz import record
from simpool_viz.capture.hooks import AttentionCapture
from simpool_viz.checkpoints.bundle import load_bundle
from simpool_viz.modeling.encoder import Facts
from simpool_viz.scores import spatial_entropy as measured
from simpool_viz.training import loop, losses
from simpool_viz.training.data import load_photos
from simpool_viz.training.logs import read_entropies
from simpool_viz.training.loop import train
from simpool_viz.training.losses import (
    SCHEDULES,
    class_token_scores,
    entropy_schedule,
    pixel_loss,
    readout_scores,
    spatial_entropy_loss,
)
from simpool_viz.training.recipe import Stage
from tests.helpers import small_spec, stored_weights, vit_recipe, vit_spec
from tests.oracles.spatial_entropy import spatial_entropy
from tests.photos import CLASSES


def test_loss_is_the_mean_entropy_of_the_maps() -> None:
    scores = torch.randn(5, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    wanted = sum(spatial_entropy(m.numpy()) for m in scores.flatten(0, 1)) / 15
    assert float(spatial_entropy_loss(scores)) == pytest.approx(wanted, abs=1e-5)


def test_gradient_flows_through_the_excess_and_its_mean_alone() -> None:
    """Against a derivative by hand: the components held fixed, sum_k -(ln P_k + 1) dP_k."""
    scores = torch.randn(1, 1, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_(
        True
    )
    spatial_entropy_loss(scores).backward()
    step, numeric = 1e-3, torch.zeros(9, 8)
    for i in range(9):
        for j in range(8):
            ends = []
            for sign in (1, -1):
                moved = scores.detach().clone()
                moved[0, 0, i, j] += sign * step
                assert torch.equal(moved > moved.mean(), scores > scores.mean()), "no cell changes sides"
                ends.append(spatial_entropy(moved[0, 0].numpy()))
            numeric[i, j] = (ends[0] - ends[1]) / (2 * step)
    assert (scores.grad[0, 0] - numeric).abs().max() < 1e-3 and numeric.abs().max() > 0.01
    assert abs(float(scores.grad.sum())) < 1e-4, "invariant to an added constant"


def test_descending_the_loss_gathers_a_map_into_fewer_parts() -> None:
    scores = torch.randn(4, 2, 10, 10, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    first = float(spatial_entropy_loss(scores.detach()))
    optimizer = torch.optim.Adam([scores], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        spatial_entropy_loss(scores).backward()
        optimizer.step()
    assert float(spatial_entropy_loss(scores.detach())) < 0.5 * first


def test_constant_maps_have_no_loss_and_no_gradient() -> None:
    scores = torch.full((2, 3, 4, 4), 0.1).requires_grad_(True)
    loss = spatial_entropy_loss(scores)
    assert float(loss) == 0
    loss.backward()
    assert not scores.grad.isnan().any()


def test_schedule_rises_for_ten_epochs_and_falls_by_a_cosine() -> None:
    assert [entropy_schedule(e, 30) for e in (0, 5, 10)] == pytest.approx([0, 0.5, 1])
    assert entropy_schedule(20, 30) == pytest.approx(0.5) and entropy_schedule(30, 30) == pytest.approx(0)
    assert entropy_schedule(15, 30) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    with pytest.raises(ValueError, match="takes more than 10 epochs, not 10"):
        entropy_schedule(0, 10)


def test_schedules_by_the_share_of_a_stage() -> None:
    done = (0, 0.05, 0.1, 0.55, 1)
    wanted = {"rise and fall": [0, 0.5, 1, 0.5, 0], "rise": [0, 0.5, 1, 1, 1], "constant": [1, 1, 1, 1, 1]}
    assert {name: [SCHEDULES[name](d) for d in done] for name in SCHEDULES} == {
        name: pytest.approx(values, abs=1e-9) for name, values in wanted.items()
    }


def test_scores_are_those_of_the_class_token_with_gradients() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, reg_tokens=2, dynamic_img_size=True)
    x = torch.randn(2, 3, 48, 64)
    with AttentionCapture() as capture:
        model.forward_features(x)
    call = capture.calls[-1]
    query, key, scale = call.query, call.key, call.scale
    scores = class_token_scores(query, key, scale, 3, (3, 4))
    for head in range(3):
        wanted = query[1, head, 0] @ key[1, head, 3:].T * scale
        assert torch.allclose(scores[1, head].flatten(), wanted, atol=1e-5)
    spatial_entropy_loss(scores).backward()
    assert model.blocks[-1].attn.qkv.weight.grad.abs().max() > 0 and model.blocks[-1].mlp.fc1.weight.grad is None
    with pytest.raises(ValueError, match="15 tokens are not 3 and a grid of 4 x 4"):
        class_token_scores(query, key, scale, 3, (4, 4))


def entropy_on(folder: Path, shapes: Path, cache: Path) -> float:
    encoder, photos = load_bundle(folder), load_photos(shapes, "val", cache)
    scores = [record(encoder, np.asarray(image), 64).map("cls", block=-1).logits for image in photos.images[:16]]
    return float(measured.spatial_entropy(torch.from_numpy(np.stack(scores))).mean())


def test_spatial_entropy_is_lower_where_it_is_trained_for(tmp_path: Path, shapes: Path) -> None:
    recipe = vit_recipe(shapes, vit_spec("cls"), photos=32 * 60, stages=(Stage(64, 32 * 60, 0.004, warmup=32),))
    plain, regular = (
        train(dataclasses.replace(recipe, spatial_entropy=weight), tmp_path / str(weight), tmp_path / "cache")
        for weight in (0.0, 1.0)
    )
    plain_entropy, regular_entropy = (entropy_on(folder, shapes, tmp_path / "cache") for folder in (plain, regular))
    assert regular_entropy < 0.8 * plain_entropy
    assert "1 of spatial entropy" in (regular / "README.md").read_text()


@pytest.mark.parametrize("pooling", ["simpool", "cls"])
def test_scores_that_read_the_tokens_are_the_map_before_its_softmax(pooling: str) -> None:
    torch.manual_seed(0)
    encoder = vit_spec(pooling).build(Facts("x", size=32, classes=CLASSES)).eval()
    x = torch.randn(2, 3, 32, 48)
    with AttentionCapture() as capture:
        output = encoder(x)
    scores = readout_scores(encoder, output, capture)
    assert scores.shape == ((2, 3, 4, 6) if pooling == "cls" else (2, 1, 4, 6))
    softmax = scores.flatten(2).softmax(2)
    if pooling == "simpool":
        assert output.pooled.weights is not None and torch.allclose(softmax, output.pooled.weights, atol=1e-6)
    else:
        call = capture.calls[-1]
        rows = (call.query[:, :, 0:1] @ call.key.transpose(2, 3) * call.scale).softmax(3)[:, :, 0, 1:]
        assert torch.allclose(softmax, rows / rows.sum(2, keepdim=True), atol=1e-6)


def test_encoder_without_anything_that_attends_is_refused(tmp_path: Path, shapes: Path) -> None:
    with pytest.raises(
        ValueError, match="spatial entropy needs a class token or a pooling that attends, and mine has neither"
    ):
        train(vit_recipe(shapes, small_spec("gap"), spatial_entropy=0.01), tmp_path, tmp_path / "cache")


def test_pixels_of_void_count_nowhere_and_an_unknown_class_is_told() -> None:
    logits = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(4, (2, 6, 10), generator=torch.Generator().manual_seed(1))
    labels[0, :2] = 9
    enlarged = torch.nn.functional.interpolate(logits, (6, 10), mode="bilinear", align_corners=False).log_softmax(1)
    wanted = [
        -float(enlarged[b, labels[b, y, x], y, x])
        for b in range(2)
        for y in range(6)
        for x in range(10)
        if labels[b, y, x] != 9
    ]
    assert float(pixel_loss(logits, labels, 9, 0.0)) == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)
    assert float(pixel_loss(logits, torch.full((2, 6, 10), 9), 9, 0.1)) == 0
    with pytest.raises(ValueError, match="a label map holds class 9, but the head has classes 0 to 3; set void="):
        pixel_loss(logits, labels, 255, 0.0)


def test_scores_are_the_same_where_the_first_blocks_have_run_before() -> None:
    kwargs = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
    encoder = vit_spec("cls", backbone_kwargs=kwargs).build(Facts("x")).eval()
    images = torch.randn(2, 3, 32, 48)
    with AttentionCapture() as whole:
        output = encoder(images)
    expected = readout_scores(encoder, output, whole)
    hidden = encoder.begin(images, 2)
    with AttentionCapture() as parts:
        later = encoder.read(encoder.finish(hidden, 2, encoder.grid_of(images)))
    assert torch.equal(readout_scores(encoder, later, parts), expected) and len(parts.calls) == 1


@pytest.mark.parametrize(("weight", "followed"), [(0.0, True), (0.5, False)])
def test_the_measure_is_followed_in_the_log_and_drawn_in_the_card(
    weight: float, followed: bool, tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Following it changes no weight; a run without it has an empty column and no picture."""
    monkeypatch.setattr(loop, "LOG_EVERY", 5)
    recipe = vit_recipe(shapes, vit_spec("cls"), photos=32 * 10, spatial_entropy=weight, title="Mine & yours")
    told = train(dataclasses.replace(recipe, follow_entropy=followed), tmp_path / "told", tmp_path / "cache")
    points = read_entropies(told, 1, 32)
    assert [seen for seen, _ in points] == [160, 320] and all(0 < value < math.log(8) for _, value in points)
    assert "Mine &amp; yours" in (told / "spatial_entropy.svg").read_text()
    card = (told / "README.md").read_text()
    assert f"{points[0][1]:.3f} nats at its beginning, {points[1][1]:.3f} at its end" in " ".join(card.split())
    assert "(spatial_entropy.svg)" in card
    if not weight:
        quiet = train(recipe, tmp_path / "quiet", tmp_path / "cache")
        assert read_entropies(quiet, 1, 32) == [] and not (quiet / "spatial_entropy.svg").exists()
        assert "spatial" not in (quiet / "README.md").read_text().lower()
        assert stored_weights(told).keys() == stored_weights(quiet).keys()
        assert all(torch.equal(value, stored_weights(quiet)[name]) for name, value in stored_weights(told).items())


def test_what_is_followed_is_the_loss_of_the_same_scores(tmp_path: Path, shapes: Path, monkeypatch: Any) -> None:
    seen: list[float] = []
    real = losses.spatial_entropy_loss
    monkeypatch.setattr(loop, "LOG_EVERY", 4)
    monkeypatch.setattr(losses, "spatial_entropy_loss", lambda *given: seen.append(real(*given).item()) or real(*given))
    recipe = vit_recipe(shapes, vit_spec("cls"), photos=32 * 4, spatial_entropy=0.1, entropy_threshold="median")
    [(_, value)] = read_entropies(train(recipe, tmp_path, tmp_path / "cache"), 1, 32)
    assert value == pytest.approx(sum(seen) / 4, abs=1e-4) and len(set(seen)) == 4
