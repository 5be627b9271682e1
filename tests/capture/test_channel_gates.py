"""Gates of a batch are those of singles, and hooks are gone also after an exception."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from simpool_viz.recording import record, record_batch
from tests.helpers import SMALL_PHOTO, bare_cnn


def test_gates_of_a_batch_equal_singles_and_hooks_are_gone_also_after_an_exception():
    encoder = bare_cnn(block_args={"attn_layer": "se"})
    other = SMALL_PHOTO.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for together, photo in zip(record_batch(encoder, [SMALL_PHOTO, other]), (SMALL_PHOTO, other), strict=True):
        np.testing.assert_allclose(
            together.map("gates").weights, record(encoder, photo).map("gates").weights, rtol=1e-4, atol=1e-6
        )
    handle = encoder.backbone.layer4.register_forward_hook(lambda *_: 1 / 0)  # type: ignore[union-attr, operator]
    with pytest.raises(ZeroDivisionError):
        record(encoder, SMALL_PHOTO)
    handle.remove()
    assert not any(m._forward_hooks for m in encoder.modules())
