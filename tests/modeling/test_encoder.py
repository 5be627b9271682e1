"""An encoder can be copied."""

from __future__ import annotations

import torch

from simpool_viz import record
from tests.helpers import noisy_photos, random_timm


def test_an_encoder_can_be_copied():
    import copy
    import pickle

    encoder = random_timm("vit_tiny_patch16_224")
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(
            record(twin, noisy_photos(1)[0], size=64).vector, record(encoder, noisy_photos(1)[0], size=64).vector
        )
