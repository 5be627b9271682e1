"""Vectors of several poolings from one forward: what they are, what is kept, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from simpool_viz.errors import DataError, OptionError
from simpool_viz.evaluation import pooled_features
from simpool_viz.evaluation.pooled_features import (
    COMPARED,
    FeatureSettings,
    PooledFeatures,
    drawn_places,
    parse_pooling,
    pool_photos,
    require_same_classes,
    square_centre,
    training_free_poolings,
)
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.modeling.pooling import poolings
from simpool_viz.training.sources import open_source
from tests.helpers import PHOTO, random_vit, small_resnet


class Pile:
    """Photos in memory, which counts how often they are read."""

    dense = False

    def __init__(self, count: int, stamp: str = "a pile") -> None:
        rng = np.random.default_rng(0)
        shapes = [(40 + 8 * (i % 3), 64, 3) for i in range(count)]
        self.photos = [Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8)) for shape in shapes]
        self.stamp, self.read = stamp, 0

    def __len__(self) -> int:
        return len(self.photos)

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        self.read += 1
        return ((photo, i % 3) for i, photo in enumerate(self.photos))


def pooled(encoder: Encoder, *texts: str, **options: Any) -> PooledFeatures:
    return pool_photos([encoder], [parse_pooling(text) for text in texts], Pile(5), **options)[0]


def test_each_vector_is_what_its_formula_makes_of_the_tokens() -> None:
    encoder = random_vit("token")
    found = pooled(encoder, *COMPARED, "gem:p=2", "ggem:groups=3,p=2", settings=FeatureSettings(48, batch=2))
    assert list(found.vectors) == ["own", "gap", "max", "gem", "gem:p=2", "ggem:groups=3,p=2"], "CLS is its own"
    assert found.classes.tolist() == [0, 1, 2, 0, 1]
    for i, photo in enumerate(Pile(5).photos):
        low, left = (photo.height - min(photo.size)) // 2, (photo.width - min(photo.size)) // 2
        square = photo.crop((left, low, left + min(photo.size), low + min(photo.size))).resize((48, 48), 3)
        x = torch.tensor(np.asarray(square)).permute(2, 0, 1)[None].float() / 255
        x = (x - torch.tensor(encoder.facts.mean)[:, None, None]) / torch.tensor(encoder.facts.std)[:, None, None]
        with torch.inference_mode():
            tokens = encoder.tokens(x)
        values, cut = tokens.patches[0].double().numpy(), tokens.patches[0].double().clamp(min=1e-6).numpy()
        expected = {
            "own": tokens.prefix[0, 0].numpy(),
            "gap": values.mean(0),
            "max": values.max(0),
            "gem": (cut**3).mean(0) ** (1 / 3),
            "gem:p=2": (cut**2).mean(0) ** 0.5,
            "ggem:groups=3,p=2": (cut**2).mean(0) ** 0.5,
        }
        for label, vector in expected.items():
            assert np.abs(found.vectors[label][i] - vector).max() < 0.02 * np.abs(vector).max(), label


def test_the_checkpoints_own_norm_follows_every_pooling() -> None:
    encoder = small_resnet("simpool")
    encoder.norm = nn.LayerNorm(16)
    found = pooled(encoder, "own", "gap")
    assert list(found.vectors) == ["own", "gap"]
    for label in found.vectors:
        after = found.features(label)
        assert np.abs(after.mean(1)).max() < 1e-5 and np.abs(after.std(1) - 1).max() < 1e-2
        assert np.abs(found.vectors[label].mean(1)).max() > 0.05
    with torch.inference_mode():
        x = torch.zeros(1, 3, 64, 64)
        assert encoder(x).vector.numpy() == pytest.approx(
            pooled_features.normed(encoder, encoder(x).pooled.vector.numpy()), abs=1e-5
        )


def test_features_are_kept_and_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    encoder, pile = small_resnet("gap"), Pile(6)
    first = pool_photos([encoder], [parse_pooling("own")], pile, cache=tmp_path)[0]
    assert pile.read == 1 and len(list(tmp_path.iterdir())) == 1
    again = pool_photos([encoder], [parse_pooling("own")], pile, cache=tmp_path)[0]
    assert pile.read == 1 and (again.vectors["own"] == first.vectors["own"]).all()
    more = pool_photos([encoder], [parse_pooling("own"), parse_pooling("max")], pile, cache=tmp_path)[0]
    assert pile.read == 2 and list(more.vectors) == ["own", "max"] and len(list(tmp_path.iterdir())) == 1
    pool_photos([encoder], [parse_pooling("max"), parse_pooling("own")], pile, cache=tmp_path)
    assert pile.read == 2
    for changed in (
        {"settings": FeatureSettings(count=3)},
        {"settings": FeatureSettings(size=96)},
        {"photos": Pile(6, "another pile")},
        {"encoders": [small_resnet("gap", seed=1)]},
    ):
        given: dict[str, Any] = {"encoders": [encoder], "requests": [parse_pooling("own")], "photos": pile} | changed
        before = len(list(tmp_path.iterdir()))
        pool_photos(**given, cache=tmp_path)
        assert len(list(tmp_path.iterdir())) == before + 1, changed
    file = next(tmp_path.iterdir())
    for path in tmp_path.iterdir():
        path.write_bytes(b"torn")
    with pytest.raises(DataError, match=r"holds no readable features; delete it") as error:
        pool_photos([encoder], [parse_pooling("own")], pile, cache=tmp_path)
    assert str(file.parent) in str(error.value)


def test_checkpoints_together_are_as_each_alone_in_any_batch() -> None:
    encoders = [small_resnet("gap"), random_vit("token"), small_resnet("simpool")]
    requests = [parse_pooling(text) for text in ("own", "gap", "cls")]
    together = pool_photos(encoders, requests, Pile(5), FeatureSettings(batch=3))
    for encoder, found in zip(encoders, together, strict=True):
        alone = pool_photos([encoder], requests, Pile(5), FeatureSettings(batch=1))[0]
        assert list(alone.vectors) == list(found.vectors)
        for label, vectors in found.vectors.items():
            np.testing.assert_allclose(vectors, alone.vectors[label], rtol=1e-3, atol=1e-4)
    assert together[0].notes == ["small_gap has no class token, so cls is left out."] and not together[1].notes


def test_photos_are_drawn_without_order_and_the_same_again() -> None:
    some = drawn_places(1000, FeatureSettings(count=100))
    assert len(set(some.tolist())) == 100 and (np.diff(some) > 0).all() and 300 < some.mean() < 700
    assert (some == drawn_places(1000, FeatureSettings(count=100))).all()
    assert (some != drawn_places(1000, FeatureSettings(count=100, seed=1))).any()
    assert drawn_places(7, FeatureSettings(count=9)).tolist() == list(range(7))
    pile, settings = Pile(9), FeatureSettings(count=4, batch=3)
    found = pool_photos([small_resnet("gap")], [parse_pooling("own")], pile, settings)[0]
    assert found.classes.tolist() == [i % 3 for i in drawn_places(9, settings)]


def test_the_square_is_the_middle_of_a_photo() -> None:
    rgb = np.zeros((60, 90, 3), np.uint8)
    rgb[:, 15:75] = 200
    assert (square_centre(Image.fromarray(rgb), (30, 30))[:, 2:-2] == 200).all()
    assert square_centre(Image.fromarray(PHOTO), (48, 32)).shape == (32, 48, 3)


def test_names_come_from_the_registry_and_what_does_not_fit_is_refused() -> None:
    assert {"gap", "max", "gem", "ggem", "lse", "cls"} <= set(training_free_poolings()) < set(poolings())
    assert not {"simpool", "slot", "se", "how"} & set(training_free_poolings())
    assert parse_pooling("ggem:groups=6,p=2").label == "ggem:groups=6,p=2"
    for text, sentence in (
        ("simpool", "'simpool' must be trained first; tokens of a checkpoint can be pooled by own, gap, "),
        ("gapp", "'gapp' is no pooling"),
        ("own:p=2", "own pooling takes no options"),
        ("gem:2", "options are written key=value"),
    ):
        with pytest.raises(OptionError, match=sentence):
            parse_pooling(text)
    with pytest.raises(OptionError, match="16 channels do not split into 5 groups"):
        pooled(small_resnet("gap"), "ggem:groups=5")
    with pytest.raises(OptionError, match="the number of photos too"):
        FeatureSettings(count=0)
    with pytest.raises(DataError, match="there is no photo to pool"):
        pool_photos([small_resnet("gap")], [parse_pooling("own")], Pile(0))


def test_splits_number_their_classes_alike(tmp_path: Path) -> None:
    for split, classes in {"train": "abc", "val": "ac"}.items():
        for name in classes:
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(PHOTO).save(tmp_path / split / name / "1.png")
    train, val = (open_source(tmp_path, split) for split in ("train", "val"))
    with pytest.raises(DataError, match="have other folders of classes"):
        require_same_classes(train, val)
    require_same_classes(train, train)
    val.dense = True
    with pytest.raises(DataError, match="label maps; name another folder"):
        require_same_classes(train, val)
