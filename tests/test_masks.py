"""Masks: every rule, component, box and smooth mask against tests/oracles/masks.py on maps of every awkward kind."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from simpool_viz.errors import OptionError
from simpool_viz.images import Geometry
from simpool_viz.masks import (
    DEFAULT_CUT,
    DINO_CUT,
    Cut,
    ObjectMask,
    choose_cut,
    component_boxes,
    find_level,
    find_levels,
    is_constant,
    label_components,
    largest_component,
    make_mask,
    mask_rules,
    parse_rule,
    smoothed,
    upsample,
)
from tests.oracles import masks as oracle


def peaked(h: int, w: int) -> np.ndarray:
    """Softmax weights with one clear maximum: they sum to 1."""
    y, x = np.mgrid[:h, :w]
    weights = np.exp(-((y - h / 3) ** 2) / h - (x - w / 1.5) ** 2 / w)
    return weights / weights.sum()


def maps() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    one_hot = np.zeros((6, 9))
    one_hot[4, 7] = 1
    return {
        "random": rng.random((7, 11)),
        "tall": rng.random((13, 5)),
        "heavy tail": rng.exponential(size=(8, 10)) ** 3,
        "peaked": peaked(9, 14),
        "tied": rng.integers(0, 4, (7, 11)).astype(float),
        "two values": (rng.random((6, 9)) > 0.7).astype(float),
        "signed": rng.normal(size=(9, 12)),
        "one positive": np.where(np.arange(35).reshape(5, 7) == 17, 2.0, -1.0 - rng.random((5, 7))),
        "all negative": -1 - rng.random((5, 7)),
        "one hot": one_hot,
        "almost uniform": (1 + 1e-5 * rng.random((8, 13))) / 104,
        "tiny": 1e-30 * rng.random((5, 8)),
        "huge": 1e30 * rng.random((5, 8)),
        "one row": rng.random((1, 13)),
        "one column": rng.random((13, 1)),
        "two cells": np.array([[1.0, 3.0]]),
    }


MAPS = {name: m.astype(np.float32) for name, m in maps().items()}
RULES = [
    *[("mass", a) for a in (0.05, 0.6, 0.95, 1.0)],
    *[("area", a) for a in (0.01, 0.25, 0.5, 1.0)],
    *[("quantile", a) for a in (0.1, 0.5, 0.75, 1.0)],
    ("mean", None),
    ("otsu", None),
]


def geometry_of(weights: np.ndarray, original: tuple[int, int] = (451, 300)) -> Geometry:
    return Geometry(original, weights.shape, 16)


# --- rules
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "amount"), RULES)
@pytest.mark.parametrize("name", MAPS)
def test_mask_of_every_rule_is_that_of_the_oracle(name: str, rule: str, amount: float | None) -> None:
    mask = make_mask(MAPS[name], geometry_of(MAPS[name]), Cut(rule, amount))
    assert np.array_equal(mask.grid, oracle.level_set(MAPS[name], rule, amount))


@pytest.mark.parametrize(("rule", "amount"), RULES)
@pytest.mark.parametrize("name", MAPS)
def test_mask_is_the_level_set_of_a_level_that_float32_holds_exactly(
    name: str, rule: str, amount: float | None
) -> None:
    level = find_level(MAPS[name], rule, amount)
    assert float(np.float32(level)) == level
    assert np.array_equal(
        make_mask(MAPS[name], geometry_of(MAPS[name]), Cut(rule, amount)).grid, MAPS[name].astype(np.float64) >= level
    )


@pytest.mark.parametrize("share", [0.1, 0.6, 0.9])
@pytest.mark.parametrize("name", ["random", "tied", "heavy tail", "peaked", "signed"])
def test_mass_holds_its_share_and_no_smaller_level_set_does(name: str, share: float) -> None:
    weights = MAPS[name].astype(np.float64)
    level = find_level(weights, "mass", share)
    total = weights.clip(min=0).sum()
    assert weights[weights >= level].sum() >= share * total * (1 - 1e-9)
    assert weights[weights > level].sum() < share * total


def test_mass_of_a_known_map() -> None:
    weights = np.array([[0.4, 0.1, 0.05], [0.3, 0.1, 0.05]])
    assert find_level(weights, "mass", 0.6) == np.float32(0.3)
    assert find_level(weights, "mass", 0.71) == np.float32(0.1), "both cells of 0.1 are in: ties are never split"
    assert make_mask(weights, geometry_of(weights), Cut("mass", 0.71)).grid.sum() == 4


@pytest.mark.parametrize("cells", [101, 901])
def test_quantiles_and_areas_of_whole_numbers_of_cells_are_exact(cells: int) -> None:
    weights = np.arange(cells, dtype=np.float32)[None]
    for percent in range(1, 101):
        above = -(-percent * (cells - 1) // 100)  # in whole numbers, in which 28 % of 100 is 28
        assert find_level(weights, "quantile", percent / 100) == above
        assert find_level(weights, "area", percent / 100) == cells + (-percent * cells // 100)


def test_levels_of_many_amounts_are_those_of_each() -> None:
    amounts: list[float | None] = [np.float32(0.6), 0.28, 0.5, 1.0]
    for rule in ("mass", "area", "quantile"):
        for weights in MAPS.values():
            assert find_levels(weights, rule, amounts) == [find_level(weights, rule, amount) for amount in amounts]
            assert find_levels(weights, rule, []) == []


def test_amounts_default_to_those_of_the_rules() -> None:
    weights = MAPS["random"]
    for name, rule in mask_rules().items():
        assert find_level(weights, name) == find_level(weights, name, rule.default)
    assert {name: rule.default for name, rule in mask_rules().items()} == {
        "mass": 0.6,
        "area": 0.25,
        "quantile": 0.75,
        "mean": None,
        "otsu": None,
    }


def test_otsu_separates_two_groups() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random((9, 13)) > 0.6
    weights = np.where(truth, 0.8, 0.2) + 0.05 * rng.random((9, 13))
    assert np.array_equal(make_mask(weights, geometry_of(weights), Cut("otsu")).grid, truth)


@pytest.mark.parametrize("relative", [2e-6, 5e-6, 1e-5, 2e-5, 1e-4])
def test_otsu_of_an_almost_uniform_map_is_found(relative: float) -> None:
    """Untrained poolings give such maps. In float32 they leave no room for 256 histogram bins."""
    truth = np.random.default_rng(2).random((12, 14)) > 0.5
    weights = (np.where(truth, 1 + relative, 1) / 168).astype(np.float32)
    mask = make_mask(weights, geometry_of(weights), Cut("otsu"))
    assert not mask.constant and np.array_equal(mask.grid, truth)


@pytest.mark.parametrize(("rule", "amount"), RULES)
def test_mask_of_a_signed_map_takes_no_negative_cell(rule: str, amount: float | None) -> None:
    for name in ("signed", "one positive", "all negative"):
        assert (MAPS[name][make_mask(MAPS[name], geometry_of(MAPS[name]), Cut(rule, amount)).grid] >= 0).all()
    assert not make_mask(MAPS["all negative"], geometry_of(MAPS["all negative"]), Cut(rule, amount)).grid.any()


@pytest.mark.parametrize("value", [0.0, 1 / 196, 1 / 256, 0.1, 5.0, -2.0, 1e-38])
@pytest.mark.parametrize("shape", [(7, 11), (1, 9), (1, 1)])
@pytest.mark.parametrize("rule", mask_rules())
def test_constant_map_gives_the_whole_picture_and_says_so(rule: str, shape: tuple[int, int], value: float) -> None:
    mask = make_mask(np.full(shape, value), Geometry((451, 300), shape, 16), Cut(rule, largest=True))
    assert mask.constant and mask.grid.all() and mask.coverage == 1 and mask.components == 1
    assert mask.boxes == [(0, 0, 451, 300)]
    assert mask.pixels(size=(45, 31)).all() and mask.pixels(smooth=True, size=(45, 31)).all()


def test_constant_means_flat_to_float32_precision() -> None:
    ramp = np.linspace(0, 1, 77).reshape(7, 11)
    assert is_constant((5 + 4e-6 * ramp).astype(np.float32)) and not is_constant((5 + 1e-5 * ramp).astype(np.float32))
    assert not make_mask(ramp, geometry_of(ramp)).constant
    assert make_mask(5 + 4e-6 * ramp, geometry_of(ramp)).constant


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", mask_rules())
def test_weights_that_are_not_finite_are_refused(rule: str, bad: float) -> None:
    weights = MAPS["random"].copy()
    weights[2, 3] = bad
    with pytest.raises(ValueError, match="not finite"):
        find_level(weights, rule)


# --- asking for a rule
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("mass", ("mass", 0.6)),
        ("mass:0.35", ("mass", 0.35)),
        ("area:1", ("area", 1.0)),
        ("mean", ("mean", None)),
        ("otsu", ("otsu", None)),
    ],
)
def test_parse_rule_reads_name_and_amount(text: str, wanted: tuple[str, float | None]) -> None:
    assert parse_rule(text) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("masse", "no mask rule is called 'masse'; there are mass, area, quantile, mean, otsu"),
        ("", "no mask rule is called ''"),
        ("mass:0", "above 0 and up to 1, not 0"),
        ("mass:1.01", "above 0 and up to 1, not 1.01"),
        ("area:-0.5", "above 0 and up to 1, not -0.5"),
        ("quantile:nan", "above 0 and up to 1, not nan"),
        ("mass:lots", "mask 'mass:lots'"),
        ("mean:0.5", "the rule 'mean' takes no amount"),
        ("otsu:0.5", "the rule 'otsu' takes no amount"),
    ],
)
def test_parse_rule_refuses_what_fits_no_rule(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_rule(text)


def test_find_level_refuses_unknown_rules_and_amounts() -> None:
    with pytest.raises(ValueError, match="no mask rule is called 'median'"):
        find_level(MAPS["random"], "median")
    with pytest.raises(ValueError, match="takes no amount"):
        find_level(MAPS["random"], "otsu", 0.5)
    with pytest.raises(ValueError, match="not 2"):
        make_mask(MAPS["random"], geometry_of(MAPS["random"]), Cut("mass", 2))


# --- components and boxes
# -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.15, 0.4, 0.6])
@pytest.mark.parametrize("shape", [(9, 14), (14, 9), (1, 17), (17, 1), (2, 3)])
def test_components_are_8_connected_and_numbered_in_raster_order(shape: tuple[int, int], density: float) -> None:
    for seed in range(4):
        mask = np.random.default_rng(seed).random(shape) < density
        wanted = np.zeros(shape, int)
        for number, cells in enumerate(oracle.components(mask), 1):
            wanted[tuple(zip(*cells, strict=True))] = number
        labels, count = label_components(mask)
        assert np.array_equal(labels, wanted) and count == wanted.max()
        assert component_boxes(mask) == oracle.boxes(mask)
        assert np.array_equal(largest_component(mask), oracle.largest(mask))


def test_cells_that_touch_at_a_corner_are_one_component() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
    assert label_components(mask)[1] == 3
    assert component_boxes(mask) == [(0, 0, 2, 2), (3, 0, 4, 1), (3, 2, 4, 3)]


def test_of_equally_large_components_the_first_in_raster_order_is_kept() -> None:
    mask = np.array([[0, 0, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]], bool)
    assert np.array_equal(np.argwhere(largest_component(mask)), [[0, 4], [0, 5]])


def test_empty_mask_has_no_component_and_no_box() -> None:
    empty = np.zeros((3, 5), bool)
    assert label_components(empty)[1] == 0 and component_boxes(empty) == [] and not largest_component(empty).any()


def test_largest_keeps_one_component_in_the_grid_and_in_smooth_pixels() -> None:
    for seed in range(4):
        weights = np.random.default_rng(seed).random((8, 11)).astype(np.float32)
        mask = make_mask(weights, geometry_of(weights), Cut("area", 0.3, largest=True))
        assert np.array_equal(mask.grid, oracle.largest(weights >= np.float32(mask.level)))
        assert mask.components == 1 and len(mask.boxes) == 1
        smooth = oracle.bilinear(weights, 61, 45) >= mask.level
        assert np.array_equal(mask.pixels(smooth=True, size=(61, 45)), oracle.largest(smooth))


@pytest.mark.parametrize("original", [(451, 300), (300, 451), (13, 9), (12, 700)])
def test_boxes_hold_exactly_the_pixels_of_their_components(original: tuple[int, int]) -> None:
    for seed in range(5):
        weights = np.random.default_rng(seed).random((9, 12)).astype(np.float32)
        mask = make_mask(weights, geometry_of(weights, original), Cut("area", 0.2))
        for box, (x0, y0, x1, y1) in zip(component_boxes(mask.grid), mask.boxes, strict=True):
            part = np.zeros(mask.grid.shape, bool)
            part[box[1] : box[3], box[0] : box[2]] = True
            pixels = ObjectMask(part.astype(np.float32), mask.geometry, "mass", 0.6, 0.5, False, False).pixels()
            wanted = np.zeros(pixels.shape, bool)
            wanted[y0:y1, x0:x1] = True
            assert np.array_equal(pixels, wanted)


# --- pixels
# -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, (451, 300), (97, 33), (5, 4), (640, 1)])
def test_patch_pixels_take_the_cell_that_holds_their_centre(size: tuple[int, int] | None) -> None:
    weights = np.random.default_rng(3).random((7, 11)).astype(np.float32)
    mask = make_mask(weights, geometry_of(weights), Cut("area", 0.4))
    width, height = size or (451, 300)
    rows = [oracle.token_of_centre(y, height, 7) for y in range(height)]
    columns = [oracle.token_of_centre(x, width, 11) for x in range(width)]
    assert np.array_equal(mask.pixels(size=size), mask.grid[np.ix_(rows, columns)])


@pytest.mark.parametrize("shape", [(7, 11), (11, 7), (1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("size", [(83, 52), (52, 83), (4, 3), (1, 1)])
def test_upsample_is_bilinear_as_in_torch_opencv_and_the_oracle(shape: tuple[int, int], size: tuple[int, int]) -> None:
    weights = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    mine = upsample(weights, size)
    assert mine.shape == (size[1], size[0]) and mine.dtype == np.float64
    grid = torch.from_numpy(weights).double()[None, None]
    torchs = F.interpolate(grid, (size[1], size[0]), mode="bilinear", align_corners=False)[0, 0].numpy()
    assert np.abs(mine - torchs).max() < 1e-6
    assert np.abs(mine - oracle.bilinear(weights, *size)).max() < 1e-12
    assert np.abs(mine - cv2.resize(weights.astype(np.float64), size, interpolation=cv2.INTER_LINEAR)).max() < 1e-6


@pytest.mark.parametrize(
    ("rule", "amount"), [("mass", 0.6), ("area", 0.25), ("quantile", 0.75), ("mean", None), ("otsu", None)]
)
def test_smooth_mask_is_the_level_set_of_the_upsampled_map_at_the_level_of_the_grid(
    rule: str, amount: float | None
) -> None:
    weights = peaked(9, 14).astype(np.float32)
    mask = make_mask(weights, geometry_of(weights), Cut(rule, amount))
    assert np.array_equal(
        mask.pixels(smooth=True, size=(101, 67)), oracle.bilinear(weights, 101, 67) >= find_level(weights, rule, amount)
    )
    assert mask.pixels(smooth=True).shape == (300, 451)


def test_smooth_mask_has_no_holes_where_a_plateau_lies_at_the_level() -> None:
    """In the plateau's inside every pixel mixes equal values, which rounding must not push below them."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        value, background = np.float32(rng.random()), np.float32(-rng.random())
        weights = np.full((9, 14), background, np.float32)
        weights[2:7, 3:12] = value
        width, height = (int(n) for n in rng.integers(20, 300, 2))
        mask = make_mask(weights, geometry_of(weights), Cut("area", 0.2)).pixels(smooth=True, size=(width, height))
        assert mask[round(height * 3 / 9) : int(height * 6 / 9), round(width * 4 / 14) : int(width * 11 / 14)].all()


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 12), (20, 3)])
def test_smoothing_is_a_gaussian_of_the_map_with_its_edges_extended(shape: tuple[int, int], sigma: float) -> None:
    weights = np.random.default_rng(0).random(shape, np.float32)
    reach = math.ceil(3 * sigma)
    taps = np.array([math.exp(-(k**2) / (2 * sigma**2)) for k in range(-reach, reach + 1)])
    padded = np.pad(weights.astype(float), reach, mode="edge")
    expected = sum(
        a * b * padded[i : i + shape[0], j : j + shape[1]] for i, a in enumerate(taps) for j, b in enumerate(taps)
    )
    np.testing.assert_allclose(smoothed(weights, sigma), expected / taps.sum() ** 2, atol=1e-5)


def test_smoothing_keeps_constants_and_the_mean_of_a_map_that_is_flat_at_its_edges() -> None:
    assert np.array_equal(smoothed(np.full((5, 8), 0.25, np.float32), 1.5), np.full((5, 8), 0.25, np.float32))
    weights = np.zeros((30, 30), np.float32)
    weights[14:17, 12:18] = 1
    assert smoothed(weights, 1).sum() == pytest.approx(weights.sum(), rel=1e-5)
    assert np.array_equal(smoothed(weights, 0), weights)
    for sigma in (-0.1, 2.5, math.nan):
        with pytest.raises(OptionError, match="smoothing is a number of cells from 0 to 2"):
            smoothed(weights, sigma)


def test_mask_of_a_smoothed_map_is_cut_at_the_level_of_the_smoothed_map() -> None:
    weights = np.random.default_rng(1).random((9, 14), np.float32) ** 4
    mask = make_mask(weights, Geometry((140, 90), (9, 14), 10), Cut("mean", smoothing=1.0))
    blurred = smoothed(weights, 1.0)
    assert np.array_equal(mask.weights, weights) and np.array_equal(mask.grid, blurred >= blurred.mean(dtype=float))
    smooth = mask.pixels(smooth=True)
    assert np.array_equal(smooth, upsample(blurred, (140, 90)) >= mask.level) and mask.components < 9


def test_a_cut_of_which_not_all_is_said() -> None:
    assert choose_cut() == DEFAULT_CUT
    assert choose_cut(largest=True) == dataclasses.replace(DEFAULT_CUT, largest=True)
    assert choose_cut("mass") == DINO_CUT, "a named rule stands by itself: no smoothing, whole patches"
    assert choose_cut("otsu", smoothing=1, smooth=True) == Cut("otsu", None, 1, False, True)
    for arguments, sentence in (
        ((None, 0.3), "an amount, 0.3, goes with its rule"),
        (("median",), "no mask rule is called 'median'"),
        (("mean", 0.3), "takes no amount"),
    ):
        with pytest.raises(OptionError, match=sentence):
            choose_cut(*arguments)
    with pytest.raises(OptionError, match="smoothing is a number of cells from 0 to 2, not 3"):
        choose_cut(smoothing=3)


def test_a_mask_knows_its_cut_and_draws_its_own_edges() -> None:
    weights = MAPS["random"]
    cut = Cut("area", 0.3, 0.5, True, True)
    mask = make_mask(weights, geometry_of(weights), cut)
    assert mask.cut == cut
    assert np.array_equal(mask.pixels(), mask.pixels(smooth=True))
    assert not np.array_equal(mask.pixels(), mask.pixels(smooth=False))
