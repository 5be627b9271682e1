"""Recordings: batches equal singles, sizes, top classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simpool_viz import load_checkpoint, record, record_batch
from tests.helpers import TAGS, noisy_photos, random_timm


@pytest.mark.parametrize("tag", TAGS)
def test_a_batch_equals_its_pictures_alone(tag: str):
    encoder, pictures = random_timm(tag), noisy_photos(2)
    together = record_batch(encoder, pictures, size=96)
    for picture, recording in zip(pictures, together, strict=True):
        alone = record(encoder, picture, size=96)
        np.testing.assert_allclose(recording.vector.numpy(), alone.vector.numpy(), atol=2e-5)
        np.testing.assert_allclose(
            recording.blocks[-1].rows(slice(0, 1)).numpy(), alone.blocks[-1].rows(slice(0, 1)).numpy(), atol=1e-5
        )


def test_pictures_of_different_shapes_are_grouped_and_returned_in_order():
    encoder = random_timm("vit_tiny_patch16_224")
    pictures = [*noisy_photos(1), *noisy_photos(1, (100, 150), seed=1), *noisy_photos(1, seed=2)]
    recordings = record_batch(encoder, pictures, size=64)
    assert [r.geometry.grid for r in recordings] == [(4, 6), (6, 4), (4, 6)]
    for picture, recording in zip(pictures, recordings, strict=True):
        assert np.array_equal(recording.picture.rgb, picture)
        np.testing.assert_allclose(
            recording.vector.numpy(), record(encoder, picture, size=64).vector.numpy(), atol=2e-5
        )


def test_a_cnn_has_no_blocks_and_a_grid_of_its_stride():
    recording = record(load_checkpoint("timm:resnet18", device="cpu", pretrained=False), noisy_photos(1)[0], size=128)
    assert (
        len(recording.blocks) == 0
        and recording.geometry.grid == (4, 6)
        and recording.tokens.patches.shape == (1, 24, 512)
    )


def test_top_classes_carry_names_and_probabilities():
    recording = record(random_timm("vit_tiny_patch16_224"), noisy_photos(1)[0], size=64)
    (index, name, probability), second = recording.top_classes(2)
    assert name == recording.encoder.facts.classes[index] and probability >= second[2]
    torch.testing.assert_close(torch.tensor(probability), recording.logits.softmax(0).max())


def test_sizes_that_make_no_sense_are_refused():
    encoder = random_timm("vit_tiny_patch16_224")
    for size, words in ((-3, "must be positive"), (100_000, "choose 2048 or less")):
        with pytest.raises(ValueError, match=words):
            record(encoder, noisy_photos(1)[0], size=size)


def test_a_size_of_zero_is_not_taken_for_none():
    with pytest.raises(ValueError, match="must be positive"):
        record(random_timm("vit_tiny_patch16_224"), noisy_photos(1)[0], size=0)


def test_pictures_of_a_batch_do_not_keep_each_other_alive():
    one = record_batch(random_timm("vit_tiny_patch16_224"), noisy_photos(3), size=64)[1]
    for tensor in (one.tokens.patches, one.blocks[0].query, one.vector):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
