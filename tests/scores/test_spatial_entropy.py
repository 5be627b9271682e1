"""Spatial entropy: the values that its definition fixes, one batch against a loop over maps, and its gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from simpool_viz.errors import OptionError
from simpool_viz.scores.spatial_entropy import spatial_entropy
from tests.oracles import spatial_entropy as oracle
from tests.oracles.masks import components

MODES = ["mass", "count"]


def with_blobs(*corners: tuple[int, int], height: float = 1.0) -> torch.Tensor:
    """A map (9, 14) of zeros with 2 x 2 blobs at these corners."""
    scores = torch.zeros(9, 14)
    for r, c in corners:
        scores[r : r + 2, c : c + 2] = height
    return scores


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("corners", "wanted"),
    [
        ([(3, 5)], 0.0),
        ([(0, 0), (7, 12)], math.log(2)),
        ([(0, 0), (0, 12), (7, 0), (7, 12)], math.log(4)),
    ],
)
def test_n_equal_blobs_have_entropy_ln_n(corners: list[tuple[int, int]], wanted: float, mode: str) -> None:
    assert spatial_entropy(with_blobs(*corners), mode).item() == pytest.approx(wanted, abs=1e-6)


def test_mass_weighs_blobs_by_their_excess_and_count_by_their_cells() -> None:
    scores = with_blobs((0, 0)) + 3 * with_blobs((5, 8))
    mean = scores.mean().item()
    share = (1 - mean) / ((1 - mean) + (3 - mean))
    assert spatial_entropy(scores, "mass").item() == pytest.approx(
        -share * math.log(share) - (1 - share) * math.log(1 - share), abs=1e-6
    )
    assert spatial_entropy(scores, "count").item() == pytest.approx(math.log(2), abs=1e-6)


def test_checkerboard_is_one_component_because_diagonals_touch() -> None:
    board = (torch.arange(14)[:, None] + torch.arange(14)) % 2
    assert spatial_entropy(board.float(), "count").item() == pytest.approx(0, abs=1e-6)
    assert spatial_entropy(board.float(), "mass").item() == pytest.approx(0, abs=1e-6)


def test_blobs_of_neighbouring_maps_never_join() -> None:
    """Blobs in the last row of one map and the first of the next must stay apart, although all maps are labelled
    together."""
    maps = torch.stack([with_blobs((7, 5)), with_blobs((0, 5)), with_blobs((0, 0), (7, 5))])
    assert torch.allclose(spatial_entropy(maps), torch.tensor([0.0, 0.0, math.log(2)]), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 0.1, 1 / 126, 1e-30, 1e30])
@pytest.mark.parametrize("mode", MODES)
def test_constant_map_has_entropy_zero(value: float, mode: str) -> None:
    assert spatial_entropy(torch.full((2, 9, 14), value), mode).tolist() == [0.0, 0.0]


def test_constant_map_whose_float32_mean_is_below_its_value_has_entropy_zero() -> None:
    """Such maps exist; without the guard every cell would then lie above the mean."""
    shapes = [(h, w) for h in range(3, 40) for w in range(h + 1, 41)]
    found = []
    for v in torch.rand(40, generator=torch.Generator().manual_seed(0)):
        found = [torch.full(s, v.item()) for s in shapes if (torch.full(s, v.item()).mean() < v).item()]
        if found:
            break
    assert found, "no such map on this machine: the test shows nothing"
    assert spatial_entropy(found[0]).item() == 0


def test_map_flat_to_float32_precision_counts_as_constant_and_a_little_more_does_not() -> None:
    scores = 1 + 1e-7 * with_blobs((0, 0), (7, 12))
    assert spatial_entropy(scores).item() == 0
    assert spatial_entropy(1 + 1e-4 * with_blobs((0, 0), (7, 12))).item() == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("a", "b"), [(2.5, 0.0), (1.0, -7.0), (0.01, 3.0), (300.0, 40.0)])
def test_positive_affine_change_of_the_scores_changes_nothing(a: float, b: float, mode: str) -> None:
    scores = torch.randn(4, 7, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(spatial_entropy(a * scores + b, mode), spatial_entropy(scores, mode), atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "shape", [(3, 4, 7, 11), (5, 2, 12, 5), (2, 3, 1, 9), (2, 3, 8, 1), (3, 2, 1, 1), (6, 1, 2, 3)]
)
def test_batch_equals_a_loop_over_maps_and_single_calls(shape: tuple[int, ...], mode: str) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scores[0, 0] = 0.3  # a constant map among the others
    batched = spatial_entropy(scores, mode)
    assert batched.shape == shape[:2] and batched.dtype == torch.float64
    wanted = [[oracle.spatial_entropy(m.numpy(), mode) for m in maps] for maps in scores]
    assert torch.allclose(batched, torch.tensor(wanted, dtype=torch.float64), atol=1e-9)
    singles = torch.stack([torch.stack([spatial_entropy(m, mode) for m in maps]) for maps in scores])
    assert torch.equal(batched, singles)


def test_one_map_gives_one_number() -> None:
    assert spatial_entropy(with_blobs((0, 0))).shape == ()


def test_gradient_flows_through_mass_and_mean_and_is_that_of_finite_differences() -> None:
    blobs = torch.zeros(2, 2, 4, 7, dtype=torch.float64)
    blobs[..., :2, :3], blobs[..., 3:, 5:] = 2.0, 3.0  # two components of unequal mass, far from the mean
    scores = (
        blobs + 0.3 * torch.rand(blobs.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ).requires_grad_(True)
    assert [len(components((m > m.mean()).numpy())) for m in scores.detach().flatten(0, 1)] == [2, 2, 2, 2]
    assert torch.autograd.gradcheck(lambda s: spatial_entropy(s, "mass"), (scores,), eps=1e-7, atol=1e-5)
    spatial_entropy(scores).sum().backward()
    assert scores.grad is not None and (scores.grad != 0).all(), (
        "a cell below the mean has a gradient too: it moves the mean"
    )


def test_gradient_of_constant_and_one_blob_maps_is_finite() -> None:
    scores = torch.stack([torch.full((9, 14), 0.1), with_blobs((3, 5))]).requires_grad_(True)
    spatial_entropy(scores).sum().backward()
    assert scores.grad is not None and torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_float32(dtype: torch.dtype) -> None:
    scores = torch.randn(3, 7, 11, generator=torch.Generator().manual_seed(4)).to(dtype)
    entropy = spatial_entropy(scores)
    assert entropy.dtype == torch.float32
    assert torch.allclose(entropy, spatial_entropy(scores.double()).float(), atol=1e-5)


def test_non_contiguous_maps_are_read_in_their_own_order() -> None:
    scores = torch.randn(7, 11, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64).permute(2, 0, 1)
    assert torch.equal(spatial_entropy(scores), spatial_entropy(scores.contiguous()))
    wanted = [oracle.spatial_entropy(m.numpy()) for m in scores]
    assert torch.allclose(spatial_entropy(scores), torch.tensor(wanted, dtype=torch.float64))


def test_unknown_mode_and_too_few_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="'mass' or 'count', not 'area'"):
        spatial_entropy(torch.zeros(3, 4), "area")
    with pytest.raises(ValueError, match=r"maps \(\.\.\., h, w\), not \(5,\)"):
        spatial_entropy(torch.zeros(5))


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        spatial_entropy(torch.tensor([[[0.0, float("nan")], [1.0, 2.0]]]))


def test_above_the_median_lie_half_of_the_cells() -> None:
    """Four blobs of which one carries nearly all: the mean leaves it alone, the median counts the others too."""
    scores = with_blobs((0, 0), (0, 12), (7, 0), (7, 12))
    scores[7:9, 12:14] *= 100
    assert spatial_entropy(scores).item() == pytest.approx(0, abs=1e-6)
    share = np.array([1, 1, 1, 100]) / 103
    assert spatial_entropy(scores, threshold="median").item() == pytest.approx(-(share * np.log(share)).sum(), abs=1e-5)
    assert spatial_entropy(scores, "count", "median").item() == pytest.approx(math.log(4), abs=1e-6)


def test_the_median_of_even_and_odd_maps_is_numpys_and_has_gradients() -> None:
    for shape in ((3, 5, 7), (3, 6, 8)):
        scores = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        wanted = [oracle.spatial_entropy(m.numpy(), level=float(np.median(m.numpy()))) for m in scores]
        assert torch.allclose(spatial_entropy(scores, threshold="median"), torch.tensor(wanted, dtype=torch.float64))
        scores.requires_grad_(True)
        assert torch.autograd.gradcheck(
            lambda s: spatial_entropy(s, threshold="median"), (scores,), eps=1e-7, atol=1e-5
        )
    assert spatial_entropy(torch.full((2, 4, 4), 0.1), threshold="median").tolist() == [0.0, 0.0]


def test_an_unknown_threshold_is_refused() -> None:
    with pytest.raises(OptionError, match="the threshold of spatial entropy is mean or median, not 'otsu'"):
        spatial_entropy(torch.zeros(3, 4), threshold="otsu")
