"""Every head of every block equals its own single map."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from simpool_viz import Lens, Recording, record
from simpool_viz.board.every_head import every_head, layers, why_no_blocks
from simpool_viz.errors import MapError
from simpool_viz.modeling.encoder import Encoder
from tests.helpers import make_photo, small_vit


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(small_vit(), Image.fromarray(make_photo(150, 90)))


@pytest.mark.parametrize("question, options", [("token", {"at": (130.0, 20.0)}), ("cls", {})])
def test_every_map_is_the_single_one(recording: Recording, question: str, options: dict[str, object]) -> None:
    maps = every_head(recording, question, Lens(block=1, fusion=0, **options))  # type: ignore[arg-type]
    assert len(maps) == len(recording.blocks) > 1
    for block, one in enumerate(maps):
        alone = recording.map(question, block=block, **options)
        assert one.names == alone.names and np.array_equal(one.weights, alone.weights)
        attention = recording.blocks[block]
        place = recording.geometry.token_at(130, 20)
        index = recording.encoder.num_prefix_tokens + place[0] * recording.geometry.grid[1] + place[1]
        row = attention.rows(slice(0, 1) if question == "cls" else slice(index, index + 1))[:, 0]
        patches = row[:, recording.encoder.num_prefix_tokens :].double().numpy()
        expected = patches.reshape(one.weights.shape)
        assert np.allclose(one.weights, expected, atol=1e-6)


def test_layers_fuse_the_heads_of_each_block(recording: Recording) -> None:
    maps = every_head(recording, "cls")
    for fusion, by in (("mean", np.mean), ("max", np.max), ("min", np.min)):
        assert all(np.allclose(a, by(m.weights, axis=0)) for a, m in zip(layers(maps, fusion), maps, strict=True))
    assert all(np.array_equal(a, m.weights[1]) for a, m in zip(layers(maps, 1), maps, strict=True))
    assert np.allclose(layers(maps, 99)[0], maps[0].weights.mean(0)), "a head that a block lacks"


def test_other_questions_and_checkpoints_are_refused_with_the_reason(recording: Recording, resnet: Encoder) -> None:
    with pytest.raises(MapError, match=r"^Only the questions about a token and about the class token"):
        every_head(recording, "pooling")
    cnn = record(resnet, Image.fromarray(make_photo(91, 60)))
    with pytest.raises(MapError, match=r"^Its backbone is a CNN"):
        every_head(cnn, "token")
    assert why_no_blocks(recording, "token") == "" and why_no_blocks(cnn, "cls").endswith(".")
