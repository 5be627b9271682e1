"""Scales in times uniform, alone and shared by rows."""

from __future__ import annotations

import numpy as np
import pytest

from simpool_viz.drawing.pixels import DIVERGING, DrawingStyle, colour_map, colour_table
from simpool_viz.maps.scale import Scale, scale_of, shared_scales


@pytest.mark.parametrize("shape", [(7, 11), (14, 14), (56, 40), (1, 5)])
def test_uniform_map_is_drawn_as_one_times_uniform_on_every_grid(shape: tuple[int, int]) -> None:
    scale = scale_of(np.full(shape, 1 / (shape[0] * shape[1]), np.float32), "uniform")
    assert scale.low == 0 and scale.high == pytest.approx(1) and scale.label == "times uniform"


def test_scale_runs_from_zero_to_the_995th_percentile_of_n_w() -> None:
    weights = np.random.default_rng(1).exponential(size=(20, 30))
    weights /= weights.sum()
    times_uniform = sorted(600 * float(w) for w in weights.ravel())
    place = 0.995 * 599
    wanted = times_uniform[int(place)] + (place - int(place)) * (
        times_uniform[int(place) + 1] - times_uniform[int(place)]
    )
    scale = scale_of(weights, "uniform")
    assert scale.low == 0 and scale.high == pytest.approx(wanted)


def test_signed_scale_is_symmetric_and_in_its_own_unit() -> None:
    weights = np.random.default_rng(2).normal(size=(20, 30)) - 0.3
    scale = scale_of(weights, "logit")
    assert scale.high == -scale.low == pytest.approx(np.percentile(np.abs(weights), 99.5))
    assert scale.label != "times uniform"


@pytest.mark.parametrize("signed", [False, True])
def test_map_of_zeros_has_a_scale_and_the_colour_of_zero(signed: bool) -> None:
    zeros = np.zeros((3, 5), np.float32)
    scale = scale_of(zeros, "logit" if signed else "uniform")
    assert scale.high > scale.low
    table = colour_table(DIVERGING if signed else "inferno")
    assert (colour_map(zeros, scale, signed, DrawingStyle(), (10, 6)) == table[128 if signed else 0]).all(axis=2).all()


def test_shared_scales_span_all_rows_of_a_kind_and_leave_the_other_kind_alone() -> None:
    scales = [
        Scale(0, 3, "times uniform"),
        Scale(-2, 2, "logit per token"),
        Scale(0, 8, "times uniform"),
        Scale(-5, 5, "logit per token"),
    ]
    assert shared_scales(scales) == [
        Scale(0, 8, "times uniform"),
        Scale(-5, 5, "logit per token"),
        Scale(0, 8, "times uniform"),
        Scale(-5, 5, "logit per token"),
    ]
    assert shared_scales([]) == []


def test_maps_of_any_scale_are_drawn_in_times_their_mean() -> None:
    weights = np.random.default_rng(0).random((4, 6)).astype(np.float32)
    one, other = scale_of(weights, "mean"), scale_of(weights * 1000, "mean")
    assert one.label == other.label == "times its mean" and one.high == pytest.approx(other.high, rel=1e-5)
    drawn = [
        colour_map(w, s, False, DrawingStyle(), (60, 40)).astype(int)
        for w, s in ((weights, one), (weights * 1000, other))
    ]
    assert np.abs(drawn[0] - drawn[1]).max() <= 8, "at most one step of the colour table, by rounding"
    shares = weights / weights.sum()
    assert scale_of(shares, "mean").high == pytest.approx(scale_of(shares, "uniform").high)
    zeros = np.zeros((4, 6), np.float32)
    assert np.isfinite(colour_map(zeros, scale_of(zeros, "mean"), False, DrawingStyle(), (60, 40))).all()


def test_rows_share_a_scale_with_rows_of_their_own_unit_only() -> None:
    weights = np.random.default_rng(0).random((4, 6)).astype(np.float32)
    uniform, mean, larger = scale_of(weights, "uniform"), scale_of(weights, "mean"), scale_of(weights**4, "mean")
    shared = shared_scales([uniform, mean, larger])
    assert shared[0] == uniform and shared[1].high == shared[2].high == max(mean.high, larger.high)
    assert shared[1].factor == mean.factor and shared[2].factor == larger.factor
