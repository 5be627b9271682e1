"""LOST and TokenCut against their formulas written out in float64, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from simpool_viz import record
from simpool_viz.maps import discovery
from simpool_viz.modeling.encoder import Encoder
from simpool_viz.recording import Recording
from tests.helpers import make_photo, random_cnn, small_vit


def keys_of(recording: Recording, block: int = -1) -> np.ndarray:
    key = recording.blocks[block].key.double().numpy()  # (H, N, d)
    start = recording.encoder.num_prefix_tokens
    return np.stack([np.concatenate([head[i] for head in key]) for i in range(start, key.shape[1])])


def tokens_of(recording: Recording) -> np.ndarray:
    return recording.tokens.patches[0].double().numpy()


def part_with(cells: set[tuple[int, int]], start: tuple[int, int]) -> set[tuple[int, int]]:
    """The cells that can be reached from a start through common sides."""
    found, waiting = {start}, [start]
    while waiting:
        r, c = waiting.pop()
        for cell in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
            if cell in cells and cell not in found:
                found.add(cell)
                waiting.append(cell)
    return found


def lost_written_out(f: np.ndarray, grid: tuple[int, int], k: int, start: int | None = None) -> np.ndarray:
    n = len(f)
    degree = [sum(1 for q in range(n) if q != p and f[p] @ f[q] > 0) for p in range(n)]
    lowest = sorted(range(n), key=lambda p: (degree[p], p))[:k]
    start = lowest[0] if start is None else start
    joined = {q for q in lowest if f[q] @ f[start] > 0} | {start}
    correlation = np.array([f[q] @ sum(f[s] for s in joined) for q in range(n)])
    return on_part(correlation, grid, start)


def on_part(values: np.ndarray, grid: tuple[int, int], start: int) -> np.ndarray:
    columns = grid[1]
    cells = {(i // columns, i % columns) for i in range(len(values)) if values[i] > 0}
    inside = part_with(cells, (start // columns, start % columns))
    weights = np.array([values[i] if (i // columns, i % columns) in inside else 0.0 for i in range(len(values))])
    return (weights / weights.sum()).reshape(grid)


def tokencut_written_out(f: np.ndarray, grid: tuple[int, int], tau: float, start: int | None = None) -> np.ndarray:
    n = len(f)
    w = np.array(
        [
            [1.0 if f[i] @ f[j] / np.linalg.norm(f[i]) / np.linalg.norm(f[j]) > tau else 1e-5 for j in range(n)]
            for i in range(n)
        ]
    )
    d = np.diag(w.sum(1))
    _, vectors = scipy.linalg.eigh(d - w, d)
    v = vectors[:, 1]
    start = int(np.abs(v).argmax()) if start is None else start
    centred = v - v.mean()
    return on_part(centred if centred[start] > 0 else -centred, grid, start)


@pytest.fixture(scope="module", params=["vit", "cnn"])
def recording(request: pytest.FixtureRequest) -> Recording:
    encoder: Encoder = small_vit("simpool") if request.param == "vit" else random_cnn("simpool", gamma=2.0)
    return record(encoder, make_photo(150, 100), 96)


@pytest.mark.parametrize(
    "options",
    [{}, {"k": 7}, {"features": "tokens"}, {"seed": "pooling"}, {"seed": "pooling", "k": 3, "centre": "always"}],
)
def test_lost_is_the_papers_formula(recording: Recording, options: dict[str, Any]) -> None:
    keys = recording.encoder.depth and options.get("features") != "tokens"
    f = keys_of(recording) if keys else tokens_of(recording)
    if options.setdefault("centre", "never") == "always":
        f = f - f.mean(0)
    start = int(recording.map("pooling").fused().argmax()) if "seed" in options else None
    found = recording.map("lost", **options)
    expected = lost_written_out(f, recording.geometry.grid, options.get("k", 100), start)
    np.testing.assert_allclose(found.weights[0], expected, atol=1e-5)
    assert found.names == ("object",) and found.weights.sum() == pytest.approx(1, abs=1e-5)
    mask = found.mask("mass", 1.0)
    assert np.array_equal(mask.grid, expected > 0) and mask.components == 1


@pytest.mark.parametrize(
    "options",
    [{}, {"tau": 0.5, "centre": "always"}, {"features": "tokens", "tau": 0.7}, {"seed": "pooling", "tau": 0.4}],
)
def test_tokencut_is_the_papers_formula(recording: Recording, options: dict[str, Any]) -> None:
    keys = recording.encoder.depth and options.get("features") != "tokens"
    f = keys_of(recording) if keys else tokens_of(recording)
    if options.setdefault("centre", "never") == "always":
        f = f - f.mean(0)
    start = int(recording.map("pooling").fused().argmax()) if "seed" in options else None
    found = recording.map("tokencut", **options).weights[0]
    expected = tokencut_written_out(f, recording.geometry.grid, options.get("tau", 0.2), start)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("method", ["lost", "tokencut"])
def test_patches_that_are_all_alike_are_told_apart_once_their_mean_is_off(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    encoder = random_cnn("gap")
    recording = record(encoder, make_photo(16 * 9, 16 * 8), 16 * 8)
    rows, columns = recording.geometry.grid
    rng = np.random.default_rng(0)
    inside = np.zeros((rows, columns), bool)
    inside[2:5, 3:6] = True
    kinds = rng.standard_normal((2, 24))
    f = 40 * np.ones(24) + kinds[inside.astype(int).ravel()] + 0.1 * rng.standard_normal((inside.size, 24))
    monkeypatch.setattr(discovery, "_features", lambda *_: torch.from_numpy(f))
    found = recording.map(method)
    assert np.array_equal(found.mask("mass", 1.0).grid, inside) and "mean is taken off" in found.note
    papers = recording.map(method, centre="never")
    assert not np.array_equal(papers.mask("mass", 1.0).grid, inside) and "mean" not in papers.note
    f -= f.mean(0)
    assert "mean" not in recording.map(method).note, "apart already"


def test_seed_of_another_map_lies_in_the_object(recording: Recording) -> None:
    peak = recording.map("pooling").fused().argmax()
    for method in ("lost", "tokencut"):
        seeded = recording.map(method, seed="pooling")
        assert seeded.weights.flat[peak] > 0 and "peak of pooling" in seeded.note
        assert "peak" not in recording.map(method).note


def test_another_block_gives_its_own_keys_and_only_those_are_needed() -> None:
    encoder = small_vit("simpool")
    whole = record(encoder, make_photo(150, 100), 96)
    assert not np.array_equal(whole.map("lost", block=0).weights, whole.map("lost").weights)
    kept = record(encoder, make_photo(150, 100), 96, keep={0})
    assert np.array_equal(kept.map("lost", block=0).weights, whole.map("lost", block=0).weights)
    tokens = record(encoder, make_photo(150, 100), 96, keep=())
    assert np.array_equal(tokens.map("lost", features="tokens").weights, whole.map("lost", features="tokens").weights)


@pytest.mark.parametrize(("count", "groups"), [(40, 2), (300, 3)])
def test_lanczos_finds_the_vector_of_the_dense_solver(monkeypatch: pytest.MonkeyPatch, count: int, groups: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((groups, 16))
    f = torch.from_numpy(centres[np.arange(count) % groups] + 0.9 * rng.standard_normal((count, 16)))
    f = torch.nn.functional.normalize(f, dim=1)
    dense = discovery.second_eigenvector(f, 0.2)
    monkeypatch.setattr(discovery, "DENSE", 0)
    monkeypatch.setattr(discovery, "CHUNK", 16)
    sparse = discovery.second_eigenvector(f, 0.2)
    assert abs(dense @ sparse) / np.linalg.norm(dense) / np.linalg.norm(sparse) == pytest.approx(1, abs=1e-8)
    assert np.array_equal(discovery.second_eigenvector(f, 0.2), sparse), "the same every time"


def test_a_picture_of_one_or_two_tokens_has_an_object() -> None:
    encoder = random_cnn("gap")
    for width in (16, 32):
        recording = record(encoder, make_photo(width, 16), encoder.stride)
        for method in ("lost", "tokencut"):
            assert recording.map(method).weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("method", "options", "told"),
    [
        ("lost", {"k": 0}, "at least 1, not 0"),
        ("lost", {"features": "values"}, "the features are keys or tokens, not 'values'"),
        ("tokencut", {"tau": 1.5}, r"tau is a cosine in \[-1, 1\], not 1.5"),
        ("tokencut", {"seed": "nothing"}, "nothing"),
        ("lost", {"seed": "cls"}, "has no class token|CNN"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    recording: Recording, method: str, options: dict[str, Any], told: str
) -> None:
    if recording.encoder.has_class_token and options.get("seed") == "cls":
        pytest.skip("it has a class token")
    with pytest.raises(ValueError, match=told):
        recording.map(method, **options)


def test_a_cnn_has_no_keys(photos: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="a CNN, which has no keys; choose features=tokens"):
        record(random_cnn("gap"), photos["wide"], 64).map("lost", features="keys")
