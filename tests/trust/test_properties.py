"""What holds for every size, mode, grid, threshold and name that Hypothesis draws, and for numbers at their edges."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from simpool_viz import load_checkpoint, read_picture, record
from simpool_viz.app.events import refusal
from simpool_viz.checkpoints.bundle import save_bundle
from simpool_viz.checkpoints.reading import read_file
from simpool_viz.errors import CheckpointError, MapError, PictureError
from simpool_viz.images import MAX_TOKENS, fit
from simpool_viz.maps.scale import scale_of
from simpool_viz.masks import find_level, mask_rules
from simpool_viz.scores.references import read_reference
from simpool_viz.scores.spatial_entropy import spatial_entropy
from tests.helpers import small_resnet, small_spec

settings.register_profile("trust", max_examples=40, deadline=None, derandomize=True, database=None)
settings.load_profile("trust")
GRIDS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.floats(0, 1000, width=32),
)
KINDS = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "F", "I;16"],
    "WEBP": ["L", "RGB", "RGBA"],
    "JPEG": ["L", "RGB", "CMYK"],
    "GIF": ["L", "P", "RGB"],
    "BMP": ["1", "L", "P", "RGB"],
    "PPM": ["1", "L", "RGB"],
}
STARTS = [
    b"",
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\0\0\0\0WEBPVP8X",
    b"II*\0",
    b"MM\0*",
    b"GIF89a",
    b"BM",
    b"P6 ",
]


@given(
    st.sampled_from([(kind, mode) for kind, modes in KINDS.items() for mode in modes]),
    st.integers(8, 70),
    st.integers(8, 70),
    st.integers(0, 255),
)
def test_picture_of_any_size_format_and_mode_is_rgb_of_its_size(
    form: tuple[str, str], width: int, height: int, grey: int
) -> None:
    kind, mode = form
    data = io.BytesIO()
    one = Image.new("L", (width, height), 255 * (grey > 127) if mode == "1" else grey)  # else it would be dithered
    one.convert("I" if mode == "I;16" else mode).convert(mode).save(data, kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo"
        path.write_bytes(data.getvalue())
        rgb = read_picture(path).rgb
    assert rgb.shape == (height, width, 3) and rgb.dtype == np.uint8
    assert (rgb == rgb[0, 0]).all(), "a picture of one colour is one"


@given(st.sampled_from(STARTS), st.binary(max_size=600))
def test_any_bytes_are_a_picture_or_a_sentence(start: bytes, rest: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(start + rest)
        for read in (read_picture, read_reference):
            try:
                read(path)
            except PictureError as error:
                assert "\n" not in str(error) and str(error).encode()


@given(st.sampled_from([b"", b"PK\3\4", b"\x80\2", b"\x10\0\0\0\0\0\0\0{"]), st.binary(max_size=600))
def test_any_bytes_are_a_checkpoint_or_a_sentence(start: bytes, rest: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.pth"
        path.write_bytes(start + rest)
        try:
            read_file(path)
        except CheckpointError as error:
            assert "\n" not in str(error) and str(error).encode() and folder not in str(error)


@given(
    st.tuples(st.integers(8, 100_000), st.integers(8, 100_000)),
    st.integers(1, 500),
    st.sampled_from([4, 8, 14, 16, 32]),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_every_point_of_every_picture_has_a_token_and_tokens_are_bounded(
    original: tuple[int, int], size: int, stride: int, x: float, y: float
) -> None:
    geometry = fit(original, size, stride)
    h, w = geometry.grid
    assert 1 <= h * w <= MAX_TOKENS and geometry.input_size == (w * stride, h * stride)
    row, column = geometry.token_at(x * original[0], y * original[1])
    assert 0 <= row < h and 0 <= column < w
    x0, y0, x1, y1 = geometry.box_to_pixels((0, 0, w, h))
    assert (x0, y0, x1, y1) == (0, 0, *original)


@given(GRIDS, st.floats(0.01, 1))
def test_mask_of_every_grid_and_threshold_holds_what_its_rule_says(weights: np.ndarray, amount: float) -> None:
    total = weights.astype(np.float64).sum()
    for name, rule in mask_rules().items():
        mask = weights >= find_level(weights, name, None if rule.default is None else amount)
        assert mask.any() or weights.max() == weights.min(), name
    mask = weights >= find_level(weights, "mass", amount)
    if weights.max() > weights.min():
        held, least = weights[mask].astype(np.float64), weights[mask].min()
        assert held.sum() >= amount * total * (1 - 1e-5)
        assert held[held > least].sum() <= amount * total * (1 + 1e-5), "no level above it holds as much"


@given(st.text(st.characters(), max_size=80))
def test_any_text_in_a_sentence_of_the_page_can_be_sent_and_holds_no_markup(text: str) -> None:
    shown = str(refusal(text).message)
    assert shown.encode("utf-8") and "<" not in shown and shown.endswith((".", "!", "?"))


# --- numbers at their edges ---


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (4, 6)])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30, 1e30])
def test_constant_map_has_a_finite_scale_a_mask_and_an_entropy(shape: tuple[int, int], value: float) -> None:
    weights = np.full(shape, value, np.float32)
    for unit in ("uniform", "mean", "logit"):
        scale = scale_of(weights, unit)
        assert np.isfinite([scale.low, scale.high, scale.factor]).all() and scale.low < scale.high
    for name, rule in mask_rules().items():
        assert np.isfinite(find_level(weights, name, rule.default))
    assert np.isfinite(float(spatial_entropy(torch.from_numpy(weights))))


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_map_that_is_not_finite_is_explained(fault: float) -> None:
    weights = np.ones((3, 4), np.float32)
    weights[1, 2] = fault
    for name, rule in mask_rules().items():
        with pytest.raises(MapError, match="values that are not finite"):
            find_level(weights, name, rule.default)
    with pytest.raises(MapError, match="values that are not finite"):
        spatial_entropy(torch.from_numpy(weights))


def test_weights_that_are_not_numbers_are_explained_and_black_photos_and_single_tokens_are_not_special() -> None:
    encoder = load_checkpoint("resnet_simpool", device="cpu")
    for height, width, size in ((64, 96, 64), (40, 40, 8)):
        attention = record(encoder, np.zeros((height, width, 3), np.uint8), size).map("simpool")
        assert np.isfinite(attention.weights).all() and abs(attention.weights.sum() - 1) < 1e-5
        assert attention.mask("mass", 0.6).grid.any()
    assert attention.weights.shape == (1, 1, 1)
    with torch.no_grad():
        encoder.pooling.wk.weight.fill_(float("nan"))
    attention = record(encoder, np.zeros((64, 96, 3), np.uint8), 64).map("simpool")
    with pytest.raises(MapError, match="not finite"):
        attention.mask("mass", 0.6)


def test_activations_beyond_half_precision_are_explained_and_float32_bears_them() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    encoder = load_checkpoint("timm:vit_tiny_patch16_224", device="cpu", pretrained=False, depth=3)
    for block in encoder.backbone.blocks:
        block.mlp.fc2.bias.data.fill_(40_000.0)  # float16 ends at 65,504
    assert np.isfinite(record(encoder, photo, 64).map("cls").weights).all()
    attention = record(encoder.half(), photo, 64).map("cls")
    with pytest.raises(MapError, match="not finite"):
        attention.mask("mass", 0.6)


def test_weights_beyond_half_precision_are_not_saved() -> None:
    encoder = small_resnet()
    encoder.pooling.wk.weight.data[0, 0] = 70_000.0
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.raises(CheckpointError, match=r"half precision are pooling\.wk"),
    ):
        save_bundle(Path(folder), encoder, small_spec(), "# made up\n")
