"""On a GPU: the app's checkpoints run in half precision, maps and figures are float32, and agree with those of the CPU.

Skipped where PyTorch finds no CUDA device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from simpool_viz import Settings, make_board, read_picture, record_batch
from simpool_viz.app.store import EncoderStore
from simpool_viz.app.zero import BoardMaker
from simpool_viz.bundled import bundled_folder

EXAMPLE = bundled_folder("assets") / "chelsea.jpg"
NAMES = ["resnet_simpool", "vit_simpool"]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device")


@pytest.fixture(scope="module")
def store() -> EncoderStore:
    return EncoderStore("cuda")


@pytest.mark.parametrize("name", NAMES)
def test_the_forward_is_half_precision_and_statistics_are_single(store: EncoderStore, name: str) -> None:
    encoder = store.get(name)
    kinds = {parameter.dtype for parameter in encoder.backbone.parameters()}
    assert kinds <= {torch.float16, torch.bfloat16} and store.where().startswith("cuda, ")
    (recording,) = record_batch(encoder, [EXAMPLE])
    attention = recording.map("pooling")
    assert recording.image.device.type == "cuda" and recording.image.dtype in kinds
    assert attention.weights.dtype == np.float32 and abs(float(attention.weights.sum()) - 1) < 1e-3
    assert recording.token_scores.dtype == torch.float32


def test_boards_of_the_gpu_are_those_of_the_cpu_but_for_the_precision(store: EncoderStore) -> None:
    picture, maps = read_picture(EXAMPLE), ["own", "contribution"]
    found = BoardMaker(lambda name, own: store.get(name)).make([picture], NAMES, maps, Settings())
    wanted = make_board([picture], [EncoderStore("cpu").get(name) for name in NAMES], maps)
    assert [row.title for row in found.rows] == [row.title for row in wanted.rows]
    for one, other in zip(found.rows, wanted.rows, strict=True):
        assert one.attention.weights.dtype == np.float32
        scale = float(np.abs(other.attention.weights).max())
        np.testing.assert_allclose(one.attention.weights, other.attention.weights, atol=0.05 * scale)
        assert float((one.mask.grid == other.mask.grid).mean()) > 0.95


def test_pictures_of_one_shape_share_a_forward_on_the_gpu(store: EncoderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, sizes = store.get("resnet_simpool"), []
    forward = encoder.tokens

    def counted(images: torch.Tensor) -> Any:
        sizes.append(len(images))
        return forward(images)

    monkeypatch.setattr(encoder, "tokens", counted)
    wide, tall = np.zeros((90, 140, 3), np.uint8), np.zeros((140, 90, 3), np.uint8)
    recordings = record_batch(encoder, [wide, tall, wide], 96)
    assert sorted(sizes) == [1, 2] and [r.geometry.original for r in recordings] == [(140, 90), (90, 140), (140, 90)]
