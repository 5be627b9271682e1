"""Features of a frozen encoder: those of the same crops, whoever asks, and computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from simpool_viz.training import features as module
from simpool_viz.training.data import Photos, load_photos
from simpool_viz.training.features import CropPlan, keep_features, tokens_at
from tests.helpers import random_images, small_vit


@pytest.fixture(scope="module")
def photos(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Photos:
    return load_photos(shapes, "val", tmp_path_factory.mktemp("cache"), 64)


def test_features_are_those_of_the_plans_own_crops(photos: Photos, tmp_path: Path) -> None:
    encoder, plan = small_vit(), CropPlan(32, 0.4, seed=3)
    kept = keep_features(encoder, photos, plan, tmp_path)
    assert len(kept) == len(photos) and kept.tokens.dtype == np.float16
    index = np.array([0, 7, 49])
    x = plan.crops(photos.aspect).of(torch.from_numpy(index)).images(torch.tensor(photos.images[index]), 32)
    with torch.inference_mode():
        tokens = encoder.tokens(x)
    found = kept.batch(index)
    assert found.grid == tokens.grid and found.prefix.shape == tokens.prefix.shape
    torch.testing.assert_close(found.patches, tokens.patches, atol=0.1, rtol=0.1)  # computed in bfloat16


def test_they_are_computed_once_for_the_same_weights_photos_and_plan(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, compute = [], module._compute
    monkeypatch.setattr(module, "_compute", lambda *a: computed.append(a[2]) or compute(*a))
    plan = CropPlan(32, 0.4)
    for encoder, asked, block in (
        (small_vit(), plan, None),
        (small_vit(), plan, None),
        (small_vit(), plan, 0),
        (small_vit(), CropPlan(32, 0.4, seed=1), None),
        (small_vit(), CropPlan(32, None), None),
        (small_vit(seed=1), plan, None),
    ):
        keep_features(encoder, photos, asked, tmp_path, block=block)
    assert len(computed) == 5, "the second of the same is read; all others differ from it"


def test_an_interrupted_computation_leaves_nothing_that_counts(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = module._compute

    def broken(*arguments: object) -> object:
        yield next(compute(*arguments))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "CHUNK", 20)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_compute", broken)
        with pytest.raises(KeyboardInterrupt):
            keep_features(small_vit(), photos, CropPlan(32, 0.4), tmp_path)
    kept = keep_features(small_vit(), photos, CropPlan(32, 0.4), tmp_path)
    assert np.isfinite(kept.tokens).all() and np.abs(kept.tokens[-1]).sum() > 0


def test_statistics_standardise_each_channel(photos: Photos, tmp_path: Path) -> None:
    kept = keep_features(small_vit(), photos, CropPlan(32, 0.4), tmp_path)
    mean, std = kept.statistics()
    standard = (torch.tensor(np.asarray(kept.tokens, np.float32)) - mean) / std
    torch.testing.assert_close(standard.mean((0, 1)), torch.zeros_like(mean), atol=1e-3, rtol=0)
    torch.testing.assert_close(standard.std((0, 1)), torch.ones_like(std), atol=1e-2, rtol=0)


def test_tokens_after_a_block_are_its_output(photos: Photos) -> None:
    encoder, images = small_vit(), random_images(32, 48)
    with torch.inference_mode():
        last, final = tokens_at(encoder, images, -1), tokens_at(encoder, images)
        normed = encoder.backbone.norm(torch.cat([last.prefix, last.patches], 1))  # type: ignore[operator]
    torch.testing.assert_close(normed[:, encoder.num_prefix_tokens :], final.patches)
    assert not encoder.blocks[-1]._forward_hooks
